"""Who makes a request, as established by its bearer token or API key."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class Role(StrEnum):
    ADMIN = "admin"
    OWNER = "customer_owner"
    MEMBER = "customer_member"


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf and by whom: a signed-in user, an API key, or the Hub or the platform for one of its users."""

    user_id: int
    customer_id: int
    actor: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """`customer_id` is None exactly for administrators. `scopes` is None for a person, who has all of the role's.

    `key_uid` names the API key, `session_uid` the login session that made the request.
    """

    user_id: int
    user_uid: UUID
    username: str
    role: Role
    customer_id: int | None
    scopes: frozenset[str] | None = None
    key_uid: UUID | None = None
    session_uid: UUID | None = None
    address: str | None = None

    @property
    def actor(self) -> str:
        """The form in which audit and event rows name it."""
        return f"key:{self.key_uid}" if self.key_uid else f"user:{self.user_uid}"

    @property
    def tenant_id(self) -> int:
        """The customer whose rows this principal may read.

        Raises:
            RuntimeError: for an administrator; the policy keeps those from customer endpoints.
        """
        if self.customer_id is None:
            raise RuntimeError("an administrator has no tenant")
        return self.customer_id

    @property
    def caller(self) -> Caller:
        """As what customers' things are made and ended by."""
        return Caller(self.user_id, self.tenant_id, self.actor, self.address)
