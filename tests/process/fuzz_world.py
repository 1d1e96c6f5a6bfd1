"""What the fuzzer finds on the platform: people, hosts, environments, usage and money; and how it is made good again.

The fuzzer does damage: it disables people, ends sessions, changes passwords. `mend` takes that back, so that what
comes after is not all refused; `known` tells it the ids and names that exist at this moment.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.billing.chain.month import Month
from api.capacity.tables import CapacityGroup
from api.clock import to_ms, utc_now
from api.db import Database
from api.environments import service as environments
from api.environments.schemas import EnvironmentCreate
from api.environments.tables import Environment
from api.identity.passwords import hash_password
from api.identity.scopes import grantable
from api.identity.tables import LoginSession, User
from api.metering.service import ingest
from api.principal import Caller, Role
from api.reservations.tables import Reservation
from api.settings import Settings
from api.tenants.tables import Workspace
from scheduler.host_protocol import UsageBatch, UsageWindow
from scheduler.states import ReservationState
from tests.db.environment_world import BOOT, World
from tests.db.fleet import Fleet
from tests.db.task_world import TaskWorld
from tests.db.upload_world import digest_of
from tests.process.fuzzing import ARCHIVE

PASSWORD = "correct-horse-battery"
PEOPLE = ("admin", "acme-owner", "acme-member")

# Where a parameter, or a field of a body, gets values that exist, by its name; the oldest, which this file made.
_EXISTING = {
    "customer_id": "select uid from (select c.id, c.uid from customers c join users u on u.customer_id = c.id"
    " where u.username = 'acme-owner') acme",
    "customer": "select uid from customers",
    "user_id": "select uid from users",
    "key_id": "select uid from api_keys",
    "invitation_id": "select uid from invitations",
    "allocation_id": "select uid from allocations where state <> 'released'",
    "environment_id": "select uid from environments where desired <> 'deleted'",
    "task_id": "select uid from tasks where array_id is null",
    "job_id": "select coalesce(submission_id, uid::text) from tasks where more ->> 'ray_deleted' is null",
    "machine_id": "select uid from hosts",
    "host": "select uid from hosts",
    "token_id": "select uid from enrolment_tokens",
    "group_id": "select uid from capacity_groups",
    "capacity_group": "select name from capacity_groups",
    "reservation_id": "select uid from reservations",
    "reservation": "select uid from reservations where state = 'booked'",
    "image_id": "select uid from images",
    "image": "select name from images where enabled",
    "workspace": "select name from workspaces",
    "volume_id": "select uid from volumes where delete_at is null",
    "digest": "select digest from (select 1 as id, digest from uploads) kept",
    "plan": "select name from plans",
    "to": "select uid from customers where name = 'other'",
    "secret": "select name from (select workspace_id as id, name from secrets) kept",
}
_MENDING = (
    "update users set disabled_at = null, locked_until = null, must_change_password = false, failed_logins = 0,"
    " password_hash = :password_hash where username = any(:people)",
    "update customers set disabled_at = null, priority_ceiling = 500",
    "update login_sessions set revoked_at = null where uid = any(:sessions)",
    "update refresh_tokens set used_at = null",
    "update api_keys set revoked_at = null where name = 'fuzz'",
    "update invitations set revoked_at = null, accepted_at = null where email = 'invited@example.test'",
    "update images set enabled = true where name = 'base'",
    # Nothing here carries an end out: what was told to end may as well run on.
    "update allocations set state = 'active', end_reason = null, end_detail = null, releasing_at = null"
    " where state = 'releasing'",
    "update hosts set admin_state = 'available', device_status = 'online', heartbeat_at = now()",
    "insert into secrets (workspace_id, name, sealed, created_by) select w.id, 'KEPT', 'sealed', u.id"
    " from workspaces w join users u on u.username = 'acme-owner' on conflict do nothing",
    "insert into uploads (customer_id, digest, object_key, size_bytes) select customer_id, repeat('0', 64), 'x', 1"
    " from users where username = 'acme-owner' on conflict do nothing",
    "insert into packages (customer_id, name, digest) select customer_id, 'gcs/kept.zip', digest from uploads"
    " where object_key = 'x' on conflict do nothing",
    "insert into volumes (uid, customer_id, workspace_id, user_id, name, size_bytes)"
    " select gen_random_uuid(), w.customer_id, w.id, u.id, 'kept', 1 from workspaces w join users u"
    " on u.username = 'acme-member' and u.customer_id = w.customer_id where w.is_default on conflict do nothing",
    "delete from quotas",
    "update customers set plan_id = null where plan_id is not null",
    "delete from plans",
    "insert into plans (name) values ('kept')",
    "insert into customers (uid, name) values (gen_random_uuid(), 'other') on conflict do nothing",
    "delete from settings",
    "insert into settings (key, value) values ('self_registration', 'true')",
)


@dataclass(slots=True)
class FuzzWorld:
    """`headers` of those who ask: the three people by name, `key` for the member's API key, `nobody`."""

    database: Database
    settings: Settings
    public_url: str
    headers: dict[str, dict[str, str]] = field(default_factory=lambda: {"nobody": {}})
    secrets: dict[str, list[str]] = field(default_factory=lambda: {"refresh_token": [], "token": []})
    sessions: list[UUID] = field(default_factory=list)
    password_hash: str = field(default_factory=lambda: hash_password(PASSWORD))

    def mend(self) -> None:
        """Take back what would make the rest of the run vacuous."""
        values = {"people": list(PEOPLE), "sessions": self.sessions, "password_hash": self.password_hash}

        def work(session: Session) -> None:
            for statement in map(text, _MENDING):
                session.execute(statement, {name: values[name] for name in statement.compile().params})

            _keep_a_group_and_a_reservation(session)
            for user in session.scalars(select(User).where(User.username.in_(PEOPLE), User.customer_id.is_not(None))):
                self._keep_an_environment(session, user)

        self.database.transact(work)

    def _keep_an_environment(self, session: Session, user: User) -> None:
        """Another one for a person whose own are all being deleted."""
        live = select(Environment.id).where(Environment.user_id == user.id, Environment.desired != "deleted")
        if user.customer_id is not None and session.scalar(live.limit(1)) is None:
            caller = Caller(user.id, user.customer_id, "cli")
            wanted = EnvironmentCreate(name=f"new-{uuid4().hex[:12]}", image="base", gpus=1, gpu_model="A100")
            environments.create(session, self.settings, caller, wanted)

    def known(self) -> dict[str, list[Any]]:
        """Values that exist now, by the name of the parameter or field that takes them."""
        with self.database.session() as session:
            existing = {
                name: [str(value) for value in session.scalars(text(f"{query} order by id limit 5"))]
                for name, query in _EXISTING.items()
            }
        new_names = [f"new-{uuid4().hex[:12]}" for _ in PEOPLE]
        existing["digest"] += [digest_of(ARCHIVE)]
        return existing | self.secrets | {
            "username": [*new_names, *PEOPLE], "password": [PASSWORD], "current_password": [PASSWORD],
            "unit": ["gpu_hour"], "amount_micro": [1], "gpu_model": ["A100"], "gpus": [1],
            "scopes": [["environments:read"], ["billing:read"]],
            "duration_s": [3600], "starts_at": [(utc_now() + timedelta(days=2)).isoformat()], "nodes": [1],
            **{name: [None] for name in ("ends_at", "every", "count", "until", "driver", "cuda", "environment")},
            "gpu_models": [["A100"]], "selectors": [[]], "gpu_memory_bytes": [0], "cpu_milli": [None],
            "memory_bytes": [None], "cpus": [None], "memory": [None], "shm": [None], "labels": [{}], "array": [None],
            "mounts": [[]], "secrets": [[]], "depends_on": [[]], "working_dir": [None],
            "protocol": ["gcs"], "package_name": ["kept.zip"], "entrypoint": ["true"], "submission_id": [None],
            "entrypoint_num_gpus": [1], "entrypoint_num_cpus": [None], "entrypoint_memory": [None],
            **{f"entrypoint_{name}": [{}] for name in ("resources", "label_selector")}, "runtime_env": [{}],
            "metadata": [{}],
            "currency": ["USD"], "period": [str(Month.of(utc_now()))],
            "email": [f"{name}@example.test" for name in new_names], "customer_name": new_names,
        }  # fmt: skip


def make_world(database: Database, settings: Settings, public_url: str) -> FuzzWorld:
    """A customer with two people, three environments, a running and an ended allocation, usage, money and tokens."""
    world = World.make(Fleet(database), settings)
    host = world.host("h1")
    running, stopped = world.create("runs"), world.create("stopped")
    world.place()
    _use(world, host.id, world.allocation(running))
    world.stop(stopped)
    world.release()
    world.create("waits", gpus=4)
    tasks = TaskWorld(world, host)
    tasks.cancel(tasks.one("ended"))
    tasks.one("waits")
    fuzz = FuzzWorld(database, settings, public_url)
    database.transact(lambda session: _add_people(session, fuzz.password_hash, world.owner[0].id))
    fuzz.mend()
    _sign_in(fuzz)
    return fuzz


def _keep_a_group_and_a_reservation(session: Session) -> None:
    """Others for those that were removed, or cancelled."""
    owner = session.scalars(select(User).where(User.username == "acme-owner")).one()
    workspace = session.scalars(select(Workspace).where(Workspace.customer_id == owner.customer_id)).first()
    assert workspace is not None
    if session.scalar(select(CapacityGroup.id).limit(1)) is None:
        name = f"group-{uuid4().hex[:12]}"
        session.add(CapacityGroup(name=name, customer_id=workspace.customer_id, nominal_milli=4000))
    booked = select(Reservation.id).where(Reservation.state == ReservationState.BOOKED)
    if session.scalar(booked.limit(1)) is None:
        start = utc_now() + timedelta(days=1)
        session.add(
            Reservation(
                customer_id=workspace.customer_id, workspace_id=workspace.id, user_id=owner.id, starts_at=start,
                ends_at=start + timedelta(hours=1), gpus=1, cpu_milli=1000, memory_bytes=2**30,
            )
        )  # fmt: skip


def _use(world: World, host_id: int, allocation: Allocation) -> None:
    """A second of proven usage, on the device that the allocation has."""
    started = to_ms(allocation.placed_at or utc_now()) + 1
    window = UsageWindow(
        boot_id=BOOT, sequence=1, allocation_uid=str(allocation.uid), generation=allocation.generation,
        container_id="c1", device_uuid="GPU-h1-0", milli=1000, from_ms=started, to_ms=started + 1000,
    )  # fmt: skip
    ingest(world.fleet.database, host_id, UsageBatch((window,)))


def _add_people(session: Session, password_hash: str, customer_id: int) -> None:
    session.add_all(
        [
            User(username="admin", role=Role.ADMIN, password_hash=password_hash),
            User(username="acme-member", role=Role.MEMBER, customer_id=customer_id, password_hash=password_hash),
        ]
    )


def _sign_in(fuzz: FuzzWorld) -> None:
    """Sessions for all, sessions to refresh and to end, a key of the member's, and rows that they may delete."""
    with httpx.Client(base_url=f"{fuzz.public_url}/api/v1", trust_env=False, timeout=30) as client:
        for username in PEOPLE:
            for kept in (True, False):
                reply = client.post("/auth/login", json={"username": username, "password": PASSWORD}).raise_for_status()
                if kept:
                    fuzz.headers[username] = {"Authorization": f"Bearer {reply.json()['access_token']}"}
                else:
                    fuzz.secrets["refresh_token"].append(reply.json()["refresh_token"])
        wanted = {"name": "fuzz", "scopes": sorted(grantable(Role.MEMBER))}
        key = client.post("/customer/api-keys", json=wanted, headers=fuzz.headers["acme-member"]).raise_for_status()
        fuzz.headers["key"] = {"Authorization": f"Bearer {key.json()['key']}"}
        invited = client.post(
            "/customer/invitations", json={"email": "invited@example.test"}, headers=fuzz.headers["acme-owner"]
        ).raise_for_status()
        fuzz.secrets["token"].append(invited.json()["token"])
        client.post("/admin/machines/enrolment-tokens", json={}, headers=fuzz.headers["admin"]).raise_for_status()
    with fuzz.database.session() as session:
        fuzz.sessions = list(session.scalars(select(LoginSession.uid)))
