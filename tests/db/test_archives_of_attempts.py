"""Archives reach the host that runs what needs them, whole, and no other."""

import hashlib
import io
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.allocations.tables import Allocation
from api.app import API
from api.billing.journal import top_up
from api.db import Database
from api.object_store import ObjectStore, location_of
from api.settings import Settings
from api.tasks.submission import ArchiveUse
from node.daemon.archives import Archives
from node.daemon.config import HostConfig, HostDirectory
from node.platform import AttemptOverError, Platform
from scheduler.host_protocol import Archive
from scheduler.states import EndReason
from tests.db.conftest import Tenant
from tests.db.fleet import DOLLAR
from tests.db.listener import Listener
from tests.db.task_world import TaskWorld, document
from tests.db.upload_world import archive_of, digest_of


@pytest.fixture
def world(database: Database, settings: Settings, tenant: Tenant) -> TaskWorld:
    database.transact(
        lambda s: top_up(s, customer_id=tenant.customer.id, amount_micro=100 * DOLLAR, actor="cli", key="start")
    )
    owner = (tenant.customer, tenant.workspace, tenant.owner.user)
    return TaskWorld.make(database, settings, owner=owner)


def upload(client: TestClient, tenant: Tenant, content: bytes) -> str:
    address = f"{API}/customer/uploads/{digest_of(content)}"
    assert client.put(address, content=content, headers=tenant.owner.headers).status_code == 201
    return digest_of(content)


def large() -> bytes:
    """Several pieces of the store's, which can't be compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("noise", os.urandom(3 * 2**20))
    return file.getvalue()


def path(allocation: Allocation, digest: str, *, generation: int | None = None) -> str:
    generation = allocation.generation if generation is None else generation
    return f"/internal/attempts/{allocation.uid}/{generation}/archives/{digest}"


def test_a_host_fetches_what_its_order_names(
    world: TaskWorld, app_client: TestClient, tenant: Tenant, listener: Listener, settings: Settings
) -> None:
    content, beside, unused = large(), archive_of(a="module"), archive_of(b="not in the order")
    digests = [upload(app_client, tenant, each) for each in (content, beside, unused)]
    (task,) = world.submit(document(), working_dir=digests[0], archives=(ArchiveUse(digests[1], "/modules"),))
    world.place()
    allocation = world.allocation(task)
    order = world.order(allocation)
    assert order.archives[1] == Archive(digests[1], len(beside), "/modules")
    stranger = world.world.host("h2")
    with listener.client(listener.certify(world.database, world.host)) as client:
        answer = client.get(path(allocation, digests[0]))
        assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(content)))
        assert hashlib.sha256(answer.content).hexdigest() == digests[0]
        assert client.get(path(allocation, digests[1])).content == beside
        assert client.get(path(allocation, digests[2])).status_code == 404, "not in its order"
        for generation in (allocation.generation - 1, allocation.generation + 1):
            assert client.get(path(allocation, digests[0], generation=generation)).status_code == 404
        assert client.get("/internal/attempts/no-id/1/archives/" + digests[0]).status_code == 404
        assert client.get(path(allocation, "x")).status_code == 422
    with listener.client(listener.certify(world.database, stranger)) as client:
        assert client.get(path(allocation, digests[0])).status_code == 404
    with listener.client("hub") as client:
        assert client.get(path(allocation, digests[0])).status_code == 403
    with listener.client("h1") as client:
        objects = ObjectStore(location_of(settings))
        for found in list(objects.list("uploads")):
            objects.delete(found.key)
        assert client.get(path(allocation, digests[0])).status_code == 404, "lost, and no answer of half of it"
        world.request_end(allocation, EndReason.CANCELLED)
        assert client.get(path(allocation, digests[1])).status_code == 404, "it ends"


def test_a_daemon_keeps_what_it_fetches(
    world: TaskWorld, app_client: TestClient, tenant: Tenant, listener: Listener, tmp_path: Path
) -> None:
    """Over its own connection, from the real platform."""
    content = large()
    (task,) = world.submit(document(), working_dir=upload(app_client, tenant, content))
    world.place()
    allocation = world.allocation(task)
    (archive,) = world.order(allocation).archives
    listener.certify(world.database, world.host)
    directory = HostDirectory(tmp_path / "host")
    directory.path.mkdir()
    for name, source in (("host.pem", "h1.pem"), ("host.key", "h1.key")):
        shutil.copy(listener.directory / source, directory.path / name)
    shutil.copy(listener.secrets_dir / "ca.pem", directory.ca)
    platform = Platform(HostConfig(host_id=str(world.host.uid), name="h1", internal_url=listener.url), directory)
    archives = Archives(directory.archives, platform, max_bytes=2**30)
    customer_uid, allocation_uid = str(tenant.customer.uid), str(allocation.uid)
    path = archives.fetch(customer_uid, archive, allocation_uid, allocation.generation)
    assert path.read_bytes() == content
    world.request_end(allocation, EndReason.CANCELLED)
    assert archives.fetch(customer_uid, archive, allocation_uid, allocation.generation) == path, "it is here"
    with pytest.raises(AttemptOverError):
        Archives(tmp_path / "empty", platform, max_bytes=0).fetch(
            customer_uid, archive, allocation_uid, allocation.generation
        )
    platform.close()
