"""The first administrator."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.audit.service import record
from api.db import Database
from api.identity.tables import User
from api.identity.users import FirstPassword, create_user
from api.principal import Role


def ensure_admin(database: Database, username: str = "admin", *, password: str) -> bool:
    """Create the first administrator, who must change `password` at the first sign-in; False if there is one.

    Args:
        password: a generated one, which the launcher shows once.
    """
    with database.session() as session:
        if _exists(session):
            return False
    first = FirstPassword.of(password)

    def work(session: Session) -> bool:
        if _exists(session):
            return False
        user = create_user(session, username=username, email=None, role=Role.ADMIN, customer_id=None, password=first)
        record(session, actor="cli", action="user.create", target=f"user:{user.uid}", details={"role": Role.ADMIN})
        return True

    return database.transact(work)


def _exists(session: Session) -> bool:
    return session.scalar(select(User.id).where(User.role == Role.ADMIN).limit(1)) is not None
