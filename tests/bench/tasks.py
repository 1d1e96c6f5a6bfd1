"""Tasks of `true` against `docker run --rm` of the same image: one, many at once, and a long queue."""

import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

from deploy.instance import load
from deploy.supervisor import Supervisor
from remotegpu import Client
from remotegpu.models import Task
from tests.bench.figures import Figure, median
from tests.bench.world import World, world

_ROUNDS = 30
_MANY = 500
_QUEUED = 10_000
_SUBMITTED_TOGETHER = 100
_IMAGE = "remotegpu/base:1"
_BARE_EACH = 60  # containers for each number of workers that is tried
_BARE_WORKERS = (2, 4, 8)
_POLL_S = 0.01
_DRAIN_S = 60.0
_TIMEOUT_S = 900.0
_SIZE = {"gpus": 1, "cpus": 0.25, "memory": "512MiB"}
_UNLIMITED = {"queued": 20_000}


def run() -> list[Figure]:
    with world("--simulate", "2x8:A100-80GB") as here:
        (customer,) = (each for each in here.admin.admin.list("customers") if each["name"] == "bench")
        here.admin.admin.set_quota(f"customers/{customer['id']}", _UNLIMITED)
        return [_one(here), _many(here), *_queue(here)]


def _one(here: World) -> Figure:
    ours, bare = [], []
    for _ in range(_ROUNDS):
        ours.append(_timed(lambda: _wait(here.owner, here.owner.tasks.run("true", **_document()))))
        bare.append(_timed(_bare))
    return Figure(
        "task of `true`, submitted to finished, over docker run --rm", median(ours) / median(bare), "x", 1.3, True,
        {"ours_s": ours, "bare_s": bare},
    )  # fmt: skip


def _many(here: World) -> Figure:
    """Tasks a second of many submitted at once, over the best that a loop of `docker run` does on the same machine."""
    began = time.monotonic()
    _submit(here.owner, _MANY)
    _wait_none_left(here.owner)
    ours = _MANY / (time.monotonic() - began)
    bare = {workers: _bare_rate(workers) for workers in _BARE_WORKERS}
    return Figure(
        f"{_MANY} tasks at once over a loop of docker run", ours / max(bare.values()), "x", 0.8, False,
        {"ours_per_s": [ours], "bare_per_s": list(bare.values())},
    )  # fmt: skip


def _queue(here: World) -> list[Figure]:
    """What a long queue costs the Ray head, and the API while it drains."""
    head = Supervisor(load(here.platform.data)).pids()["ray"]
    before = _memory(head)
    _submit(here.owner, _QUEUED)
    queued = _memory(head)
    times = _asked_for(here.owner, _DRAIN_S)
    p99 = sorted(times)[int(len(times) * 0.99)]
    return [
        Figure(
            f"memory of the Ray head with {_QUEUED} tasks queued", queued / before, "x", 1.05, True,
            {"before_bytes": [before], "queued_bytes": [queued]},
        ),
        Figure("API, 99th percentile while they drain", p99 * 1000, "ms", 100, True, {"asked": [len(times)]}),
    ]  # fmt: skip


def _document() -> dict[str, Any]:  # Any: JSON
    return {"image": "base", "resources": _SIZE}


def _submit(owner: Client, count: int) -> None:
    for start in range(0, count, _SUBMITTED_TOGETHER):
        number = min(_SUBMITTED_TOGETHER, count - start)
        owner.tasks.submit(
            *({**_document(), "name": f"t{start + offset}", "command": "true"} for offset in range(number))
        )


def _wait(owner: Client, task: Task) -> None:
    while not (now := owner.tasks.get(task.id)).is_over:
        time.sleep(_POLL_S)
    if now.state != "succeeded":
        raise RuntimeError(f"it {now.state}: {now.detail}")


def _wait_none_left(owner: Client) -> None:
    """Few questions: they would take their share of the machine."""
    deadline = time.monotonic() + _TIMEOUT_S
    for state in ("queued", "starting", "running", "stopping"):
        while next(iter(owner.tasks.list(state=state)), None) is not None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"tasks are still {state}")
            time.sleep(0.5)


def _bare() -> None:
    limits = ("--cpus=0.25", "--memory=512m")
    subprocess.run(["docker", "run", "--rm", *limits, _IMAGE, "true"], capture_output=True, check=True)


def _bare_rate(workers: int) -> float:
    with ThreadPoolExecutor(workers) as pool:
        began = time.monotonic()
        for done in [pool.submit(_bare) for _ in range(_BARE_EACH)]:
            done.result()
        return _BARE_EACH / (time.monotonic() - began)


def _asked_for(owner: Client, length_s: float) -> list[float]:
    """How long answers took: what people look at, one after another, without a pause."""
    times: list[float] = []
    asked: Sequence[Any] = (
        owner.account.me,
        lambda: next(iter(owner.tasks.list())),
        lambda: next(iter(owner.tasks.list(state="running")), None),
        owner.billing.balance,
    )
    end = time.monotonic() + length_s
    while time.monotonic() < end:
        for ask in asked:
            times.append(_timed(ask))
            time.sleep(0.02)
    return times


def _memory(pid: int) -> int:
    """Proportional, of a process and everything below it."""
    top = psutil.Process(pid)
    return sum(process.memory_full_info().pss for process in [top, *top.children(recursive=True)])


def _timed(action: Any) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began
