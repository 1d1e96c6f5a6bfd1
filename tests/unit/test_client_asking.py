"""Commands that ask for GPUs: what is typed, what is sent, and what is told of the answer."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner, Result

import remotegpu.client
from remotegpu.cli import app
from remotegpu.cli.telling import expected, planned, queued_with, waiting
from remotegpu.cli.units import duration, moment, parse_duration, parse_gpus, parse_moment
from remotegpu.models import Environment, Plan, PlannedCost, PlannedHost, PlannedLimit, Wait

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ENVIRONMENT: dict[str, Any] = {
    "id": "e1", "name": "lab", "image": "base", "gpus": 1, "gpu_model": "A100", "cpu_milli": 1000,
    "memory_bytes": 2**30, "disk_bytes": 2**30, "desired": "running", "observed": "queued", "url": "http://hub/",
    "created_at": "2026-01-01T12:00:00Z",
}  # fmt: skip
RESERVATION: dict[str, Any] = {
    "id": "r1", "series": None, "state": "booked", "starts_at": "2030-01-01T09:00:00Z",
    "ends_at": "2030-01-01T11:00:00Z", "owner": "ada", "workspace": "default", "nodes": 1, "gpus": 2, "cpu_milli": 4000,
    "memory_bytes": 2**30,
    "devices": [{"host": "h1", "uuid": "GPU-1", "model": "A100", "simulated": True}],
    "created_at": "2026-01-01T12:00:00Z", "cancelled_at": None,
}  # fmt: skip
GROUP: dict[str, Any] = {
    "id": "g1", "name": "gold", "customer": "acme", "cohort": None, "gpu_model": "A100", "nominal_milli": 2000,
    "borrowing_limit_milli": None, "lending_limit_milli": 500, "held_milli": 460, "waiting_milli": 0,
}  # fmt: skip


class Recorder:
    """A platform in memory: answers by method and path, and keeps what it was sent."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.sent: list[tuple[str, str, Any]] = []
        self.queries: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/v1")
        self.sent.append((request.method, path, json.loads(request.content) if request.content else None))
        self.queries.append(dict(request.url.params))
        answer = self.answers.get((request.method, path), {"items": [], "next_cursor": None})
        return httpx.Response(204) if answer is None else httpx.Response(200, json=answer)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder()
    transport = httpx.MockTransport(recorder)
    real = remotegpu.client.Transport

    def connected(address: str, **options: Any) -> Any:
        return real(address, **{**options, "transport": transport})

    monkeypatch.setattr(remotegpu.client, "Transport", connected)
    monkeypatch.setenv("REMOTEGPU_PROFILE", str(tmp_path / "profile.json"))
    monkeypatch.setenv("REMOTEGPU_API_KEY", "rgpu_x")
    yield recorder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["--address", "http://platform", *arguments])


def ran(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_plain_creation_sends_no_more_than_it_says(platform: Recorder) -> None:
    platform.answers["POST", "/customer/environments"] = ENVIRONMENT
    ran("env", "create", "--name", "lab", "--gpu-model", "A100")
    assert platform.sent == [
        ("POST", "/customer/environments", {"name": "lab", "image": "base", "gpus": 1, "gpu_models": ["A100"]})
    ]


def test_every_option_is_sent_in_the_platforms_units(platform: Recorder) -> None:
    platform.answers["POST", "/customer/environments"] = ENVIRONMENT
    ran(
        "env", "create", "--name", "lab", "--gpus", "0.46", "--gpu-model", "A100,H100", "--gpu-model", "B200",
        "--gpu-memory", "40GiB", "--label", "region=eu", "--label", "!spot", "--driver", "550", "--cuda", "12.4",
        "--apart", "web", "--priority", "7", "--preemptible", "--min-runtime", "30m", "--time-limit", "1h30m",
        "--reservation", "r1", "--capacity-group", "gold", "--workspace", "research",
    )  # fmt: skip
    assert platform.sent[0][2] == {
        "name": "lab", "image": "base", "gpus": 1, "gpu_milli": 460, "gpu_models": ["A100", "H100", "B200"],
        "gpu_memory_bytes": 40 * 2**30, "selectors": ["region=eu", "!spot"], "driver": "550", "cuda": "12.4",
        "apart": "web", "priority": 7, "preemptible": True, "min_runtime_s": 1800, "time_limit_s": 5400,
        "reservation": "r1", "capacity_group": "gold", "workspace": "research",
    }  # fmt: skip


def test_a_start_sends_what_changes(platform: Recorder) -> None:
    platform.answers["GET", "/customer/environments"] = {"items": [ENVIRONMENT], "next_cursor": None}
    platform.answers["POST", "/customer/environments/e1/start"] = ENVIRONMENT
    ran("env", "start", "lab")
    assert platform.sent[-1][2] is None
    ran("env", "start", "lab", "--priority", "3", "--not-preemptible")
    assert platform.sent[-1][2] == {"priority": 3, "preemptible": False}


def test_a_checkpoint_is_said_of_what_runs(platform: Recorder) -> None:
    allocation: dict[str, Any] = {"id": "a1", "state": "active", "devices": [], "host": "h1", "run_until": None,
                  "price_micro_per_gpu_hour": None}  # fmt: skip
    running = ENVIRONMENT | {"observed": "running", "allocation": allocation}
    platform.answers["GET", "/customer/environments"] = {"items": [running], "next_cursor": None}
    platform.answers["POST", "/customer/allocations/a1/checkpoint"] = {"id": "a1"}
    assert "The work of lab is safe" in ran("env", "checkpoint", "lab")
    assert platform.sent[-1] == ("POST", "/customer/allocations/a1/checkpoint", None)
    platform.answers["GET", "/customer/environments"] = {"items": [ENVIRONMENT], "next_cursor": None}
    assert run("env", "checkpoint", "lab").exit_code == 1


def test_a_plan_is_told(platform: Recorder) -> None:
    platform.answers["POST", "/customer/allocations/plan"] = {
        "when": "now", "wait": None, "eta": "2026-01-01T12:00:00Z", "limits": [],
        "hosts": [{"host": "h1", "devices": [{"uuid": "GPU-1", "model": "A100", "milli": 460, "simulated": False}]}],
        "costs": [{"gpu_model": "A100", "currency": "USD", "price_micro_per_gpu_hour": 2_000_000,
                   "terms": "preemptible", "kept_for_s": 30 * 86_400, "micro_per_hour": 920_000,
                   "micro_for_limit": 1_840_000}],
    }  # fmt: skip
    said = ran("env", "plan", "--gpus", "0.46", "--time-limit", "2h")
    assert platform.sent[0][2] == {"gpus": 1, "nodes": 1, "image": "base", "gpu_milli": 460, "time_limit_s": 7200}
    assert "h1: 0.46 x A100" in said
    assert "0.92 USD per hour, 1.84 USD for its time limit, preemptible, kept for 30d" in said
    assert "allow it" in said


def test_a_plan_may_be_of_several_hosts(platform: Recorder) -> None:
    platform.answers["POST", "/customer/allocations/plan"] = {
        "when": "never", "wait": {"code": "too_many_nodes", "detail": "At most 1 could take it."}, "eta": None,
        "limits": [], "hosts": [], "costs": [],
    }  # fmt: skip
    said = ran("env", "plan", "--gpus", "8", "--nodes", "4", "--within", "rack", "--workspace", "research")
    assert platform.sent[0][2] == {"gpus": 8, "nodes": 4, "within": "rack", "image": "base", "workspace": "research"}
    assert "At most 1 could take it." in said
    assert run("env", "plan", "--nodes", "0").exit_code == 2


def test_workspaces_are_made_and_listed(platform: Recorder) -> None:
    workspace = {"id": "w1", "name": "research", "is_default": False}
    platform.answers["POST", "/customer/workspaces"] = workspace
    assert "research" in ran("workspace", "create", "research")
    assert platform.sent[-1][2] == {"name": "research"}
    platform.answers["GET", "/customer/workspaces"] = {"items": [workspace], "next_cursor": None}
    assert "research" in ran("workspace", "list")


def test_a_reservation_is_made_listed_and_cancelled(platform: Recorder) -> None:
    platform.answers["POST", "/customer/reservations"] = {"items": [RESERVATION]}
    said = ran(
        "reservation", "create", "--from", "2030-01-01T09:00+00:00", "--for", "2h", "--gpus", "2", "--every", "day",
        "--count", "3", "--gpu-model", "A100",
    )  # fmt: skip
    sent = platform.sent[0][2]
    assert datetime.fromisoformat(sent["starts_at"]) == datetime(2030, 1, 1, 9, tzinfo=UTC)
    assert (sent["duration_s"], sent["gpus"], sent["every"], sent["count"]) == (7200, 2, "day", 3)
    assert "2 x A100" in said
    platform.answers["GET", "/customer/reservations"] = {"items": [RESERVATION], "next_cursor": None}
    assert "booked" in ran("reservation", "list")
    platform.answers["DELETE", "/customer/reservations/r1"] = None
    assert "Cancelled" in ran("reservation", "cancel", "r1", "--series")


def test_a_capacity_group_is_made_and_changed(platform: Recorder) -> None:
    refused = run("admin", "capacity-group", "set", "gold", "--nominal", "2")
    assert (refused.exit_code, "--customer" in refused.output) == (2, True), refused.output
    platform.answers["GET", "/admin/customers"] = {"items": [{"id": "c1", "name": "acme"}], "next_cursor": None}
    platform.answers["POST", "/admin/capacity-groups"] = GROUP
    new = ["admin", "capacity-group", "set", "gold", "--customer", "acme", "--nominal", "2"]
    ran(*new, "--borrow", "none")
    made = {"name": "gold", "customer": "c1", "nominal_milli": 2000}
    assert platform.sent[-1][2] == made | {"borrowing_limit_milli": None}
    ran(*new, "--gpu-model", "A100")
    assert platform.sent[-1][2] == made | {"gpu_model": "A100"}
    platform.answers["GET", "/admin/capacity-groups"] = {"items": [GROUP], "next_cursor": None}
    platform.answers["PATCH", "/admin/capacity-groups/g1"] = GROUP
    said = ran("admin", "capacity-group", "set", "gold", "--lend", "0.5", "--no-reclaim")
    assert platform.sent[-1][2] == {"reclaim_within_cohort": False, "lending_limit_milli": 500}
    assert all(word in said for word in ("gold", "acme", "A100", "none", "0.5", "0.46"))
    ran("admin", "capacity-group", "set", "gold", "--nominal", "3", "--gpu-model", "A100")
    assert platform.sent[-1][2] == {"nominal_milli": 3000}
    refused = run("admin", "capacity-group", "set", "gold", "--nominal", "4", "--gpu-model", "H100")
    assert (refused.exit_code, "for good" in refused.output, platform.sent[-1][0]) == (2, True, "GET"), refused.output


def test_machines_and_customers_are_changed(platform: Recorder) -> None:
    machine = {"id": "m1", "name": "h1", "labels": {"zone": "a", "old": "1"}}
    platform.answers["GET", "/admin/machines"] = {"items": [machine], "next_cursor": None}
    platform.answers["PATCH", "/admin/machines/m1"] = machine
    ran("admin", "machine", "label", "h1", "region=eu", "old-", "zone=b")
    assert platform.sent[-1][2] == {"labels": {"zone": "b", "region": "eu"}}
    assert run("admin", "machine", "label", "h1", "zone").exit_code == 2
    platform.answers["GET", "/admin/customers"] = {"items": [{"id": "c1", "name": "acme"}], "next_cursor": None}
    platform.answers["PATCH", "/admin/customers/c1"] = {"name": "acme", "weight": 2.0, "priority_ceiling": 700}
    assert "priority at most 700" in ran("admin", "customer", "set", "acme", "--priority-ceiling", "700")
    assert platform.sent[-1][2] == {"priority_ceiling": 700}


def test_enrolment_tokens_are_made_shown_and_revoked(platform: Recorder) -> None:
    tokens = "/admin/machines/enrolment-tokens"
    token = {
        "id": "t1", "description": "rack 3", "machine_id": "m1", "uses_left": 1, "revoked_at": None,
        "expires_at": "2026-01-01T12:00:00Z",
    }  # fmt: skip
    platform.answers["GET", "/admin/machines"] = {"items": [{"id": "m1", "name": "h1"}], "next_cursor": None}
    platform.answers["POST", tokens] = token | {"token": "rgpu_join_x"}
    assert "rgpu_join_x" in ran("admin", "machine", "token", "--machine", "h1")
    assert platform.sent[-1][2] == {"description": "", "uses": 1, "machine_id": "m1"}
    ended = token | {"id": "t2", "machine_id": None, "revoked_at": "2026-01-01T12:00:00Z"}
    platform.answers["GET", tokens] = {"items": [token, ended], "next_cursor": None}
    first, second = ran("admin", "machine", "tokens").splitlines()[1:]
    assert ("t1" in first, "h1" in first, "revoked" in first) == (True, True, False)
    assert ("t2" in second, "new ones" in second, "revoked" in second) == (True, True, True)
    platform.answers["DELETE", f"{tokens}/t1"] = None
    ran("admin", "machine", "revoke-token", "t1")
    assert platform.sent[-1][:2] == ("DELETE", f"{tokens}/t1")


def test_allocations_are_listed_by_customer_and_machine(platform: Recorder) -> None:
    waits: dict[str, Any] = {"id": "a1", "state": "queued", "customer": "acme", "host": None, "end_reason": None,
             "wait": {"code": "no_capacity", "detail": "0 of 4 are free."}}  # fmt: skip
    platform.answers["GET", "/admin/customers"] = {"items": [{"id": "c1", "name": "acme"}], "next_cursor": None}
    platform.answers["GET", "/admin/machines"] = {"items": [{"id": "m1", "name": "h1"}], "next_cursor": None}
    platform.answers["GET", "/admin/allocations"] = {"items": [waits], "next_cursor": None}
    said = ran("admin", "allocations", "--customer", "acme", "--host", "h1", "--state", "queued")
    assert "0 of 4 are free." in " ".join(said.split())
    assert {"customer": "c1", "host": "m1", "state": "queued"}.items() <= platform.queries[-1].items()
    assert run("admin", "allocations", "--host", "h2").exit_code != 0


@pytest.mark.parametrize(
    ("text", "gpus"),
    [("1", (1, None)), ("8", (8, None)), ("0.46", (1, 460)), ("0.001", (1, 1)), ("2.0", (2, None)), ("0", (0, None))],
)
def test_numbers_of_gpus(text: str, gpus: tuple[int, int | None]) -> None:
    assert parse_gpus(text) == gpus


@pytest.mark.parametrize("text", ["-1", "1.5", "0.0001", "many", "nan", "inf", ""])
def test_what_is_no_number_of_gpus(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"0\.46"):
        parse_gpus(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86_400), ("1h30m", 5400), ("1w", 604_800)]
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "-1h", "1.5h", "2h!"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="1h30m"):
        parse_duration(text)


def test_moments() -> None:
    assert parse_moment("now", now=NOW) == NOW
    assert parse_moment("+2h", now=NOW) == NOW + timedelta(hours=2)
    assert parse_moment("2026-01-01T14:00+02:00", now=NOW) == NOW
    assert f"{parse_moment('2026-01-01 14:00', now=NOW):%Y-%m-%d %H:%M}" == "2026-01-01 14:00"
    assert parse_moment("2026-01-01 14:00", now=NOW).tzinfo is not None
    for text in ("soon", "+soon", "14 o'clock"):
        with pytest.raises(typer.BadParameter):
            parse_moment(text, now=NOW)
    here = NOW.astimezone()
    assert moment(NOW, now=NOW) == f"{here:%H:%M}"
    assert moment(NOW + timedelta(days=2), now=NOW) == f"{here + timedelta(days=2):%Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("basis", "said"),
    [
        ("reservation", "Expected to start at {} (reservation)."),
        ("limits", "Expected to start at {} (when time limits end)."),
        ("estimate", "Expected to start about {} (estimate)."),
        ("history", "Expected to start about {} (estimate from history)."),
    ],
)
def test_when_it_may_start(basis: str, said: str) -> None:
    wait = Wait("no_capacity", "0 of 8 are free.", 3, None, NOW + timedelta(minutes=5), basis)
    told = said.format(moment(NOW + timedelta(minutes=5), now=NOW))
    assert expected(wait, now=NOW) == told
    assert waiting(wait, now=NOW) == f"0 of 8 are free. (place 3 in the queue) {told}"


def test_what_nobody_knows_is_said_so() -> None:
    assert expected(Wait("no_capacity", "x"), now=NOW) == "When it starts is unknown."
    assert waiting(Wait("queued", "It waits."), now=NOW) == "It waits."


def test_plans_in_words() -> None:
    wait = Wait("no_capacity", "0 of 4 are free.", 1, None, NOW, "estimate")
    cost = PlannedCost("A100", "USD", 2_000_000, 4_000_000)
    later = dict(planned(Plan("later", wait, NOW, [], [cost], [PlannedLimit("quota", "Full.")]), now=NOW))
    assert later == {
        "starts": f"about {moment(NOW, now=NOW)} (estimate)", "why not now": "0 of 4 are free.",
        "price on A100": "4.00 USD per hour", "quota": "Full.",
    }  # fmt: skip
    never = dict(planned(Plan("never", Wait("too_many_gpus", "No host has as many.")), now=NOW))
    assert never == {"starts": "never", "why": "No host has as many."}
    unknown = dict(planned(Plan("unknown", Wait("no_capacity", "x"), None, [PlannedHost("h1")]), now=NOW))
    assert (unknown["starts"], unknown["on"]) == ("unknown", "h1")


def test_only_what_was_asked_for_is_shown() -> None:
    fields = {key: value for key, value in ENVIRONMENT.items() if key != "created_at"}
    plain = Environment(**fields, created_at=NOW)
    assert queued_with(plain) == []
    chosen = Environment(
        **fields, created_at=NOW, selectors=["a=b", "!c"], priority=3, preemptible=True, time_limit_s=5400
    )
    assert queued_with(chosen) == [
        ("labels", "a=b, !c"), ("priority", 3), ("preemptible", "yes"), ("time limit", "1h30m")
    ]  # fmt: skip


def test_a_price_is_sent_in_the_platforms_units(platform: Recorder) -> None:
    platform.answers["GET", "/admin/customers"] = {"items": [{"id": "c1", "name": "Lovelace"}], "next_cursor": None}
    made = {"unit": "gpu_hour", "currency": "USD", "customer": "Lovelace", "capacity_group": None}
    platform.answers["POST", "/admin/prices"] = made
    said = ran(
        "admin", "price", "set", "A100", "2.5", "--customer", "Lovelace", "--preemptible-discount", "12.5",
        "--reserved-discount", "20%", "--kept-for", "30d", "--from", "2027-01-01T00:00:00+00:00",
    )  # fmt: skip
    assert said == "A100: 2.50 USD per GPU-hour, for Lovelace alone\n"
    assert platform.sent[-1][2] == {
        "gpu_model": "A100", "price_micro": 2_500_000, "customer": "c1", "preemptible_discount_permille": 125,
        "reserved_discount_permille": 200, "kept_for_s": 30 * 86_400, "effective_from": "2027-01-01T00:00:00+00:00",
    }  # fmt: skip
    ran("admin", "price", "set", "cpu_core_hour", "0.01")
    assert platform.sent[-1][2] == {"unit": "cpu_core_hour", "price_micro": 10_000}
    assert run("admin", "price", "set", "A100", "1", "--preemptible-discount", "0.01").exit_code != 0
