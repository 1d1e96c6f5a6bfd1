"""Shares of a device: ranges of thousandths, of one customer only."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from api.allocations.store import PostgresStore
from api.allocations.tables import Allocation
from api.clock import to_ms, utc_now
from api.db import Database
from api.machines.tables import Host
from scheduler.host_protocol import DeviceShare, LeaseEnd
from scheduler.ports import Admitted, Ended, Placed
from scheduler.states import EndReason
from tests.db.conftest import Person
from tests.db.fleet import Fleet, admit, refusal


@pytest.fixture
def fleet(database: Database) -> Fleet:
    fleet = Fleet(database)
    fleet.price()
    return fleet


@pytest.fixture
def host(fleet: Fleet) -> Host:
    return fleet.host(gpus=1)


@pytest.fixture
def share(fleet: Fleet, host: Host) -> Callable[..., tuple[Allocation, Admitted]]:
    """`share(store, owner, milli)`: a share of the only device, placed."""

    def place(store: PostgresStore, owner: object, milli: int) -> tuple[Allocation, Admitted]:
        allocation = fleet.submit(owner, gpu_milli=milli, cpu_milli=1000)  # type: ignore[arg-type]
        return allocation, admit(store, fleet.placement(allocation, host, 0, milli=milli))

    return place


def release(fleet: Fleet, store: PostgresStore, allocation: Allocation) -> None:
    store.record([Placed(allocation.id, 1)])
    fleet.end(allocation, EndReason.COMPLETED)
    store.record([Ended(allocation.id, 1, (LeaseEnd(to_ms(utc_now()), 0, None),))])


def ranges(fleet: Fleet, allocation: Allocation) -> list[tuple[int, int]]:
    rows = [row for row in fleet.open_device_rows() if row.allocation_id == allocation.id]
    return [(row.milli_from, row.milli_to) for row in rows]


def test_shares_fill_a_device_and_no_more(
    fleet: Fleet, host: Host, share: Callable[..., tuple[Allocation, Admitted]]
) -> None:
    store, acme = fleet.lead(), fleet.customer()
    first, admitted = share(store, acme, 460)
    assert admitted.leases[0].devices == (DeviceShare("GPU-h1-0", 460),)
    second, _ = share(store, acme, 540)
    assert (ranges(fleet, first), ranges(fleet, second)) == ([(0, 460)], [(460, 1000)])
    third = fleet.submit(acme, gpu_milli=1, cpu_milli=1000)
    assert refusal(store, fleet.placement(third, host, 0, milli=1)).code == "no_capacity"


def test_a_batch_fills_it_in_its_order(fleet: Fleet, host: Host) -> None:
    store, acme = fleet.lead(), fleet.customer()
    wanted = [fleet.submit(acme, gpu_milli=400, cpu_milli=1000) for _ in range(3)]
    answers = store.admit([fleet.placement(allocation, host, 0, milli=400) for allocation in wanted])
    assert [isinstance(answer, Admitted) for answer in answers] == [True, True, False]
    assert [ranges(fleet, allocation) for allocation in wanted] == [[(0, 400)], [(400, 800)], []]


def test_a_share_may_take_what_is_free_in_several_places(
    fleet: Fleet,
    share: Callable[..., tuple[Allocation, Admitted]],
    app_client: TestClient,
    admin: Person,
) -> None:
    store, acme = fleet.lead(), fleet.customer()
    shares = [share(store, acme, 250)[0] for _ in range(4)]
    for allocation in (shares[0], shares[2]):
        release(fleet, store, allocation)
    large, admitted = share(store, acme, 400)
    assert ranges(fleet, large) == [(0, 250), (500, 650)]
    assert admitted.leases[0].devices == (DeviceShare("GPU-h1-0", 400),)
    held = {item.request.allocation_id: item for item in fleet.lead().changes().held}
    assert [milli for part in held[large.id].parts for _, milli in part.devices] == [400]
    shown = app_client.get(f"/api/v1/admin/allocations/{large.uid}", headers=admin.headers).json()
    assert [device["milli"] for device in shown["devices"]] == [400]


def test_no_two_customers_share_a_device(
    fleet: Fleet, host: Host, share: Callable[..., tuple[Allocation, Admitted]]
) -> None:
    store, acme, rival = fleet.lead(), fleet.customer(), fleet.customer("rival")
    first, _ = share(store, acme, 100)
    stranger = fleet.submit(rival, gpu_milli=100, cpu_milli=1000)
    placement = fleet.placement(stranger, host, 0, milli=100)
    assert refusal(store, placement).code == "no_capacity"
    release(fleet, store, first)
    admit(store, placement)


def test_the_group_of_a_share_is_not_handed_on(fleet: Fleet, share: Callable[..., tuple[Allocation, Admitted]]) -> None:
    store, acme = fleet.lead(), fleet.customer()
    first, admitted = share(store, acme, 500)
    release(fleet, store, first)
    assert store.groups_to_drop() == [admitted.group_name]
    assert share(store, acme, 500)[1].drop_groups == (admitted.group_name,)


def test_more_or_less_than_was_asked_for_is_refused(fleet: Fleet, host: Host) -> None:
    store, acme = fleet.lead(), fleet.customer()
    allocation = fleet.submit(acme, gpu_milli=500, cpu_milli=1000)
    for milli in (499, 501, 1000):
        assert refusal(store, fleet.placement(allocation, host, 0, milli=milli)).code == "no_capacity"


_CLAIMED = "select allocation_id, shares::text from device_claims order by 1"
_OPEN = (
    "select allocation_id, range_agg(int8range(gpu_id * 1000 + milli_from, gpu_id * 1000 + milli_to))::text"
    " from allocation_devices where upper_inf(period) group by 1 order by 1"
)


@pytest.mark.parametrize(
    "change",
    [
        "select",
        "update allocation_devices set period = tstzrange(lower(period), now() + interval '1 h') where milli_from = 0",
        "update allocation_devices set period = tstzrange(lower(period), now() + interval '1 h')",
        "delete from allocation_devices where milli_from > 0",
        "update allocation_devices set milli_to = milli_to - 1",
    ],
)
def test_what_is_claimed_is_what_is_open(fleet: Fleet, change: str) -> None:
    """Whoever writes the rows, and however."""
    host, acme = fleet.host(), fleet.customer()
    store = fleet.lead()
    for number in range(3):
        admit(store, fleet.placement(fleet.submit(acme, gpu_milli=300, cpu_milli=1000), host, number // 2, milli=300))
    admit(store, fleet.placement(fleet.submit(acme, gpus=2, cpu_milli=1000), host, 2, 3))
    with fleet.database.engine.begin() as connection:
        assert len(connection.execute(text(_CLAIMED)).all()) == 4
        connection.execute(text(change))
        claimed = connection.execute(text(_CLAIMED)).all()
        assert claimed == connection.execute(text(_OPEN)).all()
