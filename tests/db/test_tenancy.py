"""A tenant's rows are its own (invariant I9): at every endpoint for customers, another one finds none of them."""

import re

import pytest
from fastapi.testclient import TestClient

from api.app import API
from api.db import Database
from api.policy import POLICY
from api.principal import Role
from api.settings import Settings
from tests.db.conftest import Person, Tenant
from tests.db.one_of_each import Platform, contents, make_platform

# What stands for a parameter of a path, of those that `Platform.of` has.
NAMED = {
    "environment_id": "environment", "allocation_id": "allocation", "reservation_id": "reservation", "key_id": "key",
    "invitation_id": "invitation", "user_id": "member",
    "task_id": "task", "workspace": "workspace", "secret": "secret", "digest": "upload",
    "volume_id": "volume",
    "job_id": "task", "protocol": "protocol", "package_name": "package",
}  # fmt: skip
OF_ONES_OWN = {  # whoever has the same bytes may upload them
    ("PUT", f"{API}/customer/uploads/{{digest}}"),
    ("PUT", "/api/packages/{protocol}/{package_name}"),
}
BODIES = {("PUT", f"{API}/customer/workspaces/{{workspace}}/secrets/{{secret}}"): {"value": "mine"}}
OWN = ("environment", "task", "stopped", "allocation", "reservation", "volume", "key", "invitation", "member")
FOR_CUSTOMERS = sorted(
    (method, path) for (method, path), rule in POLICY.items() if rule.roles is not None and Role.OWNER in rule.roles
)


@pytest.fixture
def platform(
    app_client: TestClient, database: Database, settings: Settings, admin: Person, tenant: Tenant, other_tenant: Tenant
) -> Platform:
    return make_platform(app_client, database, settings, admin=admin, tenant=tenant, rival=other_tenant)


def test_anothers_id_is_not_found_and_nothing_happens_to_it(platform: Platform, database: Database) -> None:
    asked = [each for each in FOR_CUSTOMERS if "{" in each[1] and each not in OF_ONES_OWN]
    assert len(asked) >= 10
    for method, path in asked:
        address = re.sub(r"\{(\w+)\}", lambda found: "{" + NAMED[found[1]] + "}", path.removeprefix(API))
        before = contents(database)
        answer = platform.ask("rival", method, address, BODIES.get((method, path)))
        assert answer.status_code == 404, (method, path, answer.text)
        if path.startswith(API) and method != "HEAD":
            assert answer.json()["code"] == "not_found", (method, path)
        assert contents(database) == before, (method, path)
        if method == "GET":
            assert platform.ask("owner", method, address).status_code == 200, path


def test_no_list_has_anything_of_another_customers(platform: Platform) -> None:
    lists = [path.removeprefix(API) for method, path in FOR_CUSTOMERS if method == "GET" and "{" not in path]
    assert len(lists) >= 10
    names = {platform.of[name] for name in OWN} | {"acme-owner", "acme-member"}
    shown = {who: "".join(platform.ask(who, "GET", path).text for path in lists) for who in ("owner", "rival")}
    assert [name for name in names if name not in shown["owner"]] == [], "the owner sees each of them somewhere"
    assert [name for name in names if name in shown["rival"]] == []
