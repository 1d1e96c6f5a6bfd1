"""A platform on a PostgreSQL, a Ray head and a Docker Engine that were there before it, with a certificate."""

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from deploy.engine import Engine
from deploy.instance import primary_address
from deploy.postgres import EmbeddedPostgres
from tests.e2e.commands import Person
from tests.e2e.conftest import Platform, new_customer, new_platform
from tests.e2e.visitor import sign_in
from tests.leftovers import processes_of
from tests.ports import free_ports
from tests.process.self_signed import self_signed

_HOST = "1x2:A100-80GB"
_IMAGES = ("debian-bootstrap:bookworm", "remotegpu/base:1")
_WORKER_PORTS = 60
_PARTS = {"docker", "postgres", "postgres (hub)", "ray", "api", "api (internal)", "controller", "proxy", "hub"}


@dataclass(frozen=True, slots=True)
class Parts:
    """What was there before the platform. `certificate` is its own authority, which no machine knows."""

    postgres: EmbeddedPostgres
    ray: subprocess.Popen[bytes]
    ray_address: str
    ray_token: Path
    engine: Engine
    certificate: Path
    key: Path

    def options(self) -> tuple[str, ...]:
        ray = ("--ray-address", self.ray_address, "--ray-token-file", str(self.ray_token))
        tls = ("--tls-cert", str(self.certificate), "--tls-key", str(self.key), "--tls-ca", str(self.certificate))
        return ("--simulate", _HOST, "--base-image", _IMAGES[0], *ray, *tls)

    @contextmanager
    def in_environment(self) -> Iterator[None]:
        """As an operator may name two of them as well; and the command is told whom to trust."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATABASE_URL", f"postgresql:///remotegpu?user=remotegpu&host={self.postgres.socket}")
            patch.setenv("DOCKER_HOST", self.engine.host)
            yield

    def run(self) -> bool:
        return self.postgres.answers() and self.ray.poll() is None and self.engine.version() is not None


@pytest.fixture(scope="module")
def parts(scratch: Path) -> Iterator[Parts]:
    root = scratch / "x"
    root.mkdir()
    root.chmod(0o711)
    address = primary_address()
    postgres = EmbeddedPostgres(root / "pg")
    certificate, key = self_signed(root, address=address)
    with ExitStack() as cleanup:
        ray, port = _start_ray(root, address, cleanup)
        engine = _start_engine(root, cleanup)
        cleanup.callback(postgres.stop)
        postgres.start()
        _copy_images(engine)
        yield Parts(postgres, ray, f"{address}:{port}", root / "token", engine, certificate, key)
    left = [(process.pid, process.cmdline()) for process in processes_of(root)]
    assert left == []


def _start_ray(root: Path, address: str, cleanup: ExitStack) -> tuple[subprocess.Popen[bytes], int]:
    """A head as anybody starts one with a token."""
    port = free_ports(_WORKER_PORTS + 2)
    (root / "token").write_text("a token that an operator has chosen")
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--node-ip-address={address}",
        f"--port={port}", f"--dashboard-port={port + 1}", f"--temp-dir={root / 'ray'}", "--num-cpus=0",
        f"--min-worker-port={port + 2}", f"--max-worker-port={port + 1 + _WORKER_PORTS}",
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(root / "token"), "HOME": str(root)}
    with (root / "ray.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env=environment | {"RAY_USAGE_STATS_ENABLED": "0"},
        )  # fmt: skip
    cleanup.callback(_end_ray, process, root)
    return process, port


def _end_ray(process: subprocess.Popen[bytes], root: Path) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    psutil.wait_procs(processes_of(root / "token"), timeout=30)  # what it has started ends a moment later


def _start_engine(root: Path, cleanup: ExitStack) -> Engine:
    """One beside the machine's own, whose rules and bridge it leaves alone."""
    directory, bridge = root / "docker", Path("/sys/class/net/docker0")
    directory.mkdir()
    assert bridge.exists()
    cleanup.callback(lambda: pytest.fail("the machine's engine has lost its bridge") if not bridge.exists() else None)
    engine = Engine(f"unix://{directory}/engine.sock")
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "dockerd", "--host", engine.host, "--data-root", str(directory / "data"),
                "--exec-root", str(directory / "exec"), "--pidfile", str(directory / "pid"),
                "--iptables=false", "--log-level", "warn",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    cleanup.callback(_end_engine, process, directory)
    return engine


def _end_engine(process: subprocess.Popen[bytes], directory: Path) -> None:
    process.terminate()
    process.wait(60)
    left = [partition for partition in Path("/proc/mounts").read_text().splitlines() if f" {directory}/" in partition]
    for line in left:
        subprocess.run(["umount", line.split()[1]], check=True)


def _copy_images(engine: Engine) -> None:
    """From the machine's own engine, so that nothing is downloaded."""
    engine.wait()
    copy = f"docker save {' '.join(_IMAGES)} | docker --host {engine.host} load"
    subprocess.run(["sh", "-ec", copy], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=120)


@pytest.fixture(scope="module")
def external(scratch: Path, parts: Parts) -> Iterator[Platform]:
    platform = new_platform(scratch / "e", *parts.options())
    try:
        with parts.in_environment():
            platform.up()
        yield platform
    finally:
        if (platform.data / "instance.json").exists():
            platform.down()
    assert platform.processes() == []


@pytest.fixture(scope="module")
def ada(external: Platform, parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """A customer's owner, whose command is told whom to trust."""
    profiles = tmp_path_factory.mktemp("external")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(parts.certificate))
        operator = Person(external.public_url, profiles / "operator.json", "admin", "a pass phrase of an operator 1")
        operator.sign_in(external.admin_password)
        operator.run("admin", "price", "set", "A100", "3600")
        yield new_customer(operator, profiles, name="Lovelace Labs", owner="ada").owner


def test_every_part_is_healthy(external: Platform) -> None:
    status = external.status()
    assert {part["name"]: part["detail"] for part in status["parts"] if not part["healthy"]} == {}
    assert {part["name"] for part in status["parts"]} == _PARTS | {"host sim-1"}
    assert external.public_url.startswith("https://") and status["public_url"] == external.public_url
    assert not [line for line in external.processes() if "cluster.head" in line or "dockerd" in line]


def test_an_environment_is_used_over_tls(external: Platform, parts: Parts, ada: Person) -> None:
    arguments = ("--cpus", "1", "--memory", "1GiB", "--wait")
    made = ada.json("env", "create", "--name", "lab", "--gpus", "1", "--gpu-model", "A100", *arguments)
    assert made["observed"] == "running", made
    assert [container.name for container in parts.engine.client().containers.list()] != []
    with sign_in(external, ada, trust=ssl.create_default_context(cafile=str(parts.certificate))) as visitor:
        lab = visitor.http.get(f"{made['url']}lab", follow_redirects=True)
        assert (lab.status_code, str(lab.url)) == (200, f"{made['url']}lab"), lab.text
        assert visitor.http.get(f"{made['url']}api/contents").json()["type"] == "directory"


def test_down_leaves_them_alone_and_up_finds_the_data_again(external: Platform, parts: Parts, ada: Person) -> None:
    external.down()
    assert external.processes() == []
    assert parts.run()
    assert parts.engine.client().containers.list(all=True) == []
    external.run("up", timeout_s=300)  # with the options of the first time
    assert external.healthy()
    assert [environment["name"] for environment in ada.json("env", "list")] == ["lab"]


def test_a_renewed_certificate_is_served_after_another_up(external: Platform, parts: Parts, ada: Person) -> None:
    before = parts.certificate.read_text()
    self_signed(parts.certificate.parent, address=primary_address())
    external.run("up", timeout_s=300)
    for port in (external.settings["port"], external.settings["hub_port"]):
        assert ssl.get_server_certificate((primary_address(), port)) == parts.certificate.read_text() != before
    assert external.healthy()
    assert ada.json("whoami")["username"] == "ada"


def test_an_image_that_is_nowhere_is_one_clear_error(external: Platform) -> None:
    with pytest.raises(AssertionError, match=r"127\.0\.0\.1:9/none can't be pulled.*--base-image"):
        external.run("up", "--base-image", "127.0.0.1:9/none", timeout_s=300)
    assert external.healthy()
