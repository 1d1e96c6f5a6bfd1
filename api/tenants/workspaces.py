"""A customer's workspaces by their names: what its people do under each shares the customer's share fairly."""

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.audit.service import record
from api.errors import Conflict, Unprocessable
from api.principal import Principal
from api.tenants.tables import Customer, Workspace

MAX_WORKSPACES = 100  # of one customer


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


def create(session: Session, principal: Principal, name: str) -> Workspace:
    """Another workspace of the principal's customer.

    Raises:
        Conflict: `name_taken`, or `too_many_workspaces`.
    """
    customer = session.get_one(Customer, principal.tenant_id, with_for_update=True)
    count = select(func.count()).where(Workspace.customer_id == customer.id)
    if session.scalar(count) == MAX_WORKSPACES:
        raise Conflict(f"A customer has at most {MAX_WORKSPACES} workspaces.", code="too_many_workspaces")
    workspace = Workspace(customer_id=customer.id, name=name)
    try:
        with session.begin_nested():
            session.add(workspace)
            session.flush()
    except IntegrityError as error:
        raise Conflict(f"There is a workspace {name!r} already.", code="name_taken") from error
    session.refresh(workspace)
    record(
        session,
        actor=principal.actor,
        action="workspace.create",
        target=f"workspace:{workspace.uid}",
        customer_id=customer.id,
        address=principal.address,
        details={"name": name},
    )
    return workspace
