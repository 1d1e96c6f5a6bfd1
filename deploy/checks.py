"""`make test` and `make lint`: every check that a change must pass, each with a bound on its time."""

import concurrent.futures
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deploy.instance import REPOSITORY
from deploy.progress import say
from deploy.shell import execute

_LINT_S = 180
_NAMED_S = 1080
_PREPARATION_S = 600  # the first one on a machine bootstraps an image
_TOTAL_S = 4500
_TEARDOWN_S = 60
# With platforms of their own, or with long waits.
_APART = ("tests/e2e/test_external_parts.py", "tests/e2e/test_api_outage.py")
_TASKS = tuple(f"tests/e2e/test_{name}.py" for name in ("tasks", "task_exec", "ray_jobs", "gangs"))
_SUITES = {
    "unit, db": (("-n", "2", "tests/unit", "tests/db"), 1200),
    "process": (("tests/process",), 2400),
    "e2e": (("tests/e2e", *(f"--ignore={file}" for file in (*_APART, *_TASKS))), 2000),
    "e2e, tasks": (_TASKS, 1500),
    "e2e, apart": (_APART, 900),
    "gpu": (("tests/gpu",), 60),
}
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


def preparation() -> Check:
    return Check("packages, engine, images", (sys.executable, "-m", "deploy.cli", "prepare"), _PREPARATION_S)


def test_lanes(arguments: tuple[str, ...] = ()) -> list[list[Check]]:
    """Linters and the whole test suite, or what `arguments` name.

    The suites that start whole systems wait more than they compute, so two of them run side by side.
    """
    if arguments:
        return [[*lint_checks(), Check("pytest", (*_PYTEST, *arguments), _NAMED_S)]]
    suites = {name: Check(f"pytest: {name}", (*_PYTEST, *options), limit) for name, (options, limit) in _SUITES.items()}
    return [
        [suites["e2e, tasks"], suites["e2e"], suites["e2e, apart"]],
        [*lint_checks(), suites["process"], suites["gpu"], suites["unit, db"]],
    ]


def run_checks(lanes: Sequence[Sequence[Check]]) -> bool:
    """Run all checks, whatever fails: those of a lane in order, the lanes side by side. True if none failed.

    What a check prints is shown at once where there is one lane, else when it has ended.
    """
    deadline = time.monotonic() + _TOTAL_S
    with concurrent.futures.ThreadPoolExecutor(len(lanes)) as pool:
        outcomes = [pool.submit(_run_lane, lane, deadline, live=len(lanes) == 1) for lane in lanes]
        failed = [check.name for outcome in outcomes for check in outcome.result()]
    total = sum(map(len, lanes))
    say(f"{total - len(failed)} of {total} checks passed" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return not failed


def _run_lane(lane: Sequence[Check], deadline: float, *, live: bool) -> list[Check]:
    """Those that failed."""
    failed = []
    for check in lane:
        say(f"== {check.name}: {' '.join(check.command)}")
        started = time.monotonic()
        with tempfile.TemporaryFile() as output:
            passed = _passes(check, limit_s=min(check.limit_s, deadline - started), output=None if live else output)
            output.seek(0)
            said = output.read().decode(errors="replace").rstrip()
        verdict = f"{'passed' if passed else 'failed'} in {time.monotonic() - started:.0f} s"
        say("\n".join(filter(None, [said, f"== {check.name}: {verdict}"])))
        if not passed:
            failed.append(check)
    return failed


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


def _passes(check: Check, *, limit_s: float, output: IO[bytes] | None) -> bool:
    if limit_s <= 0:
        say(f"== {check.name}: not begun, all checks together took more than {_TOTAL_S} s")
        return False
    process = subprocess.Popen(
        check.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=REPOSITORY, env=_environment()
    )
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
