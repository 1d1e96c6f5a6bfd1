"""A customer's members, invitations and workspaces, and the ways in: registering, accepting an invitation."""

from uuid import UUID

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.deps import AddressDep, DatabaseDep, PrincipalDep, SignInLimit
from api.errors import Forbidden
from api.idempotency.once import OnceDep
from api.identity import disabling, users
from api.identity.schemas import UserView, UserWithPassword
from api.identity.tables import User
from api.identity.users import FirstPassword
from api.pagination import CursorQuery, LimitQuery, Page, page_of, page_rows
from api.problems import problems
from api.tenants import customers, invitations, platform_settings, workspaces
from api.tenants.schemas import (
    CustomerCreated,
    InvitationAccept,
    InvitationCreate,
    InvitationCreated,
    InvitationView,
    MemberCreate,
    Registration,
    WorkspaceCreate,
    WorkspaceView,
)
from api.tenants.tables import Customer, Workspace

router = APIRouter(tags=["customer"])


@router.post("/auth/register", status_code=201, responses=problems(403, 409), dependencies=[SignInLimit], tags=["auth"])
def register(body: Registration, database: DatabaseDep, address: AddressDep) -> CustomerCreated:
    """A new customer with its owner, where the setting `self_registration` allows it."""
    if not database.transact(platform_settings.read).self_registration:
        raise Forbidden("Registration is closed; ask for an invitation.", code="registration_closed")
    password = FirstPassword.own(body.password)
    return database.transact(lambda session: customers.register(session, body, password, address=address))


@router.post(
    "/auth/invitations/accept", status_code=201, responses=problems(404, 409), dependencies=[SignInLimit], tags=["auth"]
)
def accept_invitation(body: InvitationAccept, database: DatabaseDep, address: AddressDep) -> UserView:
    """Make one's account from an invitation."""
    password = FirstPassword.own(body.password)
    return database.transact(lambda session: invitations.accept(session, body, password, address=address))


@router.get("/customer/members", responses=problems(400))
def list_members(
    database: DatabaseDep, principal: PrincipalDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[UserView]:
    """The customer's people, newest first."""

    def work(session: Session) -> Page[UserView]:
        customer = session.get_one(Customer, principal.tenant_id)
        query = users.of_customer(principal.tenant_id)
        rows, following = page_rows(session, query, key=User.id, cursor=cursor, limit=limit)
        return Page(items=[users.joined_view(row.User, customer) for row in rows], next_cursor=following)

    return database.transact(work)


@router.post("/customer/members", status_code=201, responses=problems(409))
def create_member(
    body: MemberCreate, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> UserWithPassword:
    """A new member. Without a password one is generated, and is in this reply only."""
    password = FirstPassword.of(body.password)

    def create(session: Session) -> UserWithPassword:
        user = users.create_user(
            session, username=body.username, email=body.email, role=body.role, customer_id=principal.tenant_id,
            password=password,
        )  # fmt: skip
        users.audit(session, principal, user, "user.create", details={"role": body.role})
        session.flush()
        session.refresh(user)
        return UserWithPassword(user=users.user_view(session, user), password=password.generated)

    return database.transact(lambda session: once.run(session, UserWithPassword, lambda: create(session)))


@router.post("/customer/members/{user_id}/disable", responses=problems(404, 409))
def disable_member(user_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> UserView:
    """Refuse a member from now on: sessions end, API keys are revoked, what runs or waits is stopped in order."""
    members = users.of_customer(principal.tenant_id)
    return database.transact(lambda session: disabling.disable(session, principal, user_id, scope=members))


@router.post("/customer/members/{user_id}/enable", responses=problems(404))
def enable_member(user_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> UserView:
    """Let a member in again. Nothing starts by itself, and no API key comes back."""
    members = users.of_customer(principal.tenant_id)
    return database.transact(lambda session: disabling.enable(session, principal, user_id, scope=members))


@router.get("/customer/invitations", responses=problems(400))
def list_invitations(
    database: DatabaseDep, principal: PrincipalDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[InvitationView]:
    """The customer's invitations, newest first."""
    return database.transact(
        lambda session: invitations.list_invitations(session, principal, limit=limit, cursor=cursor)
    )


@router.post("/customer/invitations", status_code=201, responses=problems(409))
def invite(body: InvitationCreate, database: DatabaseDep, principal: PrincipalDep, once: OnceDep) -> InvitationCreated:
    """Invite somebody. The token to send them is in this reply only."""
    return database.transact(
        lambda session: once.run(session, InvitationCreated, lambda: invitations.invite(session, principal, body))
    )


@router.delete("/customer/invitations/{invitation_id}", status_code=204, responses=problems(404, 409))
def revoke_invitation(invitation_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> None:
    """Make an invitation worthless."""
    database.transact(lambda session: invitations.revoke(session, principal, invitation_id))


@router.get("/customer/workspaces", responses=problems(400))
def list_workspaces(
    database: DatabaseDep, principal: PrincipalDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[WorkspaceView]:
    """The customer's workspaces, newest first."""
    query = select(Workspace).where(Workspace.customer_id == principal.tenant_id)
    return page_of(database, query, lambda row: _workspace(row.Workspace), key=Workspace.id, cursor=cursor, limit=limit)


@router.post("/customer/workspaces", status_code=201, responses=problems(409))
def create_workspace(
    body: WorkspaceCreate, database: DatabaseDep, principal: PrincipalDep, once: OnceDep
) -> WorkspaceView:
    """Another workspace. Inside a customer, who has used less lately goes first by workspaces."""
    return database.transact(
        lambda session: once.run(
            session, WorkspaceView, lambda: _workspace(workspaces.create(session, principal, body.name))
        )
    )


def _workspace(workspace: Workspace) -> WorkspaceView:
    return WorkspaceView(
        id=workspace.uid, name=workspace.name, is_default=workspace.is_default, created_at=workspace.created_at
    )
