"""Bills as somebody may have changed them: with no key, or with the platform's own."""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from api.billing.chain.keys import Signer

Body = dict[str, Any]


def lines_of(bill: bytes) -> list[bytes]:
    return bill.splitlines(keepends=True)


def first_difference(bill: bytes, changed: bytes) -> int:
    """The number of the first line that is not the same, or that one of them lacks."""
    one, other = lines_of(bill), lines_of(changed)
    same = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    return 1 + (min(len(one), len(other)) if same is None else same)


def rehashed(contents: list[tuple[str, Any]]) -> bytes:
    """A file of these kinds and bodies, whose line hashes are right. Any body: a forger may write what they like."""
    running, written = bytes(32), b""
    for number, (kind, body) in enumerate(contents, 1):
        content = {"body": body, "kind": kind, "line": number}
        running = hashlib.sha256(running + canonical(content)).digest()
        written += canonical({**content, "running": running.hex()}) + b"\n"
    return written


def contents_of(bill: bytes) -> list[tuple[str, Any]]:
    parsed = [json.loads(line) for line in lines_of(bill)]
    return [(line["kind"], line["body"]) for line in parsed]


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(slots=True)
class Forger:
    """The platform itself, or whoever has its key: everything that it changes is hashed and signed anew."""

    signer: Signer

    def change(self, bill: bytes, edit: Callable[[list[tuple[str, Body]]], object]) -> bytes:
        contents = contents_of(bill)
        edit(contents)
        self._relink(contents)
        head = next(body for kind, body in contents if kind == "head")
        head["signature"] = _base64(self.signer.sign_head(head["head"]))
        unsigned = lines_of(rehashed(contents[:-1]))
        running = bytes.fromhex(json.loads(unsigned[-1])["running"])
        contents[-1][1]["signature"] = _base64(self.signer.sign_bill(running))
        return rehashed(contents)

    def _relink(self, contents: list[tuple[str, Body]]) -> None:
        """Meters by what they are, records by what they say and follow; the head names the last one."""
        names = {}
        for body in (body for kind, body in contents if kind == "meter"):
            names[body["id"]] = body["id"] = hashlib.sha256(canonical(body["meter"])).hexdigest()
        previous = contents[0][1]["chain"]["hash"]
        for body in (body for kind, body in contents if kind == "record"):
            record = body["record"]
            record |= {"previous": previous, "meter": names.get(record["meter"], record["meter"])}
            previous = body["hash"] = hashlib.sha256(canonical(record)).hexdigest()
        for kind, body in contents:
            if kind == "transaction":
                for posting in body["postings"]:
                    posting["meter"] = names.get(posting["meter"], posting["meter"])
            elif kind == "head":
                body["head"]["hash"] = previous


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
