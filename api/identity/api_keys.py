"""API keys: `rgpu_` and 256 random bits, kept as a hash, limited to scopes."""

from datetime import timedelta
from uuid import UUID

from fastapi import APIRouter
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from api.audit.service import record
from api.clock import utc_now
from api.deps import DatabaseDep, PrincipalDep
from api.errors import Conflict, NotFound
from api.idempotency.once import OnceDep
from api.identity import scopes, tokens
from api.identity.authentication import KEY_PREFIX
from api.identity.schemas import ApiKeyCreate, ApiKeyCreated, ApiKeyView
from api.identity.tables import ApiKey, User
from api.pagination import CursorQuery, LimitQuery, Page, page_rows
from api.principal import Principal, Role
from api.problems import problems

router = APIRouter(prefix="/customer/api-keys", tags=["api keys"])
_SHOWN_CHARS = len(KEY_PREFIX) + 6
_MAX_LIVE_KEYS = 100


@router.get("", responses=problems(400))
def list_keys(
    database: DatabaseDep, principal: PrincipalDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[ApiKeyView]:
    """One's own keys; an owner sees all of the customer's. Environments' keys, which end with these, are not shown."""

    def work(session: Session) -> Page[ApiKeyView]:
        rows, following = page_rows(session, _visible(principal), key=ApiKey.id, cursor=cursor, limit=limit)
        return Page(items=[ApiKeyView(**_fields(row.ApiKey, row.username)) for row in rows], next_cursor=following)

    return database.transact(work)


@router.post("", status_code=201, responses=problems(409))
def create_key(body: ApiKeyCreate, database: DatabaseDep, principal: PrincipalDep, once: OnceDep) -> ApiKeyCreated:
    """A new key of one's own. This reply is the only one that carries it."""
    scopes.check_grantable(body.scopes, role=principal.role)
    return database.transact(
        lambda session: once.run(session, ApiKeyCreated, lambda: _create(session, principal, body))
    )


@router.delete("/{key_id}", status_code=204, responses=problems(404))
def revoke_key(key_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> None:
    """Revoke a key at once."""

    def work(session: Session) -> None:
        query = _visible(principal).with_only_columns(ApiKey).where(ApiKey.uid == key_id)
        key = session.scalar(query.with_for_update(of=ApiKey))
        if key is None:
            raise NotFound("There is no such API key.")
        if key.revoked_at is None:
            key.revoked_at = utc_now()
            _audit(session, principal, key, "api_key.revoke")

    database.transact(work)


def _create(session: Session, principal: Principal, body: ApiKeyCreate) -> ApiKeyCreated:
    session.get_one(User, principal.user_id, with_for_update=True)  # so that the count below holds
    own = select(ApiKey.id).where(ApiKey.user_id == principal.user_id, ApiKey.environment_id.is_(None))
    live = own.where(ApiKey.revoked_at.is_(None))
    if len(session.scalars(live.limit(_MAX_LIVE_KEYS)).all()) >= _MAX_LIVE_KEYS:
        raise Conflict(f"You have {_MAX_LIVE_KEYS} API keys; revoke one first.", code="too_many_keys")
    secret = tokens.new_secret(KEY_PREFIX)
    expires_at = utc_now() + timedelta(days=body.expires_in_days) if body.expires_in_days else None
    key = ApiKey(
        customer_id=principal.tenant_id,
        user_id=principal.user_id,
        name=body.name,
        prefix=secret[:_SHOWN_CHARS],
        key_hash=tokens.hash_secret(secret),
        scopes=sorted(set(body.scopes)),
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    session.refresh(key)
    _audit(session, principal, key, "api_key.create")
    return ApiKeyCreated(**_fields(key, principal.username), key=secret)


def _visible(principal: Principal) -> Select[ApiKey, str]:
    query = (
        select(ApiKey, User.username)
        .join(User, User.id == ApiKey.user_id)
        .where(ApiKey.customer_id == principal.tenant_id, ApiKey.environment_id.is_(None))
    )
    return query if principal.role is Role.OWNER else query.where(ApiKey.user_id == principal.user_id)


def _fields(key: ApiKey, owner: str) -> dict[str, object]:
    return {
        "id": key.uid, "name": key.name, "owner": owner, "prefix": key.prefix, "scopes": key.scopes,
        "created_at": key.created_at, "expires_at": key.expires_at, "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
    }  # fmt: skip


def _audit(session: Session, principal: Principal, key: ApiKey, action: str) -> None:
    record(
        session, actor=principal.actor, action=action, target=f"api_key:{key.uid}", customer_id=key.customer_id,
        address=principal.address, details={"name": key.name, "scopes": key.scopes},
    )  # fmt: skip
