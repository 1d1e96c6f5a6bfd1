"""Volumes: made, deleted, and what they do to where a task may run.

A submission holds the key share of the volumes that it names, and a deletion locks its volume first: so one of the two
sees the other. Binding a volume to its host waits for neither.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.audit.service import record
from api.clock import utc_now
from api.errors import Conflict, Forbidden, NotFound, Unprocessable
from api.machines.tables import Host
from api.principal import Principal, Role
from api.quotas.limits import Path
from api.quotas.service import check_volume
from api.tasks.tables import OPEN, Task
from api.tenants import workspaces
from api.tenants.tables import Customer
from api.volumes import repository
from api.volumes.schemas import VolumeCreate
from api.volumes.tables import Volume
from scheduler.host_protocol import VolumeMount
from scheduler.states import AdminState

MAX_VOLUMES = 200  # of one customer

# What waits for a place and mounts one of these; not what is being placed at this moment, for which `settle` comes too.
_REBIND = text(
    "update allocations set bound_host_id = :host_id where id in ("
    " select a.id from allocations a join tasks t on t.allocation_id = a.id"
    f" where t.workspace_id = :workspace_id and t.state in ({OPEN}) and a.state = 'queued'"
    " and a.bound_host_id is distinct from :host_id"
    " and exists (select from jsonb_array_elements(t.spec -> 'mounts') m where m ->> 'volume' = any(:names))"
    " order by a.id for update of a skip locked)"
)


class VolumesElsewhere(Conflict):
    """A task was placed before its volumes were bound to another host: it has to be queued again."""

    code = "volumes_elsewhere"


def create(session: Session, principal: Principal, wanted: VolumeCreate) -> Volume:
    """A volume that lies nowhere yet.

    Raises:
        Unprocessable: `unknown_workspace`, `quota_exceeded`.
        Conflict: `name_taken`, or `too_many_volumes`.
    """
    customer = session.get_one(Customer, principal.tenant_id, with_for_update=True)
    workspace_id = workspaces.find_id(session, customer_id=customer.id, name=wanted.workspace)
    count = select(func.count()).where(Volume.customer_id == customer.id, Volume.deleted_at.is_(None))
    if session.execute(count).scalar_one() >= MAX_VOLUMES:
        raise Conflict(f"A customer has at most {MAX_VOLUMES} volumes; delete one.", code="too_many_volumes")
    check_volume(session, Path(customer.id, workspace_id, principal.user_id), size_bytes=wanted.size_bytes)
    volume = Volume(
        customer_id=customer.id, workspace_id=workspace_id, user_id=principal.user_id, name=wanted.name,
        size_bytes=wanted.size_bytes,
    )  # fmt: skip
    try:
        with session.begin_nested():
            session.add(volume)
            session.flush()
    except IntegrityError as error:
        raise Conflict(f"There is a volume {wanted.name!r} in this workspace already.", code="name_taken") from error
    _audit(session, principal, volume, "volume.create")
    return volume


def delete(session: Session, principal: Principal, uid: UUID) -> None:
    """Ask for its deletion; its name is free when its host has confirmed. Idempotent until then.

    Raises:
        NotFound
        Forbidden: it is a colleague's, and the principal does not own the customer's account.
        Conflict: `volume_in_use`.
    """
    query = select(Volume).where(
        Volume.customer_id == principal.tenant_id, Volume.uid == uid, Volume.deleted_at.is_(None)
    )
    volume = session.scalar(query.with_for_update())
    if volume is None:
        raise NotFound("There is no such volume.")
    if principal.role is not Role.OWNER and volume.user_id != principal.user_id:
        raise Forbidden("It is a colleague's: they or your customer's owner may delete it.")
    if volume.delete_at is not None:
        return
    task = repository.mounted_by(session, volume)
    if task is not None:
        raise Conflict(f"The task {task!r} has not ended and mounts it.", code="volume_in_use")
    volume.delete_at = utc_now()
    if volume.host_id is None:
        volume.deleted_at = volume.delete_at
    _audit(session, principal, volume, "volume.delete")


def bind(session: Session, *, workspace_id: int, names: Sequence[str], nodes: int = 1) -> int | None:
    """The host where something that mounts these has to run; None: anywhere. They are kept until the caller's
    transaction ends.

    Raises:
        Unprocessable: `unknown_volume`; `volumes_apart`, they lie on several hosts, or it needs several;
            `host_not_available`, the host has left for good.
    """
    if not names:
        return None
    if nodes > 1:
        raise Unprocessable("A volume lies on one host, so a task with volumes has one node.", code="volumes_apart")
    found = session.scalars(repository.named(workspace_id, names).with_for_update(read=True, key_share=True)).all()
    missing = sorted(set(names) - {volume.name for volume in found})
    if missing:
        raise Unprocessable(f"The workspace has no volume {missing[0]!r}.", code="unknown_volume")
    places = {volume.host_id: volume.name for volume in found if volume.host_id is not None}
    if len(places) > 1:
        apart = " and ".join(repr(name) for name in sorted(places.values())[:2])
        raise Unprocessable(f"The volumes {apart} lie on different hosts.", code="volumes_apart")
    host_id = next(iter(places), None)
    if host_id is not None and session.get_one(Host, host_id).admin_state == AdminState.RETIRED:
        detail = f"The host where the volume {places[host_id]!r} lies has left for good; delete the volume."
        raise Unprocessable(detail, code="host_not_available")
    return host_id


def settle(session: Session, task: Task, host_id: int) -> None:
    """A task is about to start on this host: bind those of its volumes that lie nowhere yet, and what waits with them.

    Raises:
        VolumesElsewhere: one of them lies on another host; nothing has changed.
    """
    names = sorted(repository.paths_of(task))
    if not names:
        return
    query = repository.named(task.workspace_id, names).with_for_update(key_share=True)
    volumes = session.scalars(query.execution_options(populate_existing=True)).all()
    apart = next((volume for volume in volumes if volume.host_id not in (None, host_id)), None)
    if apart is not None:
        raise VolumesElsewhere(f"Its volume {apart.name!r} lies on another host by now.")
    new = [volume for volume in volumes if volume.host_id is None]
    for volume in new:
        volume.host_id = host_id
    if new:
        session.flush()
        values = {"host_id": host_id, "workspace_id": task.workspace_id, "names": [volume.name for volume in new]}
        session.execute(_REBIND, values)


def mounts(session: Session, task: Task) -> tuple[VolumeMount, ...]:
    """What its host is told.

    Raises:
        Unprocessable: `unknown_volume`.
    """
    paths = repository.paths_of(task)
    if not paths:
        return ()
    volumes = session.scalars(repository.named(task.workspace_id, sorted(paths))).all()
    missing = sorted(paths.keys() - {volume.name for volume in volumes})
    if missing:
        raise Unprocessable(f"The workspace has no volume {missing[0]!r}.", code="unknown_volume")
    return tuple(VolumeMount(volume.docker_name, paths[volume.name], volume.size_bytes) for volume in volumes)


def _audit(session: Session, principal: Principal, volume: Volume, action: str) -> None:
    record(
        session, actor=principal.actor, action=action, target=f"volume:{volume.uid}", customer_id=volume.customer_id,
        address=principal.address, details={"name": volume.name, "size_bytes": volume.size_bytes},
    )  # fmt: skip
