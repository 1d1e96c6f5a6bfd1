"""Secrets of a workspace: kept sealed, and revealed only to the hosts that run something with them."""

from collections.abc import Sequence

from cryptography.fernet import InvalidToken
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from api.audit.service import record
from api.clock import utc_now
from api.errors import Conflict, NotFound, Unprocessable
from api.principal import Principal
from api.seal import sealer
from api.secrets.tables import Secret
from api.settings import Settings
from api.tenants.tables import Workspace

MAX_SECRETS = 200  # of one workspace
_PURPOSE = "workspace-secrets"


def put(session: Session, settings: Settings, principal: Principal, *, workspace: str, name: str, value: str) -> Secret:
    """Make or replace a secret.

    Raises:
        NotFound: the principal's customer has no such workspace.
        Conflict: `too_many_secrets`.
    """
    place = _workspace(session, principal, workspace, lock=True)  # so that the count below holds
    secret = session.get(Secret, (place.id, name))
    action = "secret.create" if secret is None else "secret.replace"
    sealed = sealer(settings, purpose=_PURPOSE).encrypt(_bound(place.id, name) + value.encode())
    if secret is None:
        count = select(func.count()).where(Secret.workspace_id == place.id)
        if session.execute(count).scalar_one() >= MAX_SECRETS:
            raise Conflict(f"A workspace has at most {MAX_SECRETS} secrets; remove one.", code="too_many_secrets")
        secret = Secret(workspace_id=place.id, name=name, sealed=sealed, created_by=principal.user_id)
        session.add(secret)
    else:
        secret.sealed, secret.updated_at = sealed, utc_now()
    session.flush()
    session.refresh(secret)
    _audit(session, principal, place, name, action)
    return secret


def remove(session: Session, principal: Principal, *, workspace: str, name: str) -> None:
    """What runs keeps what it was given.

    Raises:
        NotFound: there is no such workspace, or no such secret in it.
    """
    place = _workspace(session, principal, workspace, lock=True)
    secret = session.get(Secret, (place.id, name))
    if secret is None:
        raise NotFound(f"There is no secret {name!r} in this workspace.")
    session.delete(secret)
    _audit(session, principal, place, name, "secret.remove")


def of_workspace(session: Session, principal: Principal, workspace: str) -> Select[Secret]:
    """
    Raises:
        NotFound: the principal's customer has no such workspace.
    """
    place = _workspace(session, principal, workspace, lock=False)
    return select(Secret).where(Secret.workspace_id == place.id)


def names(session: Session, workspace_id: int) -> frozenset[str]:
    return frozenset(session.scalars(select(Secret.name).where(Secret.workspace_id == workspace_id)))


def require(session: Session, *, workspace_id: int, wanted: Sequence[str]) -> None:
    """Raise Unprocessable `unknown_secret` for the first name that the workspace has no secret of."""
    if not wanted:
        return
    known = names(session, workspace_id)
    missing = next((name for name in wanted if name not in known), None)
    if missing is not None:
        raise Unprocessable(f"The workspace has no secret {missing!r}.", code="unknown_secret")


def reveal(session: Session, settings: Settings, *, workspace_id: int, names: Sequence[str]) -> dict[str, str]:
    """The values, by name.

    Raises:
        Unprocessable: `unknown_secret`, or `secret_unreadable`: it was sealed with another key than today's.
    """
    if not names:
        return {}
    require(session, workspace_id=workspace_id, wanted=names)
    box = sealer(settings, purpose=_PURPOSE)
    query = select(Secret.name, Secret.sealed).where(Secret.workspace_id == workspace_id, Secret.name.in_(names))
    sealed = {row.name: row.sealed for row in session.execute(query)}
    values = {}
    for name in names:
        bound = _bound(workspace_id, name)
        try:
            opened = box.decrypt(sealed[name])
        except InvalidToken:
            opened = b""
        if not opened.startswith(bound):
            raise Unprocessable(
                f"The secret {name!r} can't be read with the platform's key of today; put it again.",
                code="secret_unreadable",
            )
        values[name] = opened.removeprefix(bound).decode()
    return values


def _bound(workspace_id: int, name: str) -> bytes:
    """Sealed in front of each value: what is moved to another row of the database can't be read there."""
    return f"{workspace_id}:{name}\n".encode()


def _workspace(session: Session, principal: Principal, name: str, *, lock: bool) -> Workspace:
    query = select(Workspace).where(Workspace.customer_id == principal.tenant_id, Workspace.name == name)
    found = session.scalar(query.with_for_update(key_share=True) if lock else query)
    if found is None:
        raise NotFound(f"There is no workspace {name!r}.")
    return found


def _audit(session: Session, principal: Principal, workspace: Workspace, name: str, action: str) -> None:
    record(
        session, actor=principal.actor, action=action, target=f"secret:{workspace.uid}/{name}",
        customer_id=workspace.customer_id, address=principal.address,
        details={"workspace": workspace.name, "name": name},
    )  # fmt: skip
