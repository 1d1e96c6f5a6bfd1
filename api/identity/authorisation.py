"""The dependency that stands before every endpoint: who asks, and may they, by the policy table."""

from collections.abc import Mapping
from typing import cast

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.requests import HTTPConnection

from api.errors import Forbidden
from api.identity.authentication import Authenticator
from api.policy import POLICY, Rule
from api.principal import Principal
from api.rate_limit import RateLimits

WEBSOCKET = "WS"
"""In the place of the method."""


def endpoint_templates(app: FastAPI) -> Mapping[int, str]:
    """The full path template of every endpoint, by the `id` of its route object, which lives as long as `app`."""
    return {
        id(context.original_route): str(context.path_format)
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, APIRoute)
    }


async def authorise(request: HTTPConnection) -> None:
    """Let the request through to its endpoint, or refuse it; sets `request.state.principal` for the endpoint.

    A WebSocket is a request like any other until it is accepted: what is raised becomes the answer to its handshake.

    Raises:
        Unauthenticated, Forbidden, TooManyRequests
    """
    state = request.app.state
    limits = cast(RateLimits, state.rate_limits)
    address = client_address(request)
    limits.hit_address(address)
    rule = POLICY.get(_endpoint(request))
    if rule is not None and rule.roles is None:
        return
    authenticator = cast(Authenticator, state.authenticator)
    found = await authenticator.authenticate(request.headers.get("authorization"), address=address)
    limits.hit_identity(found.principal.actor)
    if rule is None:
        raise Forbidden("Nobody may use this endpoint: the policy has no rule for it.")
    check(rule, found.principal)
    if found.must_change_password and not rule.first_password:
        raise Forbidden(
            "Choose a password of your own first (`POST /api/v1/auth/password`).", code="password_change_required"
        )
    request.state.principal = found.principal


def _endpoint(request: HTTPConnection) -> tuple[str, str]:
    """Method and template. A WebSocket's route is one that the framework made, with the whole template in it."""
    route = request.scope["route"]
    if request.scope["type"] == "websocket":
        return WEBSOCKET, route.path_format
    return request.scope["method"], request.app.state.endpoint_templates.get(id(route), "")


def check(rule: Rule, principal: Principal) -> None:
    """Whether the rule lets this principal pass.

    Raises:
        Forbidden
    """
    if rule.roles is None:
        return
    if principal.role not in rule.roles:
        wanted = " or ".join(sorted(rule.roles))
        raise Forbidden(f"This is for users with the role {wanted}; yours is {principal.role}.")
    if principal.scopes is None:
        return
    if rule.scope is None:
        raise Forbidden("An API key may not do this; sign in instead.", code="key_not_allowed")
    if rule.scope not in principal.scopes:
        raise Forbidden(f"The API key lacks the scope `{rule.scope}`.", code="missing_scope")


def client_address(request: HTTPConnection) -> str:
    """The address that the connection came from."""
    return request.client.host if request.client is not None else "unknown"
