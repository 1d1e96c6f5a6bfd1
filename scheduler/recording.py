"""What the decider was told and what it decided, as lines of JSON, and the same had again from them.

A recording is a line that says how the decider is set, then, in the order in which they happened, what it was told and
answered. It begins with complete changes, with which a decider forgets everything before: so a fresh one that is told
the same decides the same, to the bit.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from scheduler.json_values import Json, decode, encode
from scheduler.plan import Decider, Plan
from scheduler.ports import Changes, WaitReason

_FORMAT = 2


class Lines(Protocol):
    """Where recordings are kept."""

    @property
    def wants_begin(self) -> bool:
        """The recording so far is long enough, or there is none."""

    def begin(self) -> None:
        """What is written from now on is another recording."""

    def write(self, line: str) -> None:
        """Never fails: a decision does not wait for its record."""


class Recorder:
    """Is told everything that the decider is told, and what it answers, in that order."""

    def __init__(self, lines: Lines, settings: Mapping[str, Json]) -> None:
        self._lines = lines
        self._settings = settings
        self._begun = False

    @property
    def wants_complete(self) -> bool:
        """The next changes have to be complete: a recording begins there."""
        return self._lines.wants_begin or not self._begun

    def updated(self, changes: Changes, now: datetime) -> None:
        if changes.complete and self.wants_complete:
            self._begun = True
            self._lines.begin()
            self._write({"format": _FORMAT, "settings": self._settings})
        self._write({"now": encode(now), "changes": encode(changes)})

    def decided(self, plan: Plan, now: datetime) -> None:
        self._write({"now": encode(now), "plan": encode(plan)})

    def refused(self, reasons: Mapping[int, WaitReason], now: datetime) -> None:
        self._write({"now": encode(now), "refused": encode(reasons)})

    def _write(self, document: Json) -> None:
        if self._begun:
            self._lines.write(json.dumps(document, separators=(",", ":")))


class RecordingError(ValueError):
    """A line that is no part of a recording; the message names it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first decision that came out otherwise: the line that it stands in, where in the plan, and both values."""

    line: int
    where: str
    recorded: Json
    replayed: Json


@dataclass(frozen=True, slots=True)
class Replay:
    """Plans that came out the same, and what they held; `difference` is where it ended, None if it did not."""

    plans: int
    placements: int
    evictions: int
    difference: Difference | None = None


def replay(lines: Iterable[str], make: Callable[[Mapping[str, Json]], Decider]) -> Replay:
    """Tell a decider that `make` makes of the settings the same again, up to the first difference.

    Raises:
        RecordingError
    """
    decider: Decider | None = None
    plans = placements = evictions = 0
    for number, line in enumerate(lines, start=1):
        try:
            document = json.loads(line)
            if "settings" in document:
                decider = make(_settings(document))
                continue
            if decider is None:
                raise RecordingError("line 1: it does not begin with the decider's settings")
            found = _again(decider, document, number)
        except (ValueError, TypeError, KeyError) as error:
            if isinstance(error, RecordingError):
                raise
            raise RecordingError(f"line {number}: {error}") from error
        if isinstance(found, Difference):
            return Replay(plans, placements, evictions, found)
        if found is not None:
            plans += 1
            placements += len(found.placements)
            evictions += len(found.evictions)
    if decider is None:
        raise RecordingError("line 1: it is empty")
    return Replay(plans, placements, evictions)


def _settings(document: Json) -> Mapping[str, Json]:
    if document["format"] != _FORMAT:
        raise RecordingError(f"line 1: format {document['format']} is another version's; this one reads {_FORMAT}")
    found: Mapping[str, Json] = document["settings"]
    return found


def _again(decider: Decider, document: Json, line: int) -> Plan | Difference | None:
    """Tell it a line, or let it decide and compare; the plan, if one was made."""
    now = decode(datetime, document["now"])
    if "changes" in document:
        decider.update(decode(Changes, document["changes"]), now)
        return None
    if "refused" in document:
        decider.refused({int(key): decode(WaitReason, each) for key, each in document["refused"].items()})
        return None
    plan = decider.decide(now)
    plan = replace(plan, waits=decider.reasons())
    # Through text and back, as the recorded one: what could not be told apart there is not told apart here.
    difference = _compare(document["plan"], json.loads(json.dumps(encode(plan))), "plan")
    return plan if difference is None else Difference(line, *difference)


def _compare(recorded: Json, replayed: Json, where: str) -> tuple[str, Json, Json] | None:
    """The first place in which two documents differ, with both values."""
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        # The order counts: it is the order of decisions.
        if list(recorded) != list(replayed):
            return f"the keys of {where}", list(recorded), list(replayed)
        pairs = [(f"{where}.{key}", recorded[key], replayed[key]) for key in recorded]
    elif isinstance(recorded, list) and isinstance(replayed, list) and len(recorded) == len(replayed):
        pairs = [(f"{where}[{i}]", *both) for i, both in enumerate(zip(recorded, replayed, strict=True))]
    else:
        return None if recorded == replayed and type(recorded) is type(replayed) else (where, recorded, replayed)
    found = (_compare(ours, theirs, place) for place, ours, theirs in pairs)
    return next((difference for difference in found if difference is not None), None)
