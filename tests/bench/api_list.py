"""An authenticated list of 50 among 100,000 rows, over the same framework answering the same bytes from memory."""

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from sqlalchemy import create_engine, text

from tests.bench.figures import Figure, median
from tests.bench.world import World, wait_until_answers, world

_ROWS = 100_000
_ROUNDS = 3
_SECONDS = 8
_CONNECTIONS = 16
_PATH = "/api/v1/customer/allocations?limit=50&state=released"
_FROM_MEMORY = """
import sys
from pathlib import Path
import uvicorn
from fastapi import FastAPI, Response
body = Path(sys.argv[1]).read_bytes()
app = FastAPI()
@app.get("/list")
def listed() -> Response:
    return Response(body, media_type="application/json")
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
"""


def run() -> list[Figure]:
    if shutil.which("wrk") is None:
        raise SystemExit("this benchmark needs wrk: apt-get install wrk")
    with world() as here:
        _insert_rows(here)
        key = here.owner.account.create_api_key(name="bench", scopes=["allocations:read"]).key
        headers = {"Authorization": f"Bearer {key}"}
        reply = httpx.get(here.platform.public_url + _PATH, headers=headers)
        reply.raise_for_status()
        assert len(reply.json()["items"]) == 50
        ours, memory = [], []
        with _from_memory(reply.content) as address:
            for _ in range(_ROUNDS):
                memory.append(_requests_per_s(address, {}))
                ours.append(_requests_per_s(here.platform.public_url + _PATH, headers))
    ratio = median(ours) / median(memory)
    samples = {"ours_per_s": ours, "memory_per_s": memory}
    return [Figure("list of 50 among 100,000 rows over memory", ratio, "x", 0.3, False, samples)]


def _insert_rows(here: World) -> None:
    socket_directory = here.platform.data / "postgres" / "socket"
    engine = create_engine(f"postgresql+psycopg://remotegpu@/remotegpu?host={socket_directory}")
    statement = text(
        "insert into allocations (uid, customer_id, workspace_id, user_id, state, end_reason, gpus, cpu_milli,"
        " memory_bytes, disk_bytes, image_reference, container_name, disconnect_s, queued_at, released_at)"
        " select gen_random_uuid(), u.customer_id, w.id, u.id, 'released', 'completed', 1, 1000, 1000000, 1000000,"
        " 'image', 'name-' || n, 600, now(), now() from generate_series(1, :rows) n, users u"
        " join workspaces w on w.customer_id = u.customer_id and w.is_default where u.username = :username"
    )
    with engine.begin() as connection:
        connection.execute(statement, {"rows": _ROWS, "username": here.username})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("analyze allocations"))
    engine.dispose()


@contextmanager
def _from_memory(body: bytes) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(body)
        server = subprocess.Popen([sys.executable, "-c", _FROM_MEMORY, file.name, str(port)])
        try:
            address = f"http://127.0.0.1:{port}/list"
            wait_until_answers(address)
            yield address
        finally:
            server.terminate()
            server.wait()


def _requests_per_s(url: str, headers: dict[str, str]) -> float:
    options = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{_SECONDS}s", *options, url]
    time.sleep(0.5)  # the connections of the run before are closed
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output:
        raise RuntimeError(f"{url} did not always answer 200:\n{output}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert found is not None, output
    return float(found[1])
