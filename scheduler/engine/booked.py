"""Advance reservations: their devices are kept from everybody else, and cleared in time."""

from datetime import datetime, timedelta

from scheduler.engine.kept import Asides
from scheduler.engine.state import State
from scheduler.states import AllocationState
from scheduler.views import Held, Reservation


def keep_devices(state: State, asides: Asides, now: datetime) -> None:
    for reservation in _ahead(state, now):
        asides.reserve(reservation)


def in_the_way(state: State, now: datetime) -> list[Held]:
    """What has to leave now. Only preemptible work can be there: other work was not let in, or was there before, and
    then its devices could not be reserved.
    """
    grace = timedelta(seconds=state.settings.grace_s)
    return [
        held
        for reservation in _ahead(state, now)
        if reservation.starts_at - grace <= now
        for held in _holders(state, reservation)
        if held.request.preemptible and held.request.reservation_id is None and held.state is AllocationState.ACTIVE
    ]


def _ahead(state: State, now: datetime) -> list[Reservation]:
    reservations = [state.reservations[number] for number in sorted(state.reservations)]
    return [reservation for reservation in reservations if reservation.ends_at > now]


def _holders(state: State, reservation: Reservation) -> list[Held]:
    devices = {gpu_id for part in reservation.parts for gpu_id, _ in part.devices}
    return [
        held
        for part in reservation.parts
        for held in state.holdings.on_host(part.host_id)
        if any(gpu_id in devices for other in held.parts for gpu_id, _ in other.devices)
    ]
