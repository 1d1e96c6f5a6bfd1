"""Environments against bare `docker run` of the same image, command and limits, until `/api` answers 200."""

import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.bench.figures import Figure, median
from tests.bench.world import World, wait_until_answers, world

_ROUNDS = 7
_TOGETHER = 10
_TOGETHER_ROUNDS = 3
_CPU_MILLI = 2000
_TOGETHER_CPU_MILLI = 400
_MEMORY_BYTES = 2**30


def run() -> list[Figure]:
    with world("--simulate", "2x8:A100-80GB") as here:
        return [_single(here), _together(here)]


def _single(here: World) -> Figure:
    name = "bench"
    (container,) = _first(here, [name], _CPU_MILLI)
    ours, bare = [], []
    for _ in range(_ROUNDS):
        ours.append(_timed(lambda: _start(here, name)))
        here.owner.environments.stop(here.owner.environments.find(name).id)
        _wait_stopped(here, [name])
        bare.append(_bare([container]))
    return Figure(
        "environment start over bare docker run", median(ours) / median(bare), "x", 1.15, True,
        {"ours_s": ours, "bare_s": bare},
    )  # fmt: skip


def _together(here: World) -> Figure:
    names = [f"many-{number}" for number in range(_TOGETHER)]
    containers = _first(here, names, _TOGETHER_CPU_MILLI)
    ours, bare = [], []
    for _ in range(_TOGETHER_ROUNDS):
        ours.append(_timed(lambda: _all(lambda name: _start(here, name, askers=len(names)), names)))
        _all(lambda name: here.owner.environments.stop(here.owner.environments.find(name).id), names)
        _wait_stopped(here, names)
        bare.append(_bare(containers))
    return Figure(
        "ten environments at once over ten bare containers", median(ours) / median(bare), "x", 1.2, True,
        {"ours_s": ours, "bare_s": bare},
    )  # fmt: skip


def _first(here: World, names: Sequence[str], cpu_milli: int) -> list[dict[str, Any]]:
    """Create environments, look at their containers, and stop them.

    All run before any is stopped: their homes bind them to hosts, on which there must be room for all of them together.
    """
    environments = [
        here.owner.environments.create(
            name=name, image="base", gpus=1, gpu_model="A100", cpu_milli=cpu_milli, memory_bytes=_MEMORY_BYTES
        )
        for name in names
    ]
    for environment in environments:
        wait_until_answers(f"{environment.url}api")
        here.owner.environments.wait(environment.id)
    containers = [here.container_of(environment.id) for environment in environments]
    for environment in environments:
        here.owner.environments.stop(environment.id)
    _wait_stopped(here, names)
    return containers


def _start(here: World, name: str, *, askers: int = 1) -> None:
    environment = here.owner.environments.find(name)
    here.owner.environments.start(environment.id)
    wait_until_answers(f"{environment.url}api", askers=askers)


def _wait_stopped(here: World, names: Sequence[str]) -> None:
    for name in names:
        environment = here.owner.environments.find(name)
        here.owner.environments.wait(environment.id, until=frozenset({"stopped", "failed"}))


def _bare(containers: Sequence[dict[str, Any]]) -> float:
    """Seconds until all answer; they are removed afterwards."""
    started: list[str] = []
    try:
        return _timed(
            lambda: _all(lambda container: _bare_start(container, started, askers=len(containers)), containers)
        )
    finally:
        subprocess.run(["docker", "rm", "-f", *started], capture_output=True, check=True)


def _bare_start(container: dict[str, Any], started: list[str], *, askers: int) -> None:
    config, limits = container["Config"], container["HostConfig"]
    options = [part for entry in config["Env"] for part in ("--env", entry)]
    cpus = limits["NanoCpus"] / 1e9
    limited = [f"--cpus={cpus}", f"--memory={limits['Memory']}", f"--pids-limit={limits['PidsLimit']}"]
    command = [
        "docker", "run", "--detach", "--publish", "127.0.0.1::8888", *limited, *options,
        config["Image"], *config["Cmd"],
    ]  # fmt: skip
    container_id = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    started.append(container_id)
    port = subprocess.run(["docker", "port", container_id, "8888"], capture_output=True, text=True, check=True).stdout
    prefix = next(entry for entry in config["Env"] if entry.startswith("JUPYTERHUB_SERVICE_PREFIX=")).split("=", 1)[1]
    wait_until_answers(f"http://{port.split()[0]}{prefix}api", askers=askers)


def _all(action: Any, items: Sequence[Any]) -> None:
    with ThreadPoolExecutor(len(items)) as pool:
        for future in [pool.submit(action, item) for item in items]:
            future.result()


def _timed(action: Any) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began
