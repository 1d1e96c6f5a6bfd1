"""The internal listener's document against its server: by a host, the Hub, the monitoring, and by nobody."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
import schemathesis
from sqlalchemy import text
from sqlalchemy.orm import Session

from api.allocations.tables import Allocation
from api.db import Database
from api.environments.tables import Environment
from api.internal.app import WITHOUT_CERTIFICATE
from api.internal.pki import Authority, make_request
from api.machines import enrolment
from api.machines.tables import Host
from api.object_store import ObjectStore, location_of
from api.principal import Principal, Role
from api.settings import Settings
from api.tasks.tables import Task
from api.uploads.tables import Upload
from scheduler.states import AllocationState
from tests.controller_socket import ControllerSocket, answering
from tests.db.environment_world import BOOT, World
from tests.db.fleet import Fleet
from tests.db.task_world import TaskWorld, document
from tests.db.test_task_arrays import ArrayWorld
from tests.db.upload_world import archive_of, digest_of
from tests.process.api_process import running_api
from tests.process.fuzzing import EXAMPLES, Answers, Known, fuzz, inputs, operations, unreached

TAGS = {"h1": "hosts", "hub": "hub", "monitoring": "monitoring", "nobody": ""}  # what each one's certificate is for
_MENDING = (
    "update hosts set boot_id = 'boot-1', device_status = 'online', ray_node_id = 'node', heartbeat_at = now(),"
    " cpu_milli = 512000, memory_bytes = 1::bigint << 41, problems = '[]' where name = 'h1'",
    "update gpus set present = uuid like 'GPU-h1-%', healthy = true",
    "update gpus set model = 'NVIDIA A100-SXM4-80GB' where uuid like 'GPU-h1-%'",
)


class Fuzzed:
    """A host on which an environment, a task and a worker of an array run, one that is stopped, and certificates."""

    def __init__(self, database: Database, settings: Settings, url: str, directory: Path) -> None:
        self.database, self.settings, self.url, self.directory = database, settings, url, directory
        self.world = World.make(Fleet(database), settings)
        self.host = host = self.world.host("h1", gpus=32, cpu=512, memory_gib=2048)  # enough for all that is started
        self.world.stop(self.world.create("stopped"))
        self.digest = self._upload()
        self.running, self.task, self.array = self._run(), self._start(host), self._start_array()
        authority = Authority(settings.secrets_dir)
        self.csr = self._certify(authority, host)
        self.token = database.transact(lambda session: _token(session, authority))

    def _certify(self, authority: Authority, host: Host) -> str:
        key, csr = make_request("h1")
        issued = self.database.transact(lambda session: enrolment.issue(session, authority, host, csr))
        (self.directory / "h1.key").write_text(key)
        (self.directory / "h1.pem").write_text(issued.certificate_pem)
        return csr

    def _run(self) -> Environment:
        environment = self.world.create(f"run-{uuid4().hex[:8]}")
        self.world.place()
        assert self.world.allocation(environment).state == AllocationState.ACTIVE
        return environment

    def _start(self, host: Host) -> Task:
        tasks = TaskWorld(self.world, host)
        (task,) = tasks.submit(document(), working_dir=self.digest)
        tasks.start(task)
        return task

    def _start_array(self) -> Task:
        """With one worker, and so many elements that there are some left."""
        tasks = ArrayWorld(self.world, self.host)
        (array,) = tasks.submit(document("many", array="0-9999%1", resources={"gpus": 0}))
        tasks.place()
        (worker,) = tasks.allocations(array)
        tasks.order(worker)
        return array

    def _upload(self) -> str:
        """What the task needs."""
        content = archive_of(a="content")
        row = Upload(
            customer_id=self.world.owner[0].id, digest=digest_of(content), object_key="uploads/fuzz",
            size_bytes=len(content),
        )  # fmt: skip
        ObjectStore(location_of(self.settings)).put(row.object_key, content)
        self.database.transact(lambda session: session.add(row))
        return row.digest

    def _allocation_of_task(self) -> Allocation:
        return TaskWorld(self.world, self.host).allocation(self.task)

    def _worker(self) -> Allocation | None:
        found = ArrayWorld(self.world, self.host).allocations(self.array)
        return next((each for each in found if each.state == AllocationState.ACTIVE), None)

    def mend(self) -> None:
        """Take back what would make the rest of the run vacuous: the host as it was, and something that runs on it."""

        def work(session: Session) -> None:
            for statement in _MENDING:
                session.execute(text(statement))

        self.database.transact(work)
        if self.world.allocation(self.running).state != AllocationState.ACTIVE:
            self.world.release()
            self.running = self._run()
        if self._allocation_of_task().state != AllocationState.ACTIVE:
            self.world.release()
            self.task = self._start(self.host)
        if self._worker() is None:
            self.array = self._start_array()

    def connection(self, who: str) -> requests.Session:
        connection = requests.Session()
        connection.trust_env = False
        connection.verify = str(self.settings.secrets_dir / "ca.pem")
        if who != "nobody":
            place = self.directory if who == "h1" else self.settings.secrets_dir
            connection.cert = (str(place / f"{who}.pem"), str(place / f"{who}.key"))
        return connection

    def known(self) -> Known:
        allocation, tasks = self.world.allocation(self.running), self._allocation_of_task()
        worker = self._worker()
        assert worker is not None
        return {
            "username": ["acme-owner"], "name": [self.running.name, "stopped", f"new-{uuid4().hex[:8]}"],
            "boot_id": [BOOT], "token": [self.token], "csr_pem": [self.csr],
            "allocation_uid": [str(each.uid) for each in (allocation, tasks, worker)],
            "generation": [allocation.generation], "digest": [self.digest], "rank": [0], "position": [0], "length": [0],
            "last": [True],
            "device_uuid": ["GPU-h1-0"], "uuid": ["GPU-h1-0"],
            "container_name": [allocation.container_name], "image": ["base"], "gpus": [1], "gpu_model": ["A100"],
            "wait_s": [0], "operation": ["inspect_container", "create_container", "logs"],
        }  # fmt: skip


def _token(session: Session, authority: Authority) -> str:
    admin = Principal(0, uuid4(), "admin", Role.ADMIN, None)
    return enrolment.create_token(session, authority, admin, description="", uses=1000, expires_in_s=3600)[1]


@pytest.fixture
def controller(scratch: Path) -> Iterator[ControllerSocket]:
    with answering(scratch / "internal.sock") as controller:
        controller.body = b"{}"
        yield controller


@pytest.fixture
def fuzzed(database: Database, tmp_path: Path, controller: ControllerSocket) -> Iterator[Fuzzed]:
    url = database.engine.url.render_as_string(hide_password=False)
    with running_api(url, tmp_path, REMOTEGPU_HOSTLINK_SOCKET=str(controller.path)) as api:
        settings = Settings(
            database_url=url, secrets_dir=api.secrets_dir, object_store_url=(tmp_path / "objects").as_uri()
        )
        yield Fuzzed(database, settings, api.internal_url, tmp_path)


def test_every_answer_is_as_documented(fuzzed: Fuzzed) -> None:
    with fuzzed.connection("nobody") as connection:
        document: dict[str, Any] = connection.get(f"{fuzzed.url}/internal/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=fuzzed.url)
    schema.config.generation.update(with_security_parameters=False)
    answers: Answers = {}
    failures: list[str] = []
    for operation in operations(schema):
        strategy = inputs(operation)
        for who, tag in TAGS.items():
            allowed = operation.path in WITHOUT_CERTIFICATE or tag in operation.tags
            with fuzzed.connection(who) as connection:
                fuzzed.mend()
                known = fuzzed.known()
                failures += fuzz(
                    operation,
                    strategy,
                    connection,
                    who=who,
                    allowed=allowed,
                    known=known,
                    answers=answers,
                    examples=3 * EXAMPLES,  # one kind of caller may ask each, where three may of the public API
                )
    assert not failures, "\n\n".join(failures)
    assert unreached(answers) == {}
