"""A worker's elements on their way between platform and runner: given as fast as they end, told in batches.

What was given lies in the attempt's directory, and what became of it too. So a daemon that comes back asks for what it
did not get, and tells what it did not tell; the platform takes each word once.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from node.daemon.attempt_directory import AttemptDirectory
from node.daemon.element_files import GivenElements, ToldElements
from node.platform import AttemptOverError, Platform, PlatformUnavailableError
from scheduler.host_protocol import ElementResult, ElementsAsked, ElementStart

log = logging.getLogger(__name__)

MOST_AHEAD = 128
"""Elements that a worker is given before it has run those that it has."""
_MOST_TOLD = 256  # with one request, as the platform takes
_TELL_AFTER_S = 0.5
_RATE_OVER_S = 1.0
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.01, 0.25
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0


class ElementFeed:
    """Of one worker, in a thread of its own."""

    def __init__(self, platform: Platform, allocation_uid: str, generation: int, directory: AttemptDirectory) -> None:
        self._platform, self._key = platform, (allocation_uid, generation)
        self._given = GivenElements(directory.inside / "elements")
        self._told = ToldElements(directory.outside / "elements")
        self._starts: list[ElementStart] = []
        self._results: list[ElementResult] = []
        self._unsent_since: float | None = None
        self._ended = 0  # of those given, how many have
        self._recent: deque[float] = deque(maxlen=MOST_AHEAD)  # when they did
        self._none_left = False  # as the platform said last
        self._closing = threading.Event()
        self._stopped = threading.Event()
        self._finally: Callable[[], None] | None = None
        self._lock = threading.Lock()  # of the one above
        self._over = False  # nothing more is told
        self._looking = threading.RLock()  # of what the runner was given and tells
        self._thread = threading.Thread(target=self._run, name=f"elements-{allocation_uid[:8]}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, then: Callable[[], None]) -> None:
        """Nothing of it runs any more: tell what is left to tell, and call the first `then` that was given."""
        with self._lock:
            self._finally = self._finally or then
        self._closing.set()

    def stop(self, longest_s: float) -> None:
        """Tell what is left, but not for longer than this."""
        self._closing.set()
        self._thread.join(longest_s)
        self._stopped.set()

    def untold_from(self) -> int | None:
        """Where the output of the first element ends whose end the platform does not know; None: it knows them all.

        What the runner told before the call counts. So of the output up to there the platform can tell whose it is.
        """
        with self._looking:
            if self._over:
                return None
            while self._look()[1]:
                pass
            return min((result.log_to for result in self._results), default=None)

    def _run(self) -> None:
        try:
            self._feed()
        except AttemptOverError:
            log.info("the platform takes no more of the elements of allocation %s", self._key[0])
        except Exception:
            log.exception("the elements of allocation %s are no longer looked at", self._key[0])
        finally:
            with self._looking:
                self._over = True
                self._told.close()
        self._closing.wait()
        with self._lock:
            then = self._finally
        if then is not None and not self._stopped.is_set():
            then()

    def _feed(self) -> None:
        """Raises: AttemptOverError."""
        wait_s, pause_s = _SHORTEST_WAIT_S, _FIRST_PAUSE_S
        while not self._stopped.is_set():
            closing = self._closing.is_set()  # what was told before is read below
            news, more = self._look()
            if closing and not more and not self._unsent:
                return
            take = 0 if closing else self._wanted()
            try:
                if take or self._must_tell(closing):
                    self._exchange(take)
                    news, pause_s = True, _FIRST_PAUSE_S
            except (PlatformUnavailableError, OSError) as error:  # an answer that can't be kept is asked for again
                log.info("elements of allocation %s: %s", self._key[0], error)
                self._stopped.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            wait_s = _SHORTEST_WAIT_S if news else min(1.5 * wait_s, _LONGEST_WAIT_S)
            if not more and not closing:
                self._closing.wait(wait_s)

    @property
    def _unsent(self) -> bool:
        return bool(self._starts or self._results)

    def _look(self) -> tuple[bool, bool]:
        """Take in what the runner tells: whether there was anything, and whether there is more."""
        with self._looking:
            starts, results, more = self._told.read(given=self._given.count)
            now = time.monotonic()
            self._starts += starts
            self._results += results
            self._ended += len(results)
            self._recent.extend(now for _ in results)
            if self._unsent and self._unsent_since is None:
                self._unsent_since = now
            return bool(starts or results), more

    def _wanted(self) -> int:
        """As many as it runs in a second: so few requests are enough, and long ones are not kept from other workers."""
        while self._recent and self._recent[0] < time.monotonic() - _RATE_OVER_S:
            self._recent.popleft()
        have, rate = self._given.count - self._ended, len(self._recent)
        if self._given.over or (self._none_left and have) or have > rate // 2:
            return 0
        return max(1, min(rate, MOST_AHEAD) - have)

    def _must_tell(self, closing: bool) -> bool:
        if self._unsent_since is None:
            return False
        full = len(self._results) >= _MOST_TOLD
        return closing or full or time.monotonic() - self._unsent_since >= _TELL_AFTER_S

    def _exchange(self, take: int) -> None:
        """Raises: AttemptOverError, PlatformUnavailableError, OSError."""
        with self._looking:
            starts, results = self._starts[:_MOST_TOLD], self._results[:_MOST_TOLD]
        ended = {result.place for result in results}
        started = tuple(start for start in starts if start.place not in ended)
        asked = ElementsAsked(self._given.count, take, started, tuple(results))
        answer = self._platform.elements(*self._key, asked)
        with self._looking:
            self._given.add(answer.runs)
            del self._starts[: len(starts)], self._results[: len(results)]
            self._unsent_since = time.monotonic() if self._unsent else None
        self._none_left = answer.over
        if answer.over and self._ended == self._given.count and not self._unsent:
            self._given.end()
