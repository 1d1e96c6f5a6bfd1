"""The published schema of a task against the models that check it."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from api.tasks import spec
from api.tasks.schema import task_schema
from tests.unit.task_samples import SMALL, TRAIN, Document, from_yaml

VALIDATOR = Draft202012Validator(task_schema())
SECTIONS = (spec.Resources, spec.Mount, spec.Retry, spec.Checkpoint, spec.Dependency)


def section(name: str) -> dict[str, Any]:
    found = task_schema()["$defs"][name]
    return found["anyOf"][1] if "anyOf" in found else found


def test_it_is_a_schema_and_names_its_draft() -> None:
    Draft202012Validator.check_schema(task_schema())
    assert task_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("document", [SMALL, from_yaml(TRAIN)], ids=["small", "whole"])
def test_what_is_right_is_valid(document: Document) -> None:
    assert list(VALIDATOR.iter_errors(document)) == []


def described() -> list[tuple[type[BaseModel], dict[str, Any]]]:
    return [(spec.TaskSpec, task_schema()), *((model, section(model.__name__)) for model in SECTIONS)]


@pytest.mark.parametrize(("model", "schema"), described())
def test_schema_and_model_have_the_same_keys(model: type[BaseModel], schema: dict[str, Any]) -> None:
    assert set(schema["properties"]) == set(model.model_fields)
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    assert set(schema.get("required", [])) == required
    assert schema["additionalProperties"] is False
    for name, field in schema["properties"].items():
        assert field["description"], name


def test_the_sample_has_every_key() -> None:
    sample = from_yaml(TRAIN)
    assert list(sample) == list(spec.TaskSpec.model_fields)
    assert list(sample["resources"]) == list(spec.Resources.model_fields)
    for name, model in (("retry", spec.Retry), ("checkpoint", spec.Checkpoint)):
        assert list(sample[name]) == list(model.model_fields)


def test_examples_are_right() -> None:
    for model, schema in described():
        for name, field in schema["properties"].items():
            for example in field.get("examples", []):
                assert Draft202012Validator({**field, "$defs": task_schema()["$defs"]}).is_valid(example), name
                with pytest.raises(ValidationError) as refused:
                    model.model_validate({name: example, "no-such-key": 1})
                assert not [each for each in refused.value.errors() if each["loc"][0] == name], name


@pytest.mark.parametrize(
    "fields",
    [
        {"gpus": 1}, {"resources": {"gpu": 1}}, {"resources": {"gpus": 1.5}}, {"resources": {"memory": "32"}},
        {"resources": {"memory": 32}}, {"timeout": "soon"}, {"array": "a-b"}, {"array": 3}, {"env": {"1A": "x"}},
        {"env": {"A": 3}}, {"retry": {"on": ["panic"]}}, {"mounts": [{"volume": "a"}]}, {"depends_on": [{}]},
        {"depends_on": [3]}, {"checkpoint": {"signal": "SIGKILL"}}, {"nodes": 0}, {"command": ""},
    ],
)  # fmt: skip
def test_both_refuse(fields: Document) -> None:
    document = {**SMALL, **fields}
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(ValidationError):
        spec.TaskSpec.model_validate(document)


@pytest.mark.parametrize(
    "fields",
    [
        {"resources": {"gpus": 0.5, "gpu_model": "A100", "cpus": 0.5}}, {"depends_on": [{"task": "a"}]},
        {"timeout": None}, {"resources": {"gpus": 0}}, {"array": "0-99%5"}, {"resources": {"memory": "1.5 GiB"}},
    ],
)  # fmt: skip
def test_both_take(fields: Document) -> None:
    document = {**SMALL, **fields}
    assert list(VALIDATOR.iter_errors(document)) == []
    spec.TaskSpec.model_validate(document)
