"""The platform's internal listener, as a host calls it: mutual TLS with the certificate that it joined with."""

import json
import ssl
from typing import Any

import httpx
from pydantic import TypeAdapter

from node.daemon.config import HostConfig, HostDirectory
from scheduler.host_protocol import Heartbeat, HeartbeatReply, HostFacts, UsageBatch, UsageReceipt

_TIMEOUT_S = 10.0
_REPLY, _RECEIPT = TypeAdapter(HeartbeatReply), TypeAdapter(UsageReceipt)
_BEAT, _FACTS, _BATCH = TypeAdapter(Heartbeat), TypeAdapter(HostFacts), TypeAdapter(UsageBatch)


class PlatformUnavailableError(Exception):
    """No usable answer; the message says why."""


class NotRegisteredError(PlatformUnavailableError):
    """The platform does not know this boot of the host: register first."""


class Platform:
    """For one thread. A renewed certificate is taken up with the next request."""

    def __init__(self, config: HostConfig, directory: HostDirectory) -> None:
        self._url, self._directory = config.internal_url, directory
        self._connected_with = self._certificate_file()
        self._client = self._connect()

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

    def close(self) -> None:
        self._client.close()

    def _connect(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self._directory.ca))
        context.load_cert_chain(self._directory.certificate, self._directory.key)
        return httpx.Client(base_url=self._url, verify=context, timeout=_TIMEOUT_S, trust_env=False)

    def _certificate_file(self) -> tuple[int, int]:
        """Another one after each renewal."""
        found = self._directory.certificate.stat()
        return found.st_ino, found.st_mtime_ns

    def _current_client(self) -> httpx.Client:
        """Connections are made anew with a new certificate: the old ones would live on its predecessor."""
        found = self._certificate_file()
        if found != self._connected_with:
            before, self._client, self._connected_with = self._client, self._connect(), found
            before.close()
        return self._client

    def _send(self, method: str, path: str, content: Any) -> bytes:
        headers = {"Content-Type": "application/json"}
        try:
            reply = self._current_client().request(method, path, content=content, headers=headers)
        except (httpx.HTTPError, OSError) as error:  # ssl.SSLError is an OSError
            raise PlatformUnavailableError(f"{path}: {error}") from error
        if _problem_code(reply) == "not_registered":
            raise NotRegisteredError(f"{path} answered {reply.status_code}: {reply.text[:300]}")
        if reply.status_code not in (httpx.codes.OK, httpx.codes.NO_CONTENT):
            raise PlatformUnavailableError(f"{path} answered {reply.status_code}: {reply.text[:300]}")
        return reply.content


def _problem_code(reply: httpx.Response) -> str | None:
    try:
        return str(reply.json().get("code")) if reply.is_error else None
    except (ValueError, AttributeError):
        return None
