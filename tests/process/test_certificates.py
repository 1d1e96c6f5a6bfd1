"""Host certificates are renewed while everything runs, and what can't be used never takes the place of what can."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from node.agent import Agent
from node.certificate import CertificateKeeper, Validity
from node.daemon.config import HostConfig, HostDirectory
from node.platform import Platform
from tests.process.daemon_certificates import expire_in, make_certificates, serial_of, sign_request
from tests.process.daemon_platform import FakePlatform
from tests.process.daemon_process import DaemonHost, wait_for


@pytest.fixture
def connection(certificates: Path, platform: FakePlatform) -> Iterator[Platform]:
    """Of a host whose directory is the authority's: renewal needs neither daemon nor Docker."""
    connection = Platform(HostConfig(host_id="h", name="h", internal_url=platform.url), HostDirectory(certificates))
    yield connection
    connection.close()


@pytest.fixture
def keeper(certificates: Path, connection: Platform) -> CertificateKeeper:
    return CertificateKeeper(HostDirectory(certificates), connection, now)


def now() -> datetime:
    return datetime.now(UTC)


def test_it_is_renewed_after_two_thirds_of_its_life(certificates: Path, keeper: CertificateKeeper) -> None:
    expire_in(certificates, age=timedelta(days=19), left=timedelta(days=11))
    before = serial_of(certificates / "host.pem")
    keeper.keep()
    assert serial_of(certificates / "host.pem") == before
    expire_in(certificates, age=timedelta(days=21), left=timedelta(days=9))
    before = serial_of(certificates / "host.pem")
    keeper.keep()
    assert serial_of(certificates / "host.pem") != before
    assert (certificates / "host.pem").stat().st_mode & 0o777 == 0o600


def test_what_can_not_be_used_changes_nothing(
    certificates: Path, platform: FakePlatform, connection: Platform, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    make_certificates(other)
    expire_in(certificates, age=timedelta(hours=2), left=timedelta(minutes=30))
    kept = (certificates / "host.pem").read_text()
    for answer in (
        lambda csr: sign_request(other, csr, left=timedelta(hours=1)),  # of another authority
        lambda csr: sign_request(certificates, csr, left=timedelta(minutes=1)),  # sooner over
        lambda csr: (certificates / "server.pem").read_text(),  # of another key
        lambda csr: "nonsense",
    ):
        platform.renew = answer
        CertificateKeeper(HostDirectory(certificates), connection, now).keep()
        assert (certificates / "host.pem").read_text() == kept
    platform.away = True
    CertificateKeeper(HostDirectory(certificates), connection, now).keep()
    assert (certificates / "host.pem").read_text() == kept


def test_a_failed_renewal_is_tried_again_often_enough() -> None:
    begins = datetime(2026, 1, 1, tzinfo=UTC)
    month = Validity(begins, begins + timedelta(days=30))
    assert month.renewal() == begins + timedelta(days=20)
    assert month.pause(month.renewal()) == timedelta(hours=1)
    assert month.pause(month.ends - timedelta(minutes=50)) == timedelta(minutes=1)


def test_one_that_has_expired_says_what_to_do(certificates: Path, keeper: CertificateKeeper) -> None:
    assert keeper.problem() is None
    expire_in(certificates, age=timedelta(days=40), left=-timedelta(days=10))
    assert "join again" in str(keeper.problem())


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")  # httpcore
def test_daemon_and_agent_go_on_with_the_new_one(host: DaemonHost, platform: FakePlatform, certificates: Path) -> None:
    """Both run on over the end of a certificate that was good for 20 seconds, without a restart."""
    host.end()
    platform.renew = lambda csr: "not yet"  # both are to connect with the old one first
    expire_in(certificates, age=timedelta(seconds=35), left=timedelta(seconds=20))
    expires = time.time() + 20
    host.directory.write("host.pem", (certificates / "host.pem").read_text())
    host.start()
    agent = Agent(str(host.directory.path))
    try:
        lease = host.lease()
        host.run(lease, "sleep", "300")
        first = serial_of(certificates / "host.pem")
        wait_for(lambda: platform.serials.get("/internal/usage") == first, timeout_s=15)
        wait_for(lambda: platform.serials["/internal/heartbeat"] == first)
        platform.renew = lambda csr: sign_request(certificates, csr, left=timedelta(hours=2))
        wait_for(lambda: serial_of(host.directory.certificate) != first, timeout_s=15)
        renewed = serial_of(host.directory.certificate)
        wait_for(lambda: platform.serials["/internal/heartbeat"] == renewed)
        wait_for(lambda: platform.serials["/internal/usage"] == renewed, timeout_s=15)
        wait_for(lambda: time.time() > expires)
        shipped, beats = len(platform.windows), len(platform.beats)
        wait_for(lambda: len(platform.windows) > shipped and len(platform.beats) > beats, timeout_s=15)
        assert host.healthy()
    finally:
        agent.close()


def test_a_host_that_the_platform_has_forgotten_registers_again(host: DaemonHost, platform: FakePlatform) -> None:
    wait_for(lambda: platform.beats)
    platform.registered = False
    wait_for(lambda: len(platform.facts) == 2)
    beats = len(platform.beats)
    wait_for(lambda: len(platform.beats) > beats)
