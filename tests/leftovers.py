"""What a test session must not leave behind."""

import os
from pathlib import Path

import psutil


def processes_of(directory: Path, *, but: str | None = None) -> list[psutil.Process]:
    """Living processes whose command line, environment or working directory names `directory`.

    Not this process, nor those that are called `but`.
    """
    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _belongs(process, str(directory), but)
    ]


def _belongs(process: psutil.Process, directory: str, but: str | None) -> bool:
    try:
        words = [*process.cmdline(), *process.environ().values(), process.cwd()]
        return process.name() != but and any(directory in word for word in words)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False
