"""The launcher's own values: installation, secrets, packages, hosts to simulate."""

import stat
from pathlib import Path

import pytest

from deploy.hosts import wanted_hosts
from deploy.instance import Instance, load
from deploy.packages import missing_packages
from deploy.prepare import prepare_for_benchmarks
from deploy.programs import hub_database_url, sqlalchemy_url
from deploy.progress import StepError
from deploy.secrets import ensure_secrets, new_password, write_secret


@pytest.fixture
def short_path(scratch: Path, request: pytest.FixtureRequest) -> Path:
    path = scratch / f"u{abs(hash(request.node.name)) % 10_000}"
    path.mkdir()
    return path


def test_options_are_remembered_and_changed_one_by_one(short_path: Path) -> None:
    load(short_path, port=9000, simulate="1x1:T4").save()
    again = load(short_path, port=None, hub_port=9001)
    assert (again.port, again.hub_port, again.simulate) == (9000, 9001, "1x1:T4")
    assert again.data == short_path


def test_nobody_else_reads_the_password_in_a_databases_url(short_path: Path) -> None:
    (short_path / "instance.new").touch(mode=0o644)  # of a launcher that was killed
    load(short_path, database_url="postgresql://u:secret@db/x").save()
    assert stat.S_IMODE((short_path / "instance.json").stat().st_mode) == 0o600


def test_a_damaged_file_and_a_path_too_long_are_explained(short_path: Path) -> None:
    (short_path / "instance.json").write_text("{")
    with pytest.raises(StepError, match="damaged"):
        load(short_path)
    with pytest.raises(StepError, match="shorter --data-dir"):
        load(Path("/var/tmp") / ("x" * 60))


def test_secrets_are_private_and_never_change(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    assert "ray_token" in ensure_secrets(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    before = {path.name: path.read_text() for path in directory.iterdir()}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in directory.iterdir())
    assert ensure_secrets(directory) == []
    assert {path.name: path.read_text() for path in directory.iterdir()} == before
    assert len(bytes.fromhex(before["hub_cookie_secret"])) == 32


def test_an_empty_secret_of_a_crash_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "ray_token").touch()
    assert write_secret(tmp_path, "ray_token", "value")
    assert (tmp_path / "ray_token").read_text() == "value"


def test_passwords_differ() -> None:
    assert len({new_password() for _ in range(100)}) == 100


def test_only_what_is_missing_is_installed() -> None:
    there = {"node", "npm", "debootstrap", "iptables", "ip"}
    assert missing_packages(docker_external=False, which=lambda name: name if name in there else None) == [
        "docker.io",
        "nftables",
    ]
    assert missing_packages(docker_external=True, which=lambda name: name if name in there else None) == ["nftables"]


def test_benchmarks_are_given_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with nothing at all, not even apt-get."""
    monkeypatch.setenv("PATH", str(tmp_path))
    prepare_for_benchmarks(["scheduler"])
    for names in ([], ["api-list"]):
        with pytest.raises(StepError, match="missing: wrk"):
            prepare_for_benchmarks(names)
    (tmp_path / "wrk").touch(mode=0o755)
    prepare_for_benchmarks([])


def test_simulated_hosts() -> None:
    assert [(host.name, host.simulate) for host in wanted_hosts("2x4:A100-80GB")] == [
        ("sim-1", "4:A100-80GB"),
        ("sim-2", "4:A100-80GB"),
    ]
    assert wanted_hosts(None)[0].simulate is None


@pytest.mark.parametrize("text", ["", "2x4", "0x4:A100", "2x0:A100", "4:A100", "2x4:A100;rm", "100x4:A100"])
def test_simulations_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(StepError, match="2x4:A100-80GB"):
        wanted_hosts(text)


def test_urls_of_external_databases() -> None:
    assert sqlalchemy_url("postgres://u:p@h/d") == "postgresql+psycopg://u:p@h/d"
    external = Instance(database_url="postgresql://u:p@h:5433/platform?sslmode=require")
    assert hub_database_url(external) == "postgresql+psycopg://u:p@h:5433/jupyterhub?sslmode=require"
