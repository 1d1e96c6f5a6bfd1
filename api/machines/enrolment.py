"""Enrolment: tokens that an administrator hands out, and what a host gets for one."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.audit import service as audit
from api.clock import utc_now
from api.errors import Conflict, NotFound, Unauthenticated, Unprocessable
from api.internal.pki import Authority, InvalidRequestError, Issued
from api.machines.tables import Certificate, EnrolmentToken, Host, HostEvent
from api.principal import Principal
from scheduler.states import AdminState

PREFIX = "rgpu_join_"


@dataclass(frozen=True, slots=True)
class Enrolled:
    host_uid: UUID
    issued: Issued


def create_token(
    session: Session,
    authority: Authority,
    principal: Principal,
    *,
    description: str,
    uses: int,
    expires_in_s: int,
    host: Host | None = None,
) -> tuple[EnrolmentToken, str]:
    """A token and its text, `rgpu_join_<secret>.<SHA-256 of the CA certificate>`; only a hash is kept.

    With `host`, that one joins again with it; without, hosts that the platform does not know.
    """
    secret = secrets.token_urlsafe(32)
    token = EnrolmentToken(
        token_hash=_hash(secret),
        host_id=host.id if host is not None else None,
        description=description,
        uses_left=uses,
        expires_at=utc_now() + timedelta(seconds=expires_in_s),
    )
    session.add(token)
    session.flush()
    audit.record(
        session,
        actor=principal.actor,
        action="enrolment_token.create",
        target=f"enrolment_token:{token.uid}",
        address=principal.address,
        details={"uses": uses, "expires_in_s": expires_in_s, "machine": str(host.uid) if host is not None else None},
    )
    return token, f"{PREFIX}{secret}.{authority.fingerprint}"


def revoke_token(session: Session, principal: Principal, uid: UUID) -> None:
    """End a token; hosts that joined with it stay.

    Raises:
        NotFound: there is no such token.
    """
    token = session.scalar(select(EnrolmentToken).where(EnrolmentToken.uid == uid).with_for_update())
    if token is None:
        raise NotFound("There is no such enrolment token.")
    if token.revoked_at is None:
        token.revoked_at = utc_now()
        audit.record(
            session,
            actor=principal.actor,
            action="enrolment_token.revoke",
            target=f"enrolment_token:{uid}",
            address=principal.address,
        )


def enrol(
    session: Session,
    authority: Authority,
    *,
    token_text: str,
    name: str,
    csr_pem: str,
    labels: Mapping[str, str],
    address: str | None,
) -> Enrolled:
    """Take a use of the token and give the host `name` a certificate.

    A name that is taken is joined again only with a token for that host: no other token, and no machine that happens
    to be called the same, puts out one that works. A host that joins again loses its earlier certificates: its key
    may have been lost with its disk.

    Raises:
        Unauthenticated: the token is unknown, revoked, expired, used up, for another CA or another host.
        Conflict: `host_exists`, or the host was retired.
        Unprocessable: the signing request can't be used.
    """
    token = _redeem(session, authority, token_text)
    host = _known(session, token, name) if token.host_id is not None else _new(session, name)
    host.labels = dict(labels)
    session.flush()
    session.execute(
        update(Certificate)
        .where(Certificate.host_id == host.id, Certificate.revoked_at.is_(None))
        .values(revoked_at=utc_now())
    )
    issued = issue(session, authority, host, csr_pem)
    actor = f"enrolment_token:{token.uid}"
    session.add(HostEvent(host_id=host.id, actor=actor, kind="enrolled", reason="again" if token.host_id else ""))
    audit.record(session, actor=actor, action="host.enrol", target=f"host:{host.uid}", address=address)
    return Enrolled(host.uid, issued)


def issue(session: Session, authority: Authority, host: Host, csr_pem: str) -> Issued:
    """A certificate for a host, recorded so that it can be revoked.

    Raises:
        Conflict: the host was retired.
        Unprocessable: the signing request can't be used.
    """
    if host.admin_state == AdminState.RETIRED:
        raise Conflict("The host was retired; make it available first.", code="host_retired")
    try:
        issued = authority.sign_request(csr_pem, common_name=f"host:{host.uid}")
    except InvalidRequestError as error:
        raise Unprocessable(f"{error}.".capitalize(), code="bad_csr") from error
    session.add(Certificate(serial=issued.serial, role="host", host_id=host.id, expires_at=issued.expires_at))
    return issued


def _known(session: Session, token: EnrolmentToken, name: str) -> Host:
    host = session.get_one(Host, token.host_id, with_for_update=True)
    if host.name != name:
        raise Unauthenticated(f"The enrolment token is for the host {host.name} alone.", code="wrong_host")
    return host


def _new(session: Session, name: str) -> Host:
    host = Host(name=name)
    try:
        with session.begin_nested():
            session.add(host)
            session.flush()
    except IntegrityError as error:
        raise Conflict(
            f"A host named {name} has joined before. Choose another name, or, if this is that machine, make a token for"
            f" it: `remotegpu admin machine token --machine {name}`.",
            code="host_exists",
        ) from error
    session.refresh(host)
    return host


def _redeem(session: Session, authority: Authority, text: str) -> EnrolmentToken:
    secret, _, fingerprint = text.removeprefix(PREFIX).partition(".")
    if not text.startswith(PREFIX) or not secret:
        raise Unauthenticated("That is not an enrolment token.", code="bad_enrolment_token")
    if not secrets.compare_digest(fingerprint.encode(), authority.fingerprint.encode()):
        raise Unauthenticated("The token belongs to another platform: its CA differs.", code="wrong_ca")
    token = session.scalar(select(EnrolmentToken).where(EnrolmentToken.token_hash == _hash(secret)).with_for_update())
    if token is None:
        raise Unauthenticated("The enrolment token is unknown.", code="bad_enrolment_token")
    if token.revoked_at is not None:
        raise Unauthenticated("The enrolment token was revoked.", code="enrolment_token_revoked")
    if token.expires_at <= utc_now():
        raise Unauthenticated("The enrolment token has expired.", code="enrolment_token_expired")
    if token.uses_left < 1:
        raise Unauthenticated("The enrolment token is used up.", code="enrolment_token_used_up")
    token.uses_left -= 1
    return token


def _hash(secret: str) -> bytes:
    """The secret has 256 random bits, so that a plain hash can't be searched for it."""
    return hashlib.sha256(secret.encode()).digest()
