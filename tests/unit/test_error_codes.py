"""The error codes in the code and those on the page of the reference are the same."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "errors.md"
FROM_HOSTS = {"docker_error"}  # a daemon's own code, passed on as it is
NOT_ERRORS = {"WaitReason", "WaitOut", "LimitOut"}  # they have a `code` too: why a request waits, or would


def codes_of(tree: ast.AST) -> Iterator[str]:
    """Codes that are given to an error by keyword, that a class of errors has, or that a problem is made with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            given = [keyword.value for keyword in node.keywords if keyword.arg == "code" and name not in NOT_ERRORS]
            yield from _strings(given + (node.args[1:2] if name == "problem" else []))
        elif isinstance(node, ast.ClassDef):
            yield from _strings(
                [each.value for each in node.body if isinstance(each, ast.Assign) and _named(each.targets, "code")]
            )
        elif isinstance(node, ast.Assign) and _named(node.targets, "_CODES") and isinstance(node.value, ast.Dict):
            yield from _strings([value.elts[0] for value in node.value.values if isinstance(value, ast.Tuple)])


def _named(targets: list[ast.expr], name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _strings(nodes: list[ast.expr]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def documented() -> set[str]:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if re.match(r"\| \d{3} \|", line)]
    return {code for row in rows for code in re.findall(r"`([a-z_]+)`", row[2])} | {"http_error"}


def test_codes_and_their_page_agree() -> None:
    files = (ROOT / "api").rglob("*.py")
    found = {code for file in files for code in codes_of(ast.parse(file.read_text()))}
    assert {"unauthenticated", "too_large", "name_taken", "host_unreachable"} <= found, "each way is looked for"
    general = {"unprocessable", "too_many_requests"}  # of the classes; every use has a code of its own
    found = (found | {"http_error"} | FROM_HOSTS) - general
    assert sorted(found - documented()) == []
    assert sorted(documented() - found) == []
