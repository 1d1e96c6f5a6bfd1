"""Inviting people into a customer: a token that is good for one account."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.audit.service import record
from api.clock import utc_now
from api.errors import Conflict, NotFound
from api.identity import tokens
from api.identity.schemas import UserView
from api.identity.users import FirstPassword, create_user, user_view
from api.pagination import Page, page_rows
from api.principal import Principal, Role
from api.tenants import platform_settings
from api.tenants.schemas import InvitationAccept, InvitationCreate, InvitationCreated, InvitationView
from api.tenants.tables import Customer, Invitation

_MAX_OPEN = 100


def list_invitations(session: Session, principal: Principal, *, limit: int, cursor: str | None) -> Page[InvitationView]:
    """The customer's invitations, newest first."""
    query = select(Invitation).where(Invitation.customer_id == principal.tenant_id)
    rows, following = page_rows(session, query, key=Invitation.id, cursor=cursor, limit=limit)
    return Page(items=[_view(row.Invitation) for row in rows], next_cursor=following)


def invite(session: Session, principal: Principal, wanted: InvitationCreate) -> InvitationCreated:
    """A new invitation. Raises Conflict `too_many_invitations`."""
    session.get_one(Customer, principal.tenant_id, with_for_update=True)
    open_ones = select(func.count()).where(
        Invitation.customer_id == principal.tenant_id,
        Invitation.accepted_at.is_(None),
        Invitation.revoked_at.is_(None),
        Invitation.expires_at > utc_now(),
    )
    if (session.scalar(open_ones) or 0) >= _MAX_OPEN:
        raise Conflict(f"{_MAX_OPEN} invitations are open; revoke one first.", code="too_many_invitations")
    secret = tokens.new_secret("rgpui_")
    invitation = Invitation(
        customer_id=principal.tenant_id,
        email=wanted.email,
        role=wanted.role,
        token_hash=tokens.hash_secret(secret),
        expires_at=utc_now() + timedelta(days=platform_settings.read(session).invitation_valid_days),
    )
    session.add(invitation)
    session.flush()
    session.refresh(invitation)
    _audit(session, invitation, actor=principal.actor, address=principal.address, action="invitation.create")
    return InvitationCreated(**_view(invitation).model_dump(), token=secret)


def revoke(session: Session, principal: Principal, uid: UUID) -> None:
    """Make an invitation worthless. Raises NotFound, or Conflict `invitation_accepted`."""
    invitation = session.scalar(
        select(Invitation).where(Invitation.uid == uid, Invitation.customer_id == principal.tenant_id).with_for_update()
    )
    if invitation is None:
        raise NotFound("There is no such invitation.")
    if invitation.accepted_at is not None:
        raise Conflict("The invitation was accepted; disable the member instead.", code="invitation_accepted")
    if invitation.revoked_at is None:
        invitation.revoked_at = utc_now()
        _audit(session, invitation, actor=principal.actor, address=principal.address, action="invitation.revoke")


def accept(session: Session, wanted: InvitationAccept, password: FirstPassword, *, address: str) -> UserView:
    """Make the invited person's account.

    Raises:
        NotFound: the token is unknown, used, revoked or expired, or the customer is disabled.
        Conflict: `username_taken` or `email_taken`.
    """
    invitation = session.scalar(
        select(Invitation)
        .join(Customer, Customer.id == Invitation.customer_id)
        .where(Invitation.token_hash == tokens.hash_secret(wanted.token), Customer.disabled_at.is_(None))
        .where(Invitation.accepted_at.is_(None), Invitation.revoked_at.is_(None), Invitation.expires_at > utc_now())
        .with_for_update(of=Invitation)
    )
    if invitation is None:
        raise NotFound("The invitation is not valid any more; ask for a new one.", code="invitation_invalid")
    user = create_user(
        session, username=wanted.username, email=invitation.email, role=Role(invitation.role),
        customer_id=invitation.customer_id, password=password,
    )  # fmt: skip
    invitation.accepted_at = utc_now()
    _audit(session, invitation, actor=f"user:{user.uid}", address=address, action="invitation.accept")
    session.refresh(user)
    return user_view(session, user)


def _view(invitation: Invitation) -> InvitationView:
    return InvitationView(
        id=invitation.uid, email=invitation.email, role=Role(invitation.role), created_at=invitation.created_at,
        expires_at=invitation.expires_at, accepted_at=invitation.accepted_at, revoked_at=invitation.revoked_at,
    )  # fmt: skip


def _audit(session: Session, invitation: Invitation, *, actor: str, address: str | None, action: str) -> None:
    record(
        session, actor=actor, action=action, target=f"invitation:{invitation.uid}",
        customer_id=invitation.customer_id, address=address, details={"role": invitation.role},
    )  # fmt: skip
