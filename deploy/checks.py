"""`make test` and `make lint`: every check that a change must pass, each with a bound on its time."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.instance import REPOSITORY
from deploy.progress import say
from deploy.shell import execute

_LINT_S = 180
_NAMED_S = 1080
_PREPARATION_S = 600  # the first one on a machine bootstraps an image
_TOTAL_S = 1080  # of all checks together
_TEARDOWN_S = 60
# In this order: what is quick first, what starts whole systems later, each alone on the machine.
_SUITES = (
    ("unit, db", ("-n", "2", "tests/unit", "tests/db"), 300),
    ("process", ("tests/process",), 480),
    ("e2e", ("tests/e2e",), 540),
    ("gpu", ("tests/gpu",), 60),
)
_PYTEST = (sys.executable, "-m", "pytest", "-q")
_LOCKS = {"requirements.lock": (), "requirements-dev.lock": ("--extra", "dev")}


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    command: tuple[str, ...]
    limit_s: float


def lint_checks() -> list[Check]:
    return [
        Check("ruff", (_tool("ruff"), "check", "."), _LINT_S),
        Check("mypy", (_tool("mypy"),), _LINT_S),
        Check("import contracts", (_tool("lint-imports"), "--no-cache"), _LINT_S),
    ]


def test_checks(arguments: tuple[str, ...] = ()) -> list[Check]:
    """The whole test suite, part by part, on a machine made ready for it; or what `arguments` name."""
    if arguments:
        return [Check("pytest", (*_PYTEST, *arguments), _NAMED_S)]
    return [
        Check("packages, engine, images", (sys.executable, "-m", "deploy.cli", "prepare"), _PREPARATION_S),
        *(Check(f"pytest: {name}", (*_PYTEST, *options), limit_s) for name, options, limit_s in _SUITES),
    ]


def run_checks(checks: list[Check]) -> bool:
    """Run them all, whatever fails; True if none did."""
    failed = []
    deadline = time.monotonic() + _TOTAL_S
    for check in checks:
        say(f"== {check.name}: {' '.join(check.command)}")
        started = time.monotonic()
        if not _passes(check, limit_s=min(check.limit_s, deadline - started)):
            failed.append(check.name)
        say(f"== {check.name}: {'failed' if check.name in failed else 'passed'} in {time.monotonic() - started:.0f} s")
    say(
        f"{len(checks) - len(failed)} of {len(checks)} checks passed"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return not failed


def bench(names: tuple[str, ...]) -> int:
    """The exit code of the benchmarks; a missed bound is a figure, not an error."""
    command = [sys.executable, "-m", "tests.bench", *names]
    return subprocess.run(command, stdin=subprocess.DEVNULL, cwd=REPOSITORY, env=_environment(), check=False).returncode


def write_locks() -> None:
    """Write the requirement locks from pyproject.toml, with hashes and without any index's address."""
    for name, extra in _LOCKS.items():
        execute(
            [
                _tool("uv"), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11",
                "--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url",
                "--overrides", "deploy/lock-overrides.in",
                *extra, "--output-file", name,
                "pyproject.toml", "client/pyproject.toml", "deploy/build-requirements.in",
            ],
            timeout_s=_LINT_S, cwd=REPOSITORY,
        )  # fmt: skip


def _passes(check: Check, *, limit_s: float) -> bool:
    if limit_s <= 0:
        say(f"== {check.name}: not begun, all checks together took more than {_TOTAL_S} s")
        return False
    process = subprocess.Popen(check.command, stdin=subprocess.DEVNULL, cwd=REPOSITORY, env=_environment())
    try:
        return process.wait(limit_s) == 0
    except subprocess.TimeoutExpired:
        say(f"== {check.name}: longer than {limit_s:.0f} s")
        process.send_signal(signal.SIGINT)  # as from a keyboard: pytest takes down what its fixtures have started
        try:
            process.wait(_TEARDOWN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return False


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_USAGE_STATS_ENABLED": "0"}


def _tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name
