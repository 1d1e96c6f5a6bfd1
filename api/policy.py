"""The authorisation policy: one row per endpoint, default deny.

A row's key is the method and the full route template: `("GET", "/api/v1/customer/environments/{environment_id}")`.
The method of a WebSocket is `WS`.
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
PAGE = Rule(None)
"""A page or protocol endpoint for browsers: it looks at the web session, the client or the token itself."""

POLICY: dict[tuple[str, str], Rule] = {
    ("GET", "/health"): PUBLIC,
    ("GET", "/api/v1/openapi.json"): PUBLIC,
    ("GET", "/api/v1/schemas/task.json"): PUBLIC,
    ("GET", "/"): PAGE,
    ("GET", "/static/style.css"): PUBLIC,
    ("GET", "/account/"): PAGE,
    ("GET", "/account/login"): PAGE,
    ("POST", "/account/login"): PAGE,
    ("GET", "/account/password"): PAGE,
    ("POST", "/account/password"): PAGE,
    ("GET", "/account/logout"): PAGE,
    ("POST", "/account/logout"): PAGE,
    ("GET", "/.well-known/openid-configuration"): PUBLIC,
    ("GET", "/oauth/jwks"): PUBLIC,
    ("GET", "/oauth/authorize"): PAGE,
    ("POST", "/oauth/token"): PAGE,
    ("GET", "/oauth/userinfo"): PAGE,
    ("POST", "/oauth/userinfo"): PAGE,
    ("GET", "/oauth/logout"): PAGE,
    ("POST", "/oauth/logout"): PAGE,
    ("GET", "/ops/ray/{path}"): PAGE,
    ("GET", "/api/version"): Rule(CUSTOMER, scope="tasks:read"),
    ("GET", "/api/packages/{protocol}/{package_name}"): Rule(CUSTOMER, scope="tasks:write"),
    ("PUT", "/api/packages/{protocol}/{package_name}"): Rule(CUSTOMER, scope="tasks:write"),
    ("POST", "/api/jobs/"): Rule(CUSTOMER, scope="tasks:write"),
    ("GET", "/api/jobs/"): Rule(CUSTOMER, scope="tasks:read"),
    ("GET", "/api/jobs/{job_id}"): Rule(CUSTOMER, scope="tasks:read"),
    ("DELETE", "/api/jobs/{job_id}"): Rule(CUSTOMER, scope="tasks:write"),
    ("GET", "/api/jobs/{job_id}/logs"): Rule(CUSTOMER, scope="tasks:read"),
    ("WS", "/api/jobs/{job_id}/logs/tail"): Rule(CUSTOMER, scope="tasks:read"),
    ("POST", "/api/jobs/{job_id}/stop"): Rule(CUSTOMER, scope="tasks:write"),
    ("POST", "/api/v1/auth/login"): PUBLIC,
    ("POST", "/api/v1/auth/refresh"): PUBLIC,
    ("POST", "/api/v1/auth/logout"): PUBLIC,
    ("POST", "/api/v1/auth/password"): Rule(ANYONE, first_password=True),
    ("GET", "/api/v1/auth/me"): Rule(ANYONE, scope="profile:read", first_password=True),
    ("PATCH", "/api/v1/auth/me"): Rule(ANYONE),
    ("POST", "/api/v1/auth/register"): PUBLIC,
    ("POST", "/api/v1/auth/invitations/accept"): PUBLIC,
    ("GET", "/api/v1/customer/members"): Rule(OWNER, scope="members:read"),
    ("POST", "/api/v1/customer/members"): Rule(OWNER),
    ("POST", "/api/v1/customer/members/{user_id}/disable"): Rule(OWNER),
    ("POST", "/api/v1/customer/members/{user_id}/enable"): Rule(OWNER),
    ("GET", "/api/v1/customer/invitations"): Rule(OWNER, scope="members:read"),
    ("POST", "/api/v1/customer/invitations"): Rule(OWNER),
    ("DELETE", "/api/v1/customer/invitations/{invitation_id}"): Rule(OWNER),
    ("GET", "/api/v1/customer/workspaces"): Rule(CUSTOMER, scope="profile:read"),
    ("POST", "/api/v1/customer/workspaces"): Rule(OWNER),
    ("GET", "/api/v1/customer/workspaces/{workspace}/secrets"): Rule(CUSTOMER, scope="secrets:write"),
    ("PUT", "/api/v1/customer/workspaces/{workspace}/secrets/{secret}"): Rule(CUSTOMER, scope="secrets:write"),
    ("DELETE", "/api/v1/customer/workspaces/{workspace}/secrets/{secret}"): Rule(CUSTOMER, scope="secrets:write"),
    ("HEAD", "/api/v1/customer/uploads/{digest}"): Rule(CUSTOMER, scope="tasks:write"),
    ("PUT", "/api/v1/customer/uploads/{digest}"): Rule(CUSTOMER, scope="tasks:write"),
    ("GET", "/api/v1/customer/volumes"): Rule(CUSTOMER, scope="tasks:read"),
    ("POST", "/api/v1/customer/volumes"): Rule(CUSTOMER, scope="tasks:write"),
    ("GET", "/api/v1/customer/volumes/{volume_id}"): Rule(CUSTOMER, scope="tasks:read"),
    ("DELETE", "/api/v1/customer/volumes/{volume_id}"): Rule(CUSTOMER, scope="tasks:write"),
    ("GET", "/api/v1/customer/api-keys"): Rule(CUSTOMER),
    ("POST", "/api/v1/customer/api-keys"): Rule(CUSTOMER),
    ("DELETE", "/api/v1/customer/api-keys/{key_id}"): Rule(CUSTOMER),
    ("GET", "/api/v1/admin/customers"): Rule(ADMIN),
    ("POST", "/api/v1/admin/customers"): Rule(ADMIN),
    ("GET", "/api/v1/admin/customers/{customer_id}"): Rule(ADMIN),
    ("PATCH", "/api/v1/admin/customers/{customer_id}"): Rule(ADMIN),
    ("POST", "/api/v1/admin/customers/{customer_id}/disable"): Rule(ADMIN),
    ("POST", "/api/v1/admin/customers/{customer_id}/enable"): Rule(ADMIN),
    ("GET", "/api/v1/admin/settings"): Rule(ADMIN),
    ("PATCH", "/api/v1/admin/settings"): Rule(ADMIN),
    ("GET", "/api/v1/admin/users"): Rule(ADMIN),
    ("POST", "/api/v1/admin/users"): Rule(ADMIN),
    ("POST", "/api/v1/admin/users/{user_id}/reset-password"): Rule(ADMIN),
    ("POST", "/api/v1/admin/users/{user_id}/disable"): Rule(ADMIN),
    ("POST", "/api/v1/admin/users/{user_id}/enable"): Rule(ADMIN),
    ("GET", "/api/v1/admin/audit"): Rule(ADMIN),
    ("GET", "/api/v1/admin/allocations"): Rule(ADMIN, scope="allocations:read"),
    ("GET", "/api/v1/admin/allocations/{allocation_id}"): Rule(ADMIN, scope="allocations:read"),
    ("POST", "/api/v1/admin/allocations/{allocation_id}/end"): Rule(ADMIN, scope="allocations:write"),
    ("GET", "/api/v1/customer/allocations"): Rule(CUSTOMER, scope="allocations:read"),
    ("GET", "/api/v1/customer/allocations/{allocation_id}"): Rule(CUSTOMER, scope="allocations:read"),
    ("POST", "/api/v1/customer/allocations/{allocation_id}/checkpoint"): Rule(CUSTOMER, scope="allocations:write"),
    ("GET", "/api/v1/admin/machines"): Rule(ADMIN, scope="machines:read"),
    ("GET", "/api/v1/admin/machines/enrolment-tokens"): Rule(ADMIN),
    ("POST", "/api/v1/admin/machines/enrolment-tokens"): Rule(ADMIN),
    ("DELETE", "/api/v1/admin/machines/enrolment-tokens/{token_id}"): Rule(ADMIN),
    ("GET", "/api/v1/admin/machines/{machine_id}"): Rule(ADMIN, scope="machines:read"),
    ("PATCH", "/api/v1/admin/machines/{machine_id}"): Rule(ADMIN),
    ("GET", "/api/v1/admin/machines/{machine_id}/events"): Rule(ADMIN, scope="machines:read"),
    ("GET", "/api/v1/admin/images"): Rule(ADMIN),
    ("POST", "/api/v1/admin/images"): Rule(ADMIN),
    ("PATCH", "/api/v1/admin/images/{image_id}"): Rule(ADMIN),
    ("GET", "/api/v1/customer/machines"): Rule(CUSTOMER, scope="machines:read"),
    ("GET", "/api/v1/customer/images"): Rule(CUSTOMER, scope="images:read"),
    ("POST", "/api/v1/customer/allocations/plan"): Rule(CUSTOMER, scope="allocations:read"),
    ("GET", "/api/v1/admin/capacity-groups"): Rule(ADMIN, scope="capacity-groups:read"),
    ("POST", "/api/v1/admin/capacity-groups"): Rule(ADMIN),
    ("GET", "/api/v1/admin/capacity-groups/{group_id}"): Rule(ADMIN, scope="capacity-groups:read"),
    ("PATCH", "/api/v1/admin/capacity-groups/{group_id}"): Rule(ADMIN),
    ("DELETE", "/api/v1/admin/capacity-groups/{group_id}"): Rule(ADMIN),
    ("GET", "/api/v1/customer/capacity-groups"): Rule(CUSTOMER, scope="allocations:read"),
    ("GET", "/api/v1/customer/reservations"): Rule(CUSTOMER, scope="reservations:read"),
    ("POST", "/api/v1/customer/reservations"): Rule(CUSTOMER, scope="reservations:write"),
    ("GET", "/api/v1/customer/reservations/{reservation_id}"): Rule(CUSTOMER, scope="reservations:read"),
    ("DELETE", "/api/v1/customer/reservations/{reservation_id}"): Rule(CUSTOMER, scope="reservations:write"),
    ("GET", "/api/v1/admin/tasks"): Rule(ADMIN, scope="tasks:read"),
    ("POST", "/api/v1/admin/tasks/{task_id}/cancel"): Rule(ADMIN, scope="tasks:write"),
    ("GET", "/api/v1/admin/tasks/{task_id}/logs"): Rule(ADMIN, scope="tasks:read"),
    ("GET", "/api/v1/customer/tasks"): Rule(CUSTOMER, scope="tasks:read"),
    ("POST", "/api/v1/customer/tasks"): Rule(CUSTOMER, scope="tasks:write"),
    ("POST", "/api/v1/customer/tasks/plan"): Rule(CUSTOMER, scope="tasks:read"),
    ("GET", "/api/v1/customer/tasks/{task_id}"): Rule(CUSTOMER, scope="tasks:read"),
    ("GET", "/api/v1/customer/tasks/{task_id}/elements"): Rule(CUSTOMER, scope="tasks:read"),
    ("POST", "/api/v1/customer/tasks/{task_id}/cancel"): Rule(CUSTOMER, scope="tasks:write"),
    ("POST", "/api/v1/customer/tasks/{task_id}/retry"): Rule(CUSTOMER, scope="tasks:write"),
    ("GET", "/api/v1/customer/environments"): Rule(CUSTOMER, scope="environments:read"),
    ("POST", "/api/v1/customer/environments"): Rule(CUSTOMER, scope="environments:write"),
    ("GET", "/api/v1/customer/environments/{environment_id}"): Rule(CUSTOMER, scope="environments:read"),
    ("DELETE", "/api/v1/customer/environments/{environment_id}"): Rule(CUSTOMER, scope="environments:write"),
    ("POST", "/api/v1/customer/environments/{environment_id}/start"): Rule(CUSTOMER, scope="environments:write"),
    ("POST", "/api/v1/customer/environments/{environment_id}/stop"): Rule(CUSTOMER, scope="environments:write"),
    ("GET", "/api/v1/admin/prices"): Rule(ADMIN, scope="billing:read"),
    ("POST", "/api/v1/admin/prices"): Rule(ADMIN),
    ("POST", "/api/v1/admin/customers/{customer_id}/top-up"): Rule(ADMIN),
    ("GET", "/api/v1/admin/customers/{customer_id}/balance"): Rule(ADMIN, scope="billing:read"),
    ("GET", "/api/v1/admin/customers/{customer_id}/quota"): Rule(ADMIN, scope="billing:read"),
    ("PUT", "/api/v1/admin/customers/{customer_id}/quota"): Rule(ADMIN),
    ("GET", "/api/v1/admin/customers/{customer_id}/workspaces/{workspace}/quota"): Rule(ADMIN, scope="billing:read"),
    ("PUT", "/api/v1/admin/customers/{customer_id}/workspaces/{workspace}/quota"): Rule(ADMIN),
    ("GET", "/api/v1/admin/users/{user_id}/quota"): Rule(ADMIN, scope="billing:read"),
    ("PUT", "/api/v1/admin/users/{user_id}/quota"): Rule(ADMIN),
    ("PUT", "/api/v1/admin/customers/{customer_id}/plan"): Rule(ADMIN),
    ("GET", "/api/v1/admin/plans"): Rule(ADMIN, scope="billing:read"),
    ("PUT", "/api/v1/admin/plans/{plan}"): Rule(ADMIN),
    ("DELETE", "/api/v1/admin/plans/{plan}"): Rule(ADMIN),
    ("GET", "/api/v1/customer/quota"): Rule(CUSTOMER, scope="billing:read"),
    ("GET", "/api/v1/customer/billing/balance"): Rule(CUSTOMER, scope="billing:read"),
    ("GET", "/api/v1/customer/billing/usage"): Rule(CUSTOMER, scope="billing:read"),
    ("GET", "/api/v1/customer/billing/statement"): Rule(CUSTOMER, scope="billing:read"),
    ("GET", "/api/v1/customer/billing/journal"): Rule(CUSTOMER, scope="billing:read"),
    ("GET", "/api/v1/customer/billing/bill"): Rule(CUSTOMER, scope="billing:read"),
    ("GET", "/api/v1/customer/billing/heads"): Rule(CUSTOMER, scope="billing:read"),
    ("GET", "/api/v1/billing/keys"): PUBLIC,
    ("GET", "/api/v1/customer/tasks/{task_id}/logs"): Rule(CUSTOMER, scope="tasks:read"),
    ("WS", "/api/v1/customer/tasks/{task_id}/logs/follow"): Rule(CUSTOMER, scope="tasks:read"),
    ("WS", "/api/v1/customer/tasks/{task_id}/exec"): Rule(CUSTOMER, scope="tasks:write"),
}
