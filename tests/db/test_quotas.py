"""Quotas at submission and at placing: of customers, workspaces and users, and by plan."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.clock import utc_now
from api.db import Database
from api.errors import Unprocessable
from api.identity.tables import User
from api.quotas.limits import Path, limits_of
from api.quotas.service import Asked, check_environment, check_submission, check_volume
from api.quotas.tables import Plan, Quota
from api.quotas.usage import load_use
from api.tenants.tables import Customer, Setting, Workspace
from api.volumes.tables import Volume
from scheduler.engine.engine import Engine
from scheduler.ports import Admitted, WaitReason
from scheduler.quota import Level, Limits, Resources, Scope
from tests.db.fleet import DOLLAR, GIB, H100, Fleet, decide, refusal
from tests.db.ledger_world import MICRO, World

Owner = tuple[Customer, Workspace, User]


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


@pytest.fixture
def fleet(database: Database) -> Fleet:
    fleet = Fleet(database)
    fleet.price()
    return fleet


def path_of(owner: Owner) -> Path:
    customer, workspace, user = owner
    return Path(customer.id, workspace.id, user.id)


def limit(database: Database, owner: Owner, level: Level, **limits: Any) -> None:
    """Limits of the customer, the workspace or the user."""
    customer, workspace, user = owner
    below = {
        Level.CUSTOMER: {},
        Level.WORKSPACE: {"workspace_id": workspace.id},
        Level.USER: {"user_id": user.id},
    }[level]
    database.transact(lambda session: session.add(Quota(customer_id=customer.id, **below, **limits)))


def colleague(database: Database, owner: Owner) -> Owner:
    """Another user of the customer, in another workspace."""
    customer = owner[0]

    def work(session: Session) -> Owner:
        workspace = Workspace(customer_id=customer.id, name="research")
        user = User(username="colleague", role="customer_member", customer_id=customer.id, password_hash="x")
        session.add_all([workspace, user])
        session.flush()
        return customer, workspace, user

    return database.transact(work)


def refused(work: Callable[[], object]) -> Unprocessable:
    with pytest.raises(Unprocessable) as caught:
        work()
    return caught.value


def check(database: Database, owner: Owner, *, limit_s: int | None = None, **asked: Any) -> int | None:
    counts = {"gpus": 1, "cpu_milli": 1, "memory_bytes": 1, "allocations": 1} | asked
    wanted = Asked(Resources(**counts), limit_s, ["NVIDIA A100-SXM4-80GB"])
    return database.transact(lambda session: check_submission(session, path_of(owner), wanted))


# What applies


def test_own_limits_stand_before_the_plans_and_those_before_the_defaults(fleet: Fleet, database: Database) -> None:
    customer, *_ = fleet.customer()

    def own() -> Limits:
        with database.session() as session:
            return limits_of(session, customer.id).own

    assert own() == Limits(queued=100)
    stored = {"gpus": 8, "memory_bytes": GIB, "queued": None, "gpu_models": {"H100": 4}}
    database.transact(lambda session: session.add(Setting(key="default_quota", value=stored)))
    assert own() == Limits(gpus=8, memory_bytes=GIB, queued=100, gpu_models={"H100": 4})

    def give_plan(session: Session) -> None:
        session.add(plan := Plan(name="small", gpus=4, tasks=3, gpu_models={"A100": 2}))
        session.flush()
        session.get_one(Customer, customer.id).plan_id = plan.id

    database.transact(give_plan)
    models = {"H100": 4, "A100": 2}
    assert own() == Limits(gpus=4, memory_bytes=GIB, queued=100, tasks=3, gpu_models=models)
    database.transact(lambda session: session.add(Quota(customer_id=customer.id, gpus=0, queued=2)))
    assert own() == Limits(gpus=0, memory_bytes=GIB, queued=2, tasks=3, gpu_models=models)


# At submission


@pytest.mark.parametrize("level", Level)
def test_what_could_never_run_is_refused(level: Level, fleet: Fleet, database: Database) -> None:
    acme = fleet.customer()
    limit(database, acme, level, gpus=2, cpu_milli=2000, memory_bytes=GIB, gpu_models={"A100": 1}, tasks=0)
    check(database, acme, cpu_milli=2000, memory_bytes=GIB)
    for asked in ({"gpus": 3}, {"gpus": 2}, {"cpu_milli": 2001}, {"memory_bytes": GIB + 1}, {"tasks": 1}):
        assert refused(lambda asked=asked: check(database, acme, **asked)).code == "quota_exceeded"
    whose = {Level.CUSTOMER: "the", Level.WORKSPACE: "the workspace's", Level.USER: "the user's"}[level]
    said = refused(lambda: check(database, acme, gpus=2)).detail
    assert f"{whose} quota is 1 A100 GPUs, 0 are in use and 2 more were asked for" in said
    other = colleague(database, acme)
    if level is not Level.CUSTOMER:
        check(database, other, gpus=3, tasks=1)


def test_a_refusal_says_what_is_in_use(fleet: Fleet, database: Database) -> None:
    acme, host = fleet.customer(), fleet.host()
    store = fleet.lead()
    store.admit([fleet.placement(fleet.submit(acme), host, 0)])
    limit(database, acme, Level.USER, gpus=2)
    said = refused(lambda: fleet.submit(acme, gpus=3)).detail
    assert "the user's quota is 2 GPUs, 1 are in use and 3 more were asked for" in said


def test_who_names_no_time_limit_gets_the_longest_lease(fleet: Fleet, database: Database) -> None:
    acme = fleet.customer()
    fleet.host()
    limit(database, acme, Level.CUSTOMER, lease_s=7200)
    limit(database, acme, Level.USER, lease_s=3600)
    assert fleet.allocation(fleet.submit(acme).id).limit_s == 3600
    assert fleet.allocation(fleet.submit(acme, time_limit_s=60).id).limit_s == 60
    said = refused(lambda: fleet.submit(acme, time_limit_s=3601))
    assert (said.code, "is 3600 seconds for a lease, and 3601 were asked for" in said.detail) == (
        "quota_exceeded",
        True,
    )
    assert fleet.allocation(fleet.submit(colleague(database, acme)).id).limit_s == 7200


@pytest.mark.parametrize("level", Level)
def test_the_queue_has_an_end(level: Level, fleet: Fleet, database: Database) -> None:
    acme = fleet.customer()
    fleet.host()
    limit(database, acme, level, queued=2)
    fleet.submit(acme), fleet.submit(acme)
    said = refused(lambda: fleet.submit(acme))
    assert (said.code, f"2 requests of this {level}" in said.detail) == ("queue_limit", True)
    if level is not Level.CUSTOMER:
        fleet.submit(colleague(database, acme))


@pytest.mark.parametrize("level", Level)
def test_volumes_are_counted_and_their_bytes(level: Level, fleet: Fleet, database: Database) -> None:
    acme = fleet.customer()
    limit(database, acme, level, volumes=2, volume_bytes=10, environments=0)
    other = colleague(database, acme)

    def create(owner: Owner, name: str, size_bytes: int) -> None:
        customer, workspace, user = owner

        def work(session: Session) -> None:
            check_volume(session, path_of(owner), size_bytes=size_bytes)
            session.add(
                Volume(
                    customer_id=customer.id,
                    workspace_id=workspace.id,
                    user_id=user.id,
                    name=name,
                    size_bytes=size_bytes,
                )
            )

        database.transact(work)

    create(acme, "one", 6)
    assert "10 bytes of volumes, 6 are in use and 5 more" in refused(lambda: create(acme, "two", 5)).detail
    create(acme, "two", 4)
    assert "2 volumes, 2 are in use" in refused(lambda: create(acme, "three", 1)).detail
    environment = refused(lambda: database.transact(lambda session: check_environment(session, path_of(acme))))
    assert environment.code == "quota_exceeded"
    if level is not Level.CUSTOMER:
        create(other, "three", 100)


# At placing


def test_what_is_held(world: World, database: Database) -> None:
    """Waiting holds nothing; placing and running do, releasing too, released does not."""
    customer, (_, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=3)
    price = world.price(1000)

    def held() -> tuple[Resources, int]:
        with database.session() as session:
            limits = limits_of(session, customer.id)
            use = load_use(session, {customer.id: limits}, now=utc_now(), everything=True)
        scope = Scope(Level.CUSTOMER, customer.id)
        return use.held[scope], use.gpus[scope]["NVIDIA A100-SXM4-80GB"]

    world.queue(customer, gpus=1)
    assert world.place(world.queue(customer, gpus=1), price, gpus[:1], active=False)
    world.start(customer, price, gpus[1:2])
    ended = world.start(customer, price, gpus[2:])
    assert held() == (Resources(3, 3000, 3 * GIB, allocations=3), 3)
    world.release(ended, ended_at_ms=world.now_ms)
    assert held() == (Resources(2, 2000, 2 * GIB, allocations=2), 2)


LIMITS = (
    ({"allocations": 2}, "2 allocations at once"),
    ({"tasks": 2}, "2 tasks at once"),
    ({"gpus": 2}, "2 GPUs"),
    ({"gpu_models": {"A100": 2}}, "2 A100 GPUs"),
    ({"cpu_milli": 8000}, "8000 milli-cores"),
    ({"memory_bytes": 32 * GIB}, "bytes of memory"),
)


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize(("limits", "words"), LIMITS)
def test_so_many_run_at_once(
    level: Level, limits: dict[str, Any], words: str, fleet: Fleet, database: Database
) -> None:
    """Also against a controller that knows of no limit; and those whom it does not concern are let in."""
    host, acme = fleet.host(), fleet.customer()
    limit(database, acme, level, **limits)
    store = fleet.lead()
    placements = [fleet.placement(fleet.submit(acme, kind="task"), host, index) for index in range(3)]
    *admitted, last = store.admit(placements)
    assert all(isinstance(answer, Admitted) for answer in admitted)
    assert isinstance(last, WaitReason) and last.code == "quota"
    assert words in last.detail
    if level is not Level.CUSTOMER:
        other = fleet.placement(fleet.submit(colleague(database, acme), kind="task"), host, 3)
        assert isinstance(store.admit([other])[0], Admitted)


def test_the_engine_starts_as_many_and_says_which_limit_stands_in_the_way(fleet: Fleet, database: Database) -> None:
    fleet.host()
    acme = fleet.customer()
    limit(database, acme, Level.USER, gpu_models={"A100": 2})
    for _ in range(3):
        fleet.submit(acme)
    store, engine, now = fleet.lead(), Engine(), utc_now()
    engine.update(store.changes(), now)
    plan = engine.decide(now)
    assert len(plan.placements) == 2
    (reason,) = engine.reasons().values()
    assert reason.detail == "The user's quota is 2 A100 GPUs, 2 are in use and 1 more were asked for."
    limit(database, acme, Level.WORKSPACE, allocations=1)
    assert [view.workspaces[acme[1].id].allocations for view in store.changes().customers] == [1]


def test_a_lowered_limit_ends_nothing_and_lets_nothing_in(fleet: Fleet, database: Database) -> None:
    host, acme = fleet.host(), fleet.customer()
    store = fleet.lead()
    waiting = fleet.submit(acme)
    answers = store.admit([fleet.placement(fleet.submit(acme), host, index) for index in range(2)])
    assert all(isinstance(answer, Admitted) for answer in answers)
    limit(database, acme, Level.CUSTOMER, gpus=1)
    assert "is 1 GPUs, 2 are in use" in refusal(store, fleet.placement(waiting, host, 2)).detail
    assert [row.state for row in fleet.rows(Allocation)] == ["queued", "placing", "placing"]


def test_a_batch_asks_as_much_for_many_limits_as_for_few(
    fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, acme = fleet.host(gpus=8), fleet.customer()
    other = colleague(database, acme)
    store = fleet.lead()

    sent: list[object] = []
    execute = psycopg.Cursor.execute

    def note(cursor: Any, query: object, *arguments: Any, **options: Any) -> Any:
        sent.append(query)
        return execute(cursor, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", note)

    def statements(owners: list[Owner], first: int) -> int:
        placements = [fleet.placement(fleet.submit(owner), host, first + i) for i, owner in enumerate(owners)]
        sent.clear()
        answers = store.admit(placements)
        assert all(isinstance(answer, Admitted) for answer in answers)
        return len(sent)

    limit(database, acme, Level.CUSTOMER, gpus=8, gpu_models={"A100": 8}, month_micro=1000 * DOLLAR)
    one = statements([acme], 0)
    limit(database, acme, Level.USER, gpus=8, gpu_models={"A100": 8}, month_micro=1000 * DOLLAR)
    limit(database, acme, Level.WORKSPACE, gpus=8, tasks=8)
    limit(database, other, Level.USER, gpus=8, allocations=8)
    assert statements([acme, other, acme, other], 1) == one


# What is spent in a month


@pytest.mark.parametrize("level", Level)
def test_a_month_has_its_amount(level: Level, fleet: Fleet, database: Database) -> None:
    """What is set aside counts, so that two that start together can't both have the rest."""
    host, acme = fleet.host(), fleet.customer()
    limit(database, acme, level, month_micro=DOLLAR // 2)
    store = fleet.lead()
    first, second = (fleet.placement(fleet.submit(acme), host, index) for index in range(2))
    admitted, waits = store.admit([first, second])  # ten minutes at 2 dollars an hour
    assert isinstance(admitted, Admitted) and isinstance(waits, WaitReason)
    assert (waits.code, waits.eta_basis) == ("quota", "limits")
    assert "0.50 a month, 0.34 are spent or set aside and 0.34 more are needed" in waits.detail
    assert waits.eta is not None and waits.eta > utc_now() and waits.eta.day == 1
    if level is not Level.CUSTOMER:
        assert decide(store), "its colleagues may"


def test_of_what_began_before_only_this_months_part_counts(world: World, database: Database) -> None:
    world.now = utc_now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    month = world.now
    world.pass_time(-1_000_000)
    customer, (host, gpus) = world.customer(balance_micro=1000 * MICRO), world.host(gpus=2)
    lease = world.start(customer, world.price(3_600_000), gpus[:1], disconnect_s=600)
    world.renew(lease)
    world.pass_time(1_000_000)
    world.renew(lease)
    start = lease.starts_ms
    world.deliver(host.id, world.window(lease, start, start + 1_000_000))
    world.pass_time(500_000)
    world.renew(lease)
    world.deliver(host.id, world.window(lease, start + 1_000_000, start + 1_500_000))
    with database.session() as session:
        limits = limits_of(session, customer.id)
        use = load_use(session, {customer.id: limits}, now=month, everything=True)
        held = session.scalar(text("select amount_micro from holds"))
    assert use.spent_micro[Scope(Level.CUSTOMER, customer.id)] == 500_000 + held


def test_other_models_are_taken_where_one_is_used_up(fleet: Fleet, database: Database) -> None:
    fleet.price("H100")
    fleet.host("h1", gpus=2)
    fleet.host("h2", gpus=2, model=H100)
    acme = fleet.customer()
    limit(database, acme, Level.WORKSPACE, gpu_models={"A100": 1, "H100": 1})
    for _ in range(3):
        fleet.submit(acme, gpu_models=["A100", "H100"])
    placements = decide(fleet.lead())
    assert len({placement.parts[0].host_id for placement in placements}) == len(placements) == 2


# Races


@pytest.mark.parametrize("level", Level)
def test_of_a_hundred_that_start_at_once_five_run(level: Level, fleet: Fleet, database: Database) -> None:
    """Engines that know of no limit place them all, in as many threads as there are connections."""
    host, acme = fleet.host(gpus=100, cpu=1000, memory_gib=4000), fleet.customer()
    limit(database, acme, level, gpus=5, queued=200)
    if level is not Level.CUSTOMER:
        limit(database, acme, Level.CUSTOMER, queued=200)
    store = fleet.lead()
    with ThreadPoolExecutor(10) as threads:
        queued = list(threads.map(lambda _: fleet.submit(acme), range(100)))
        placements = [fleet.placement(allocation, host, index) for index, allocation in enumerate(queued)]
        answers = [
            answer for each in threads.map(lambda placement: store.admit([placement]), placements) for answer in each
        ]
    admitted = [answer for answer in answers if isinstance(answer, Admitted)]
    assert len(admitted) == 5
    assert {answer.code for answer in answers if isinstance(answer, WaitReason)} == {"quota"}
    assert sorted(Counter(row.state for row in fleet.rows(Allocation)).items()) == [("placing", 5), ("queued", 95)]
    for _ in range(3):
        assert not decide(store), "the engine knows too"
