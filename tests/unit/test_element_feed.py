"""A worker's elements at its host: of output only that goes first of which the platform can tell whose it is."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.daemon.attempt_directory import AttemptDirectory
from node.daemon.elements import ElementFeed
from node.platform import AttemptOverError
from scheduler.host_protocol import ElementRun, ElementsAsked, ElementsGiven


@dataclass
class GivingPlatform:
    """Gives three elements, and answers to results only while `answers` is set."""

    answers: threading.Event = field(default_factory=threading.Event)
    over: bool = False
    told: list[int] = field(default_factory=list)

    def elements(self, allocation_uid: str, generation: int, asked: ElementsAsked) -> ElementsGiven:
        if asked.results:
            assert self.answers.wait(20)
        if self.over:
            raise AttemptOverError("it has ended")
        self.told += [result.place for result in asked.results]
        return ElementsGiven(tuple(ElementRun(place, place, 1) for place in range(asked.have, 3)), over=True)


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def begun(platform: Any, path: Path) -> tuple[ElementFeed, Callable[..., None]]:
    """A feed that has given its elements, and what the runner tells of one's end."""
    directory = AttemptDirectory(path / "attempt", path / "secrets")
    directory.inside.mkdir(parents=True)
    directory.outside.mkdir()
    feed = ElementFeed(platform, "0" * 36, 1, directory)
    feed.start()
    until(lambda: (directory.inside / "elements").exists())
    told = directory.outside / "elements"

    def tell(place: int, begin: int, end: int) -> None:
        said = {
            "place": place,
            "started_at_ms": 1,
            "log_from": begin,
            "end": "exited",
            "exit_code": 0,
            "ended_at_ms": 2,
        }
        with told.open("a") as file:
            file.write(json.dumps({**said, "log_to": end}) + "\n")

    return feed, tell


def test_output_waits_for_the_ends_of_elements_to_be_told(tmp_path: Path) -> None:
    platform = GivingPlatform()
    feed, tell = begun(platform, tmp_path)
    assert feed.untold_from() is None
    tell(0, 0, 10)
    assert feed.untold_from() == 10, "it counts as soon as it is told here"
    tell(1, 10, 25)
    assert feed.untold_from() == 10
    platform.answers.set()
    until(lambda: feed.untold_from() is None)
    assert platform.told == [0, 1]
    feed.stop(5)


def test_nothing_waits_for_a_platform_that_takes_no_more(tmp_path: Path) -> None:
    platform = GivingPlatform(over=False)
    feed, tell = begun(platform, tmp_path)
    platform.over = True
    tell(0, 0, 10)
    assert feed.untold_from() == 10
    platform.answers.set()
    until(lambda: feed.untold_from() is None)
    feed.stop(5)
