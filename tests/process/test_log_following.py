"""Output from a runner's directory to those who follow it, through the API's own process, which is killed meanwhile."""

import json
import threading
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from api.db import Database
from api.tasks.tables import Task
from node.daemon.log_shipping import LogShipping
from node.task_runner.output import STDERR, STDOUT, Output
from tests.process.api_process import running_api
from tests.process.log_shop import LogShop

LINES = 4000


@pytest.fixture
def url(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


class Follower:
    """Follows to the end, and goes on where it was whenever it is cut off."""

    def __init__(self, shop: LogShop, task: Task) -> None:
        self._shop, self._task = shop, task
        self.text = {"stdout": "", "stderr": ""}
        self.cuts = self.dropped = 0
        self.ended = False
        self._position = 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        deadline_s = time.monotonic() + 120
        while not self.ended and time.monotonic() < deadline_s:
            try:
                url = self._shop.follow_url(self._task, self._position)
                with connect(url, additional_headers=self._shop.headers, proxy=None) as socket:
                    while not self.ended:
                        self._take(json.loads(socket.recv(timeout=60)))
            except (ConnectionClosed, InvalidHandshake, OSError):
                self.cuts += 1
                time.sleep(0.05)

    def _take(self, message: dict[str, object]) -> None:
        records = message["records"]
        assert isinstance(records, list)
        for record in records:
            self.dropped += record.get("dropped", 0)
            if record["stream"]:
                self.text[record["stream"]] += record["text"]
        self._position = int(str(message["next_position"]))
        self.ended = bool(message["ended"])


def test_kills_of_the_api_lose_and_double_nothing(database: Database, url: str, tmp_path: Path) -> None:
    with running_api(url, tmp_path) as api:
        shop = LogShop(database, api, tmp_path / "host")
        (tmp_path / "host").mkdir()
        platform = shop.platform()
        task, attempt, source = shop.attempt("train")
        shipping = LogShipping(platform)
        shipping.start()
        shipping.attend(source)
        followers = [Follower(shop, task) for _ in range(3)]
        output = Output(str(source.directory / "log"))
        for number in range(LINES):
            output.write(STDOUT if number % 3 else STDERR, f"línea {number} €\n".encode(), time.time_ns() // 10**6)
            if number % 1500 == 1499:
                api.kill()
                api.start()
            time.sleep(0.001)  # the pace of a program that works between its lines
        output.close(time.time_ns() // 10**6)
        done = threading.Event()
        shipping.finish(source, done.set)
        assert done.wait(60)
        shop.world.end(attempt)
        for follower in followers:
            follower.thread.join(60)
            assert follower.ended and follower.cuts > 1 and follower.dropped == 0
            for stream, belongs in (("stdout", lambda n: n % 3), ("stderr", lambda n: not n % 3)):
                assert follower.text[stream] == "".join(f"línea {n} €\n" for n in range(LINES) if belongs(n))
        shipping.stop()
        platform.close()
