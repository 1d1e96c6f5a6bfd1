"""What is looked after every few seconds, each in its own thread: a raylet that takes a minute holds up nothing."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Duty:
    """`act` is called every `every_s` seconds; it does nothing where nothing is to be done."""

    name: str
    every_s: float
    act: Callable[[], None]


class Upkeep:
    def __init__(self) -> None:
        self._stopped = threading.Event()

    def start(self, *duties: Duty) -> None:
        for duty in duties:
            threading.Thread(target=self._run, args=(duty,), name=duty.name, daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self, duty: Duty) -> None:
        while not self._stopped.is_set():
            try:
                duty.act()
            except Exception:
                log.exception("%s: failed, and is tried again", duty.name)
            self._stopped.wait(duty.every_s)
