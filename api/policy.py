"""The authorisation policy: one row per endpoint, default deny.

A row's key is the method and the full route template: `("GET", "/api/v1/customer/environments/{environment_id}")`.
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
    """Who may call an endpoint. `roles` None is public. An API key needs `scope`; with None, keys are refused.

    `first_password`: allowed to a user who still has to change the first password.
    """

    roles: frozenset[Role] | None
    scope: str | None = None
    first_password: bool = False


PUBLIC = Rule(None)

POLICY: dict[tuple[str, str], Rule] = {
    ("GET", "/health"): PUBLIC,
    ("GET", "/api/v1/openapi.json"): PUBLIC,
    ("POST", "/api/v1/auth/login"): PUBLIC,
    ("POST", "/api/v1/auth/refresh"): PUBLIC,
    ("POST", "/api/v1/auth/logout"): PUBLIC,
    ("POST", "/api/v1/auth/password"): Rule(ANYONE, first_password=True),
    ("GET", "/api/v1/auth/me"): Rule(ANYONE, scope="profile:read", first_password=True),
    ("PATCH", "/api/v1/auth/me"): Rule(ANYONE),
}
