"""The SDK and the command line against the API itself: what they send is what it takes, what it answers they read."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select
from typer.testing import CliRunner

from api.billing.journal import top_up
from api.db import Database
from api.logs.receiving import Source, take
from api.object_store import ObjectStore, location_of
from api.settings import Settings
from api.tasks.tables import Task as Row
from remotegpu import Client, NotFound, Refused, Tokens
from remotegpu.cli import app as command_line
from remotegpu.models import LogRecord, Task
from scheduler.log_records import Stream
from scheduler.plan_protocol import PlanAnswer, When
from tests.db.conftest import Person, Tenant
from tests.db.fleet import DOLLAR
from tests.db.log_world import incoming, written
from tests.db.task_world import TaskWorld, document
from tests.db.test_plan_api import AnsweringPlanner
from tests.unit.task_platform import serving
from tests.waiting import wait_for

NO_TEXT = "a number or boolean is no text; write it in quotes, and with its unit if it has one"
Run = Callable[..., Any]  # Any: a result of click's, which some versions of typer have a copy of


@pytest.fixture
def world(database: Database, settings: Settings, tenant: Tenant) -> TaskWorld:
    owner = (tenant.customer, tenant.workspace, tenant.member.user)
    database.transact(
        lambda session: top_up(session, customer_id=tenant.customer.id, amount_micro=100 * DOLLAR, actor="cli", key="k")
    )
    return TaskWorld.make(database, settings, owner=owner)


@pytest.fixture
def address(app: FastAPI, world: TaskWorld) -> Iterator[str]:
    app.state.planner = AnsweringPlanner(PlanAnswer(When.UNKNOWN))
    with serving(app) as port:
        yield f"http://127.0.0.1:{port}"


def signed_in(address: str, person: Person) -> Client:
    return Client(
        address, tokens=Tokens(access_token=person.access_token, refresh_token=person.refresh_token, expires_in=900)
    )


@pytest.fixture
def client(address: str, tenant: Tenant) -> Iterator[Client]:
    with signed_in(address, tenant.member) as connected:
        yield connected


@pytest.fixture
def run(address: str, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("REMOTEGPU_API_KEY", tenant.member.access_token)  # any bearer token will do
    monkeypatch.setenv("REMOTEGPU_PROFILE", str(tmp_path / "none.json"))
    monkeypatch.chdir(tmp_path)
    return lambda *words, given=None: CliRunner().invoke(command_line, ["--address", address, *words], input=given)


def test_a_task_is_followed_from_its_submission_to_its_end(client: Client, world: TaskWorld) -> None:
    (made,) = client.tasks.submit(document())
    assert (made.state, made.owner, made.workspace, made.image) == ("queued", "acme-member", "default", "base")
    assert made.wait is not None and made.wait.code == "queued"
    allocation = world.run(_row(world, made))
    shown = client.tasks.get(made.id)
    (attempt,) = shown.attempt_list
    assert (shown.state, shown.host, attempt.host, len(attempt.devices)) == ("running", "h1", "h1", 1)
    world.end(allocation, exit_code=3)
    over = client.tasks.wait(made.id, timeout_s=20)
    assert (over.state, over.exit_code, over.attempt_list[0].end) == ("failed", 3, "exited")
    again = client.tasks.retry(made.id)
    assert client.tasks.get(again.id).retried_from == made.id
    assert client.tasks.cancel(again.id).state == "cancelled"
    assert client.tasks.find("train").id == again.id and client.tasks.find(made.id).id == made.id
    assert [task.id for task in client.tasks.list(state="failed")] == [made.id]


def _row(world: TaskWorld, task: Task) -> Row:
    with world.database.session() as session:
        return session.scalars(select(Row).where(Row.uid == task.id)).one()


def test_output_is_followed_as_it_comes(
    client: Client, world: TaskWorld, run: Run, settings: Settings, database: Database
) -> None:
    (made,) = client.tasks.submit(document())
    allocation = world.run(_row(world, made))
    source, objects = (
        Source(world.host.id, allocation.uid, allocation.generation, 0),
        ObjectStore(location_of(settings)),
    )
    found: list[LogRecord] = []
    follower = threading.Thread(target=lambda: [found.append(each) for each in client.tasks.logs(made.id, follow=True)])
    follower.start()
    first = [*written(0, "10%\r"), *written(4, "a \u00e9\n", stream=Stream.STDERR)]
    take(database, objects, settings, source, incoming(first))
    wait_for(lambda: len(found) == 2, timeout_s=20, what="the first output")
    take(database, objects, settings, source, incoming(written(9, 7, "100%\n"), last=True))
    world.end(allocation)
    follower.join(20)
    assert [(each.stream, each.text, each.dropped) for each in found] == [
        ("stdout", "10%\r", None), ("stderr", "a \u00e9\n", None), (None, None, 7), ("stdout", "100%\n", None)
    ]  # fmt: skip
    kept = run("task", "logs", "train")
    assert (kept.stdout, kept.stderr) == ("10%\r100%\n", "a \u00e9\n[7 bytes dropped]\n")
    assert run("task", "logs", "-f", "--since-position", "16", "train").stdout == "100%\n"
    assert run("task", "logs", "--stderr", "train").stdout == ""


def test_a_folder_is_sent_and_known_again(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "src"
    (folder / "lib" / "empty").mkdir(parents=True)
    (folder / "lib" / "\u00e9.py").write_text("1")
    (folder / "run.sh").write_text("true")
    (folder / "run.sh").chmod(0o755)
    made = [client.tasks.submit(document(working_dir="src"), folder=tmp_path)[0] for _ in range(2)]
    assert {client.tasks.get(task.id).working_dir for task in made} == {client.uploads.folder(folder)}


def test_what_one_depends_on_is_told(client: Client) -> None:
    client.tasks.submit(document("b", depends_on=["a"]), document("a"))
    (parent,) = client.tasks.find("b").dependencies
    assert (parent.name, parent.condition, parent.state) == ("a", "succeeded", "queued")


def test_another_customers_task_is_not_there(address: str, client: Client, other_tenant: Tenant) -> None:
    (made,) = client.tasks.submit(document())
    with signed_in(address, other_tenant.owner) as rival, pytest.raises(NotFound):
        rival.tasks.get(made.id)


def test_a_dry_run_tells_the_ceiling(run: Run) -> None:
    result = run("run", "--dry-run", "--gpu-model", "A100", "--timeout", "2h", "--working-dir", ".", "--", "true")
    assert result.exit_code == 0, result.output
    assert "starts" in result.stdout and "cost at most" in result.stdout
    assert "none without a timeout" not in result.stdout


def test_mistakes_are_told_with_the_platforms_words_and_our_lines(run: Run) -> None:
    text = "name: train\nimage: base\ncommand: x\nresources:\n  gpu: 2\nmounts:\n  - volume: x\nenv: {A: 1}\n"
    Path("t.yaml").write_text(text)
    result = run("run", "t.yaml")
    assert (result.exit_code, sorted(result.stderr.splitlines())) == (
        5,
        [
            "error: t.yaml:5: resources.gpu: unknown key; did you mean resources.gpus?",
            "error: t.yaml:7: mounts[0].path: Field required",
            f"error: t.yaml:8: env.A: {NO_TEXT}",
        ],
    )


def test_refusals_of_what_is_named_are_told(run: Run) -> None:
    result = run("run", "--image", "nothing", "-d", "--", "true")
    assert (result.exit_code, "There is no image 'nothing'" in result.stderr) == (5, True)


def test_secrets_are_set_and_listed(client: Client, run: Run) -> None:
    client.secrets.set("KEY", "value")
    assert [secret.name for secret in client.secrets.list()] == ["KEY"]
    client.tasks.submit(document(secrets=["KEY"]))
    assert run("secret", "rm", "KEY").exit_code == 0 and list(client.secrets.list()) == []
    with pytest.raises(Refused, match="OTHER"):
        client.tasks.submit(document(secrets=["OTHER"]))
