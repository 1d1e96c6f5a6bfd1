"""The runner's JSON is the library's own, for all that it reads and writes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.task_runner import plain_json

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
objects = st.dictionaries(st.text(), values)


@given(objects)
def test_what_one_writes_the_other_reads(document: dict[str, Any]) -> None:
    assert json.loads(plain_json.dumps(document)) == document
    assert plain_json.loads(json.dumps(document)) == document
    assert plain_json.loads(json.dumps(document, indent=1) + "\n") == document


@pytest.mark.parametrize("text", ["", "{", '{"a": 1} x', "[1]", "null", "1", '{"a": NaN}', '{"a"}', "x" * 99])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        plain_json.loads(text)


def test_what_has_no_place_in_it_is_refused() -> None:
    with pytest.raises(TypeError):
        plain_json.dumps({"a": object()})


def test_a_runner_does_not_import_what_it_does_not_need() -> None:
    """Each takes a few milliseconds of a task's processor share before its command begins."""
    place = str(Path(plain_json.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {place!r}); import task_runner.run; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"json", "re", "subprocess", "threading", "http"} & set(loaded)
