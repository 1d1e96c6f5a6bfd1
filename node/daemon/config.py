"""The host's directory: `host.toml`, certificate and key, state and socket."""

import ipaddress
import os
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

_FILE_MODE = 0o600


def _network(text: str) -> str:
    return str(ipaddress.IPv4Network(text))


Network = Annotated[str, AfterValidator(_network)]


class ConfigError(Exception):
    """`host.toml` is missing or can't be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """What `node join` wrote. Sizes are bytes, times seconds; None leaves the choice to the daemon."""

    host_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    name: str
    internal_url: str
    ray_address: str | None = None  # None: no raylet is started
    docker_host: str = "unix:///var/run/docker.sock"
    simulate: str | None = None
    address: str = "127.0.0.1"
    publish_address: str | None = None  # where containers' ports are published; None: `address`
    tenant_ports: tuple[int, ...] = ()  # the platform's listeners that tenants may reach
    private_networks: tuple[Network, ...] = ()  # private addresses that tenants may reach all the same
    network_range: str = "10.192.0.0/12"
    overlay_port: Annotated[int, Field(ge=1, le=65535)] = 8474  # UDP, of the VXLAN between the hosts of a gang
    network_spares: Annotated[int, Field(ge=1, le=64)] = 2
    heartbeat_interval_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    lost_margin_s: Annotated[float, Field(ge=0, le=600)] = 30.0
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: a free one
    cpu_count: int | None = None
    memory_bytes: int | None = None
    archive_cache_bytes: Annotated[int, Field(ge=0)] = 20 * 2**30  # of tasks' uploads, kept for those to come


@dataclass(frozen=True, slots=True)
class HostDirectory:
    path: Path

    @property
    def socket(self) -> Path:
        return self.path / "daemon.sock"

    @property
    def certificate(self) -> Path:
        return self.path / "host.pem"

    @property
    def key(self) -> Path:
        return self.path / "host.key"

    @property
    def ca(self) -> Path:
        return self.path / "ca.pem"

    @property
    def ray_token(self) -> Path:
        return self.path / "ray_token"

    @property
    def database(self) -> Path:
        return self.path / "spool.sqlite"

    @property
    def metadata(self) -> Path:
        return self.path / "metadata"

    @property
    def archives(self) -> Path:
        return self.path / "archives"

    @property
    def tasks(self) -> Path:
        return self.path / "tasks"

    def write(self, name: str, text: str) -> None:
        """Write a file that only root reads, at once and whole."""
        temporary = self.path / f".{name}.new"
        temporary.unlink(missing_ok=True)
        temporary.touch(mode=_FILE_MODE)
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / name)


def read_config(directory: HostDirectory) -> HostConfig:
    """Raises: ConfigError."""
    try:
        values = tomllib.loads((directory.path / "host.toml").read_text())
        return TypeAdapter(HostConfig).validate_python(values)
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"{directory.path / 'host.toml'}: {error}") from error


def config_toml(config: HostConfig) -> str:
    return "".join(f"{key} = {_toml(value)}\n" for key, value in asdict(config).items() if value is not None)


def _toml(value: object) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    return str(value)
