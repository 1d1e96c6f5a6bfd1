"""The public API's document against its server: inputs made from it, by everybody, and each answer held to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis

from api.db import Database
from api.policy import POLICY
from api.principal import Role
from api.settings import Settings
from tests.controller_socket import answering
from tests.process.api_process import running_api
from tests.process.fuzz_world import FuzzWorld, make_world
from tests.process.fuzzing import Answers, fuzz, inputs, operations, unreached

ROLES = {"admin": Role.ADMIN, "acme-owner": Role.OWNER, "acme-member": Role.MEMBER, "key": Role.MEMBER, "nobody": None}
UNLIMITED = dict.fromkeys(
    ("REMOTEGPU_RATE_LIMIT_ADDRESS", "REMOTEGPU_RATE_LIMIT_IDENTITY", "REMOTEGPU_RATE_LIMIT_SIGN_IN"), "1000000/second"
)


@pytest.fixture
def world(database: Database, tmp_path: Path, scratch: Path) -> Iterator[FuzzWorld]:
    url = database.engine.url.render_as_string(hide_password=False)
    socket = scratch / "fuzz.sock"
    options = {"REMOTEGPU_ACCESS_TOKEN_S": "86400", "REMOTEGPU_HOSTLINK_SOCKET": str(socket), **UNLIMITED}
    with answering(socket), running_api(url, tmp_path, **options) as api:
        yield make_world(database, Settings(database_url=url, secrets_dir=api.secrets_dir), api.public_url)


def test_every_answer_is_as_documented(world: FuzzWorld) -> None:
    schema = schemathesis.openapi.from_url(f"{world.public_url}/api/v1/openapi.json")
    schema.config.generation.update(with_security_parameters=False)
    answers: Answers = {}
    failures: list[str] = []
    for operation in operations(schema):
        strategy = inputs(operation)  # made once for all: that takes longer than the requests
        rule = POLICY[operation.method.upper(), operation.path]
        for who, role in ROLES.items():
            world.mend()
            allowed = rule.roles is None or role in rule.roles
            with requests.Session() as connection:
                connection.trust_env = False
                connection.headers.update(world.headers[who])
                failures += fuzz(
                    operation, strategy, connection, who=who, allowed=allowed, known=world.known(), answers=answers
                )
    assert not failures, "\n\n".join(failures)
    assert unreached(answers) == {}
