"""An authenticated list of 50 among 100,000 rows, over the same framework answering the same bytes from memory.

The server is the platform's own, `python -m api.server` over the embedded PostgreSQL: listeners, policy, rate limits
and the look-up of the API key at each request included. Only the limits' figures are raised. Each row has what an
allocation that ran has: a host, a price, and a device.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from sqlalchemy import text

from api.db import Database
from api.identity.passwords import hash_password
from api.migrations.migrate import migrate
from deploy.postgres import EmbeddedPostgres
from tests.bench.figures import Figure, median
from tests.bench.world import wait_until_answers
from tests.db.fleet import Fleet
from tests.ports import free_port
from tests.process.api_process import running_api

_ROWS = 100_000
_HOSTS, _GPUS_PER_HOST = 4, 8
_ROUNDS = 3
_SECONDS = 8
_CONNECTIONS = 16
_PASSWORD = "correct-horse-battery"
_PATH = "/api/v1/customer/allocations?limit=50&state=released"
_UNLIMITED = dict.fromkeys(("REMOTEGPU_RATE_LIMIT_ADDRESS", "REMOTEGPU_RATE_LIMIT_IDENTITY"), "1000000/second")
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


# A history without overlaps: each device's allocations lasted an hour, one after the other.
_ALLOCATIONS = """
insert into allocations (uid, customer_id, workspace_id, user_id, state, end_reason, generation, gpus, gpu_models,
    cpu_milli, memory_bytes, disk_bytes, image_reference, container_name, disconnect_s, host_id, host_ids,
    queued_at, placed_at, active_at, releasing_at, released_at)
select gen_random_uuid(), u.customer_id, w.id, u.id, 'released', 'completed', 1, 1, '{A100}', 4000, 1 << 30, 1 << 30,
    'remotegpu/base:1', 'rg-env-' || n, 600, h.id, array[h.id],
    t.start, t.start, t.start, t.start + interval '1 hour', t.start + interval '1 hour'
from generate_series(0, :rows - 1) n
join lateral (select now() - interval '1 hour' * (:rows / :gpus + 1 - n / :gpus) as start) t on true
join (select id, row_number() over (order by id) - 1 as number from hosts) h on h.number = n % :gpus / :gpus_per_host
cross join users u join workspaces w on w.customer_id = u.customer_id and w.is_default
order by n
"""
_DEVICES = """
insert into allocation_devices (allocation_id, gpu_id, generation, period)
select a.id, g.id, 1, tstzrange(a.active_at, a.released_at)
from (select *, row_number() over (order by id) - 1 as n from allocations) a
join gpus g on g.host_id = a.host_id and g.index = a.n % :gpus_per_host
"""
_HOLDS = """
insert into holds (allocation_id, generation, customer_id, price_version_id, terms, price_micro_per_gpu_hour,
    devices_milli, devices, starts_ms, covers_until_ms, bought_micro, amount_micro, billable_until_ms, release_at,
    closed_at)
select a.id, 1, a.customer_id, p.id, 'on_demand', p.price_micro, 1000, 1, 0, 0, 0, 0, 0, a.released_at, a.released_at
from allocations a cross join price_versions p
"""


def run() -> list[Figure]:
    if shutil.which("wrk") is None:
        raise SystemExit("this benchmark needs wrk: apt-get install wrk")
    ours: list[float] = []
    memory: list[float] = []
    with _platform() as (url, key):
        headers = {"Authorization": f"Bearer {key}"}
        reply = httpx.get(url, headers=headers, trust_env=False).raise_for_status()
        items = reply.json()["items"]
        assert len(items) == 50 and all(item["devices"] and item["host"] and item["currency"] for item in items)
        with _from_memory(reply.content) as address:
            for _ in range(_ROUNDS):
                memory.append(_requests_per_s(address, {}))
                ours.append(_requests_per_s(url, headers))
    ratio = median(ours) / median(memory)
    samples = {"ours_per_s": ours, "memory_per_s": memory}
    return [Figure("list of 50 among 100,000 rows over memory", ratio, "x", 0.3, False, samples)]


@contextmanager
def _platform() -> Iterator[tuple[str, str]]:
    """The address of the list and an owner's API key."""
    directory = Path(tempfile.mkdtemp(prefix="rgb-", dir="/var/tmp"))
    directory.chmod(0o711)
    server = EmbeddedPostgres(directory / "pg")
    try:
        server.start()
        server.ensure_database("remotegpu")
        database = Database(server.url("remotegpu"))
        migrate(database.engine)
        _insert_rows(database)
        database.close()
        with running_api(server.url("remotegpu"), directory, **_UNLIMITED) as api:
            yield api.public_url + _PATH, _api_key(api.public_url)
    finally:
        server.stop()
        shutil.rmtree(directory)


def _insert_rows(database: Database) -> None:
    fleet = Fleet(database)
    fleet.price()
    fleet.customer("acme")
    for number in range(_HOSTS):
        fleet.host(f"h{number}", gpus=_GPUS_PER_HOST)
    values = {"rows": _ROWS, "gpus": _HOSTS * _GPUS_PER_HOST, "gpus_per_host": _GPUS_PER_HOST}
    with database.engine.begin() as connection:
        connection.execute(text("update users set password_hash = :hash"), {"hash": hash_password(_PASSWORD)})
        connection.execute(text(_ALLOCATIONS), values)
        connection.execute(text(_DEVICES), {"gpus_per_host": _GPUS_PER_HOST})
        connection.execute(text(_HOLDS))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum analyze"))


def _api_key(public_url: str) -> str:
    with httpx.Client(base_url=f"{public_url}/api/v1", trust_env=False) as client:
        tokens = client.post("/auth/login", json={"username": "acme-owner", "password": _PASSWORD}).raise_for_status()
        headers = {"Authorization": f"Bearer {tokens.json()['access_token']}"}
        wanted = {"name": "bench", "scopes": ["allocations:read"]}
        created = client.post("/customer/api-keys", json=wanted, headers=headers).raise_for_status()
        return str(created.json()["key"])


@contextmanager
def _from_memory(body: bytes) -> Iterator[str]:
    port = free_port()
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
