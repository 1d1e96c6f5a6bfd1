"""The platform's internal listener, as a host calls it: mutual TLS with the certificate that it joined with."""

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


class Platform:
    def __init__(self, config: HostConfig, directory: HostDirectory) -> None:
        context = ssl.create_default_context(cafile=str(directory.ca))
        context.load_cert_chain(directory.certificate, directory.key)
        self._client = httpx.Client(base_url=config.internal_url, verify=context, timeout=_TIMEOUT_S, trust_env=False)

    def register(self, facts: HostFacts) -> None:
        """Raises: PlatformUnavailableError."""
        self._send("PUT", "/internal/host", _FACTS.dump_json(facts))

    def heartbeat(self, beat: Heartbeat) -> HeartbeatReply:
        """Raises: PlatformUnavailableError."""
        return _REPLY.validate_json(self._send("POST", "/internal/heartbeat", _BEAT.dump_json(beat)))

    def usage(self, batch: UsageBatch) -> UsageReceipt:
        """Raises: PlatformUnavailableError."""
        return _RECEIPT.validate_json(self._send("POST", "/internal/usage", _BATCH.dump_json(batch)))

    def close(self) -> None:
        self._client.close()

    def _send(self, method: str, path: str, content: Any) -> bytes:
        headers = {"Content-Type": "application/json"}
        try:
            reply = self._client.request(method, path, content=content, headers=headers)
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise PlatformUnavailableError(f"{path}: {error}") from error
        if reply.status_code not in (httpx.codes.OK, httpx.codes.NO_CONTENT):
            raise PlatformUnavailableError(f"{path} answered {reply.status_code}: {reply.text[:300]}")
        return reply.content
