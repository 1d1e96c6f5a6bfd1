"""The scopes that API keys may have: those that the policy asks for."""

from collections.abc import Iterable

from api.errors import Unprocessable
from api.policy import POLICY
from api.principal import Role


def grantable(role: Role) -> frozenset[str]:
    """Every scope that some endpoint of this role asks for."""
    return frozenset(
        rule.scope
        for rule in POLICY.values()
        if rule.scope is not None and rule.roles is not None and role in rule.roles
    )


def check_grantable(scopes: Iterable[str], *, role: Role) -> None:
    """Raise Unprocessable `unknown_scope` for a scope that no endpoint of the role asks for."""
    known = grantable(role)
    unknown = sorted(set(scopes) - known)
    if unknown:
        raise Unprocessable(
            f"Unknown scope: {unknown[0]!r}; there are {', '.join(sorted(known))}.", code="unknown_scope"
        )
