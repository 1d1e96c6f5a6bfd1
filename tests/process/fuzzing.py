"""Inputs made from an OpenAPI document, and each answer held to it.

`REMOTEGPU_FUZZ_EXAMPLES` (inputs per operation and kind of caller) and `REMOTEGPU_FUZZ_SEED` make a longer or another
run.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

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

from tests.db.upload_world import archive_of

EXAMPLES = int(os.environ.get("REMOTEGPU_FUZZ_EXAMPLES", "8"))
SEED = int(os.environ.get("REMOTEGPU_FUZZ_SEED", "20260101"))
REFUSED_EXAMPLES = 2  # of an operation that is not for who asks
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
MAX_SHOWN = 2
KNOWN_SHARE = 0.85  # how often a field that could name something that exists does

ARCHIVE = archive_of(a="content")
# Bodies that are no JSON: some good ones, since none is ever made by chance.
for media_type, good in (("application/zip", ARCHIVE), ("application/zstd", b"")):
    schemathesis.openapi.media_type(media_type, st.one_of(st.just(good), st.binary(max_size=100)))

Operation = APIOperation[Any, Any, Any, Any]
Inputs = st.SearchStrategy[Case]
Known = Mapping[str, Sequence[Any]]  # values that exist, by the name of the parameter or field that takes them
Answers = dict[str, Counter[int]]  # statuses by operation


def operations(schema: BaseSchema) -> Iterator[Operation]:
    for result in schema.get_all_operations():
        yield result.ok()


def inputs(operation: Operation) -> Inputs:
    """Mostly what the document allows, and, where there is something to get wrong, what it does not."""
    valid = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if not operation.body and not operation.query and not operation.path_parameters:
        return valid
    return st.one_of(valid, valid, operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))


def fuzz(
    operation: Operation, strategy: Inputs, connection: requests.Session, *, who: str, allowed: bool, known: Known,
    answers: Answers, examples: int = EXAMPLES,
) -> list[str]:  # fmt: skip
    """Ask one operation with many inputs, as whom `connection` is; the first answers that are not as documented."""
    failures: list[str] = []
    statuses = answers.setdefault(operation.label, Counter())

    @seed(SEED + crc32(who.encode()))  # each asks something else
    @settings(
        max_examples=examples if allowed else REFUSED_EXAMPLES, deadline=None, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=strategy, choice=st.integers(0, 2**32))
    def ask(case: Case, choice: int) -> None:
        share = KNOWN_SHARE if choice % 2 else 1.0  # one wrong value of many is enough to be refused
        for part in (case.path_parameters, case.query, case.body):
            name_what_exists(part, known, random.Random(choice), share=share)
        response = case.call(session=connection, verify=connection.verify)
        statuses[response.status_code] += 1
        try:
            case.validate_response(response, checks=CHECKS)
        except (FailureGroup, ExceptionGroup) as group:
            shown = f"{who}: {case.as_curl_command()}\n{response.status_code} {response.text[:500]}"
            failures.extend(f"{shown}\n{each}" for each in group.exceptions)

    ask()
    return failures[:MAX_SHOWN]


def name_what_exists(part: Any, known: Known, chance: random.Random, *, share: float) -> None:  # Any: JSON
    """Put what exists in the place of what was invented, however deep."""
    if isinstance(part, list):
        for each in part:
            name_what_exists(each, known, chance, share=share)
    if not isinstance(part, dict):
        return
    for name in list(part):
        if known.get(name) and chance.random() < share:
            part[name] = chance.choice(known[name])
        else:
            name_what_exists(part[name], known, chance, share=share)


def unreached(answers: Answers) -> dict[str, Counter[int]]:
    """The operations that never did what they are for."""
    return {name: found for name, found in answers.items() if not any(200 <= status < 300 for status in found)}
