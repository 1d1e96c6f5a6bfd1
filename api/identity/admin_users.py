"""`/admin/users`: everybody, and resetting, disabling, enabling; and further administrators."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.deps import DatabaseDep, PrincipalDep
from api.idempotency.once import OnceDep
from api.identity import disabling, users
from api.identity.schemas import AdminCreate, UserView, UserWithPassword
from api.identity.tables import User
from api.identity.users import FirstPassword
from api.pagination import CursorQuery, LimitQuery, Page, page_of
from api.principal import Role
from api.problems import problems
from api.tenants.tables import Customer
from api.text import ShortText

router = APIRouter(prefix="/admin/users", tags=["admin"])


@router.get("", responses=problems(400))
def list_users(
    database: DatabaseDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    role: Role | None = None,
    customer_id: UUID | None = None,
    username: Annotated[ShortText | None, Query(description="Exactly this one")] = None,
) -> Page[UserView]:
    """All users, newest first."""
    query = select(User, Customer).outerjoin(Customer, Customer.id == User.customer_id)
    if role is not None:
        query = query.where(User.role == role)
    if customer_id is not None:
        query = query.where(Customer.uid == customer_id)
    if username is not None:
        query = query.where(User.username == username)
    view = users.joined_view
    return page_of(database, query, lambda row: view(row.User, row.Customer), key=User.id, cursor=cursor, limit=limit)


@router.post("", status_code=201, responses=problems(409))
def create_admin(body: AdminCreate, database: DatabaseDep, principal: PrincipalDep, once: OnceDep) -> UserWithPassword:
    """A further administrator. Without a password one is generated, and is in this reply only."""
    password = FirstPassword.of(body.password)

    def create(session: Session) -> UserWithPassword:
        user = users.create_user(
            session, username=body.username, email=body.email, role=Role.ADMIN, customer_id=None, password=password
        )
        users.audit(session, principal, user, "user.create", details={"role": Role.ADMIN})
        return _with_password(session, user, password)

    return database.transact(lambda session: once.run(session, UserWithPassword, lambda: create(session)))


@router.post("/{user_id}/reset-password", responses=problems(404))
def reset_password(user_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> UserWithPassword:
    """A generated password, to be changed at the next sign-in; every session of the user ends."""
    password = FirstPassword.of(None)

    def work(session: Session) -> UserWithPassword:
        user = users.find(session, user_id, scope=select(User))
        users.set_password(session, user, password)
        users.audit(session, principal, user, "user.reset_password")
        return _with_password(session, user, password)

    return database.transact(work)


@router.post("/{user_id}/disable", responses=problems(404, 409))
def disable_user(user_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> UserView:
    """Refuse a user from now on: sessions end, API keys are revoked, what they run or wait for is stopped in order."""
    return database.transact(lambda session: disabling.disable(session, principal, user_id, scope=select(User)))


@router.post("/{user_id}/enable", responses=problems(404))
def enable_user(user_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> UserView:
    """Let a user in again. Nothing starts by itself, and no API key comes back."""
    return database.transact(lambda session: disabling.enable(session, principal, user_id, scope=select(User)))


def _with_password(session: Session, user: User, password: FirstPassword) -> UserWithPassword:
    session.flush()
    session.refresh(user)
    return UserWithPassword(user=users.user_view(session, user), password=password.generated)
