"""How the code is shaped: lengths of functions and files, the README, the direction of imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
FOLDERS = ("api", "client", "cluster", "deploy", "hub", "node", "scheduler", "tests")
MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = 400
MAX_README_LINES = 149
VAGUE_NAMES = {"utils.py", "util.py", "helpers.py", "manager.py", "common.py", "misc.py"}


def sources() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            # The first migration is generated whole from the tables.
            if "node_modules" not in path.parts and path.name != "0001_initial_schema.py":
                yield path


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_functions_fit_on_a_screen() -> None:
    lengths = {name: length for path in sources() for name, length in functions(path)}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_most_functions_are_short() -> None:
    lengths = sorted(length for path in sources() for _, length in functions(path))
    assert lengths[len(lengths) * 9 // 10] <= 35


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in sources()}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_files_are_named_for_a_noun() -> None:
    assert [path for path in sources() if path.name in VAGUE_NAMES] == []


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_locks_are_hashed_and_name_no_index(lock: str) -> None:
    text = (REPOSITORY / lock).read_text()
    assert "--hash=sha256:" in text
    assert "index-url" not in text and "find-links" not in text and "file://" not in text
    assert "rfc3987-syntax" not in text, "deploy/lock-overrides.in says what it would cost"


def test_imports_go_one_way() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
