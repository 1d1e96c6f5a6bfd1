"""`make test` and `make lint`: every check that a change must pass, each with a bound on its time."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.instance import REPOSITORY
from deploy.progress import say
from deploy.shell import execute

_PYTEST_S = 1080
_LINT_S = 300
_LOCKS = {"requirements.lock": (), "requirements-dev.lock": ("--extra", "dev")}


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    command: tuple[str, ...]
    timeout_s: int


def lint_checks() -> list[Check]:
    return [
        Check("ruff", (_tool("ruff"), "check", "."), _LINT_S),
        Check("mypy", (_tool("mypy"),), _LINT_S),
        Check("import contracts", (_tool("lint-imports"), "--no-cache"), _LINT_S),
    ]


def test_checks(arguments: tuple[str, ...] = ()) -> list[Check]:
    """What is quick and self-contained, in parallel; or the tests that `arguments` name, such as `tests/e2e`.

    The suites that start whole systems (`tests/process`, `tests/e2e`) take minutes and are run by name.
    """
    if arguments:
        return [Check("pytest", (_python(), "-m", "pytest", *arguments), _PYTEST_S)]
    return [
        Check("pytest: unit, db", (_python(), "-m", "pytest", "-q", "-n", "2", "tests/unit", "tests/db"), _PYTEST_S)
    ]


def run_checks(checks: list[Check]) -> bool:
    """Run them all, whatever fails; True if none did."""
    failed = []
    for check in checks:
        say(f"== {check.name}: {' '.join(check.command)}")
        started = time.monotonic()
        if not _passes(check):
            failed.append(check.name)
        say(f"== {check.name}: {'failed' if check.name in failed else 'passed'} in {time.monotonic() - started:.0f} s")
    say(
        f"{len(checks) - len(failed)} of {len(checks)} checks passed"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return not failed


def bench(names: tuple[str, ...]) -> int:
    """The exit code of the benchmarks; a missed bound is a figure, not an error."""
    command = [_python(), "-m", "tests.bench", *names]
    return subprocess.run(command, stdin=subprocess.DEVNULL, cwd=REPOSITORY, env=_environment(), check=False).returncode


def write_locks() -> None:
    """Write the requirement locks from pyproject.toml, with hashes and without any index's address."""
    for name, extra in _LOCKS.items():
        execute(
            [
                _tool("uv"), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11",
                "--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url",
                *extra, "--output-file", name,
                "pyproject.toml", "client/pyproject.toml", "deploy/build-requirements.in",
            ],
            timeout_s=_LINT_S, cwd=REPOSITORY,
        )  # fmt: skip


def _passes(check: Check) -> bool:
    process = subprocess.Popen(check.command, stdin=subprocess.DEVNULL, cwd=REPOSITORY, env=_environment())
    try:
        return process.wait(check.timeout_s) == 0
    except subprocess.TimeoutExpired:
        say(f"== {check.name}: longer than {check.timeout_s} s")
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return False


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_USAGE_STATS_ENABLED": "0"}


def _python() -> str:
    return sys.executable


def _tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name
