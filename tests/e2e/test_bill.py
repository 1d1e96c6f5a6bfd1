"""Seconds, GPU model, price version, amount: usage, statement, journal and balance agree to the unit."""

from collections import defaultdict
from typing import Any

import pytest

from tests.e2e.commands import Customer
from tests.waiting import wait_for

_SETTLED_S = 30
_SIZE = ("--gpu-model", "A100", "--cpus", "1", "--memory", "1GiB")


@pytest.fixture(scope="module")
def customer(hopper: Customer) -> Customer:
    return hopper


def _usage(customer: Customer) -> list[dict[str, Any]]:
    usage: list[dict[str, Any]] = customer.owner.json("usage")
    return usage


def _ran_for(customer: Customer, environment: str, *, at_least_ms: int) -> bool:
    return sum(u["duration_ms"] for u in _usage(customer) if u["environment"] == environment) >= at_least_ms


def test_usage_statement_journal_and_balance_agree(customer: Customer) -> None:
    """Two environments, one of them in two runs: every proven GPU-millisecond is paid for, and nothing else."""
    for name, gpus in (("one", "1"), ("two", "2")):
        customer.owner.run("env", "create", "--name", name, "--gpus", gpus, *_SIZE, "--wait")
    wait_for(lambda: _ran_for(customer, "two", at_least_ms=4000), timeout_s=60, what="proven usage of both GPUs")
    held = customer.owner.json("bill")["balance"]
    assert held["held_micro"] > 0, "what runs has its next period's cost held"
    assert held["available_micro"] == held["balance_micro"] - held["held_micro"]
    customer.owner.run("env", "stop", "one", "--wait")
    customer.owner.run("env", "start", "one", "--wait")
    for name in ("one", "two"):
        customer.owner.run("env", "stop", name, "--wait")

    def settled() -> bool:
        return bool(customer.owner.json("bill")["balance"]["held_micro"] == 0)

    wait_for(settled, timeout_s=_SETTLED_S, every_s=0.5, what="the holds to be settled")
    bill, usage = customer.owner.json("bill"), _usage(customer)
    lines, balance = bill["statement"]["lines"], bill["balance"]

    used: dict[tuple[str, str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for interval in usage:
        key = (interval["allocation_id"], interval["gpu_model"], interval["price_version"])
        duration_ms, amount_micro = used[key]
        used[key] = (duration_ms + interval["duration_ms"], amount_micro + interval["amount_micro"])
    stated = {
        (line["allocation_id"], line["gpu_model"], line["price_version"]): (line["duration_ms"], line["amount_micro"])
        for line in lines
    }
    assert stated == dict(used)
    assert sorted(line["environment"] for line in lines) == ["one", "one", "two"]
    for duration_ms, amount_micro in stated.values():
        assert amount_micro == duration_ms * 1000, "one unit a second: a thousand micro-units a millisecond, exactly"

    charged = sum(amount for _, amount in stated.values())
    totals = bill["statement"]["totals"]
    assert (totals["amount_micro"], totals["duration_ms"]) == (charged, sum(ms for ms, _ in stated.values()))
    assert balance["balance_micro"] == customer.balance * 10**6 - charged
    assert totals["closing_balance_micro"] == balance["balance_micro"]
    postings = [transaction["postings"] for transaction in _journal(customer)]
    assert all(sum(posting["amount_micro"] for posting in entry) == 0 for entry in postings)
    earned = sum(p["amount_micro"] for entry in postings for p in entry if p["account"] == "revenue")
    assert abs(earned) == charged


def _journal(customer: Customer) -> list[dict[str, Any]]:
    transactions: list[dict[str, Any]] = []
    with customer.owner.rest() as rest:
        cursor: str | None = ""
        while cursor is not None:
            query = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
            page = rest.get("/customer/billing/journal", params=query).raise_for_status().json()
            transactions += page["items"]
            cursor = page["next_cursor"]
    return transactions


def test_nothing_is_billed_after_the_end(customer: Customer) -> None:
    before = customer.owner.json("bill")
    customer.owner.run("env", "rm", "one", "--yes")
    customer.owner.run("env", "rm", "two", "--yes")
    wait_for(lambda: customer.owner.json("env", "list") == [], timeout_s=60, what="both to be deleted")
    after = customer.owner.json("bill")
    assert after["balance"] == before["balance"] and after["statement"]["lines"] == before["statement"]["lines"]


def test_the_command_prints_the_bill_for_people(customer: Customer) -> None:
    printed = customer.owner.run("bill").stdout
    bill = customer.owner.json("bill")
    for line in bill["statement"]["lines"]:
        assert f"{line['duration_ms'] / 1000:.3f} s" in printed
        assert line["gpu_model"] in printed and line["environment"] in printed
    assert "3600.00" in printed and "Balance" in printed
