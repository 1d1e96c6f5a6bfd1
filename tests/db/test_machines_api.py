"""Machines, offers and images over HTTP."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.db import Database
from api.images.catalogue import seed
from api.images.tables import Image
from api.machines.service import allocation_status
from api.settings import Settings
from scheduler.states import AllocationStatus
from tests.db.conftest import Person, Tenant
from tests.db.environment_world import World
from tests.db.fleet import A100, H100, Fleet

API = "/api/v1"


@pytest.fixture
def world(database: Database, settings: Settings) -> World:
    fleet = Fleet(database)
    return World.make(fleet, settings)


def get(client: TestClient, person: Person, path: str, **query: Any) -> Any:
    answer = client.get(API + path, params=query, headers=person.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_machines_show_devices_readings_and_leases(app_client: TestClient, admin: Person, world: World) -> None:
    world.host("h1", gpus=2)
    world.host("h2", model=H100)
    lab = world.create()
    world.place()
    (machine,) = get(app_client, admin, "/admin/machines", gpu_model="A100")["items"]
    assert (machine["name"], machine["device_status"], machine["allocation_status"]) == ("h1", "online", "partial")
    (lease,) = machine["leases"]
    assert (lease["allocation_id"], lease["customer"]) == (str(world.allocation(lab).uid), "acme")
    assert lease["gpu_uuids"] == ["GPU-h1-0"]
    assert [gpu["uuid"] for gpu in machine["gpus"]] == ["GPU-h1-0", "GPU-h1-1"]
    assert get(app_client, admin, f"/admin/machines/{machine['id']}") == machine
    assert get(app_client, admin, "/admin/machines", device_status="lost")["items"] == []
    first = get(app_client, admin, "/admin/machines", limit=1)
    second = get(app_client, admin, "/admin/machines", limit=1, cursor=first["next_cursor"])
    assert [page["items"][0]["name"] for page in (first, second)] == ["h2", "h1"]


def test_draining_and_retiring(app_client: TestClient, admin: Person, world: World) -> None:
    world.host("h1")
    lab = world.create()
    world.place()
    path = f"{API}/admin/machines/{get(app_client, admin, '/admin/machines')['items'][0]['id']}"

    def patch(**body: Any) -> tuple[int, Any]:
        answer = app_client.patch(path, json=body, headers=admin.headers)
        return answer.status_code, answer.json()

    status, machine = patch(admin_state="draining", labels={"rack": "7"})
    assert (status, machine["admin_state"], machine["labels"]) == (200, "draining", {"rack": "7"})
    assert patch(admin_state="retired")[1]["code"] == "host_in_use"
    assert patch(admin_state="gone")[0] == 422
    assert patch(labels={"rack": "\x00"})[0] == 422
    world.stop(lab)
    world.release()
    assert patch(admin_state="retired")[0] == 200
    assert patch(admin_state="draining")[1]["code"] == "not_a_transition"
    events = get(app_client, admin, path.removeprefix(API) + "/events")["items"]
    assert [event["to_state"] for event in events] == ["retired", "draining"]
    missing = app_client.get(f"{API}/admin/machines/{lab.uid}", headers=admin.headers)
    assert missing.status_code == 404


@pytest.mark.parametrize(
    ("present", "leased", "leases", "expected"),
    [
        ({"a", "b"}, set(), 0, AllocationStatus.IDLE),
        ({"a", "b"}, {"a"}, 1, AllocationStatus.PARTIAL),
        ({"a", "b"}, {"a", "b"}, 1, AllocationStatus.FULL),
        ({"a", "b"}, set(), 1, AllocationStatus.PARTIAL),  # one without GPUs
        (set(), set(), 1, AllocationStatus.PARTIAL),
        (set(), set(), 0, AllocationStatus.IDLE),
    ],
)
def test_allocation_status(present: set[str], leased: set[str], leases: int, expected: AllocationStatus) -> None:
    assert allocation_status(present=present, leased=leased, leases=leases) is expected


def test_offers_count_what_is_free_and_say_the_price(
    app_client: TestClient, tenant_of_world: Tenant, world: World
) -> None:
    world.host("h1", gpus=2)
    world.host("h2", gpus=1, model=H100)
    world.create()
    world.place()
    a100, h100 = get(app_client, tenant_of_world.owner, "/customer/machines")["items"]
    assert (a100["gpu_model"], a100["total"], a100["free"], a100["price_micro_per_gpu_hour"]) == (A100, 2, 1, 2_000_000)
    assert (h100["gpu_model"], h100["free"], h100["price_micro_per_gpu_hour"]) == (H100, 1, None)
    assert a100["simulated"] is False
    first = get(app_client, tenant_of_world.owner, "/customer/machines", limit=1)
    second = get(app_client, tenant_of_world.owner, "/customer/machines", limit=1, cursor=first["next_cursor"])
    assert (first["items"], second) == ([a100], {"items": [h100], "next_cursor": None})


@pytest.fixture
def tenant_of_world(make_tenant: Any) -> Tenant:
    """A customer beside the one that the world has made."""
    tenant: Tenant = make_tenant("rival")
    return tenant


def test_images_are_offered_changed_and_withdrawn(
    app_client: TestClient, admin: Person, tenant: Tenant, database: Database, settings: Settings
) -> None:
    seed(database, settings.images_catalogue)
    seed(database, settings.images_catalogue)
    (base,) = get(app_client, tenant.member, "/customer/images")["items"]
    assert (base["name"], base["ports"]) == ("base", [8888])
    body = {"name": "torch", "framework": "pytorch", "version": "2", "reference": "remotegpu/torch:2"}
    created = app_client.post(f"{API}/admin/images", json=body, headers=admin.headers)
    assert created.status_code == 201, created.text
    again = app_client.post(f"{API}/admin/images", json=body, headers=admin.headers)
    assert (again.status_code, again.json()["code"]) == (409, "name_taken")
    path = f"{API}/admin/images/{created.json()['id']}"
    changed = app_client.patch(path, json={"enabled": False}, headers=admin.headers)
    assert changed.json()["enabled"] is False
    assert [image["name"] for image in get(app_client, tenant.owner, "/customer/images")["items"]] == ["base"]
    for bad in ({"reference": "-v /:/host"}, {"ports": [0]}, {"ports": []}, {"version": "\x00"}, {"name": "x"}):
        assert app_client.patch(path, json=bad, headers=admin.headers).status_code == 422
    seed(database, settings.images_catalogue)  # what an administrator added stays
    assert {image.name for image in Fleet(database).rows(Image)} == {"base", "torch"}
