"""What lets programs in an environment submit jobs: an API key of its user's, good while its container lives.

The key is made as the container is created, and goes into that alone: the Hub never has it.
"""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from api.audit import service as audit
from api.clock import utc_now
from api.environments.tables import Environment
from api.identity import tokens
from api.identity.authentication import KEY_PREFIX
from api.identity.tables import ApiKey
from api.ray_jobs.variables import client_variables
from api.tenants.tables import Customer

SCOPES = ("tasks:read", "tasks:write")
_SHOWN_CHARS = len(KEY_PREFIX) + 6


def grant(session: Session, *, environment_id: int, public_url: str, actor: str) -> dict[str, str]:
    """The variables for a new container of the environment; those of one before are good no longer."""
    # The customer first, to which the key refers: that locks it, and the order is customer, environment.
    owner = select(Customer.id).join(Environment, Environment.customer_id == Customer.id)
    session.execute(
        owner.where(Environment.id == environment_id).with_for_update(of=Customer, read=True, key_share=True)
    )
    environment = session.get_one(Environment, environment_id, with_for_update=True)
    withdraw(session, environment)
    secret = tokens.new_secret(KEY_PREFIX)
    key = ApiKey(
        customer_id=environment.customer_id,
        user_id=environment.user_id,
        environment_id=environment.id,
        name=f"environment {environment.name}",
        prefix=secret[:_SHOWN_CHARS],
        key_hash=tokens.hash_secret(secret),
        scopes=list(SCOPES),
    )
    session.add(key)
    session.flush()
    audit.record(
        session, actor=actor, action="api_key.create", target=f"api_key:{key.uid}", customer_id=key.customer_id,
        details={"name": key.name, "scopes": key.scopes},
    )  # fmt: skip
    return client_variables(public_url, secret)


def withdraw(session: Session, environment: Environment) -> None:
    """End what was granted. The caller has locked the environment."""
    live = update(ApiKey).where(ApiKey.environment_id == environment.id, ApiKey.revoked_at.is_(None))
    session.execute(live.values(revoked_at=utc_now()))
