"""Containers that do nothing but hold a network of the pool, so that tasks' containers join what is there already.

Making a container's network interface is two thirds of its start, and taking it away half of its end. A holder stays
with its network from lease to lease, as the network itself does; it runs nothing of any tenant, and tasks see neither
its files nor its processes. Environments publish ports, and gangs span hosts: they get interfaces of their own.
"""

import contextlib
import logging
import threading

import docker
from docker.types import LogConfig

from node.daemon.engine import Engine, Json

log = logging.getLogger(__name__)

HOLDER_LABEL = "remotegpu.holder"
_COMMAND = ["sleep", "infinity"]
_NOBODY = "65534:65534"
_MEMORY_BYTES = 16 * 2**20
_PIDS = 4


def is_holder(entry: Json) -> bool:
    """Whether a container, as Docker lists it, holds a network."""
    return HOLDER_LABEL in entry["Labels"]


class Holders:
    """Safe to use from many threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}  # network -> container
        self._image: str | None = None

    def adopt(self) -> None:
        """Find those of an earlier daemon; the stopped ones go."""
        for entry in self._engine.containers():
            if not is_holder(entry):
                continue
            if entry["State"] == "running":
                self._known[entry["Labels"][HOLDER_LABEL]] = entry["Id"]
                self._image = entry["Image"]
            else:
                self._engine.api.remove_container(entry["Id"], force=True)

    def of(self, network: str, image: str) -> str | None:
        """The container to join; None where none can be made, and the network itself has to do.

        `image` is any that is here and has the command `sleep`: a container can't be made of nothing.
        """
        with self._lock:
            self._image = image
            if network not in self._known:
                self._make(network, image)
            return self._known.get(network)

    def prepare(self, networks: set[str]) -> None:
        """Make those of networks that wait for a lease. Called in the background."""
        for network in sorted(networks):
            with self._lock:
                if self._image is not None and network not in self._known:
                    self._make(network, self._image)

    def forget(self, network: str) -> None:
        """It could not be joined: the next one is made anew."""
        with self._lock:
            container = self._known.pop(network, None)
        if container is not None:
            self._remove(container)

    def _make(self, network: str, image: str) -> None:
        name = f"{network}-holder"
        try:
            self._remove(name)
            made = self._engine.api.create_container(**self._config(name, network, image))["Id"]
            self._engine.api.start(made)
        except docker.errors.ImageNotFound:
            return  # it is pulled first, and then asked for again
        except docker.errors.APIError as error:
            log.warning("network %s is joined without a holder: %s", network, error)
            self._remove(name)
            return
        self._known[network] = made

    def _remove(self, name_or_id: str) -> None:
        with contextlib.suppress(docker.errors.NotFound):
            self._engine.api.remove_container(name_or_id, force=True, v=True)

    def _config(self, name: str, network: str, image: str) -> Json:
        return {
            "image": image,
            "name": name,
            "entrypoint": _COMMAND,
            "user": _NOBODY,
            "working_dir": "/",
            "labels": {**self._engine.labels(), HOLDER_LABEL: network},
            "host_config": self._engine.api.create_host_config(
                privileged=False,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                read_only=True,
                mem_limit=_MEMORY_BYTES,
                memswap_limit=_MEMORY_BYTES,
                pids_limit=_PIDS,
                network_mode=network,
                log_config=LogConfig(type="none"),
            ),
        }
