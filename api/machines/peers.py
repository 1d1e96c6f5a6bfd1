"""Where the hosts are, told to each of them, so that it keeps its tenants off all others."""

from sqlalchemy import func, literal, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from api.machines.tables import Host
from scheduler.host_protocol import PeerList
from scheduler.states import AdminState

MAX_PEERS = 10_000


def peer_list(session: Session, *, known_version: str) -> PeerList | None:
    """The addresses of all hosts; None if the host has those already.

    The version is made by the database, so that most heartbeats move one short row.
    """
    addresses = (
        select(Host.address)
        .where(Host.address.is_not(None), Host.admin_state != AdminState.RETIRED)
        .distinct()
        .order_by(Host.address)
        .limit(MAX_PEERS)
        .subquery()
    )
    joined = func.string_agg(addresses.c.address, aggregate_order_by(literal(","), addresses.c.address))
    version = session.scalar(select(func.md5(func.coalesce(joined, "")))) or ""
    if version == known_version:
        return None
    found = session.scalars(select(addresses.c.address)).all()
    return PeerList(version=version, addresses=tuple(found))
