"""An exported bill holds, whatever happened; and everything that is changed in it is found, at its first bad line."""

import io
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from api.billing.chain.keys import public_keys, signer
from api.billing.prices import Quote, create_price
from api.billing.statement import Period, totals
from api.clock import utc_now
from api.db import Database
from api.settings import Settings
from remotegpu.bill import BadLine, Verifier
from scheduler.prices import PriceTerms
from tests.db.bill_world import BEGINNING, BillWorld, check
from tests.db.forging import Body, Forger, contents_of, first_difference, lines_of, rehashed
from tests.db.ledger_world import World

Contents = list[tuple[str, Body]]


@pytest.fixture
def bills(database: Database, settings: Settings) -> BillWorld:
    return BillWorld(World(database), settings)


@pytest.mark.parametrize("seed", range(4))
def test_the_bill_of_a_random_life_holds_and_says_what_the_statement_says(bills: BillWorld, seed: int) -> None:
    customer = bills.world.customer(balance_micro=10**9)
    bills.live(customer, seed=seed)
    found = check(bills.export(customer))
    with bills.database.session() as session:
        said = totals(session, customer.id, Period(BEGINNING, utc_now() + timedelta(days=1)))
    assert (found.amount_micro, found.duration_ms) == (said.usage_micro, said.duration_ms)
    assert found.records > 10 and found.windows > 10 and found.transactions > 5
    assert not found.closed and found.unsealed_ms == 0


def test_a_price_that_follows_another_is_another_meter_of_the_same_device(bills: BillWorld) -> None:
    world = bills.world
    customer = world.customer(balance_micro=10**9)
    _, gpus = world.host(gpus=1)
    dear, cheap = (
        bills.database.transact(
            lambda session, micro=micro, since=since: create_price(
                session, gpu_model="A100", price_micro=micro, effective_from=world.now - since, kept_for_s=60
            )
        )
        for micro, since in ((7_200_001, timedelta(days=2)), (3_600_000, timedelta(days=1)))
    )
    lease = world.start(customer, Quote(dear.id, "USD", PriceTerms.ON_DEMAND, 7_200_001, 60), gpus)
    for _ in range(14):
        start = world.now_ms
        world.pass_time(25_000)  # so that windows go over the moment at which the price changes
        world.renew(lease)
        world.deliver(gpus[0].host_id, world.window(lease, start, world.now_ms))
        bills.seal(customer)
    bill = bills.export(customer)
    found = check(bill)
    meters = [body["meter"] for body in of("meter", contents_of(bill))]
    assert {meter["price_version"] for meter in meters} == {str(dear.uid), str(cheap.uid)}
    assert len({meter["device"] for meter in meters}) == 1
    assert found.duration_ms == 14 * 25_000
    with bills.database.session() as session:
        said = totals(session, customer.id, Period(BEGINNING, utc_now() + timedelta(days=1)))
    assert found.amount_micro == said.usage_micro


def test_a_customer_without_usage_has_a_bill_too(bills: BillWorld) -> None:
    found = check(bills.export(bills.world.customer()))
    assert (found.records, found.amount_micro, found.sequence, found.lines) == (0, 0, 0, 4)


def test_every_single_change_is_found_at_its_line(bills: BillWorld) -> None:
    files = []
    for seed in range(3):
        customer = bills.world.customer(balance_micro=10**9)
        bills.live(customer, seed=seed, steps=5)
        files.append(bills.export(customer))

    @given(data=st.data())
    @hypothesis_settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=False)
    def changes(data: st.DataObject) -> None:
        bill, foreign = data.draw(st.permutations(files))[:2]
        changed = data.draw(st.sampled_from(_CHANGES))(data, bill, foreign)
        if changed == bill:
            return
        with pytest.raises(BadLine) as caught:
            check(changed)
        assert caught.value.number == first_difference(bill, changed), caught.value.why

    changes()


def _changed_byte(data: st.DataObject, bill: bytes, _: bytes) -> bytes:
    at = data.draw(st.integers(0, len(bill) - 1))
    return bill[:at] + bytes([data.draw(st.integers(0, 255))]) + bill[at + 1 :]


def _changed_value(data: st.DataObject, bill: bytes, _: bytes) -> bytes:
    """One number or word of a line, which stays in canonical form."""
    lines = lines_of(bill)
    at = data.draw(st.integers(0, len(lines) - 1))
    content = json.loads(lines[at])
    place, key = data.draw(st.sampled_from(list(_leaves({"": content}))))
    old = place[key]
    place[key] = old + data.draw(st.sampled_from([-1, 1, 10**6])) if isinstance(old, int) else f"{old}0"
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return b"".join([*lines[:at], text.encode() + b"\n", *lines[at + 1 :]])


def _leaves(value: Any) -> Any:
    """Where the single values of a document are: what contains them, and the name or number in it."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list):
            yield from _leaves(inner)
        else:
            yield value, key


def _dropped(data: st.DataObject, bill: bytes, _: bytes) -> bytes:
    lines = lines_of(bill)
    del lines[data.draw(st.integers(0, len(lines) - 1))]
    return b"".join(lines)


def _swapped(data: st.DataObject, bill: bytes, _: bytes) -> bytes:
    lines = lines_of(bill)
    one, other = data.draw(st.integers(0, len(lines) - 1)), data.draw(st.integers(0, len(lines) - 1))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def _inserted(data: st.DataObject, bill: bytes, foreign: bytes) -> bytes:
    """A line twice, or one from elsewhere in the file, of another customer's bill, or that is none."""
    lines = lines_of(bill)
    added = data.draw(st.sampled_from([*lines, *lines_of(foreign), b"\n", b"{}\n", b"[1.5]\n", b"\xff\n"]))
    lines.insert(data.draw(st.integers(0, len(lines))), added)
    return b"".join(lines)


def _cut(data: st.DataObject, bill: bytes, _: bytes) -> bytes:
    return bill[: data.draw(st.integers(0, len(bill)))]


_CHANGES = (_changed_byte, _changed_value, _dropped, _swapped, _inserted, _cut)


def test_who_lacks_the_key_is_found_out_however_well_they_hash(bills: BillWorld) -> None:
    customer = bills.world.customer(balance_micro=10**9)
    bills.live(customer, seed=5, steps=4)
    bill = bills.export(customer)
    contents = contents_of(bill)
    assert rehashed(contents) == bill, "the forger knows the form"

    @given(data=st.data())
    @hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=False)
    def changes(data: st.DataObject) -> None:
        forged = [(kind, json.loads(json.dumps(body))) for kind, body in contents]
        place, key = data.draw(st.sampled_from(list(_leaves([body for _, body in forged]))))
        place[key] = place[key] + 1 if isinstance(place[key], int) else "1" * 64
        with pytest.raises(BadLine):
            check(rehashed(forged))

    changes()
    for number in range(len(contents)):
        with pytest.raises(BadLine):
            check(rehashed([*contents[:number], *contents[number + 1 :]]))


def of(kind: str, contents: Contents) -> list[Body]:
    return [body for each, body in contents if each == kind]


def charge_of(contents: Contents) -> Body:
    postings = [posting for body in of("transaction", contents) for posting in body["postings"] if posting["meter"]]
    found: Body = postings[len(postings) // 2]
    return found


def overcharge(contents: Contents) -> None:
    for body in of("transaction", contents):
        if body["kind"] == "usage":
            body["postings"][0]["amount_micro"] -= 1
            body["postings"][-1]["amount_micro"] += 1
            return


def longer(contents: Contents) -> None:
    charge_of(contents)["duration_ms"] += 60_000


def dearer(contents: Contents) -> None:
    of("meter", contents)[0]["meter"]["price_micro_per_gpu_hour"] += 1


def twice(contents: Contents) -> None:
    """The last record's time is that of the one before it on its meter."""
    records = [body["record"] for body in of("record", contents)]
    last = records[-1]
    before = next(record for record in records[-2::-1] if record["meter"] == last["meter"])
    last |= {"from_ms": before["from_ms"], "to_ms": before["from_ms"] + last["to_ms"] - last["from_ms"]}


def without_windows(contents: Contents) -> None:
    at = [number for number, (kind, _) in enumerate(contents) if kind == "window"]
    del contents[at[1]]


def without_record(contents: Contents) -> None:
    at = [number for number, (kind, _) in enumerate(contents) if kind == "record"]
    del contents[at[-1]]


@pytest.mark.parametrize(
    ("edit", "kind", "why"),
    [
        (overcharge, "transaction", "the charge is"),
        (lambda contents: charge_of(contents).update(amount_micro=0), "transaction", "do not sum to zero"),
        (longer, "transaction", "its time costs"),
        (lambda contents: charge_of(contents).update(account="wallet"), "transaction", "not from the holds"),
        (dearer, "meter", "its version and terms make it"),
        (lambda contents: of("price_version", contents)[0].update(price_micro=1), "meter", "its version and terms"),
        (lambda contents: of("meter", contents)[0].update(sealed_before_ms=7), "meter", "more of the meter was sealed"),
        (twice, "record", "in another record already"),
        (lambda contents: of("record", contents)[1]["record"].update(proven_ms=1), "record", "has proven"),
        (lambda contents: of("record", contents)[1]["record"].update(sequence=9), "record", "does not follow"),
        (lambda contents: of("record", contents)[1]["record"].update(sealed_ms=9), "record", "sealed before"),
        (without_windows, "window", "unproven"),
        (lambda contents: of("window", contents)[0].update(milli=1), "window", "another share"),
        (lambda contents: of("window", contents)[0].update(to_ms=10), "window", "than it is long"),
        (without_record, "window", "proves none of the file's records"),
        (lambda contents: of("totals", contents)[0].update(amount_micro=0), "totals", "period's charges"),
        (lambda contents: of("bill", contents)[0]["opening"].update(wallet=5), "totals", "closing balances"),
        (lambda contents: of("head", contents)[0]["head"].update(period="2026-01"), "head", "another bill"),
        (lambda contents: of("head", contents)[0]["head"].update(signed_ms=1), "head", "before its last record"),
    ],
)
def test_what_is_wrong_is_named_though_the_platform_signed_it(
    bills: BillWorld, edit: Callable[[Contents], object], kind: str, why: str
) -> None:
    customer = bills.world.customer(balance_micro=10**9)
    bills.live(customer, seed=11, steps=6)
    bill = bills.export(customer)
    forger = Forger(bills.database.transact(lambda session: signer(session, bills.settings)))
    assert check(forger.change(bill, lambda contents: None)).records > 0, "what is signed anew holds"
    changed = forger.change(bill, edit)
    with pytest.raises(BadLine) as caught:
        check(changed)
    assert contents_of(changed)[caught.value.number - 1][0] == kind, caught.value
    assert why in caught.value.why


def test_a_bill_is_checked_with_the_keys_that_are_given(bills: BillWorld) -> None:
    customer = bills.world.customer()
    bill = bills.export(customer)
    keys = bills.database.transact(lambda session: list(public_keys(session, bills.settings)))
    right = {key.kid: key.public_key for key in keys}
    assert Verifier(right).verify(io.BytesIO(bill)).key == keys[0].kid
    with pytest.raises(BadLine, match="signature is not the platform's"):
        Verifier({key: bytes(32) for key in right}).verify(io.BytesIO(bill))
    with pytest.raises(BadLine, match="signature is not the platform's"):
        Verifier({}).verify(io.BytesIO(bill))
