"""Places that are kept: for blocked requests until their time comes, and for advance reservations.

Whoever comes after in the order avoids what is kept, unless an enforced limit ends it before that time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from scheduler.cluster.cluster import Cluster
from scheduler.demand import Demand
from scheduler.packing.shape import Shape
from scheduler.views import Part, Request, Reservation

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Kept:
    """`since` is when the place is needed; `victims` have been told to leave it. `certain`: see `lookahead.Start`."""

    request: Request
    parts: tuple[Part, ...]
    since: datetime
    certain: bool
    victims: frozenset[int] = frozenset()


@dataclass(slots=True)
class _Place:
    customer_id: int
    demand: Demand
    parts: tuple[Part, ...]
    since: datetime


@dataclass(slots=True)
class Asides:
    """What the cluster keeps aside in one cycle, as it goes through the order."""

    cluster: Cluster
    _places: dict[Key, _Place] = field(default_factory=dict)

    def clear(self) -> None:
        for key in self._places:
            self.cluster.clear_aside(key)
        self._places.clear()

    def keep(self, kept: Kept) -> None:
        request = kept.request
        self._set(
            ("request", request.allocation_id), _Place(request.customer_id, request.demand, kept.parts, kept.since)
        )

    def reserve(self, reservation: Reservation) -> None:
        shape = Shape(reservation.cpu_milli, reservation.memory_bytes)
        demand = Demand(shape, nodes=max(1, len(reservation.parts)))
        place = _Place(reservation.customer_id, demand, reservation.parts, reservation.starts_at)
        self._set(("reservation", reservation.reservation_id), place)

    def free_for(self, ends_at: datetime) -> list[Key]:
        """What is not needed before that time."""
        return [key for key, place in self._places.items() if place.since >= ends_at]

    def lift(self, keys: list[Key]) -> None:
        """Inside a trial only: the places stay kept."""
        for key in keys:
            self.cluster.clear_aside(key)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._places)

    def _set(self, key: Key, place: _Place) -> None:
        self._places[key] = place
        self.cluster.set_aside(key, place.customer_id, place.demand, place.parts)
