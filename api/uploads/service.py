"""Keeping uploads: checked, once for each content, and within what a customer may have.

An object exists before the row of its upload does and after it is gone, but never unnoticed: its key is among the
doomed before it is written, leaves them in the transaction that makes the row, and is back there in the one that
removes it. So whatever is killed, nothing is left behind, and no row names an object that is not there.
"""

import secrets
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import cast

from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.audit.service import record
from api.clock import utc_now
from api.db import Database
from api.errors import Conflict, Unavailable, Unprocessable
from api.object_store import ObjectStore, ObjectStoreUnavailable
from api.principal import Principal
from api.settings import Settings
from api.tenants.tables import Customer
from api.uploads import archive
from api.uploads.receiving import PIECE_BYTES, Received
from api.uploads.references import needed
from api.uploads.tables import DoomedObject, Package, Upload

ARRIVES_WITHIN = timedelta(hours=1)  # an upload on its way has so long
FRESH = timedelta(hours=1)  # who uploads is about to submit: what was used so lately is not removed
COLLECTED_AT_ONCE = 20


def exists(session: Session, *, customer_id: int, digest: str) -> bool:
    """Whether the customer has it; if so, it counts as used now, and is kept for an hour at least."""
    query = update(Upload).where(Upload.customer_id == customer_id, Upload.digest == digest).values(used_at=utc_now())
    return cast("CursorResult[tuple[()]]", session.execute(query)).rowcount == 1


def find_package(session: Session, *, customer_id: int, name: str) -> str | None:
    """The digest of the upload that has this name, if it is there; it counts as used now."""
    digest = session.scalar(select(Package.digest).where(Package.customer_id == customer_id, Package.name == name))
    return digest if digest is not None and exists(session, customer_id=customer_id, digest=digest) else None


def name_package(session: Session, *, customer_id: int, name: str, digest: str) -> None:
    """Give a name to an upload, in the place of what had it."""
    statement = insert(Package).values(customer_id=customer_id, name=name, digest=digest)
    session.execute(statement.on_conflict_do_update(index_elements=["customer_id", "name"], set_={"digest": digest}))


def store(
    database: Database, objects: ObjectStore, settings: Settings, principal: Principal, received: Received
) -> None:
    """Keep what was received for the principal's customer; nothing happens if it is there. Waits for the object store.

    Raises:
        Unprocessable: `bad_archive`.
        Conflict: `uploads_full`.
        Unavailable: the object store does not answer.
    """
    try:
        archive.check(received.file, received.size_bytes)
    except archive.BadArchiveError as error:
        raise Unprocessable(f"The archive is refused: {error}.", code="bad_archive") from error
    key = database.transact(partial(_begin, principal=principal, received=received, settings=settings))
    if key is None:
        return
    received.file.seek(0)
    try:
        objects.put(key, iter(partial(received.file.read, PIECE_BYTES), b""))
    except ObjectStoreUnavailable:
        database.transact(partial(_give_up, key=key))
        raise
    database.transact(partial(_arrive, customer_id=principal.tenant_id, received=received, key=key))
    collect(database, objects)


def collect(database: Database, objects: ObjectStore) -> None:
    """Delete some of the objects whose time has come. An object store that does not answer is asked another time."""
    query = select(DoomedObject.object_key).where(DoomedObject.delete_at <= utc_now()).limit(COLLECTED_AT_ONCE)
    with database.session() as session:
        keys = session.scalars(query).all()
    for key in keys:
        try:
            objects.delete(key)
        except ObjectStoreUnavailable:
            return
        database.transact(partial(_forget, key=key))


def _begin(session: Session, *, principal: Principal, received: Received, settings: Settings) -> str | None:
    """The key of an object to be written; None if the upload is there. The audit row is of the attempt."""
    customer_id = principal.tenant_id
    # Of one customer, one after the other: what they take up is a sum.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"uploads {customer_id}", 7_301_013))))
    if exists(session, customer_id=customer_id, digest=received.digest):
        return None
    _make_room(session, customer_id, wanted=received.size_bytes, limit=settings.max_uploads_bytes)
    uid = session.execute(select(Customer.uid).where(Customer.id == customer_id)).scalar_one()
    key = f"uploads/{uid}/{received.digest}-{secrets.token_hex(8)}"
    session.add(
        DoomedObject(
            object_key=key, customer_id=customer_id, size_bytes=received.size_bytes,
            delete_at=utc_now() + ARRIVES_WITHIN,
        )
    )  # fmt: skip
    record(
        session, actor=principal.actor, action="upload.create", target=f"upload:{received.digest}",
        customer_id=customer_id, address=principal.address, details={"size_bytes": received.size_bytes},
    )  # fmt: skip
    return key


def _give_up(session: Session, *, key: str) -> None:
    """What may have been written goes at the next occasion, and takes up nothing more."""
    session.execute(update(DoomedObject).where(DoomedObject.object_key == key).values(delete_at=utc_now()))


def _arrive(session: Session, *, customer_id: int, received: Received, key: str) -> None:
    """The object is there: it is the upload's, or, if somebody was faster, nobody's."""
    saved = delete(DoomedObject).where(DoomedObject.object_key == key, DoomedObject.delete_at > utc_now())
    if cast("CursorResult[tuple[()]]", session.execute(saved)).rowcount != 1:
        raise Unavailable("It took too long to keep the upload; try again.")
    row = insert(Upload).values(
        customer_id=customer_id, digest=received.digest, object_key=key, size_bytes=received.size_bytes
    )
    made = session.execute(row.on_conflict_do_nothing().returning(Upload.digest)).all()
    if not made:
        _doom(session, customer_id, [(key, received.size_bytes)])


def _make_room(session: Session, customer_id: int, *, wanted: int, limit: int) -> None:
    """Remove what was not used for the longest time, until there is room; never what a task still needs.

    Raises:
        Conflict: `uploads_full`.
    """
    excess = _taken(session, customer_id) + wanted - limit
    if excess <= 0:
        return
    kept, cutoff = needed(session, customer_id=customer_id), utc_now() - FRESH
    old = select(Upload.digest, Upload.size_bytes).where(Upload.customer_id == customer_id, Upload.used_at < cutoff)
    chosen, freed = [], 0
    for row in session.execute(old.order_by(Upload.used_at, Upload.digest)):
        if freed < excess and row.digest not in kept:
            chosen.append(row.digest)
            freed += row.size_bytes
    if freed < excess:
        detail = f"Your customer's uploads may take up {limit} bytes, and tasks still need those that are there."
        raise Conflict(detail, code="uploads_full")
    # Asked again of each: a submission may just have used it.
    gone = delete(Upload).where(Upload.customer_id == customer_id, Upload.digest.in_(chosen), Upload.used_at < cutoff)
    removed = session.execute(gone.returning(Upload.digest, Upload.object_key, Upload.size_bytes)).all()
    if sum(row.size_bytes for row in removed) < excess:
        raise Conflict("Your customer's uploads are being used at this moment; try again.", code="uploads_full")
    digests = [row.digest for row in removed]
    session.execute(delete(Package).where(Package.customer_id == customer_id, Package.digest.in_(digests)))
    _doom(session, customer_id, [(row.object_key, row.size_bytes) for row in removed])


def _taken(session: Session, customer_id: int) -> int:
    """What the customer's uploads take up, those on their way included."""
    kept = select(func.coalesce(func.sum(Upload.size_bytes), 0)).where(Upload.customer_id == customer_id)
    coming = select(func.coalesce(func.sum(DoomedObject.size_bytes), 0)).where(
        DoomedObject.customer_id == customer_id, DoomedObject.delete_at > utc_now()
    )
    return int(session.execute(kept).scalar_one() + session.execute(coming).scalar_one())


def _doom(session: Session, customer_id: int, doomed: Sequence[tuple[str, int]]) -> None:
    session.add_all(
        DoomedObject(object_key=key, customer_id=customer_id, size_bytes=size_bytes, delete_at=utc_now())
        for key, size_bytes in doomed
    )


def _forget(session: Session, *, key: str) -> None:
    session.execute(delete(DoomedObject).where(DoomedObject.object_key == key))
