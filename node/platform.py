"""The platform's internal listener, as a host calls it: mutual TLS with the certificate that it joined with."""

import json
import ssl
import threading
from collections.abc import Callable
from typing import Any

import httpx
from pydantic import TypeAdapter

from node.daemon.config import HostConfig, HostDirectory
from scheduler.host_protocol import (
    AttemptOrder,
    ElementsAsked,
    ElementsGiven,
    Heartbeat,
    HeartbeatReply,
    HostFacts,
    UsageBatch,
    UsageReceipt,
)

_TIMEOUT_S = 10.0
_REPLY, _RECEIPT = TypeAdapter(HeartbeatReply), TypeAdapter(UsageReceipt)
_ORDER, _ASKED, _GIVEN = TypeAdapter(AttemptOrder), TypeAdapter(ElementsAsked), TypeAdapter(ElementsGiven)
_BEAT, _FACTS, _BATCH = TypeAdapter(Heartbeat), TypeAdapter(HostFacts), TypeAdapter(UsageBatch)


class PlatformUnavailableError(Exception):
    """No usable answer; the message says why."""


class NotRegisteredError(PlatformUnavailableError):
    """The platform does not know this boot of the host: register first."""


class AttemptOverError(Exception):
    """The platform says that this attempt is not to start, or not any more; the message says why."""


class LogPositionError(Exception):
    """The platform waits for another position of this output, or for nothing more if it has the `whole`."""

    def __init__(self, expected: int, *, whole: bool) -> None:
        super().__init__("all of it is there" if whole else f"position {expected} comes next")
        self.expected, self.whole = expected, whole


class Platform:
    """Safe to use from many threads. A renewed certificate is taken up with the next request."""

    def __init__(self, config: HostConfig, directory: HostDirectory) -> None:
        self._url, self._directory = config.internal_url, directory
        self._connected_with = self._certificate_file()
        self._client = self._connect()
        self._before: httpx.Client | None = None
        self._lock = threading.Lock()  # of the three above

    def register(self, facts: HostFacts) -> None:
        """Raises: PlatformUnavailableError."""
        self._send("PUT", "/internal/host", _FACTS.dump_json(facts))

    def heartbeat(self, beat: Heartbeat) -> HeartbeatReply:
        """Raises: PlatformUnavailableError."""
        return _REPLY.validate_json(self._send("POST", "/internal/heartbeat", _BEAT.dump_json(beat)))

    def usage(self, batch: UsageBatch) -> UsageReceipt:
        """Raises: PlatformUnavailableError."""
        return _RECEIPT.validate_json(self._send("POST", "/internal/usage", _BATCH.dump_json(batch)))

    def certificate(self, csr_pem: str) -> str:
        """A renewed certificate, PEM. Raises: PlatformUnavailableError."""
        content = self._send("POST", "/internal/certificate", json.dumps({"csr_pem": csr_pem}))
        try:
            return str(json.loads(content)["certificate_pem"])
        except (ValueError, KeyError, TypeError) as error:
            raise PlatformUnavailableError(f"/internal/certificate: {error!r}") from error

    def order(self, allocation_uid: str, generation: int) -> AttemptOrder:
        """What to run under a task's lease. With this call its attempt begins at the platform.

        Raises:
            AttemptOverError, PlatformUnavailableError
        """
        path = f"/internal/attempts/{allocation_uid}/{generation}"
        reply = self._exchange("GET", path, None)
        if reply.status_code == httpx.codes.NOT_FOUND or _problem_code(reply) == "attempt_over":
            raise AttemptOverError(reply.text[:300])
        return _ORDER.validate_json(_usable(path, reply))

    def elements(self, allocation_uid: str, generation: int, asked: ElementsAsked) -> ElementsGiven:
        """Tell what became of a worker's elements, and get others.

        Raises:
            AttemptOverError, PlatformUnavailableError
        """
        path = f"/internal/attempts/{allocation_uid}/{generation}/elements"
        reply = self._exchange("POST", path, _ASKED.dump_json(asked))
        if reply.status_code == httpx.codes.NOT_FOUND or _problem_code(reply) == "attempt_over":
            raise AttemptOverError(reply.text[:300])
        return _GIVEN.validate_json(_usable(path, reply))

    def archive(self, allocation_uid: str, generation: int, digest: str, take: Callable[[bytes], None]) -> None:
        """Give an upload of a task to `take`, in pieces; what it is has to be checked by the caller.

        Raises:
            AttemptOverError, PlatformUnavailableError, and what `take` does
        """
        path = f"/internal/attempts/{allocation_uid}/{generation}/archives/{digest}"
        try:
            with self._current_client().stream("GET", path) as reply:
                if reply.status_code == httpx.codes.NOT_FOUND:
                    raise AttemptOverError(f"there is no upload {digest}")
                if reply.status_code != httpx.codes.OK:
                    raise PlatformUnavailableError(f"{path} answered {reply.status_code}: {reply.read()[:300]!r}")
                for chunk in reply.iter_bytes():
                    take(chunk)
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise PlatformUnavailableError(f"{path}: {error}") from error

    def log(
        self, allocation_uid: str, generation: int, *, rank: int, position: int, length: int, records: bytes, last: bool
    ) -> None:
        """Hand over a chunk of a task's output: zstd-compressed whole records that cover `length` bytes of it.

        The `last` one may have no records.

        Raises:
            LogPositionError: there is a gap, or it is there already.
            AttemptOverError: nobody keeps this output.
            PlatformUnavailableError
        """
        path = f"/internal/attempts/{allocation_uid}/{generation}/log/{rank}/{position}"
        path += f"?length={length}&last={str(last).lower()}"
        reply = self._exchange("PUT", path, records, media_type="application/zstd")
        if reply.status_code == httpx.codes.NOT_FOUND:
            raise AttemptOverError(reply.text[:300])
        if reply.status_code == httpx.codes.CONFLICT:
            raise _misplaced(path, reply)
        _usable(path, reply)

    def close(self) -> None:
        with self._lock:
            self._client.close()
            if self._before is not None:
                self._before.close()

    def _connect(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self._directory.ca))
        context.load_cert_chain(self._directory.certificate, self._directory.key)
        return httpx.Client(base_url=self._url, verify=context, timeout=_TIMEOUT_S, trust_env=False)

    def _certificate_file(self) -> tuple[int, int]:
        """Another one after each renewal."""
        found = self._directory.certificate.stat()
        return found.st_ino, found.st_mtime_ns

    def _current_client(self) -> httpx.Client:
        """Connections are made anew with a new certificate: the old ones would live on its predecessor.

        Requests may still be under way on those: they are closed with the next renewal.
        """
        with self._lock:
            found = self._certificate_file()
            if found != self._connected_with:
                if self._before is not None:
                    self._before.close()
                self._before, self._client, self._connected_with = self._client, self._connect(), found
            return self._client

    def _send(self, method: str, path: str, content: Any) -> bytes:
        return _usable(path, self._exchange(method, path, content))

    def _exchange(
        self, method: str, path: str, content: Any, *, media_type: str = "application/json"
    ) -> httpx.Response:
        """Raises: PlatformUnavailableError, when there is no answer at all."""
        try:
            return self._current_client().request(method, path, content=content, headers={"Content-Type": media_type})
        except (httpx.HTTPError, OSError) as error:  # ssl.SSLError is an OSError
            raise PlatformUnavailableError(f"{path}: {error}") from error


def _usable(path: str, reply: httpx.Response) -> bytes:
    """Raises: PlatformUnavailableError, for an answer that says nothing."""
    if _problem_code(reply) == "not_registered":
        raise NotRegisteredError(f"{path} answered {reply.status_code}: {reply.text[:300]}")
    if reply.status_code not in (httpx.codes.OK, httpx.codes.NO_CONTENT):
        raise PlatformUnavailableError(f"{path} answered {reply.status_code}: {reply.text[:300]}")
    return reply.content


def _misplaced(path: str, reply: httpx.Response) -> LogPositionError:
    try:
        (standing,) = reply.json()["errors"]
        return LogPositionError(int(standing["expected"]), whole=bool(standing["whole"]))
    except (ValueError, KeyError, TypeError) as error:
        raise PlatformUnavailableError(f"{path} answered 409: {reply.text[:300]}") from error


def _problem_code(reply: httpx.Response) -> str | None:
    try:
        return str(reply.json().get("code")) if reply.is_error else None
    except (ValueError, AttributeError):
        return None
