"""A host's side of output, against the API's own process: attempts in the database, and what ships their output."""

from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from api.db import Database
from api.identity import tokens
from api.identity.authentication import KEY_PREFIX
from api.identity.tables import ApiKey
from api.logs.receiving import Source
from api.settings import Settings
from api.tasks.tables import Task, TaskAttempt
from node.daemon.config import HostConfig, HostDirectory
from node.daemon.log_shipping import LogSource
from node.platform import Platform
from tests.db.fleet import Fleet
from tests.db.log_world import LogWorld
from tests.process.api_process import ApiProcess


@dataclass(slots=True)
class LogShop:
    """`key` reads what the customer's tasks write."""

    database: Database
    api: ApiProcess
    directory: Path
    gpus: int = 4
    world: LogWorld = field(init=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        url = self.database.engine.url.render_as_string(hide_password=False)
        store = self.api.environment["REMOTEGPU_OBJECT_STORE_URL"]
        settings = Settings(database_url=url, secrets_dir=self.api.secrets_dir, object_store_url=store)
        owner = Fleet(self.database).customer()
        self.world = LogWorld(self.database, settings, owner, gpus=self.gpus)
        self.key = secret = tokens.new_secret(KEY_PREFIX)
        customer, _, user = owner

        def work(session: Session) -> None:
            session.add(
                ApiKey(
                    customer_id=customer.id, user_id=user.id, name="logs", prefix=secret[:11],
                    key_hash=tokens.hash_secret(secret), scopes=["tasks:read"],
                )
            )  # fmt: skip

        self.database.transact(work)

    def platform(self) -> Platform:
        """As the first host calls it."""
        host = self.world.hosts[0]
        directory = HostDirectory(self.directory)
        self.world.certificate(host, self.directory)
        (self.directory / f"{host.name}.pem").rename(directory.certificate)
        (self.directory / f"{host.name}.key").rename(directory.key)
        directory.ca.write_text((self.api.secrets_dir / "ca.pem").read_text())
        config = HostConfig(host_id=str(host.uid), name=host.name, internal_url=self.api.internal_url)
        return Platform(config, directory)

    def attempt(self, name: str) -> tuple[Task, TaskAttempt, LogSource]:
        """One that runs on the first host. Its segments go below a directory of its own."""
        task = self.world.task(name)
        attempt, source = self.world.attempt(task)
        return task, attempt, self.source(source)

    def source(self, source: Source) -> LogSource:
        directory = self.directory / str(source.allocation_uid)
        directory.mkdir()
        return LogSource(str(source.allocation_uid), source.generation, source.rank, directory)

    def follow_url(self, task: Task, position: int = 0) -> str:
        base = self.api.public_url.replace("http", "ws", 1)
        return f"{base}/api/v1/customer/tasks/{task.uid}/logs/follow?position={position}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}
