"""The commands about bills, over a transport that answers in memory."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from api.billing.chain.canonical import canonical
from api.billing.chain.lines import LineKind, Lines
from remotegpu import Client, ConnectionFailed, NotFound, Tokens
from remotegpu.bill.charges import charge
from remotegpu.bill.lines import BadLine, read_lines
from remotegpu.bill.spans import Proof, Spans
from remotegpu.cli import app
from scheduler.money import cumulative_charge_micro

KEY = Ed25519PrivateKey.generate()
KID = hashlib.sha256(KEY.public_key().public_bytes_raw()).hexdigest()
ZERO = "0" * 64


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def bill(**changes: Any) -> bytes:
    """Of a customer who used nothing."""
    public = {"algorithm": "Ed25519", "id": KID, "public_key": b64(KEY.public_key().public_bytes_raw())}
    head: dict[str, Any] = {
        "closed": True, "customer": "c", "hash": ZERO, "key": KID, "period": "2026-11", "sequence": 0, "signed_ms": 9
    }  # fmt: skip
    beginning = {
        "format": "remotegpu-bill", "version": 1, "customer": "c", "currency": "USD", "period": "2026-11", "from_ms": 0,
        "to_ms": 9, "exported_ms": 9, "closed": True, "chain": {"sequence": 0, "hash": ZERO}, "opening": {"wallet": 5},
        "keys": [public],
    }  # fmt: skip
    lines = Lines()
    written = lines.line(LineKind.BILL, beginning | changes)
    written += lines.line(LineKind.TOTALS, {"amount_micro": 0, "duration_ms": 0, "closing": {"wallet": 5}})
    signature = KEY.sign(b"remotegpu head 1\n" + canonical(head))
    written += lines.line(LineKind.HEAD, {"head": head, "signature": b64(signature)})
    signature = KEY.sign(b"remotegpu bill 1\n" + lines.running.hex().encode())
    return written + lines.line(LineKind.END, {"key": KID, "signature": b64(signature)})


def pem(key: Any) -> bytes:  # any private key
    encoded: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "bill.jsonl").write_bytes(bill())
    (tmp_path / "platform.pem").write_bytes(pem(Ed25519PrivateKey.generate()) + pem(KEY))
    (tmp_path / "other.pem").write_bytes(pem(Ed25519PrivateKey.generate()))
    (tmp_path / "agreement.pem").write_bytes(pem(X25519PrivateKey.generate()))
    (tmp_path / "cut.jsonl").write_bytes(b"".join(bill().splitlines(keepends=True)[:-1]))
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "another.jsonl").write_bytes(bill(version=2))
    return tmp_path


def verify(files: Path, name: str, *words: str) -> Any:
    return CliRunner().invoke(app, ["bill", "verify", str(files / name), *words])


def test_a_bill_is_verified_with_the_file_and_the_key_alone(files: Path) -> None:
    done = verify(files, "bill.jsonl", "--key", str(files / "platform.pem"))
    assert done.exit_code == 0, done.output
    assert "Every line holds, by the given key.\n" in done.output and KID in done.output
    assert "or give --key" in " ".join(verify(files, "bill.jsonl").output.split())
    shown = verify(files, "bill.jsonl", "--json")
    assert '"amount_micro":0' in shown.output


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("bill.jsonl", "other.pem", "line 3: the head's signature is not the platform's"),
        ("bill.jsonl", "agreement.pem", "not of Ed25519"),
        ("bill.jsonl", "bill.jsonl", "no public key in PEM"),
        ("bill.jsonl", "none.pem", "none.pem can't be read"),
        ("none.jsonl", "platform.pem", "none.jsonl can't be read"),
        ("cut.jsonl", "platform.pem", "line 4: the file ends before its end line"),
        ("empty.jsonl", "platform.pem", "line 1: the file ends before its end line"),
        ("another.jsonl", "platform.pem", "line 1: it is no bill line"),
        ("platform.pem", "platform.pem", "line 1: it is not JSON"),
    ],
)
def test_what_does_not_hold_is_told_with_its_line(files: Path, name: str, key: str, said: str) -> None:
    failed = verify(files, name, "--key", str(files / key))
    assert failed.exit_code == 1
    assert said in " ".join(failed.output.split())


@pytest.mark.parametrize(
    "line",
    [
        b'{"body":{},"kind":"bill","line":1,"running":"x"}\n',
        b'{"body":{},"kind":1,"line":1,"running":"x"}\n',
        b'{"body":{},"kind":"bill","line":true,"running":"x"}\n',
        b'{"body":{},"kind":"bill","line":1}\n',
        b'{"body":1e3,"kind":"bill","line":1,"running":"x"}\n',
        b'{"body":NaN,"kind":"bill","line":1,"running":"x"}\n',
        b'{"body":"\\ud800","kind":"bill","line":1,"running":"x"}\n',
        b'{"body":' + b"[" * 100_000 + b"}\n",
        b'{"body":' + b"9" * 10_000 + b',"kind":"bill","line":1,"running":"x"}\n',
        b"x" * (1 << 25),
        b"[]\n",
        b"\n",
    ],
)
def test_whatever_a_file_has_is_a_bad_line_at_worst(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(line)
    with (tmp_path / "file").open("rb") as file, pytest.raises(BadLine):
        list(read_lines(file))


def test_a_bill_is_exported_as_it_comes_with_a_refreshed_token() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v1/auth/refresh":
            return httpx.Response(200, json={"access_token": "new", "refresh_token": "r2", "expires_in": 900})
        if request.headers["Authorization"] != "Bearer new":
            return httpx.Response(401, json={"title": "x", "status": 401, "code": "x", "detail": "y"})
        assert request.url.params["period"] == "2026-11"
        return httpx.Response(200, content=iter([b"one\n", b"two\n"]))

    tokens = Tokens(access_token="old", refresh_token="r1", expires_in=900)
    with Client("http://platform", tokens=tokens, transport=httpx.MockTransport(handle)) as client:
        assert b"".join(client.billing.export("2026-11")) == b"one\ntwo\n"


def test_an_export_that_is_refused_or_breaks_off_is_an_error() -> None:
    def broken() -> Any:
        yield b"one\n"
        raise httpx.ReadError("gone")

    answers = [httpx.Response(404, json={"title": "x", "status": 404, "code": "x", "detail": "y"})]
    answers.append(httpx.Response(200, content=broken()))
    transport = httpx.MockTransport(lambda request: answers.pop(0))
    with Client("http://platform", api_key="rgpu_x", transport=transport) as client:
        with pytest.raises(NotFound):
            list(client.billing.export("2026-11"))
        with pytest.raises(ConnectionFailed, match="was lost"):
            list(client.billing.export("2026-11"))


@given(st.integers(0, 10**14), st.integers(1, 1000), st.integers(0, 10**13))
def test_both_sides_price_time_alike(price: int, milli: int, duration_ms: int) -> None:
    served = cumulative_charge_micro(price_micro_per_gpu_hour=price, milli=milli, duration_ms=duration_ms)
    assert charge(price_micro=price, milli=milli, duration_ms=duration_ms) == served


SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8)).map(lambda span: (span[0], span[0] + span[1])))


@given(SPANS)
def test_spans_are_the_moments_that_were_added_once(added: list[tuple[int, int]]) -> None:
    spans, moments = Spans(), set[int]()
    for start, end in added:
        fresh = moments.isdisjoint(range(start, end))
        assert spans.overlaps(start, end) is not fresh
        assert spans.add(start, end) is fresh
        moments |= set(range(start, end)) if fresh else set()
    kept = [set(range(*span)) for span in zip(spans.starts, spans.ends, strict=True)]
    assert set().union(*kept) == moments and sum(map(len, kept)) == len(moments)
    assert all(end < start for end, start in zip(spans.ends, spans.starts[1:], strict=False)), "what touches is one"


@given(SPANS, SPANS)
def test_proof_is_complete_when_the_windows_contain_every_moment(
    claimed: list[tuple[int, int]], windows: list[tuple[int, int]]
) -> None:
    spans, moments = Spans(), set[int]()
    for start, end in claimed:
        if spans.add(start, end):
            moments |= set(range(start, end))
    proof = Proof(spans)
    gaps = [gap for window in sorted(windows) if (gap := proof.take(*window)) is not None]
    proven = moments <= {moment for start, end in windows for moment in range(start, end)}
    assert (not gaps and proof.missing is None) is proven
    for start, end in gaps[:1]:
        assert start < end and set(range(start, end)) <= moments
