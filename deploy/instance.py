"""One installation of the platform on this machine: where its data is, its ports, and which parts are external.

Kept in `DATA/instance.json`, so that every later command needs the data directory only.
"""

import dataclasses
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.progress import StepError

DEFAULT_DATA = Path("/var/lib/remotegpu")
DEFAULT_SIMULATION = "2x4:A100-80GB"
REPOSITORY = Path(__file__).resolve().parent.parent
RAY_PORTS = 120
_FILES = ("ray_token_file", "tls_cert", "tls_key", "tls_ca")
_SOCKET_PATH_LIMIT = 40  # Ray puts sockets with names of up to 65 characters below DATA; the kernel's limit is 107


@dataclass(frozen=True, slots=True)
class Instance:
    """Paths and ports of an installation. None for an external part means the embedded one."""

    data: Path = DEFAULT_DATA
    address: str = "127.0.0.1"
    port: int = 8000
    internal_port: int = 8001
    hub_port: int = 8080
    hub_domain: str | None = None  # the Hub's own host name; its users are subdomains of it
    hub_api_port: int = 8081
    proxy_api_port: int = 8082
    ray_port: int = 6379
    ray_dashboard_port: int = 8265
    ray_base_port: int = 23000  # the head's other ports: RAY_PORTS from here on
    simulate: str | None = None
    database_url: str | None = None
    hub_database_url: str | None = None
    ray_address: str | None = None
    ray_token_file: str | None = None
    ray_dashboard_url: str | None = None
    docker_host: str = "unix:///var/run/docker.sock"
    base_image: str | None = None
    object_store_url: str | None = None
    object_store_endpoint: str | None = None
    object_store_region: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_ca: str | None = None  # who signed the certificate, where machines do not know it

    @property
    def secrets(self) -> Path:
        return self.data / "secrets"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def run(self) -> Path:
        return self.data / "run"

    @property
    def hosts(self) -> Path:
        return self.data / "hosts"

    @property
    def hub(self) -> Path:
        return self.data / "hub"

    @property
    def ray(self) -> Path:
        return self.data / "ray"

    @property
    def objects(self) -> Path:
        """Uploads and output, where no other store is named."""
        return self.data / "objects"

    @property
    def authorities(self) -> Path:
        """Whom the Hub trusts, where `tls_ca` is named."""
        return self.run / "authorities.pem"

    @property
    def hostlink(self) -> Path:
        return self.run / "hostlink.sock"

    @property
    def scheme(self) -> str:
        return "https" if self.tls_cert else "http"

    @property
    def public_url(self) -> str:
        return f"{self.scheme}://{self.address}:{self.port}"

    @property
    def hub_url(self) -> str:
        return f"{self.scheme}://{self.hub_domain or self.address}:{self.hub_port}"

    @property
    def hub_connect_url(self) -> str:
        """Where tenants' containers reach the Hub: by address if no certificate asks for a name."""
        return self.hub_url if self.tls_cert else f"http://{self.address}:{self.hub_port}"

    @property
    def internal_url(self) -> str:
        return f"https://{self.address}:{self.internal_port}"

    @property
    def ray_cluster_address(self) -> str:
        return self.ray_address or f"{self.address}:{self.ray_port}"

    def host_names(self) -> list[str]:
        """Names of the hosts that live in this installation's data directory."""
        if not self.hosts.is_dir():
            return []
        return sorted(path.name for path in self.hosts.iterdir() if (path / "host.toml").exists())

    def listening_ports(self) -> Iterator[tuple[int, str, str]]:
        """The ports that this installation's own processes listen on, whose they are, and the options that set them."""
        yield self.port, "API", "--port"
        yield self.internal_port, "API, internal listener", "--internal-port"
        yield self.hub_port, "JupyterHub's proxy", "--hub-port"
        yield self.hub_api_port, "JupyterHub", "--hub-api-port"
        yield self.proxy_api_port, "JupyterHub's proxy, its API", "--proxy-api-port"
        if self.ray_address is None:
            yield self.ray_port, "Ray head", "--ray-port"
            yield self.ray_dashboard_port, "Ray dashboard", "--ray-dashboard-port"
            for port in range(self.ray_base_port, self.ray_base_port + RAY_PORTS):
                yield port, "Ray head's other ports", "--ray-base-port"

    def save(self) -> None:
        fields = {
            key: str(value) if isinstance(value, Path) else value for key, value in dataclasses.asdict(self).items()
        }
        target = self.data / "instance.json"
        temporary = target.with_suffix(".new")
        # Others may pass through the data directory, and the URL of an external database holds its password.
        temporary.touch(mode=0o600)
        temporary.chmod(0o600)
        temporary.write_text(json.dumps(fields, indent=2) + "\n")
        temporary.replace(target)


def load(data: Path, **changes: Any) -> Instance:  # Any: values of the fields of Instance, None for "as it was"
    """The stored installation below `data`, or the defaults, with `changes` applied: an empty one is the default again.

    Raises:
        StepError: the file is damaged, or the path is too long.
    """
    data = data.resolve()
    address = primary_address()
    if len(str(data)) > _SOCKET_PATH_LIMIT:
        raise StepError(
            f"the path {data} is longer than {_SOCKET_PATH_LIMIT} characters, too long for Unix sockets below it: "
            "choose a shorter --data-dir"
        )
    stored: dict[str, Any] = {"address": address}
    try:
        stored = json.loads((data / "instance.json").read_text())
    except FileNotFoundError:
        pass
    except json.JSONDecodeError as error:
        raise StepError(
            f"{data}/instance.json is damaged ({error}): remove it and give `up` its options again"
        ) from error
    defaults = {field.name: field.default for field in dataclasses.fields(Instance)} | {"address": address}
    fields = {key: value for key, value in stored.items() if key in defaults}
    for key, value in changes.items():
        if value == "":
            fields[key] = defaults[key]
        elif value is not None:
            # The programs run in another directory than `up`.
            fields[key] = str(Path(value).resolve()) if key in _FILES else value
    fields["data"] = data
    return Instance(**fields)


def exists(data: Path) -> bool:
    return (data / "instance.json").exists()


def primary_address() -> str:
    """The address from which this machine reaches others; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def cache_dir() -> Path:
    """Where downloads and builds that every installation can share are kept."""
    return Path(os.environ.get("REMOTEGPU_CACHE_DIR", "/var/cache/remotegpu"))
