"""Where the host link's what-if questions meet the engine of whoever leads."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scheduler.plan_protocol import PlanAnswer, PlanQuestion

Answering = Callable[[PlanQuestion], PlanAnswer]


class NotLeadingError(Exception):
    """This controller stands by: it knows nothing of the queue."""


class PlanDesk:
    """One per controller. Open while it leads."""

    def __init__(self) -> None:
        self._answering: Answering | None = None
        self._lock = threading.Lock()

    @contextmanager
    def open(self, answering: Answering) -> Iterator[None]:
        """Questions are answered by that, which any thread may call."""
        with self._lock:
            self._answering = answering
        try:
            yield
        finally:
            with self._lock:
                self._answering = None

    def ask(self, question: PlanQuestion) -> PlanAnswer:
        """
        Raises:
            NotLeadingError
        """
        with self._lock:
            answering = self._answering
        if answering is None:
            raise NotLeadingError("this controller does not lead")
        return answering(question)
