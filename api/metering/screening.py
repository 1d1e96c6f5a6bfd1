"""Which part of a usage window counts: decided once, when it is received, against what its host had been granted."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter

from scheduler.host_protocol import UsageWindow
from scheduler.intervals import Span, clip

CLOCK_TOLERANCE_MS = 5_000
"""How far a host's idea of the server's time may be ahead: its estimate is off by half a round trip at most."""
MAX_TEXT = 200
_MAX_INT = 2**63 - 2  # so that a range of the database can end after it
_PROOF = attrgetter(*(name for name in UsageWindow.__slots__ if name != "container_id"))


class Quarantine(StrEnum):
    """Why a window, or the part of it that is not billed, does not count."""

    MALFORMED = "malformed"  # no length, an impossible share, values that can't be stored as they are
    SEQUENCE_REUSED = "sequence_reused"  # its number was used before, for something else
    UNKNOWN_ALLOCATION = "unknown_allocation"
    STALE_GENERATION = "stale_generation"
    NOT_GRANTED = "not_granted"  # the generation was never placed
    WRONG_DEVICE = "wrong_device"  # the generation does not own that device
    WRONG_HOST = "wrong_host"  # it does, but it is another host's
    WRONG_SHARE = "wrong_share"
    IN_THE_FUTURE = "in_the_future"
    AFTER_RUN_UNTIL = "after_run_until"
    AFTER_END = "after_end"  # the host had confirmed an earlier end
    BEFORE_PLACEMENT = "before_placement"
    UNFUNDED = "unfunded"  # it came after its hold was given back, and the wallet does not cover it


@dataclass(frozen=True, slots=True)
class OwnedDevice:
    gpu_id: int
    host_id: int
    milli: int


@dataclass(frozen=True, slots=True)
class Grant:
    """What an allocation had been granted at the moment of screening. Times in server milliseconds.

    `starts_ms` is None if the current generation was never placed. `run_until_ms` is already no later than what is
    paid for; `ended_ms` is set once the money is settled.
    """

    generation: int
    starts_ms: int | None
    run_until_ms: int | None
    ended_ms: int | None
    devices: Mapping[str, OwnedDevice]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`billed` counts, on `gpu_id`; if that is not the whole window, `quarantine` says why."""

    billed: Span | None
    gpu_id: int | None
    quarantine: Quarantine | None


def clean(window: UsageWindow) -> UsageWindow:
    """The window as it can be stored: a malformed one differs from the original, but is not lost."""
    return UsageWindow(
        boot_id=_text(window.boot_id),
        sequence=_integer(window.sequence),
        allocation_uid=_text(window.allocation_uid),
        generation=_integer(window.generation),
        container_id=_text(window.container_id),
        device_uuid=_text(window.device_uuid),
        milli=_integer(window.milli),
        from_ms=_integer(window.from_ms),
        to_ms=_integer(window.to_ms),
    )


def screen(window: UsageWindow, grant: Grant | None, *, host_id: int, received_ms: int) -> Verdict:
    """Decide what of a window is billed. `grant` is None for an allocation that does not exist."""
    if reason := refusal(window, grant, host_id=host_id):
        return Verdict(None, None, reason)
    assert grant is not None and grant.starts_ms is not None
    bounds = {
        Quarantine.AFTER_RUN_UNTIL: grant.run_until_ms,
        Quarantine.AFTER_END: grant.ended_ms,
        Quarantine.IN_THE_FUTURE: received_ms + CLOCK_TOLERANCE_MS,
    }
    limits = {reason: limit for reason, limit in bounds.items() if limit is not None}
    tightest = min(limits, key=lambda reason: limits[reason])
    span = Span(window.from_ms, window.to_ms)
    billed = clip(span, not_before_ms=grant.starts_ms, not_after_ms=limits[tightest])
    gpu_id = grant.devices[window.device_uuid].gpu_id if billed else None
    if billed == span:
        return Verdict(billed, gpu_id, None)
    return Verdict(billed, gpu_id, tightest if span.to_ms > limits[tightest] else Quarantine.BEFORE_PLACEMENT)


def refusal(window: UsageWindow, grant: Grant | None, *, host_id: int) -> Quarantine | None:
    """Why nothing of a window counts, whatever its time."""
    if not 0 <= window.from_ms < window.to_ms or not 1 <= window.milli <= 1000:
        return Quarantine.MALFORMED
    if grant is None:
        return Quarantine.UNKNOWN_ALLOCATION
    if window.generation != grant.generation:
        return Quarantine.STALE_GENERATION
    if grant.starts_ms is None or (grant.run_until_ms is None and grant.ended_ms is None):
        return Quarantine.NOT_GRANTED
    return _wrong_device(window, grant.devices.get(window.device_uuid), host_id=host_id)


def _wrong_device(window: UsageWindow, device: OwnedDevice | None, *, host_id: int) -> Quarantine | None:
    if device is None:
        return Quarantine.WRONG_DEVICE
    if device.host_id != host_id:
        return Quarantine.WRONG_HOST
    return Quarantine.WRONG_SHARE if device.milli != window.milli else None


def same_proof(one: UsageWindow, other: UsageWindow) -> bool:
    """Whether two windows say the same, whichever container id they were written with."""
    return _PROOF(one) == _PROOF(other)


def _text(value: str) -> str:
    return value.replace("\0", "\ufffd")[:MAX_TEXT]


def _integer(value: int) -> int:
    return max(-_MAX_INT, min(_MAX_INT, value))
