"""The OpenAPI document against the server: inputs made from it, by everybody, and each answer held to it.

`REMOTEGPU_FUZZ_EXAMPLES` (inputs per operation and kind of person) and `REMOTEGPU_FUZZ_SEED` make a longer or another
run.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, BaseSchema, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.db import Database
from api.policy import POLICY
from api.principal import Role
from api.settings import Settings
from tests.controller_socket import answering
from tests.process.api_process import running_api
from tests.process.fuzz_world import FuzzWorld, make_world

EXAMPLES = int(os.environ.get("REMOTEGPU_FUZZ_EXAMPLES", "8"))
SEED = int(os.environ.get("REMOTEGPU_FUZZ_SEED", "20260101"))
REFUSED_EXAMPLES = 2  # of an operation that the policy keeps from who asks
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ROLES = {"admin": Role.ADMIN, "acme-owner": Role.OWNER, "acme-member": Role.MEMBER, "key": Role.MEMBER, "nobody": None}
UNLIMITED = dict.fromkeys(
    ("REMOTEGPU_RATE_LIMIT_ADDRESS", "REMOTEGPU_RATE_LIMIT_IDENTITY", "REMOTEGPU_RATE_LIMIT_SIGN_IN"), "1000000/second"
)
MAX_SHOWN = 2
KNOWN_SHARE = 0.85  # how often a field that could name something that exists does

Operation = APIOperation[Any, Any, Any, Any]
Inputs = st.SearchStrategy[Case]
Answers = dict[str, Counter[int]]  # statuses by operation


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
        for who, role in ROLES.items():
            world.mend()
            failures += fuzz(world, operation, strategy, who, role, answers)
    assert not failures, "\n\n".join(failures)
    unreached = sorted(name for name, statuses in answers.items() if not any(200 <= each < 300 for each in statuses))
    assert unreached == [], {name: answers[name] for name in unreached}


def operations(schema: BaseSchema) -> Iterator[Operation]:
    for result in schema.get_all_operations():
        yield result.ok()


def fuzz(
    world: FuzzWorld, operation: Operation, strategy: Inputs, who: str, role: Role | None, answers: Answers
) -> list[str]:
    """Ask one operation with many inputs; answers the first answers that are not as documented."""
    failures: list[str] = []
    known = world.known()
    statuses = answers.setdefault(operation.label, Counter())
    rule = POLICY[operation.method.upper(), operation.path]
    allowed = rule.roles is None or role in rule.roles

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES if allowed else REFUSED_EXAMPLES, deadline=None, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=strategy, choice=st.integers(0, 2**32))
    def ask(case: Case, choice: int) -> None:
        name_what_exists(case, known, random.Random(choice), turn=statuses.total())
        response = case.call(headers=world.headers[who], session=connection)
        statuses[response.status_code] += 1
        try:
            case.validate_response(response, checks=CHECKS)
        except (FailureGroup, ExceptionGroup) as group:
            shown = f"{who}: {case.as_curl_command()}\n{response.status_code} {response.text[:500]}"
            failures.extend(f"{shown}\n{each}" for each in group.exceptions)

    with requests.Session() as connection:
        connection.trust_env = False
        ask()
    return failures[:MAX_SHOWN]


def inputs(operation: Operation) -> Inputs:
    """Mostly what the document allows, and, where there is something to get wrong, what it does not."""
    valid = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if not operation.body and not operation.query and not operation.path_parameters:
        return valid
    return st.one_of(valid, valid, operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))


def name_what_exists(case: Case, known: dict[str, list[Any]], chance: random.Random, *, turn: int) -> None:
    """Put ids and names that exist, in turn, in the place of invented ones, in the path, the query and the body."""
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict):
            for name in part.keys() & known.keys():
                if known[name] and chance.random() < KNOWN_SHARE:
                    part[name] = known[name][turn % len(known[name])]
