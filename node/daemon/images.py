"""Pulling images: each once at a time, others beside it."""

import threading
import time
from collections.abc import Callable

import docker

from node.daemon.engine import Engine, Json

_TELL_S = 1.0
_MIB = 2**20


class ImageMissingError(Exception):
    """Docker can't get the image; the message has its words."""


class Images:
    """Safe to use from many threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._pulling: dict[str, threading.Lock] = {}

    def pull(self, image: str, tell: Callable[[str], None]) -> None:
        """Returns when it is here, also when another thread pulled it meanwhile.

        `tell` hears about once a second how far it is.

        Raises:
            ImageMissingError
        """
        with self._lock:
            turn = self._pulling.setdefault(image, threading.Lock())
        with turn:
            if not self._here(image):
                self._pull(image, tell)

    def _here(self, image: str) -> bool:
        try:
            self._engine.api.inspect_image(image)  # type: ignore[no-untyped-call]
        except docker.errors.ImageNotFound:
            return False
        return True

    def _pull(self, image: str, tell: Callable[[str], None]) -> None:
        layers: dict[str, tuple[int, int]] = {}
        told_at = 0.0
        try:
            for line in self._engine.api.pull(image, stream=True, decode=True):
                if "error" in line:
                    raise ImageMissingError(f"{image}: {line['error']}")
                _take_in(layers, line)
                if time.monotonic() - told_at >= _TELL_S:
                    told_at = time.monotonic()
                    tell(_progress(layers))
        except docker.errors.APIError as error:
            raise ImageMissingError(f"{image}: {error.explanation or error}") from error


def _take_in(layers: dict[str, tuple[int, int]], line: Json) -> None:
    detail = line.get("progressDetail") or {}
    if line.get("status") == "Downloading" and "total" in detail:
        layers[line["id"]] = (int(detail["current"]), int(detail["total"]))
    elif line.get("status") == "Pull complete" and line["id"] in layers:
        total = layers[line["id"]][1]
        layers[line["id"]] = (total, total)


def _progress(layers: dict[str, tuple[int, int]]) -> str:
    """Of the layers that were begun."""
    done, total = (sum(each[place] for each in layers.values()) for place in (0, 1))
    return f"{done // _MIB} of {total // _MIB} MiB" if total else ""
