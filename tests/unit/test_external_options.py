"""What is said about parts that are there already is checked before anything starts."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from deploy.database import check_urls
from deploy.engine import can_be_started
from deploy.hosts import update_local_hosts
from deploy.instance import Instance, load, primary_address
from deploy.programs import database_url, hub_database_url, platform_environment
from deploy.progress import StepError
from deploy.ray_head import take_token
from deploy.tls import check_certificate
from node.daemon.config import HostConfig, HostDirectory, config_toml, read_config
from tests.process.self_signed import self_signed

ADDRESS = "192.0.2.7"


@pytest.fixture
def certified(tmp_path: Path) -> Instance:
    certificate, key = map(str, self_signed(tmp_path, address=ADDRESS))
    return Instance(address=ADDRESS, tls_cert=certificate, tls_key=key, tls_ca=certificate)


@pytest.fixture
def on_their_ray(tmp_path: Path) -> Instance:
    (tmp_path / "token").write_text("theirs\n")
    return Instance(data=tmp_path / "p", ray_address="ray:6379", ray_token_file=str(tmp_path / "token"))


def test_an_empty_option_is_back_to_the_default_and_files_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = Path("/var/tmp/none")
    named = load(data, ray_address="h:1", docker_host="tcp://h:2375", tls_cert="c.pem", address="h")
    assert (named.ray_address, named.docker_host, named.address) == ("h:1", "tcp://h:2375", "h")
    assert named.tls_cert == str(tmp_path / "c.pem")
    back = load(data, ray_address="", docker_host="", tls_cert="", address="")
    assert (back.ray_address, back.tls_cert, back.address) == (None, None, primary_address())
    assert back.docker_host == Instance().docker_host


def test_a_certificate_is_for_the_names_of_the_listeners_and_of_a_known_authority(certified: Instance) -> None:
    check_certificate(certified)
    check_certificate(Instance())
    for changed, remedy in (
        (replace(certified, tls_ca=None), "--tls-ca"),
        (replace(certified, address="192.0.2.8"), "--address"),
        (replace(certified, hub_domain="hub.example.org"), "--hub-domain"),
        (replace(certified, tls_key=None), "both --tls-cert and --tls-key"),
        (replace(certified, tls_cert=None), "both --tls-cert and --tls-key"),
        (replace(certified, tls_key=certified.tls_cert), "can't be used with the key"),
        (replace(certified, tls_cert="/nowhere.pem"), "can't be used with the key"),
        (replace(certified, tls_ca="/nowhere.pem"), "can't be read"),
    ):
        with pytest.raises(StepError, match=remedy):
            check_certificate(changed)


def test_a_key_is_its_certificates_own(certified: Instance, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    _, other = self_signed(tmp_path / "other", address=ADDRESS)
    with pytest.raises(StepError, match="can't be used with the key"):
        check_certificate(replace(certified, tls_key=str(other)))


@pytest.mark.parametrize(
    "url", ["mysql://u:secret@h/d", "secret", "postgresql://u:secret@h", "postgresql://u:secret@h/"]
)
def test_what_names_no_database_is_refused_without_its_password(url: str) -> None:
    for instance in (Instance(database_url=url), Instance(hub_database_url=url)):
        with pytest.raises(StepError, match="postgresql://USER") as refused:
            check_urls(instance)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["postgres://u:p%25@h:5433/d", "postgresql:///d?host=/run/postgresql"])
def test_the_hubs_database_is_beside_the_platforms(url: str) -> None:
    instance = Instance(database_url=url)
    check_urls(instance)
    ours, hubs = make_url(database_url(instance)), make_url(hub_database_url(instance))
    assert (ours.drivername, ours.database) == ("postgresql+psycopg", "d")
    assert hubs == ours.set(database="jupyterhub")


def test_the_token_of_their_head_is_taken_over_and_followed(on_their_ray: Instance) -> None:
    host = on_their_ray.hosts / "sim-1"
    host.mkdir(parents=True)
    (host / "host.toml").touch()
    for token in ("theirs", "another"):
        Path(str(on_their_ray.ray_token_file)).write_text(f"{token}\n")
        take_token(on_their_ray)
        for directory in (on_their_ray.secrets, host):
            assert (directory / "ray_token").read_text() == token
            assert stat.S_IMODE((directory / "ray_token").stat().st_mode) == 0o600
    take_token(replace(on_their_ray, ray_token_file=None))


def test_a_head_without_a_token_is_refused(on_their_ray: Instance) -> None:
    with pytest.raises(StepError, match="--ray-token-file"):
        take_token(replace(on_their_ray, ray_token_file=None))
    Path(str(on_their_ray.ray_token_file)).write_text("\n")
    with pytest.raises(StepError, match="holds no token"):
        take_token(on_their_ray)
    with pytest.raises(StepError, match="can't be read"):
        take_token(replace(on_their_ray, ray_token_file="/nowhere"))


def test_the_token_is_told_to_no_dashboard_that_nobody_has_named(on_their_ray: Instance) -> None:
    name = "REMOTEGPU_RAY_DASHBOARD_URL"
    assert platform_environment(on_their_ray)[name] == ""
    assert platform_environment(replace(on_their_ray, ray_dashboard_url="http://h:1"))[name] == "http://h:1"
    assert platform_environment(Instance())[name] == "http://127.0.0.1:8265"


def test_hosts_that_have_joined_are_told_of_other_parts(on_their_ray: Instance) -> None:
    directory = HostDirectory(on_their_ray.hosts / "sim-1")
    directory.path.mkdir(parents=True)
    joined = HostConfig(host_id="h", name="sim-1", internal_url="https://old:1", simulate="1:T4", network_spares=3)
    directory.write("host.toml", config_toml(joined))
    assert update_local_hosts(on_their_ray) == ["sim-1"]
    told = read_config(directory)
    assert (told.ray_address, told.internal_url) == ("ray:6379", on_their_ray.internal_url)
    assert (told.host_id, told.simulate, told.network_spares) == ("h", "1:T4", 3)
    assert update_local_hosts(on_their_ray) == []
    directory.write("host.toml", "host_id = ")
    with pytest.raises(StepError, match="joins again"):
        update_local_hosts(on_their_ray)


def test_only_an_engine_of_this_machine_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.engine.search_path", lambda: str(tmp_path))
    assert not can_be_started("unix:///run/x.sock")
    (tmp_path / "dockerd").touch(mode=0o755)
    assert can_be_started("unix:///run/x.sock")
    assert not can_be_started("tcp://h:2375")
