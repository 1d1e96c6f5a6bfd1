"""Where the money path is measured: a database of its own, hosts of eight GPUs, and what they prove."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from api.clock import to_ms, utc_now
from api.db import Database
from api.migrations.migrate import migrate
from deploy.postgres import EmbeddedPostgres
from scheduler.host_protocol import UsageBatch, UsageWindow
from tests.db.ledger_world import Lease, World

WINDOW_MS = 5_000
DAY_MS = 86_400_000
GPUS_PER_HOST = 8
PRICE_MICRO = 2_345_678
_DAYS = 30
_BALANCE_MICRO = 10**15
_GANGS = (1, 1, 2, 4)  # GPUs of the allocations on a host
_CUSTOMERS = 20


@dataclass(frozen=True, slots=True)
class Prover:
    """A host that proves all its leases from their start on, window after window of all its devices, in one boot."""

    host_id: int
    boot_id: str
    starts_ms: int
    devices: Sequence[tuple[str, int, str]]  # (allocation uid, generation, device uuid)

    def batch(self, first_tick: int, ticks: int) -> UsageBatch:
        """The windows of so many times WINDOW_MS."""
        return UsageBatch(
            tuple(
                UsageWindow(
                    boot_id=self.boot_id,
                    sequence=tick * len(self.devices) + number,
                    allocation_uid=uid,
                    generation=generation,
                    container_id=f"{self.boot_id}{uid[:28]}",
                    device_uuid=device_uuid,
                    milli=1000,
                    from_ms=self.starts_ms + tick * WINDOW_MS,
                    to_ms=self.starts_ms + (tick + 1) * WINDOW_MS,
                )
                for tick in range(first_tick, first_tick + ticks)
                for number, (uid, generation, device_uuid) in enumerate(self.devices)
            )
        )


@contextmanager
def ledger_server() -> Iterator[str]:
    """A server of its own that waits for the disk at each commit, as any that the launcher starts does; the URL of its
    migrated database.
    """
    directory = Path(tempfile.mkdtemp(prefix="rgb-", dir="/var/tmp"))
    directory.chmod(0o711)
    server = EmbeddedPostgres(directory / "pg")
    try:
        server.start()
        server.ensure_database("bench")
        with opened(server.url("bench")) as database:
            migrate(database.engine)
        yield server.url("bench")
    finally:
        server.stop()
        shutil.rmtree(directory)


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        database.close()


def make_site(database: Database, *, hosts: int) -> list[Prover]:
    """Hosts of eight GPUs, all of them given out _DAYS ago until now."""
    world = World(database, now=utc_now().replace(microsecond=0) - timedelta(days=_DAYS))
    price = world.price(PRICE_MICRO)
    customers = [world.customer(balance_micro=_BALANCE_MICRO) for _ in range(_CUSTOMERS)]
    provers = []
    for number in range(hosts):
        host, gpus = world.host(gpus=GPUS_PER_HOST)
        leases: list[Lease] = []
        for count in _GANGS:
            first = sum(len(lease.gpus) for lease in leases)
            customer = customers[(number * len(_GANGS) + len(leases)) % _CUSTOMERS]
            allocation = world.queue(customer, gpus=count, disconnect_s=_DAYS * DAY_MS // 1000)
            lease = world.place(allocation, price, gpus[first : first + count], limits=1)
            assert lease is not None
            leases.append(lease)
        devices = [(lease.uid, lease.generation, gpu.uuid) for lease in leases for gpu in lease.gpus]
        provers.append(Prover(host.id, f"{number:036x}", to_ms(world.now), devices))
    return provers
