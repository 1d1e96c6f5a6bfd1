"""The application with its people and one of each thing, for tests of what holds for every endpoint."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from fastapi.testclient import TestClient
from sqlalchemy import text

from api.app import API
from api.billing.journal import top_up
from api.db import Database
from api.environments.reconciler import EnvironmentReconciler
from api.images.tables import Image
from api.settings import Settings
from api.tables import metadata
from tests.db.conftest import PASSWORD, Person, Tenant
from tests.db.environment_world import RecordingHosts, RecordingHub, World
from tests.db.fleet import DOLLAR, Fleet
from tests.db.task_world import TaskWorld
from tests.db.upload_world import archive_of

TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()
RESERVATION = {"starts_at": TOMORROW, "duration_s": 3600, "gpus": 1}
ARCHIVE, OTHER_ARCHIVE = archive_of(a="content"), archive_of(b="other")
SECRET_VALUE = "s3cret-value-of-hf"
GROUP = {"customer": "{customer}", "cohort": "research", "nominal_milli": 2000}


@dataclass(slots=True)
class Platform:
    """The platform's people and one of each thing; `of` has the ids of what paths name."""

    client: TestClient
    people: Mapping[str, Person]
    of: dict[str, str] = field(default_factory=dict)

    def ask(self, who: str | None, method: str, path: str, body: Any = None) -> httpx.Response:
        """Bytes are sent as they are, all else as JSON."""
        headers = self.people[who].headers if who else {}
        sent: Any = {"content": body} if isinstance(body, bytes) else {"json": body}
        address = path if path.startswith("/api/") else API + path  # Ray's interface is outside
        answer: Any = self.client.request(method, address.format(**self.of), headers=headers, **sent)
        return answer  # the test client's own class of response


def make_platform(
    client: TestClient, database: Database, settings: Settings, *, admin: Person, tenant: Tenant, rival: Tenant
) -> Platform:
    """All that there is one of belongs to `tenant`."""
    people = {"admin": admin, "owner": tenant.owner, "member": tenant.member, "rival": rival.owner}
    platform = Platform(client, people)
    _make_things(platform, database, settings, tenant)
    platform.of |= {"customer": str(tenant.customer.uid), "member": str(tenant.member.user.uid)}
    platform.of["other_customer"] = str(rival.customer.uid)
    platform.of["user"] = str(rival.owner.user.uid)
    platform.of["plan"] = "small"
    signed_in = platform.ask(None, "POST", "/auth/login", {"username": "acme-member", "password": PASSWORD})
    platform.of["refresh"] = signed_in.raise_for_status().json()["refresh_token"]
    made: dict[str, tuple[str, str, str, Any]] = {
        "key": ("owner", "POST", "/customer/api-keys", {"name": "k", "scopes": ["profile:read"]}),
        "invitation": ("owner", "POST", "/customer/invitations", {"email": "invited@example.test"}),
        "other_invitation": ("owner", "POST", "/customer/invitations", {"email": "other@example.test"}),
        "token": ("admin", "POST", "/admin/machines/enrolment-tokens", {}),
        "volume": ("owner", "POST", "/customer/volumes", {"name": "data", "size_bytes": 2**30}),
        "group": ("admin", "POST", "/admin/capacity-groups", filled({"name": "old", **GROUP}, platform.of)),
    }
    for name, request in made.items():
        document = platform.ask(*request).raise_for_status().json()
        platform.of[name] = document["id"]
        platform.of[f"{name}_secret"] = document.get("token", "")
    platform.ask("owner", "POST", "/customer/workspaces", {"name": "lab"}).raise_for_status()
    platform.of |= {"workspace": "lab", "secret": "HF_TOKEN"}
    put = "/customer/workspaces/{workspace}/secrets/{secret}"
    platform.ask("member", "PUT", put, {"value": SECRET_VALUE}).raise_for_status()
    platform.of["upload"] = hashlib.sha256(ARCHIVE).hexdigest()
    platform.ask("member", "PUT", "/customer/uploads/{upload}", ARCHIVE).raise_for_status()
    platform.of |= {"protocol": "gcs", "package": "_ray_pkg_a.zip"}
    platform.ask("member", "PUT", "/api/packages/{protocol}/{package}", ARCHIVE).raise_for_status()
    reserved = platform.ask("owner", "POST", "/customer/reservations", RESERVATION).raise_for_status().json()
    platform.of["reservation"] = reserved["items"][0]["id"]
    platform.ask("admin", "PATCH", "/admin/settings", {"self_registration": True}).raise_for_status()
    return platform


def _make_things(platform: Platform, database: Database, settings: Settings, tenant: Tenant) -> None:
    fleet = Fleet(database)
    fleet.price()
    image = Image(name="base", framework="f", version="1", reference="remotegpu/base:1", ports=[8888])

    def work(session: Any) -> None:
        top_up(session, customer_id=tenant.customer.id, amount_micro=100 * DOLLAR, actor="cli", key="start")
        session.add(image)

    database.transact(work)
    world = World(fleet, settings, (tenant.customer, tenant.workspace, tenant.owner.user))
    host = world.host(gpus=8)
    runs, stopped = world.create("runs"), world.create("stopped")
    world.place()
    world.stop(stopped)
    world.release()
    task, other = (TaskWorld(world, host).one(name, resources={"gpus": 8}) for name in ("waits", "waits-too"))
    reconciler = EnvironmentReconciler(database, settings, RecordingHub(), RecordingHosts())
    reconciler.run_once()
    assert reconciler.wait_idle(30)
    reconciler.close()
    platform.of |= {
        "machine": str(host.uid), "image": str(image.uid), "environment": str(runs.uid), "stopped": str(stopped.uid),
        "allocation": str(world.allocation(runs).uid), "task": str(task.uid), "other_task": str(other.uid),
    }  # fmt: skip


def filled(body: Any, values: Mapping[str, str]) -> Any:
    if not isinstance(body, dict):
        return body
    return {name: value.format(**values) if isinstance(value, str) else value for name, value in body.items()}


def contents(database: Database) -> dict[str, Any]:
    """A digest of every table."""
    digest = "select md5(string_agg(t::text, '|' order by t::text)) from {} t"
    with database.engine.connect() as connection:
        return {name: connection.scalar(text(digest.format(name))) for name in sorted(metadata.tables)}
