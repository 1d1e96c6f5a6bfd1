"""A real JupyterHub with its real proxy, as the launcher starts them, for tests."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from deploy.hub_proxy import ensure_proxy, proxy_program
from deploy.instance import primary_address
from tests.ports import free_port
from tests.waiting import wait_for

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class HubProcesses:
    """`directory` holds secrets, logs and the Hub's working files."""

    directory: Path
    database_url: str
    public_url: str
    internal_url: str
    port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    proxy_api_port: int = field(default_factory=free_port)
    tls: tuple[Path, Path] | None = None  # certificate and key for browsers
    hub: subprocess.Popen[bytes] | None = None
    proxy: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        # Environments reach the Hub here, too: an address of the machine's own, not loopback.
        return f"{'https' if self.tls else 'http'}://{primary_address()}:{self.port}"

    @property
    def secrets_dir(self) -> Path:
        return self.directory / "secrets"

    @property
    def api(self) -> httpx.Client:
        """The platform's own client of the Hub's REST API."""
        token = (self.secrets_dir / "hub_api_token").read_text()
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.api_port}/hub/api",
            headers={"Authorization": f"token {token}"},
            timeout=60,
        )

    def write_secrets(self, *, client_secret: str) -> None:
        self.secrets_dir.mkdir(mode=0o700, exist_ok=True)
        for name in ("hub_api_token", "hub_cookie_secret", "hub_proxy_token"):
            (self.secrets_dir / name).write_text(secrets.token_hex(32))
        (self.secrets_dir / "hub_oidc_client_secret").write_text(client_secret)

    def start(self) -> None:
        ensure_proxy()
        self.proxy = self._spawn("proxy", "-m", "hub.proxy")
        self.start_hub()

    def start_hub(self) -> None:
        self.hub = self._spawn("hub", "-m", "jupyterhub", "-f", str(REPOSITORY / "hub" / "jupyterhub_config.py"))
        wait_for(self._answers, timeout_s=60, what=f"the Hub's API; see {self.directory}")

    def stop_hub(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.hub is not None:
            self.hub.send_signal(how)
            self.hub.wait(timeout=30)
            self.hub = None

    def stop(self) -> None:
        self.stop_hub()
        if self.proxy is not None:
            self.proxy.terminate()
            self.proxy.wait(timeout=30)

    def log(self) -> str:
        return (self.directory / "hub.log").read_text()

    def _answers(self) -> bool:
        assert self.hub is not None and self.hub.poll() is None, self.log()[-3000:]
        try:
            return httpx.get(f"{self.url}/hub/health", timeout=2, verify=not self.tls).status_code == 200
        except httpx.TransportError:
            return False

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("REMOTEGPU_")} | {
            "REMOTEGPU_PUBLIC_URL": self.public_url,
            "REMOTEGPU_HUB_URL": self.url,
            "REMOTEGPU_INTERNAL_URL": self.internal_url,
            "REMOTEGPU_SECRETS_DIR": str(self.secrets_dir),
            "REMOTEGPU_HUB_DATABASE_URL": self.database_url,
            "REMOTEGPU_HUB_DIR": str(self.directory),
            "REMOTEGPU_HUB_LISTEN_HOST": primary_address(),
            "REMOTEGPU_HUB_LISTEN_PORT": str(self.port),
            "REMOTEGPU_HUB_API_PORT": str(self.api_port),
            "REMOTEGPU_HUB_PROXY_API_PORT": str(self.proxy_api_port),
            "REMOTEGPU_PROXY_COMMAND": str(proxy_program()),
        }
        if self.tls is not None:
            environment |= {"REMOTEGPU_TLS_CERT": str(self.tls[0]), "REMOTEGPU_TLS_KEY": str(self.tls[1])}
        assert shutil.which("node"), "the Hub's proxy needs Node.js"
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=REPOSITORY, env=environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
