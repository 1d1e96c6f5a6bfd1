"""What the Hub and its proxy are told by the launcher: `REMOTEGPU_*` environment variables and files of secrets."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class SettingsError(ValueError):
    """A variable is missing or malformed; the message names it."""


@dataclass(frozen=True, slots=True)
class HubSettings:
    """See "The Hub's environment" in docs/reference/interfaces.md."""

    public_url: str  # where browsers reach the platform: the OIDC provider
    hub_url: str  # where browsers reach the Hub
    connect_url: str  # where tenants' containers reach it
    internal_url: str  # the platform's internal listener, mutual TLS
    secrets_dir: Path
    database_url: str
    hub_dir: Path
    listen_host: str
    listen_port: int
    api_port: int
    proxy_api_port: int
    proxy_command: str
    subdomain_host: str
    tls_cert: str
    tls_key: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "HubSettings":
        """
        Raises:
            SettingsError: a variable without a default is missing, or a port is no port.
        """
        return cls(
            public_url=_required(environment, "PUBLIC_URL").rstrip("/"),
            hub_url=_required(environment, "HUB_URL").rstrip("/"),
            connect_url=(environment.get("REMOTEGPU_HUB_CONNECT_URL") or _required(environment, "HUB_URL")).rstrip("/"),
            internal_url=_required(environment, "INTERNAL_URL").rstrip("/"),
            secrets_dir=Path(_required(environment, "SECRETS_DIR")),
            database_url=environment.get("REMOTEGPU_HUB_DATABASE_URL", ""),
            hub_dir=Path(environment.get("REMOTEGPU_HUB_DIR", ".")),
            listen_host=environment.get("REMOTEGPU_HUB_LISTEN_HOST", "127.0.0.1"),
            listen_port=_port(environment, "HUB_LISTEN_PORT", 8080),
            api_port=_port(environment, "HUB_API_PORT", 8081),
            proxy_api_port=_port(environment, "HUB_PROXY_API_PORT", 8082),
            proxy_command=environment.get("REMOTEGPU_PROXY_COMMAND", "configurable-http-proxy"),
            subdomain_host=environment.get("REMOTEGPU_HUB_SUBDOMAIN_HOST", ""),
            tls_cert=environment.get("REMOTEGPU_TLS_CERT", ""),
            tls_key=environment.get("REMOTEGPU_TLS_KEY", ""),
        )

    @property
    def tls(self) -> bool:
        return bool(self.tls_cert and self.tls_key)

    def secret(self, name: str) -> str:
        return (self.secrets_dir / name).read_text().strip()


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(f"REMOTEGPU_{name}", "")
    if not value:
        raise SettingsError(f"REMOTEGPU_{name} is not set")
    return value


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(f"REMOTEGPU_{name}", str(default))
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise SettingsError(f"REMOTEGPU_{name} is no port number: {value!r}")
    return int(value)
