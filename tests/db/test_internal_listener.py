"""The internal listener as it runs: real TLS, certificates of the platform's CA, enrolment to heartbeat."""

import datetime
import hashlib
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.clock import utc_now
from api.db import Database
from api.internal.peer import PeerRegister
from api.internal.pki import Authority, ensure_pki, make_request
from api.machines.tables import Certificate, EnrolmentToken, Host
from api.settings import Settings
from deploy.hosts import ensure_local_hosts
from deploy.instance import Instance
from tests.controller_socket import answering
from tests.db.conftest import Person
from tests.db.fleet import Fleet
from tests.db.listener import Listener

FACTS = {
    "boot_id": "boot-1",
    "hostname": "h1",
    "address": "10.0.0.1",
    "os": "Debian 12",
    "kernel": "6.1",
    "cpu_count": 8,
    "memory_bytes": 2**36,
    "disk_bytes": 2**40,
    "docker_version": "20.10",
    "disk_limit": "watcher",
    "simulated": True,
    "gpus": [{"index": 0, "uuid": "GPU-0", "model": "NVIDIA A100", "memory_bytes": 2**36}],
}
BEAT: dict[str, Any] = {
    "boot_id": "boot-1",
    "daemon_id": "d1",
    "leases": [],
    "containers": [],
    "readings": [],
    "spool_backlog": 0,
}


@pytest.fixture
def make_token(app_client: TestClient, admin: Person) -> Callable[..., dict[str, Any]]:
    def make(**body: Any) -> dict[str, Any]:
        answer = app_client.post("/api/v1/admin/machines/enrolment-tokens", json=body, headers=admin.headers)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    return make


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_host_joins_registers_and_beats(
    listener: Listener, make_token: Callable[..., dict[str, Any]], database: Database, settings: Settings
) -> None:
    with listener.client(None) as client:
        ca_pem = client.get("/internal/ca").text
    token = make_token()["token"]
    der = ssl.PEM_cert_to_DER_cert(ca_pem)
    assert token.startswith("rgpu_join_") and token.endswith("." + hashlib.sha256(der).hexdigest())
    joined = listener.enrol(token)
    assert joined.status_code == 200, joined.text
    assert joined.json()["ray_token"] == settings.secret("ray_token")
    with listener.client("h1") as client:
        assert code(client.post("/internal/heartbeat", json=BEAT)) == (409, "not_registered")
        assert client.put("/internal/host", json=FACTS).status_code == 204
        answer = client.post("/internal/heartbeat", json=BEAT)
        assert answer.status_code == 200
        assert answer.json()["verdicts"] == []
        assert client.put("/internal/host", json={"boot_id": "x"}).status_code == 422
        receipt = client.post("/internal/usage", json={"windows": []})
        assert receipt.status_code == 200, receipt.text
        _, csr = make_request("anything")
        renewed = client.post("/internal/certificate", json={"csr_pem": csr}).json()["certificate_pem"]
    certificate = x509.load_pem_x509_certificate(renewed.encode())
    assert certificate.subject.rfc4514_string() == f"CN=host:{joined.json()['host_id']}"
    left = certificate.not_valid_after_utc - utc_now()
    assert datetime.timedelta(days=29) < left <= datetime.timedelta(days=30)


def test_tokens_expire_are_used_up_and_revoked(
    listener: Listener,
    make_token: Callable[..., dict[str, Any]],
    app_client: TestClient,
    admin: Person,
    database: Database,
) -> None:
    used = make_token()
    assert listener.enrol(used["token"]).status_code == 200
    assert code(listener.enrol(used["token"], "h2")) == (401, "enrolment_token_used_up")

    revoked = make_token()
    path = f"/api/v1/admin/machines/enrolment-tokens/{revoked['id']}"
    assert app_client.delete(path, headers=admin.headers).status_code == 204
    assert code(listener.enrol(revoked["token"])) == (401, "enrolment_token_revoked")

    expired = make_token()
    late = update(EnrolmentToken).where(EnrolmentToken.uid == expired["id"]).values(expires_at=utc_now())
    database.transact(lambda session: session.execute(late))
    assert code(listener.enrol(expired["token"])) == (401, "enrolment_token_expired")

    secret, _, _ = make_token()["token"].partition(".")
    assert code(listener.enrol(f"{secret}.{'0' * 64}")) == (401, "wrong_ca")
    assert code(listener.enrol("rgpu_join_guess." + used["token"].partition(".")[2])) == (401, "bad_enrolment_token")
    assert code(listener.enrol("nonsense")) == (401, "bad_enrolment_token")


def test_a_bad_request_does_not_use_up_the_token(listener: Listener, make_token: Callable[..., dict[str, Any]]) -> None:
    token = make_token()["token"]
    with listener.client(None) as client:
        body = {"token": token, "name": "h1", "csr_pem": "no request"}
        assert code(client.post("/internal/enrol", json=body)) == (422, "bad_csr")
        assert client.post("/internal/enrol", json={**body, "name": "../x"}).status_code == 422
    assert listener.enrol(token).status_code == 200


@pytest.mark.parametrize("path", ["/internal/heartbeat", "/internal/usage", "/internal/certificate"])
def test_without_a_certificate_nothing_is_answered(listener: Listener, path: str) -> None:
    with listener.client(None) as client:
        assert code(client.post(path, json={})) == (401, "certificate_required")
        assert code(client.get("/internal/hub/options?username=x")) == (401, "certificate_required")
        assert code(client.get("/metrics")) == (401, "certificate_required")


def test_each_role_has_its_own_endpoints(listener: Listener, make_token: Callable[..., dict[str, Any]]) -> None:
    listener.enrol(make_token()["token"])
    with listener.client("hub") as hub, listener.client("h1") as host, listener.client("monitoring") as monitoring:
        assert code(hub.post("/internal/heartbeat", json=BEAT)) == (403, "wrong_role")
        assert code(host.get("/internal/hub/options?username=x")) == (403, "wrong_role")
        assert code(host.get("/metrics")) == (403, "wrong_role")
        assert code(hub.get("/internal/hub/options?username=x")) == (404, "no_such_user")
        metrics = monitoring.get("/metrics")
    assert 'remotegpu_hosts{device_status="unknown"} 1.0' in metrics.text


def test_the_controllers_metrics_are_scraped_with_the_platforms(listener: Listener, settings: Settings) -> None:
    with listener.client("monitoring") as monitoring:
        assert "remotegpu_controller_up 0.0" in monitoring.get("/metrics").text
        with answering(settings.hostlink_socket) as controller:
            controller.body = b"remotegpu_scheduler_queue_depth 3.0\n"
            told = monitoring.get("/metrics").text
            assert controller.asked == [("/metrics", None)]
            controller.status = 500
            assert "queue_depth" not in monitoring.get("/metrics").text
    assert "remotegpu_controller_up 1.0" in told and "remotegpu_hosts{" in told
    assert told.endswith("\nremotegpu_scheduler_queue_depth 3.0\n")


def test_a_certificate_of_another_ca_does_not_get_in(listener: Listener, tmp_path: Path) -> None:
    ensure_pki(tmp_path / "forged", ["127.0.0.1"])
    for end in ("pem", "key"):
        (tmp_path / f"forged-hub.{end}").write_text((tmp_path / "forged" / f"hub.{end}").read_text())
    with listener.client("forged-hub") as client, pytest.raises(httpx.TransportError):
        client.get("/internal/hub/options?username=x")


def test_a_revoked_certificate_is_refused_at_once_on_an_open_connection(
    listener: Listener, make_token: Callable[..., dict[str, Any]], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PeerRegister, "REMEMBERED_S", 0.0)
    listener.enrol(make_token()["token"])
    with listener.client("h1") as client:
        assert client.put("/internal/host", json=FACTS).status_code == 204
        database.transact(lambda session: session.execute(update(Certificate).values(revoked_at=utc_now())))
        assert code(client.put("/internal/host", json=FACTS)) == (401, "certificate_revoked")


def test_a_host_that_joins_again_loses_its_old_certificate(
    listener: Listener, make_token: Callable[..., dict[str, Any]], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PeerRegister, "REMEMBERED_S", 0.0)
    first = listener.enrol(make_token()["token"]).json()["host_id"]
    with listener.client("h1") as old:
        again = make_token(machine_id=first)
        assert again["machine_id"] == first
        assert listener.enrol(again["token"]).json()["host_id"] == first
        assert code(old.put("/internal/host", json=FACTS)) == (401, "certificate_revoked")
    with listener.client("h1") as new:
        assert new.put("/internal/host", json=FACTS).status_code == 204
    assert [host.name for host in Fleet(database).rows(Host)] == ["h1"]


def test_no_other_token_takes_over_the_name_of_a_host(
    listener: Listener, make_token: Callable[..., dict[str, Any]], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PeerRegister, "REMEMBERED_S", 0.0)
    machine = listener.enrol(make_token()["token"]).json()["host_id"]
    unused = make_token(uses=2)["token"]
    with listener.client("h1") as host:
        assert code(listener.enrol(unused)) == (409, "host_exists")
        assert code(listener.enrol(make_token(machine_id=machine)["token"], "h2")) == (401, "wrong_host")
        assert host.put("/internal/host", json=FACTS).status_code == 204
    assert listener.enrol(unused, "h2").status_code == listener.enrol(unused, "h3").status_code == 200, (
        "nothing used up"
    )
    assert {host.name for host in Fleet(database).rows(Host)} == {"h1", "h2", "h3"}


def test_a_retired_host_gets_no_further_certificate(
    listener: Listener, make_token: Callable[..., dict[str, Any]], app_client: TestClient, admin: Person
) -> None:
    machine = listener.enrol(make_token()["token"]).json()["host_id"]
    path = f"/api/v1/admin/machines/{machine}"
    _, csr = make_request("anything")
    with listener.client("h1") as host:
        for state in ("draining", "retired"):
            assert app_client.patch(path, json={"admin_state": state}, headers=admin.headers).status_code == 200
        assert code(host.post("/internal/certificate", json={"csr_pem": csr})) == (409, "host_retired")
    assert code(listener.enrol(make_token(machine_id=machine)["token"])) == (409, "host_retired")


def test_the_launchers_own_hosts_join_again_when_their_directories_are_lost(
    listener: Listener, settings: Settings, admin: Person, database: Database, tmp_path: Path
) -> None:
    instance = Instance(
        data=tmp_path,
        internal_port=int(listener.url.rpartition(":")[2]),
        simulate="2x1:A100-80GB",
        database_url=settings.database_url,
    )
    instance.secrets.symlink_to(settings.secrets_dir)
    assert ensure_local_hosts(instance) == "joined sim-1, sim-2"
    shutil.rmtree(instance.hosts / "sim-1")
    assert ensure_local_hosts(instance) == "joined sim-1"
    assert sorted(host.name for host in Fleet(database).rows(Host)) == ["sim-1", "sim-2"]


def test_the_pki_is_made_once_and_follows_the_names(tmp_path: Path) -> None:
    ensure_pki(tmp_path, ["127.0.0.1"])
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(before) == {f"{n}.{e}" for n in ("ca", "internal", "hub", "monitoring") for e in ("pem", "key")}
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    ensure_pki(tmp_path, ["127.0.0.1"])
    assert before == {path.name: path.read_text() for path in tmp_path.iterdir()}
    ensure_pki(tmp_path, ["127.0.0.1", "platform.example"])
    changed = {path.name for path in tmp_path.iterdir() if before[path.name] != path.read_text()}
    assert changed == {"internal.pem", "internal.key"}
    assert Authority(tmp_path).ca_pem == before["ca.pem"]


def test_what_a_host_gets_wrong_is_refused_or_passed_over(
    listener: Listener, make_token: Callable[..., dict[str, Any]]
) -> None:
    listener.enrol(make_token()["token"])
    nobodys = {"allocation_uid": "no id", "generation": 1}
    container = nobodys | {"container_id": "c", "name": "c"}
    with listener.client("h1") as host:
        assert host.put("/internal/host", json=FACTS | {"hostname": "\x00"}).status_code == 422
        assert host.put("/internal/host", json=FACTS | {"memory_bytes": 2**80}).status_code == 422
        assert host.put("/internal/host", json=FACTS).status_code == 204
        wrong = BEAT | {
            "leases": [nobodys],
            "containers": [container | {"state": "running"}, container | {"state": "exited"}],
            "endings": [nobodys | {"detail": "it was too large"}],
        }
        answer = host.post("/internal/heartbeat", json=wrong)
        assert answer.status_code == 200, answer.text
        assert [verdict["end"] for verdict in answer.json()["verdicts"]] == [True]
        assert host.post("/internal/heartbeat", json=BEAT | {"problems": ["\x00"]}).status_code == 422
