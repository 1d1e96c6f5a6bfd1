"""The SDK and the command line, over a transport that answers in memory."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import typer
import typer.core
import typer.main
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from remotegpu import Client, ConnectionFailed, NotFound, NotSignedIn, Refused, ServerFailed, Tokens
from remotegpu.cli import app
from remotegpu.cli.session import Exit
from remotegpu.cli.units import money, parse_memory, parse_money
from remotegpu.profile import Profile, load_profile, profile_path, save_profile

Handler = Callable[[httpx.Request], httpx.Response]
TOKENS = Tokens(access_token="old", refresh_token="r1", expires_in=900)


def client(handler: Handler, tokens: Tokens | None = TOKENS, api_key: str | None = None) -> Client:
    return Client("http://platform", tokens=tokens, api_key=api_key, transport=httpx.MockTransport(handler))


def problem(status: int, code: str = "some_code", detail: str = "what to do") -> httpx.Response:
    return httpx.Response(status, json={"title": "x", "status": status, "code": code, "detail": detail})


def me() -> httpx.Response:
    return httpx.Response(200, json={"id": "1", "username": "ada", "role": "customer_owner"})


def test_an_expired_token_is_refreshed_once_and_the_request_repeated() -> None:
    kept: list[Tokens] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v1/auth/refresh":
            assert json.loads(request.content) == {"refresh_token": "r1"}
            return httpx.Response(200, json={"access_token": "new", "refresh_token": "r2", "expires_in": 900})
        return me() if request.headers["Authorization"] == "Bearer new" else problem(401)

    with Client(
        "http://platform", tokens=TOKENS, on_tokens=kept.append, transport=httpx.MockTransport(handle)
    ) as connected:
        assert connected.account.me().username == "ada"
    assert [tokens.refresh_token for tokens in kept] == ["r2"]


def test_a_refused_refresh_is_not_signed_in() -> None:
    with client(lambda request: problem(401)) as connected, pytest.raises(NotSignedIn):
        connected.account.me()


@pytest.mark.parametrize(
    ("status", "error"), [(401, NotSignedIn), (404, NotFound), (409, Refused), (422, Refused), (500, ServerFailed)]
)
def test_problems_become_typed_errors(status: int, error: type[Exception]) -> None:
    with client(lambda request: problem(status), None, "rgpu_x") as connected, pytest.raises(error, match="what to do"):
        connected.account.me()


def test_field_errors_are_named() -> None:
    reply = httpx.Response(
        422, json={"detail": "Bad", "code": "c", "errors": [{"loc": ["body", "gpus"], "message": "too many"}]}
    )
    with client(lambda request: reply) as connected, pytest.raises(Refused, match="gpus: too many"):
        connected.account.me()


def test_a_lost_creation_is_repeated_with_the_same_idempotency_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    keys: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            raise httpx.ReadError("the reply was lost")
        return httpx.Response(200, json={"id": "1"})

    with client(handle) as connected:
        connected.admin.top_up("1", amount_micro=5)
    assert len(keys) == 2 and keys[0] == keys[1]


def test_an_unreachable_platform_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)

    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with client(handle) as connected, pytest.raises(ConnectionFailed, match="http://platform"):
        connected.account.me()


def test_something_else_at_the_address_is_told_apart() -> None:
    page = httpx.Response(200, text="<html>")
    with client(lambda request: page) as connected, pytest.raises(ConnectionFailed, match="as a RemoteGPU platform"):
        connected.account.me()


def test_lists_follow_the_cursor_to_the_end() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        cursor = request.url.params.get("cursor")
        page = {"items": [{"id": cursor or "first"}], "next_cursor": None if cursor else "second"}
        return httpx.Response(200, json=page)

    with client(handle) as connected:
        assert [item["id"] for item in connected.admin.list("customers")] == ["first", "second"]


def test_a_statement_has_every_line_of_one_period() -> None:
    """The next page is of the period of the first: a default end would be a later "now"."""

    def handle(request: httpx.Request) -> httpx.Response:
        asked = dict(request.url.params)
        if not asked:
            page = {"from": "a", "to": "b", "totals": {}, "lines": [1, 2], "next_cursor": "second"}
        else:
            assert asked == {"from": "a", "to": "b", "cursor": "second"}
            page = {"from": "a", "to": "b", "totals": {}, "lines": [3], "next_cursor": None}
        return httpx.Response(200, json=page)

    with client(handle) as connected:
        assert connected.billing.statement() == {"from": "a", "to": "b", "totals": {}, "lines": [1, 2, 3]}


def test_every_command_takes_json() -> None:
    def leaves(group: typer.core.TyperGroup, path: str) -> Iterator[tuple[str, typer.core.TyperCommand]]:
        for name, command in group.commands.items():
            if isinstance(command, typer.core.TyperGroup):
                yield from leaves(command, f"{path} {name}")
            else:
                assert isinstance(command, typer.core.TyperCommand)
                yield f"{path} {name}", command

    root = typer.main.get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    commands = dict(leaves(root, "remotegpu"))
    assert len(commands) > 25
    without = [name for name, command in commands.items() if not any("--json" in p.opts for p in command.params)]
    # A bill is JSON as it is, and the simulator's own options are passed on to it.
    assert without == ["remotegpu simulate", "remotegpu bill export", "remotegpu task exec"]


@given(st.integers(-(10**15), 10**15))
def test_money_survives_printing_and_reading(micro: int) -> None:
    assert parse_money(money(micro)) == micro


@pytest.mark.parametrize(
    ("text", "size"), [("32GB", 32 * 10**9), ("32GiB", 32 * 2**30), ("1.5G", 3 * 2**29), ("512", 512), (None, None)]
)
def test_memory_sizes(text: str | None, size: int | None) -> None:
    assert parse_memory(text) == size


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config" / "profile.json"
    monkeypatch.setenv("REMOTEGPU_PROFILE", str(path))
    monkeypatch.delenv("REMOTEGPU_API_KEY", raising=False)
    return path


def test_the_profile_is_private_and_complete(profile: Path) -> None:
    save_profile(Profile("http://platform", TOKENS))
    assert profile_path().stat().st_mode & 0o777 == 0o600
    assert load_profile() == Profile("http://platform", TOKENS)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["whoami"], Exit.FAILED, "No platform address"),
        (["--address", "http://127.0.0.1:9", "whoami"], Exit.NOT_ALLOWED, "remotegpu login"),
        (["admin", "price", "set", "A100", "1.0000001"], 2, "six decimals"),
        (["env", "create", "--name", "x", "--memory", "much"], 2, "amount of memory"),
    ],
)
def test_mistakes_say_what_to_do(profile: Path, arguments: list[str], code: int, said: str) -> None:
    if "env" in arguments:
        save_profile(Profile("http://127.0.0.1:9", TOKENS))
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, said in result.output) == (code, True), result.output
