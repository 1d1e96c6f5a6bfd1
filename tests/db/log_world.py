"""An attempt that runs on a host, and its output on the way to the platform."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from api.billing.journal import top_up
from api.clock import utc_now
from api.db import Database
from api.identity.tables import User
from api.images.tables import Image
from api.internal.pki import Authority, make_request
from api.logs.chunks import compressed
from api.logs.receiving import Incoming, Source, take
from api.machines import enrolment
from api.machines.tables import Host
from api.object_store import ObjectStore, location_of
from api.settings import Settings
from api.tasks.tables import Task, TaskAttempt
from api.tenants.tables import Customer, Workspace
from scheduler.log_records import Record, Stream, pack
from scheduler.states import AttemptState
from tests.db.fleet import DOLLAR, Fleet, activate, admit

AT_MS = 1_790_000_000_000
Owner = tuple[Customer, Workspace, User]


def written(position: int, *parts: str | bytes | int, stream: Stream = Stream.STDOUT) -> list[Record]:
    """Records that follow one another: text or bytes that were written, numbers of bytes that were dropped."""
    records = []
    for part in parts:
        if isinstance(part, int):
            record = Record(Stream.DROPPED, AT_MS, position, dropped=part)
        else:
            record = Record(stream, AT_MS, position, part.encode() if isinstance(part, str) else part)
        records.append(record)
        position = record.end
    return records


def incoming(records: Sequence[Record], *, position: int | None = None, last: bool = False) -> Incoming:
    start = records[0].position if records else position or 0
    length = records[-1].end - start if records else 0
    body = compressed(b"".join(map(pack, records))) if records else b""
    return Incoming(start if position is None else position, length, body, last)


@dataclass(slots=True)
class LogWorld:
    database: Database
    settings: Settings
    owner: Owner
    objects: ObjectStore = field(init=False)
    fleet: Fleet = field(init=False)
    hosts: list[Host] = field(init=False)
    gpus: int = 4

    def __post_init__(self) -> None:
        self.objects = ObjectStore(location_of(self.settings))
        self.fleet = Fleet(self.database)
        self.fleet.price()
        customer_id = self.owner[0].id
        self.database.transact(
            lambda session: top_up(
                session, customer_id=customer_id, amount_micro=10_000 * DOLLAR, actor="cli", key="for-logs"
            )
        )
        self.hosts = [self.fleet.host(name, gpus=self.gpus, cpu=1000, memory_gib=10_000) for name in ("h1", "h2")]

    def task(self, name: str = "train", *, user: User | None = None) -> Task:
        customer, workspace, owner = self.owner

        def work(session: Session) -> Task:
            image = session.scalars(select(Image)).first() or Image(
                name="base", framework="f", version="1", reference="remotegpu/base:1", ports=[8888]
            )
            session.add(image)
            session.flush()
            task = Task(
                customer_id=customer.id, workspace_id=workspace.id, user_id=(user or owner).id, name=name, spec={},
                image_id=image.id,
            )  # fmt: skip
            session.add(task)
            return task

        return self.database.transact(work)

    def attempt(self, task: Task, number: int = 1) -> tuple[TaskAttempt, Source]:
        """One that runs on the first host with a free device."""
        allocation = self.fleet.submit(self.owner, kind="task", home_volume=None)
        store = self.fleet.lead()
        host = self.hosts[0]
        taken = len(self.fleet.open_device_rows())
        admit(store, self.fleet.placement(allocation, host, taken))
        assert activate(store, allocation)

        def work(session: Session) -> TaskAttempt:
            attempt = TaskAttempt(task_id=task.id, number=number, allocation_id=allocation.id, generation=1)
            session.add(attempt)
            return attempt

        return self.database.transact(work), Source(host.id, allocation.uid, 1, 0)

    def take(
        self, source: Source, records: Sequence[Record], *, last: bool = False, position: int | None = None
    ) -> None:
        take(self.database, self.objects, self.settings, source, incoming(records, last=last, position=position))

    def end(self, attempt: TaskAttempt, end: str = "exited") -> None:
        values = {"state": AttemptState.ENDED, "end": end, "ended_at": utc_now()}
        self.database.transact(
            lambda session: session.execute(update(TaskAttempt).where(TaskAttempt.id == attempt.id).values(**values))
        )

    def certificate(self, host: Host, directory: Path) -> str:
        """The name of a certificate of the host's in `directory`."""
        key, csr = make_request(host.name)

        def work(session: Session) -> str:
            authority = Authority(self.settings.secrets_dir)
            return enrolment.issue(session, authority, session.get_one(Host, host.id), csr).certificate_pem

        (directory / f"{host.name}.pem").write_text(self.database.transact(work))
        (directory / f"{host.name}.key").write_text(key)
        return host.name


def path_of(source: Source, position: int | None = None) -> str:
    path = f"/internal/attempts/{source.allocation_uid}/{source.generation}/log/{source.rank}"
    return path if position is None else f"{path}/{position}"
