"""Files of tasks: YAML 1.2 as its specification has it, and each mistake with its line."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu.documents import BadDocument, Document, parse, read_documents


def one(text: str) -> Document:
    (document,) = parse(text, source="t.yaml", folder=Path())
    return document


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("on", "on"), ("yes", "yes"), ("No", "No"), ("true", True), ("False", False), ("~", None), ("", None),
        ("null", None), ("12", 12), ("-3", -3), ("012", 12), ("0o14", 12), ("0xff", 255), ("1_000", "1_000"),
        ("12:30:45", "12:30:45"), ("0.5", 0.5), (".5", 0.5), ("1e3", 1000.0),
        ("1.5.2", "1.5.2"), ("2026-01-01", "2026-01-01"), ("'12'", "12"),
        ('"true"', "true"), ("!!str 12", "12"), ("0-9", "0-9"), ("60s", "60s"), ("=", "="), ("<<", "<<"),
    ],
)  # fmt: skip
def test_plain_values_are_those_of_version_1_2(written: str, value: object) -> None:
    found = one(f"x: {written}\n").task["x"]
    assert (found, type(found)) == (value, type(value))


def test_the_key_on_is_a_text() -> None:
    assert one("retry: {max: 3, on: [preempted, error]}").task == {"retry": {"max": 3, "on": ["preempted", "error"]}}


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), json, max_size=4))
def test_json_is_read_as_what_it_is(task: dict[str, object]) -> None:
    assert one(msgspec.json.encode(task).decode()).task == task


def test_a_file_may_have_several_tasks(tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text("---\nname: a\n---\nname: b\nenv:\n  X: '1'\n---\n")
    first, second = read_documents(file)
    assert (first.task, second.task) == ({"name": "a"}, {"name": "b", "env": {"X": "1"}})
    assert (second.folder, second.place(["env", "X"])) == (tmp_path, f"{file}:6")


def test_places_are_those_of_the_nearest_part() -> None:
    document = one("name: a\nmounts:\n  - volume: x\n    path: /a\n  - volume: y\n")
    assert document.place(["mounts", "0", "path"]) == "t.yaml:4"
    assert document.place(["mounts", "1", "path"]) == "t.yaml:5", "the entry that lacks it"
    assert document.place(["command"]) == "t.yaml:1"


def test_an_alias_stands_for_its_anchor() -> None:
    assert one("a: &x {k: [1]}\nb: *x").task == {"a": {"k": [1]}, "b": {"k": [1]}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nenv: {X: '1'}\nname: b\n", r"t.yaml:3: the key 'name' is there already, in line 1"),
        ("env:\n  X: '1'\n  Y: '2'\n  X: '3'\n", r"t.yaml:4: the key 'X' is there already, in line 2"),
        ("name: [a\nx: y\n", r"t.yaml:2: "),
        ("name: a\n\tx: y\n", r"t.yaml:2: "),
        ("- a\n- b\n", r"t.yaml:1: a task is a mapping"),
        ("just text", r"t.yaml:1: a task is a mapping"),
        ("", r"t.yaml: there is no task"),
        ("# nothing\n---\n", r"t.yaml: there is no task"),
        ("a: &x\n  b: *x\n", r"t.yaml:1: an alias stands for what it is in"),
        ("a: *unknown\n", r"t.yaml:1: "),
        ("a: 1\nb: !python/object:os.system x\n", r"t.yaml:2: the tag !python/object:os.system has no meaning"),
        ("? [a, b]\n: c\n", r"t.yaml:1: a key has to be a text"),
        ("a: .inf\n", r"t.yaml:1: .inf is no number"),
        ("a: 1e999\n", r"t.yaml:1: 1e999 is too large"),
        ("a: \0b\n", r"t.yaml: it is no YAML"),
        ("[" * 1500, r"t.yaml: it is no YAML"),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in
         zip("abcdef", "bcdefg", strict=True)), r"t.yaml:\d: its aliases stand for too much"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_line(text: str, said: str) -> None:
    with pytest.raises(BadDocument, match=said):
        parse(text, source="t.yaml", folder=Path())


def test_files_that_can_not_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    (tmp_path / "large.yaml").write_bytes(b"#" * (2**20 + 1))
    for name, said in [("none.yaml", "No such file"), ("latin.yaml", "no UTF-8"), ("large.yaml", "no task")]:
        with pytest.raises(BadDocument, match=said):
            read_documents(tmp_path / name)
