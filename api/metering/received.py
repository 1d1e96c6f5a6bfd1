"""What of a batch is new: a window is known by (host, boot, sequence), and saying it again changes nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from api.bulk import document, recordset
from api.metering.screening import Quarantine, clean, same_proof
from api.metering.series import Refused, Screened, Series, refuse, series_of
from api.metering.tables import UsageSeries
from api.pipeline import pipelined
from scheduler.host_protocol import UsageWindow

_HOST_LOCK = 7_302 << 40  # advisory locks of this kind, one per host id
_RECORDSET = recordset(boot_id="text", sequences="int8multirange")
_LOCK = text("select 1 as locked from (select pg_advisory_xact_lock(:lock)) l")
_HOST = text("select uid from hosts where id = :host_id for key share")
_OVERLAPS = text(
    f"select r.boot_id from {_RECORDSET} join usage_received u"
    " on u.host_id = :host_id and u.boot_id = r.boot_id and u.sequences && r.sequences"
)
_ADD = text(
    f"insert into usage_received (host_id, boot_id, sequences) select :host_id, boot_id, sequences from {_RECORDSET}"
    " on conflict (host_id, boot_id) do update set sequences = usage_received.sequences + excluded.sequences"
)


@dataclass(frozen=True, slots=True)
class Fresh:
    """What is to be stored of a batch: `series` are yet to be screened, of `refused` nothing counts."""

    host_uid: str
    series: Sequence[Series]
    refused: Sequence[Screened]


def lock_and_sift(session: Session, host_id: int, windows: Sequence[UsageWindow]) -> Fresh:
    """Lock the host's reports, and find the windows that are not stored yet.

    The host's row is locked before any hold: the series' foreign key would ask for it later, out of order.
    """
    series = series_of(windows)
    plain = all(each.is_proper for each in series) and _distinct(series)
    rows = document(_ranges(series)) if plain else "[]"
    with pipelined(session) as pipeline:
        pipeline.ask(_LOCK, {"lock": _HOST_LOCK + host_id})
        hosts = pipeline.ask(_HOST, {"host_id": host_id})
        overlaps = pipeline.ask(_OVERLAPS, {"host_id": host_id, "rows": rows})
        [host], repeated = hosts.all(), overlaps.all()
    if plain and not repeated:
        return Fresh(str(host.uid), series, ())
    fresh = _unknown(session, host_id, windows)
    wrong = [(window, reason) for window, reason in fresh if reason is not None]
    return Fresh(str(host.uid), series_of(window for window, reason in fresh if reason is None), refuse(wrong))


def mark(session: Session, host_id: int, stored: Iterable[Screened]) -> None:
    """Remember the sequence numbers of windows that were stored."""
    rows = _ranges([each.series for each in stored if each.verdict.quarantine != Quarantine.SEQUENCE_REUSED])
    if rows:
        session.execute(_ADD, {"host_id": host_id, "rows": document(rows)})


def _numbers(series: Iterable[Series]) -> dict[str, list[range]]:
    by_boot: dict[str, list[range]] = {}
    for each in series:
        by_boot.setdefault(each.boot_id, []).append(each.sequences)
    return by_boot


def _distinct(series: Iterable[Series]) -> bool:
    return all(len(set().union(*found)) == sum(map(len, found)) for found in _numbers(series).values())


def _ranges(series: Iterable[Series]) -> list[dict[str, str]]:
    """Boots with their sequence numbers, which are distinct, as a multirange: one range where none is left out."""
    rows = []
    for boot_id, found in sorted(_numbers(series).items()):
        first, last = min(each[0] for each in found), max(each[-1] for each in found)
        if last - first + 1 == sum(map(len, found)):
            ranges = [f"[{first},{last}]"]
        else:
            ranges = [f"[{number},{number}]" for each in found for number in each]
        rows.append({"boot_id": boot_id, "sequences": f"{{{','.join(ranges)}}}"})
    return rows


def _unknown(session: Session, host_id: int, windows: Iterable[UsageWindow]) -> list[Refused]:
    """The windows that are not stored yet, each with the reason for which it is refused whatever it says."""
    cleaned = [(clean(window), window) for window in windows]
    known = _stored(session, host_id, [window for window, _ in cleaned])
    reused = _stored_reused(session, host_id, [window for window, _ in cleaned])
    fresh: list[Refused] = []
    for window, original in cleaned:
        key = (window.boot_id, window.sequence)
        first = known.setdefault(key, window)
        if first is window:
            fresh.append((window, Quarantine.MALFORMED if window != original else None))
        elif not same_proof(first, window) and window not in reused:
            reused.add(window)
            fresh.append((window, Quarantine.SEQUENCE_REUSED))
    return fresh


def _stored(session: Session, host_id: int, windows: Sequence[UsageWindow]) -> dict[tuple[str, int], UsageWindow]:
    found = {}
    for boot_id in {window.boot_id for window in windows}:
        wanted = {window.sequence for window in windows if window.boot_id == boot_id}
        query = select(UsageSeries).where(
            UsageSeries.host_id == host_id,
            UsageSeries.boot_id == boot_id,
            UsageSeries.last_sequence >= min(wanted),
            UsageSeries.first_sequence <= max(wanted),
            UsageSeries.quarantine.is_distinct_from(str(Quarantine.SEQUENCE_REUSED)),
        )
        for window in _windows(session.scalars(query)):
            if window.sequence in wanted:
                found[boot_id, window.sequence] = window
    return found


def _stored_reused(session: Session, host_id: int, windows: Sequence[UsageWindow]) -> set[UsageWindow]:
    query = select(UsageSeries).where(
        UsageSeries.host_id == host_id,
        UsageSeries.quarantine == Quarantine.SEQUENCE_REUSED,
        UsageSeries.last_sequence >= min(window.sequence for window in windows),
        UsageSeries.first_sequence <= max(window.sequence for window in windows),
    )
    return set(_windows(session.scalars(query)))


def _windows(rows: Iterable[UsageSeries]) -> Iterable[UsageWindow]:
    for row in rows:
        series = Series(
            boot_id=row.boot_id,
            allocation_uid=row.allocation_uid,
            generation=row.generation,
            container_id=row.container_id,
            device_uuid=row.device_uuid,
            milli=row.milli,
            sequences=range(row.first_sequence, row.last_sequence + 1, row.step),
            cuts=row.cuts_ms,
        )
        yield from series.windows()
