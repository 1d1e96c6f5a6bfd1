"""A customer's workspaces by their names."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.errors import Unprocessable
from api.tenants.tables import Workspace


def find_id(session: Session, *, customer_id: int, name: str | None) -> int:
    """The workspace of that name; without one, the default one.

    Raises:
        Unprocessable: `unknown_workspace`.
    """
    query = select(Workspace.id).where(Workspace.customer_id == customer_id)
    found = session.scalar(query.where(Workspace.name == name if name is not None else Workspace.is_default))
    if found is None:
        raise Unprocessable(f"There is no workspace {name or 'by default'!r}.", code="unknown_workspace")
    return found
