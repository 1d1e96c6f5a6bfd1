"""The authorisation policy: one row per endpoint, default deny.

An endpoint without a row is refused, and its absence fails `tests/db/test_policy.py`.
"""

from dataclasses import dataclass

from api.principal import Role

ANYONE = frozenset(Role)
ADMIN = frozenset({Role.ADMIN})
CUSTOMER = frozenset({Role.OWNER, Role.MEMBER})
OWNER = frozenset({Role.OWNER})


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call an endpoint. `roles` None is public. An API key needs `scope`; with None, keys are refused."""

    roles: frozenset[Role] | None
    scope: str | None = None


PUBLIC = Rule(None)

POLICY: dict[tuple[str, str], Rule] = {
    ("GET", "/health"): PUBLIC,
}
