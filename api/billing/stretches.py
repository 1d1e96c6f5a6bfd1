"""The prices of holds, in the order of their time: read for charging and settling, and chosen when one runs out."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.billing.coverage import Coverage, Stretch
from api.billing.prices import Payer, load_prices
from api.billing.tables import Hold, HoldPrice
from api.bulk import document, recordset
from api.clock import from_ms
from api.pipeline import Pipeline, pipelined

Key = tuple[int, int]  # (allocation id, generation)

_EARLIER = text(
    "select p.allocation_id, p.generation, p.from_ms, p.until_ms, p.price_version_id, p.terms,"
    f" p.price_micro_per_gpu_hour from hold_prices p join {recordset(allocation_id='bigint', generation='int')}"
    " using (allocation_id, generation) order by p.allocation_id, p.generation, p.from_ms"
)
_ASKED = text(
    "select d.model, c.currency, g.name as capacity_group, a.preemptible, a.reservation_id is not null as reserved"
    " from allocations a join customers c on c.id = a.customer_id"
    " left join capacity_groups g on g.id = a.capacity_group_id"
    " join allocation_devices s on s.allocation_id = a.id and s.generation = :generation"
    " join gpus d on d.id = s.gpu_id where a.id = :id limit 1"
)


def present(hold: Any) -> Stretch:  # Any: a Hold, or a row with these columns
    """The hold's latest stretch."""
    return Stretch(
        hold.price_from_ms, hold.price_until_ms, hold.price_version_id, hold.terms, hold.price_micro_per_gpu_hour
    )


def ask_earlier(pipeline: Pipeline, keys: Iterable[Key]) -> Callable[[], Mapping[Key, list[Stretch]]]:
    """The stretches before the present ones, told later; holds that have had one price alone are missing."""
    rows = [{"allocation_id": allocation_id, "generation": generation} for allocation_id, generation in keys]
    found = pipeline.ask(_EARLIER, {"rows": document(rows)})

    def told() -> Mapping[Key, list[Stretch]]:
        earlier: dict[Key, list[Stretch]] = {}
        for allocation_id, generation, *columns in found.all():
            earlier.setdefault((allocation_id, generation), []).append(Stretch(*columns))
        return earlier

    return told


def stretches_of(session: Session, hold: Hold) -> list[Stretch]:
    """All of a hold's."""
    key, earlier = (hold.allocation_id, hold.generation), []
    if hold.price_from_ms > hold.starts_ms:
        with pipelined(session) as pipeline:
            earlier = ask_earlier(pipeline, [key])().get(key, [])
    return [*earlier, present(hold)]


def following(session: Session, hold: Hold) -> Callable[[int], Stretch]:
    """What a hold's time costs from a moment on: the version in force at that moment, as far as is known now.

    On the request's terms, as at its placing; where nothing has a price any more, the present one stays.
    """

    def at(moment_ms: int) -> Stretch:
        asked = session.execute(_ASKED, {"id": hold.allocation_id, "generation": hold.generation}).one()
        payer = Payer(hold.customer_id, asked.currency, asked.capacity_group)
        price = load_prices(session, at=from_ms(moment_ms)).price_of(asked.model, payer)
        if price is None:
            return Stretch(moment_ms, None, hold.price_version_id, hold.terms, hold.price_micro_per_gpu_hour)
        quote = price.quote(preemptible=asked.preemptible, reserved=asked.reserved)
        until_ms = None if quote.kept_for_s is None else moment_ms + 1000 * quote.kept_for_s
        return Stretch(moment_ms, until_ms, quote.price_version_id, quote.terms, quote.price_micro_per_gpu_hour)

    return at


def note(session: Session, hold: Hold, coverage: Coverage) -> None:
    """Write what a hold, which the caller has locked, has become; the money is the caller's to move."""
    for passed in coverage.passed:
        assert passed.until_ms is not None
        session.add(
            HoldPrice(
                allocation_id=hold.allocation_id,
                generation=hold.generation,
                from_ms=passed.from_ms,
                until_ms=passed.until_ms,
                price_version_id=passed.price_version_id,
                terms=passed.terms,
                price_micro_per_gpu_hour=passed.price_micro_per_gpu_hour,
            )
        )
    stretch = coverage.stretch
    hold.price_from_ms, hold.price_until_ms = stretch.from_ms, stretch.until_ms
    hold.price_version_id, hold.terms = stretch.price_version_id, stretch.terms
    hold.price_micro_per_gpu_hour = stretch.price_micro_per_gpu_hour
    hold.earlier_micro, hold.covers_until_ms = coverage.earlier_micro, coverage.covers_until_ms
