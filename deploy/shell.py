"""Running the system's own commands, bounded in time, with their output in the error."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.progress import StepError


def execute(
    command: Sequence[str],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    remedy: str = "",
) -> str:
    """Run `command` and return its standard output.

    Raises:
        StepError: it failed or took longer than `timeout_s`; the message ends with `remedy`.
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=timeout_s, cwd=cwd, env={**os.environ, **(env or {})}, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise StepError(f"{command[0]} is not installed. {remedy}".strip()) from error
    except subprocess.TimeoutExpired as error:
        raise StepError(f"`{' '.join(command)}` took longer than {timeout_s:.0f} s. {remedy}".strip()) from error
    if done.returncode != 0:
        tail = (done.stderr.strip() or done.stdout.strip())[-1500:]
        raise StepError(f"`{' '.join(command)}` failed with status {done.returncode}: {tail}\n{remedy}".strip())
    return done.stdout
