"""Environments on a fleet, driven by hand: the scheduler's decisions, the host's heartbeats, and the Hub's answers."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select

from api.allocations.request import RunOptions
from api.allocations.tables import Allocation
from api.clock import to_ms, utc_now
from api.environments import hub_service, service
from api.environments.hub_client import HubError, HubServer, SpawnFailed
from api.environments.schemas import EnvironmentCreate
from api.environments.tables import Environment
from api.errors import Unavailable
from api.identity.tables import User
from api.images.tables import Image
from api.machines.heartbeat import receive
from api.machines.tables import Host
from api.principal import Caller
from api.quotas.tables import Quota
from api.settings import Settings
from api.tenants.tables import Customer, Workspace
from scheduler.host_protocol import (
    ContainerReport,
    ContainerState,
    Heartbeat,
    HeartbeatReply,
    HeldLease,
    LeaseEnd,
)
from scheduler.ports import Admitted, Ended, Placed
from scheduler.states import AdminState
from tests.db.fleet import Fleet, decide, releasing

Owner = tuple[Customer, Workspace, User]
BOOT = "boot-1"


@dataclass(slots=True)
class World:
    fleet: Fleet
    settings: Settings
    owner: Owner

    @classmethod
    def make(cls, fleet: Fleet, settings: Settings, *, dollars: int = 1000, owner: Owner | None = None) -> "World":
        fleet.price()
        world = cls(fleet, settings, owner or fleet.customer(dollars=dollars))
        image = Image(name="base", framework="jupyterlab", version="1", reference="remotegpu/base:1", ports=[8888])
        fleet.database.transact(lambda session: session.add(image))
        return world

    @property
    def caller(self) -> Caller:
        customer, _, user = self.owner
        return Caller(user.id, customer.id, "cli")

    def host(self, name: str = "h1", **options: Any) -> Host:
        host = self.fleet.host(name, **options)

        def boot(session: Any) -> None:
            row = session.get_one(Host, host.id)
            row.boot_id, row.ray_node_id = BOOT, "node"

        self.fleet.database.transact(boot)
        return host

    def create(self, name: str = "lab", **asked: Any) -> Environment:
        wanted = EnvironmentCreate(**{"name": name, "image": "base", "gpus": 1, "gpu_model": "A100", **asked})
        return self.fleet.database.transact(lambda session: service.create(session, self.settings, self.caller, wanted))

    def start(self, environment: Environment, run: RunOptions | None = None) -> None:
        self.fleet.database.transact(
            lambda session: service.start(session, self.settings, self.caller, environment.uid, run)
        )

    def stop(self, environment: Environment, *, delete: bool = False) -> None:
        self.fleet.database.transact(lambda session: service.stop(session, self.caller, environment.uid, delete=delete))

    def hub_stops(self, environment: Environment) -> None:
        """What the Hub says when it ends the container of a server that it was told to stop."""
        username, container_name = self.owner[2].username, self.allocation(environment).container_name
        self.fleet.database.transact(
            lambda session: hub_service.stop(
                session, username=username, name=environment.name, container_name=container_name
            )
        )

    def retire(self, host: Host) -> None:
        self.fleet.database.transact(
            lambda session: setattr(session.get_one(Host, host.id), "admin_state", AdminState.RETIRED)
        )

    def allow(self, **limits: int) -> None:
        """Give the customer a quota."""
        quota = Quota(customer_id=self.owner[0].id, **limits)
        self.fleet.database.transact(lambda session: session.add(quota))

    def ready(self, environment: Environment) -> None:
        username = self.owner[2].username
        self.fleet.database.transact(
            lambda session: hub_service.ready(session, username=username, name=environment.name)
        )

    def gives_up(self, environment: Environment, error: str, *, container_name: str | None = None) -> None:
        """What the Hub says of a start that failed."""
        current = container_name or self.allocation(environment).container_name or ""
        username = self.owner[2].username
        self.fleet.database.transact(
            lambda session: hub_service.failed(
                session, username=username, name=environment.name, container_name=current, error=error
            )
        )

    def place(self) -> None:
        """What the controller does with all that waits, as far as `active`."""
        store = self.fleet.lead()
        answers = store.admit(decide(store))
        placed = [Placed(answer.allocation_id, answer.generation) for answer in answers if isinstance(answer, Admitted)]
        assert all(store.record(placed))

    def release(self, *, ended_at: datetime | None = None) -> None:
        """What the controller does with all that ends."""
        store = self.fleet.lead()
        end = LeaseEnd(to_ms(ended_at or utc_now()), exit_code=0, last_window=None)
        store.record([Ended(ending.allocation_id, ending.generation, (end,)) for ending in releasing(store)])

    def rows(self) -> Sequence[Environment]:
        with self.fleet.database.session() as session:
            return session.scalars(select(Environment).order_by(Environment.id)).all()

    def environment(self, environment: Environment) -> Environment:
        with self.fleet.database.session() as session:
            return session.get_one(Environment, environment.id)

    def allocation(self, environment: Environment) -> Allocation:
        with self.fleet.database.session() as session:
            query = select(Allocation).join(Environment, Environment.allocation_id == Allocation.id)
            return session.scalars(query.where(Environment.id == environment.id)).one()

    def host_row(self, host: Host) -> Host:
        with self.fleet.database.session() as session:
            return session.get_one(Host, host.id)

    def beat(
        self,
        host: Host,
        *allocations: Allocation,
        containers: tuple[ContainerReport, ...] = (),
        boot_id: str = BOOT,
        now: datetime | None = None,
        **facts: Any,
    ) -> HeartbeatReply:
        beat = Heartbeat(
            boot_id=boot_id,
            daemon_id="d1",
            leases=tuple(HeldLease(str(a.uid), a.generation) for a in allocations),
            containers=containers,
            readings=facts.pop("readings", ()),
            spool_backlog=0,
            **facts,
        )
        return receive(self.fleet.database, self.settings, host_id=host.id, beat=beat, now=now)


def report(allocation: Allocation, state: ContainerState, **facts: Any) -> ContainerReport:
    known: dict[str, Any] = {
        "generation": allocation.generation,
        "container_id": "c1",
        "name": allocation.container_name,
    }
    return ContainerReport(allocation_uid=str(allocation.uid), state=state, **{**known, **facts})


@dataclass(slots=True)
class RecordingHub:
    """A Hub whose servers are entries of a dictionary. `down` and `spawn_fails` are its faults."""

    servers: dict[str, HubServer] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    down: bool = False
    spawn_fails: bool = False

    def start_server(self, username: str, name: str) -> bool:
        self._heard("start", name)
        if self.spawn_fails:
            raise SpawnFailed("spawn failed")
        if name in self.servers:
            return False
        self.servers[name] = HubServer(ready=False, pending="spawn")
        return True

    def stop_server(self, username: str, name: str, *, remove: bool) -> bool:
        self._heard("remove" if remove else "stop", name)
        self.servers.pop(name, None)
        return True

    def server(self, username: str, name: str) -> HubServer | None:
        self._heard("look", name)
        return self.servers.get(name)

    def _heard(self, verb: str, name: str) -> None:
        self.calls.append((verb, name))
        if self.down:
            raise HubError("the Hub is down")


@dataclass(slots=True)
class RecordingHosts:
    """`unreachable` and `hangs` are its faults: with the latter, calls are answered once it is set."""

    calls: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    unreachable: bool = False
    hangs: threading.Event | None = None

    def call(
        self, host_uid: str, operation: str, body: Mapping[str, Any], *, timeout_s: float = 30.0
    ) -> tuple[int, Any]:
        self.calls.append((host_uid, operation, dict(body)))
        if self.hangs is not None:
            assert self.hangs.wait(20)
        if self.unreachable:
            raise Unavailable("cut off", code="host_unreachable")
        return 200, {}
