"""Which files of a folder are uploaded: the same as git would add, in folders that Hypothesis makes up."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from remotegpu.folder import entries

NAMES = st.sampled_from(["a", "b", "ab", "foo", "foo1", "x.log", "é", "a b", "a]", "#c", "!d", "-", "[a]"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PIECES = st.sampled_from(
    ["*", "**", "?", "/", "/", "[ab]", "[!a]", "[a-c]", "[^]x]", "[]", "[[:alpha:]]", "[[:digit:]", "[[:no:]]",
     "\\", "\\ ", "\\*", " ", "#", "!", "a", "b", "ab", "foo", "foo1", "x", ".log", "é", "[a\\]]",
     "]", "-", "***", "\t", "1"]
)  # fmt: skip
PATTERNS = st.tuples(
    st.sampled_from(["", "", "!", "/", "!/", "**/", "!**/"]),
    st.one_of(PATHS, st.lists(PIECES, min_size=1, max_size=6).map("".join)),
    st.sampled_from(["", "", "/", "/**", "*", "  ", "\r"]),
).map("".join)
RULES = st.lists(PATTERNS, max_size=6).map("\n".join)


def git(*arguments: str, at: Path, given: bytes = b"") -> bytes:
    command = ["git", "-c", "core.excludesFile=/dev/null", "-c", "core.quotePath=false", *arguments]
    run = subprocess.run(command, cwd=at, input=given, stdout=subprocess.PIPE, check=False)
    assert run.returncode in (0, 1), run  # 1: none is ignored
    return run.stdout


@pytest.fixture(scope="module")
def empty_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ignoring")
    git("init", "-q", at=folder)
    return folder


@pytest.fixture
def repository(empty_repository: Path) -> Iterator[Path]:
    yield empty_repository
    clear(empty_repository)


def clear(folder: Path) -> None:
    for each in folder.iterdir():
        if each.name != ".git":
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()


def lay_out(folder: Path, files: list[str], rules: dict[str, str]) -> None:
    clear(folder)
    for name in files:
        file = folder / name
        if not any(parent.is_file() for parent in file.parents) and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    for place, text in rules.items():
        if (folder / place).is_dir():
            (folder / place / ".gitignore").write_bytes(text.encode())


def not_ignored(folder: Path) -> set[str]:
    """As git tells of every file that is there."""
    every = [
        os.path.relpath(Path(at, name), folder)
        for at, _, names in os.walk(folder)
        if ".git" not in Path(at).relative_to(folder).parts
        for name in names
    ]
    given = b"".join(os.fsencode(name) + b"\0" for name in every)
    ignored = git("check-ignore", "--no-index", "--stdin", "-z", at=folder, given=given)
    return set(every) - {os.fsdecode(name) for name in ignored.split(b"\0")}


def uploaded(folder: Path) -> set[str]:
    return {entry.name for entry in entries(folder) if not entry.is_folder}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PATHS, min_size=1, max_size=8), st.dictionaries(st.sampled_from(["", "a", "foo", "a/b"]), RULES))
@example(["foo1/foo2"], {"": "foo*\n!foo1"})
@example(["a/foo1/x.log"], {"": "*.log", "a": "/foo*\n!/foo1"})
@example(["foo/a/b", "foob"], {"": "foo**/b"})
@example(["foo/a/b"], {"": "foo[!x]a/b"})
@example(["a/b", "a/a b"], {"": "a/**/"})
@example(["a b", "a"], {"": "a\\ \na  "})
def test_the_same_files_as_git(repository: Path, files: list[str], rules: dict[str, str]) -> None:
    lay_out(repository, files, rules)
    assert uploaded(repository) == not_ignored(repository)


def test_rules_above_the_folder_apply_up_to_the_repository(repository: Path) -> None:
    lay_out(repository, ["a/b/x.log", "a/b/foo", "a/b/ab"], {"": "*.log\na/b/ab\nb", "a": "foo"})
    assert uploaded(repository / "a" / "b") == set(), "though git leaves the folder itself out"
    (repository / "a" / ".gitignore").unlink()
    assert uploaded(repository / "a" / "b") == {"foo"}


def test_our_own_file_goes_before_those_of_git(repository: Path) -> None:
    lay_out(repository, ["model.bin", "a/model.bin", "a/notes", "keep"], {"": "*.bin", "a": "model.bin"})
    (repository / ".remotegpuignore").write_text("!model.bin\nnotes\n.*ignore\n")
    assert uploaded(repository) == {"model.bin", "a/model.bin", "keep"}


def test_a_folder_in_no_repository_has_its_rules_too(tmp_path: Path) -> None:
    lay_out(tmp_path, ["x.log", "a/foo"], {"": "*.log"})
    assert uploaded(tmp_path) == {".gitignore", "a/foo"}
