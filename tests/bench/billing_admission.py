"""Admission at 100 per second: quota, balance and hold, under their locks and durably, from when each is due.

They come on time, whether the ones before are done or not. Two steps: a submission, as an API replica does it, and
`queued -> placing`, which writes the hold, the device rows and the lease besides.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from api.quotas.tables import Quota
from scheduler.ports import Admitted, Placement
from scheduler.views import Part
from tests.bench.billing_site import GPUS_PER_HOST, ledger_server, opened
from tests.bench.figures import Figure
from tests.db.fleet import Fleet

_PER_S = 100
_SECONDS = 10
_WARM = 100
_CUSTOMERS = 10
_THREADS = 8
_COUNT = _WARM + _PER_S * _SECONDS


def run() -> list[Figure]:
    with ledger_server() as url, opened(url) as database:
        fleet = Fleet(database)
        fleet.price()
        owners = [fleet.customer(f"c{number}", dollars=10**6) for number in range(_CUSTOMERS)]
        database.transact(
            lambda session: session.add_all(
                Quota(customer_id=owner[0].id, gpus=_COUNT, cpu_milli=10**9, queued=_COUNT) for owner in owners
            )
        )
        hosts = [fleet.host(f"h{number}", gpus=GPUS_PER_HOST) for number in range(-(-_COUNT // GPUS_PER_HOST))]
        devices = [fleet.part(host, index) for host in hosts for index in range(GPUS_PER_HOST)]
        submissions = [_submission(fleet, owners[number % _CUSTOMERS], number) for number in range(_COUNT)]
        ids: list[int] = []
        submitted = _on_time(submissions, ids)
        store = fleet.lead()

        def placing(allocation_id: int, part: Part) -> Callable[[], int]:
            def place() -> int:
                (answer,) = store.admit([Placement(allocation_id, (part,))])
                assert isinstance(answer, Admitted), answer
                return allocation_id

            return place

        placed = _on_time([placing(each, part) for each, part in zip(ids, devices, strict=False)], [])
    return [_figure("a submission, p99", submitted), _figure("an admission with its hold, p99", placed)]


def _submission(fleet: Fleet, owner: tuple[object, ...], number: int) -> Callable[[], int]:
    return lambda: fleet.submit(owner, memory_bytes=2**30, container_name=f"c{number}").id  # type: ignore[arg-type]


def _on_time(work: Sequence[Callable[[], int]], answers: list[int]) -> list[float]:
    """Do the first _WARM at once, the rest at their time; milliseconds from then until each was done."""
    answers += [each() for each in work[:_WARM]]
    begun = time.perf_counter() + 0.1

    def at(number: int) -> tuple[int, float]:
        due = begun + number / _PER_S
        time.sleep(max(0.0, due - time.perf_counter()))
        answer = work[_WARM + number]()
        return answer, 1000 * (time.perf_counter() - due)

    with ThreadPoolExecutor(_THREADS) as threads:
        done = list(threads.map(at, range(len(work) - _WARM)))
    answers += [answer for answer, _ in done]
    return [took_ms for _, took_ms in done]


def _figure(name: str, took_ms: Sequence[float]) -> Figure:
    p99 = sorted(took_ms)[len(took_ms) * 99 // 100]
    return Figure(f"{name}, at {_PER_S}/s", p99, "ms", 10.0, True, {"ms": sorted(took_ms)[:: len(took_ms) // 20]})
