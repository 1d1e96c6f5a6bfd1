"""Tasks in the SDK, over real connections to a small platform: uploads, states, output across broken connections."""

import io
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu import Client, ConnectionFailed, NotFound, Refused, Tokens, WaitTimeout
from remotegpu.folder import BadFolder
from remotegpu.logs import follow
from remotegpu.models import LogRecord, Task
from remotegpu.tasks import made_up_name
from tests.unit.task_platform import WAIT, TaskPlatform, attempt, served, written

DONE = {"state": "succeeded", "attempts": 1}
RUNNING = {"state": "running", "attempts": 1}
LINES = written(("stdout", "one\n"), ("stderr", "é!\n"), 7, ("stdout", "50%\r"), ("stdout", "100%\n"))


@pytest.fixture
def platform() -> TaskPlatform:
    return TaskPlatform()


@pytest.fixture
def client(platform: TaskPlatform) -> Iterator[Client]:
    with served(platform) as port, Client(f"http://127.0.0.1:{port}", api_key="good") as connected:
        yield connected


def texts(records: Iterator[LogRecord]) -> list[str | int | None]:
    return [record.text if record.dropped is None else record.dropped for record in records]


def test_a_folder_is_uploaded_once(client: Client, platform: TaskPlatform, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("print(1)")
    document = {"name": "a", "image": "base", "command": "python train.py", "working_dir": "src"}
    for _ in range(2):
        client.tasks.submit(document, folder=tmp_path)
    (sent,) = platform.uploads.items()
    assert [body["tasks"] for body in platform.bodies] == [[{"task": document, "working_dir": sent[0]}]] * 2
    assert zipfile.ZipFile(io.BytesIO(sent[1])).read("train.py") == b"print(1)"
    assert [method for method, path in platform.asked if "uploads" in path] == ["HEAD", "PUT", "HEAD"]


def test_an_upload_that_failed_is_sent_again_from_its_begin(
    client: Client, platform: TaskPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remotegpu.transport._pause_s", lambda reply, attempt: 0.0)
    (tmp_path / "data").write_bytes(bytes(2**20))
    platform.failures = [503, 502]
    told: list[tuple[int, int]] = []
    digest = client.uploads.folder(tmp_path, on_sent=lambda done, total: told.append((done, total)))
    assert len(platform.uploads[digest]) > 2**20
    assert told[-1][0] == told[-1][1] and [done for done, total in told].count(told[0][0]) == 3


def test_too_large_a_folder_is_refused_before_anything_is_sent(
    client: Client, platform: TaskPlatform, tmp_path: Path
) -> None:
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(101 * 2**20)
    with pytest.raises(BadFolder, match=r"101\.0 MiB  weights"):
        client.tasks.submit({"name": "a", "working_dir": str(tmp_path)})
    assert platform.asked == []


def test_run_quotes_the_words_of_a_command(client: Client, platform: TaskPlatform) -> None:
    client.tasks.run(["python", "-c", "print('a b')"], image="base", resources={"gpus": 2}, workspace="lab")
    (body,) = platform.bodies
    (sent,) = body["tasks"]
    assert (body["workspace"], sent["working_dir"]) == ("lab", None)
    assert sent["task"]["command"] == """python -c 'print('"'"'a b'"'"')'"""
    assert sent["task"]["resources"] == {"gpus": 2} and sent["task"]["name"].startswith("python-")


@pytest.mark.parametrize(
    ("command", "begin"),
    [
        ("python train.py --epochs 3", "train-"), ("torchrun --nproc 2 src/Fine_Tune.py", "fine-tune-"),
        ("nvidia-smi", "nvidia-smi-"), ("python -m lib.train", "lib-train-"), ("./go.sh", "go-"),
        ("echo 'unclosed", "echo-"), ("???", "task-"),
    ],
)  # fmt: skip
def test_names_are_made_of_what_is_run(command: str, begin: str) -> None:
    assert re.fullmatch(f"{begin}[0-9a-f]{{6}}", made_up_name(command))


@given(st.text(max_size=200))
def test_made_up_names_are_names(command: str) -> None:
    assert re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", made_up_name(command))


def test_mistakes_of_a_document_have_their_places(client: Client, platform: TaskPlatform) -> None:
    loc = ["body", "tasks", "0", "task", "resources", "gpu"]
    platform.refusal = {"code": "validation", "detail": "Bad", "errors": [{"loc": loc, "message": "unknown key"}]}
    with pytest.raises(Refused) as refused:
        client.tasks.submit({"name": "a"})
    (mistake,) = refused.value.mistakes
    assert (mistake.loc, mistake.said) == (("tasks", "0", "task", "resources", "gpu"), "unknown key")


def test_waiting_tells_each_change_once(client: Client, platform: TaskPlatform) -> None:
    waits = {"wait": WAIT}
    task_id = platform.add("a", waits, waits, {"state": "starting", "attempts": 1}, RUNNING, RUNNING, DONE)
    seen: list[Task] = []
    assert client.tasks.wait(task_id, on_change=seen.append).state == "succeeded"
    assert [task.state for task in seen] == ["queued", "starting", "running", "succeeded"]


def test_waiting_ends_in_time(client: Client, platform: TaskPlatform) -> None:
    with pytest.raises(WaitTimeout, match="task a is still queued"):
        client.tasks.wait(platform.add("a"), timeout_s=0)


def test_output_is_read_to_where_it_goes(client: Client, platform: TaskPlatform) -> None:
    platform.output[1] = LINES
    task_id = platform.add("a", RUNNING)
    assert texts(client.tasks.logs(task_id)) == ["one\n", "é!\n", 7, "50%\r", "100%\n"]
    assert texts(client.tasks.logs(task_id, position=4, stream="stdout")) == [7, "50%\r", "100%\n"]
    platform.output[1] = []
    assert texts(client.tasks.logs(task_id)) == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=3), st.sampled_from([1001, 1011, 1012, 1013, 4401]))
def test_broken_connections_lose_and_repeat_nothing(breaks: list[int], code: int) -> None:
    platform = TaskPlatform(breaks=list(breaks), breaks_with=code, output={1: LINES})
    task_id = platform.add("a", RUNNING, RUNNING, DONE)
    with served(platform) as port, Client(f"http://127.0.0.1:{port}", api_key="good") as connected:
        assert texts(connected.tasks.logs(task_id, follow=True)) == ["one\n", "é!\n", 7, "50%\r", "100%\n"]


def test_following_survives_a_restart_of_the_platform(platform: TaskPlatform) -> None:
    platform.output[1] = LINES
    task_id = platform.add("a", RUNNING)
    platform.breaks = [2]
    found: list[str | int | None] = []
    with served(platform) as port:
        connected = Client(f"http://127.0.0.1:{port}", api_key="good")
        records = connected.tasks.logs(task_id, follow=True, attempt=1)
        found += [next(records).text, next(records).text]
    thread = threading.Thread(target=lambda: found.extend(texts(records)))
    thread.start()  # it finds nobody at first
    with served(platform, port):
        thread.join(20)
        assert not thread.is_alive()
    connected.close()
    assert found == ["one\n", "é!\n", 7, "50%\r", "100%\n"]


def test_following_gives_up_on_a_platform_that_stays_away(platform: TaskPlatform) -> None:
    with served(platform) as port:
        connected = Client(f"http://127.0.0.1:{port}", api_key="good")
    with pytest.raises(ConnectionFailed, match=r"let us follow for 0 s: .*refused"):
        next(follow(connected._transport, "/x", attempt=1, rank=0, position=0, give_up_s=0.1))
    connected.close()


def test_an_expired_token_is_renewed_for_a_follower(platform: TaskPlatform) -> None:
    platform.output[1] = LINES
    platform.token = "renewed by now"
    tokens = Tokens(access_token="old", refresh_token="r1", expires_in=900)
    with served(platform) as port, Client(f"http://127.0.0.1:{port}", tokens=tokens) as connected:
        records = follow(connected._transport, "/customer/tasks/x/logs/follow", attempt=1, rank=0, position=0)
        assert len([batch for batch in records if batch is not None]) == len(LINES)


def test_attempts_are_followed_one_after_another(client: Client, platform: TaskPlatform) -> None:
    platform.output = {1: written(("stdout", "first\n")), 2: written(("stdout", "second\n"))}
    again = {"state": "queued", "attempts": 1, "detail": "It gave way."}
    task_id = platform.add("a", RUNNING, RUNNING, again, {"state": "running", "attempts": 2}, {**DONE, "attempts": 2})
    seen: list[Task] = []
    assert [batch.attempt for batch in client.tasks.follow(task_id, on_change=seen.append)] == [1, 2]
    assert [task.state for task in seen] == ["running", "queued", "running", "succeeded"]


def test_a_task_that_never_began_has_no_output_to_follow(client: Client, platform: TaskPlatform) -> None:
    task_id = platform.add("a", {}, {"state": "cancelled", "detail": "cancelled: dependency 'b' has failed"})
    assert list(client.tasks.follow(task_id)) == []


def test_the_states_of_a_silent_start_are_told(client: Client, platform: TaskPlatform) -> None:
    platform.output[1] = written(("stdout", "done\n"))
    platform.held.clear()
    starting = {"state": "starting", "attempts": 1, "detail": "The image is pulled: 10 %."}
    task_id = platform.add("a", starting, starting, {**starting, "detail": "The image is pulled: 90 %."}, DONE)

    def told(task: Task) -> None:
        if "90" in task.detail:
            platform.held.set()

    assert len(list(client.tasks.follow(task_id, on_change=told))) == 1
    assert platform.held.is_set()


def test_what_is_not_there_is_not_followed(client: Client, platform: TaskPlatform) -> None:
    task_id = platform.add("a", RUNNING)
    with pytest.raises(NotFound, match="no such attempt"):
        list(client.tasks.follow(task_id, attempt=1))
    with pytest.raises(NotFound, match="no such task"):
        list(client.tasks.follow("00000000"))


def test_tasks_are_found_by_name_id_and_the_begin_of_it(client: Client, platform: TaskPlatform) -> None:
    old, new = platform.add("a", number=0x1234AA01), platform.add("a", number=0x1234AA02)
    other = platform.add("b", number=0x77777777)
    assert client.tasks.find("a").id == new, "the newest of that name"
    assert client.tasks.find(old).id == old and client.tasks.find("1234aa01").id == old
    assert client.tasks.find("7777").id == other
    with pytest.raises(Refused, match="2 tasks have ids that begin with 1234aa"):
        client.tasks.find("1234aa")
    with pytest.raises(NotFound, match="no task 'nothing'"):
        client.tasks.find("nothing")


def test_ends_of_attempts_are_known(client: Client, platform: TaskPlatform) -> None:
    oom = attempt(1, "out_of_memory", exit_code=137, limit_hit="the allocation's 32 GiB")
    task_id = platform.add("a", {"state": "failed", "attempts": 1, "attempt_list": [oom]})
    (known,) = client.tasks.get(task_id).attempt_list
    assert (known.end, known.limit_hit, known.host) == ("out_of_memory", "the allocation's 32 GiB", "sim-1")
