"""What the platform's administrators do: customers, prices, machines, allocations, audit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from remotegpu import logs
from remotegpu.models import Json, LogRecord
from remotegpu.transport import Transport

_AT_ONCE = 4 * 2**20  # bytes of output in one answer


class Admin:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, what: str, **filters: object) -> Iterator[Json]:
        """Every item of an admin list: customers, users, prices, machines, allocations, images, audit, ..."""
        return self._transport.pages(f"/admin/{what}", Json, **filters)

    def get(self, what: str, item_id: str) -> Json:
        return self._transport.get(f"/admin/{what}/{item_id}", Json)

    def create_customer(
        self,
        *,
        name: str,
        owner: str,
        email: str | None = None,
        password: str | None = None,
        currency: str | None = None,
    ) -> Json:
        """A customer with its owner. The reply carries the owner's generated password, if none was given, this once."""
        person = {"username": owner, "email": email, "password": password}
        body: Json = {"name": name, "owner": {k: v for k, v in person.items() if v is not None}}
        if currency is not None:
            body["currency"] = currency
        return self._transport.post("/admin/customers", Json, body)

    def find_customer(self, name_or_id: str) -> Json | None:
        return next((c for c in self.list("customers") if name_or_id in (c["id"], c["name"])), None)

    def change_customer(self, customer_id: str, changes: Json) -> Json:
        """`name`, `weight` and `priority_ceiling`: what is named changes."""
        return self._transport.patch(f"/admin/customers/{customer_id}", Json, changes)

    def disable_customer(self, customer_id: str) -> Json:
        return self._transport.post(f"/admin/customers/{customer_id}/disable", Json)

    def enable_customer(self, customer_id: str) -> Json:
        return self._transport.post(f"/admin/customers/{customer_id}/enable", Json)

    def top_up(self, customer_id: str, *, amount_micro: int, note: str | None = None) -> Json:
        body = {"amount_micro": amount_micro, **({"note": note} if note else {})}
        return self._transport.post(f"/admin/customers/{customer_id}/top-up", Json, body)

    def refund(self, customer_id: str, *, amount_micro: int, note: str | None = None) -> Json:
        body = {"amount_micro": amount_micro, **({"note": note} if note else {})}
        return self._transport.post(f"/admin/customers/{customer_id}/refund", Json, body)

    def transfer(self, customer_id: str, *, to: str, amount_micro: int, note: str | None = None) -> Json:
        """To another customer, by id."""
        body = {"to": to, "amount_micro": amount_micro, **({"note": note} if note else {})}
        return self._transport.post(f"/admin/customers/{customer_id}/transfer", Json, body)

    def adjust(self, customer_id: str, *, amount_micro: int, reason: str) -> Json:
        """Give an amount, or take it where it is negative."""
        body = {"amount_micro": amount_micro, "reason": reason}
        return self._transport.post(f"/admin/customers/{customer_id}/adjustments", Json, body)

    def limit_credit(self, customer_id: str, *, credit_limit_micro: int) -> Json:
        body = {"credit_limit_micro": credit_limit_micro}
        return self._transport.put(f"/admin/customers/{customer_id}/credit-limit", Json, body)

    def give_credit(
        self, customer_id: str, *, amount_micro: int, expires_at: datetime, note: str | None = None
    ) -> Json:
        """Promotion credit: what is unspent at `expires_at` goes back."""
        body: Json = {"amount_micro": amount_micro, "expires_at": expires_at.isoformat()}
        if note:
            body["note"] = note
        return self._transport.post(f"/admin/customers/{customer_id}/promotions", Json, body)

    def balance(self, customer_id: str) -> Json:
        return self._transport.get(f"/admin/customers/{customer_id}/balance", Json)

    def quota(self, whose: str) -> Json:
        """The own limits, and those that apply with what is used.

        `whose`: `customers/ID`, `customers/ID/workspaces/NAME` or `users/ID`.
        """
        return self._transport.get(f"/admin/{whose}/quota", Json)

    def set_quota(self, whose: str, limits: Json) -> Json:
        """Replace all limits."""
        return self._transport.put(f"/admin/{whose}/quota", Json, limits)

    def put_plan(self, name: str, limits: Json) -> Json:
        """Make a plan, or replace its limits."""
        return self._transport.put(f"/admin/plans/{name}", Json, limits)

    def remove_plan(self, name: str) -> None:
        self._transport.delete(f"/admin/plans/{name}")

    def give_plan(self, customer_id: str, plan: str | None) -> Json:
        """None takes it away. Answers the customer's quota."""
        return self._transport.put(f"/admin/customers/{customer_id}/plan", Json, {"plan": plan})

    def set_price(self, *, price_micro: int, gpu_model: str | None = None, **fields: object) -> Json:
        """A price of an hour of a GPU; or of another `unit`, without a model.

        `fields`: `currency`, `effective_from`, `customer` (its id) or `capacity_group` whose alone it is,
        `preemptible_discount_permille`, `reserved_discount_permille`.
        """
        body = {"gpu_model": gpu_model, "price_micro": price_micro, **fields}
        return self._transport.post("/admin/prices", Json, {k: v for k, v in body.items() if v is not None})

    def find_capacity_group(self, name: str) -> Json | None:
        return next(self.list("capacity-groups", name=name), None)

    def create_capacity_group(self, fields: Json) -> Json:
        """`name`, `customer` (its id), `nominal_milli`, and what else a group has; `gpu_model` is for good."""
        return self._transport.post("/admin/capacity-groups", Json, fields)

    def change_capacity_group(self, group_id: str, changes: Json) -> Json:
        return self._transport.patch(f"/admin/capacity-groups/{group_id}", Json, changes)

    def remove_capacity_group(self, group_id: str) -> None:
        self._transport.delete(f"/admin/capacity-groups/{group_id}")

    def set_machine(self, machine_id: str, *, admin_state: str) -> Json:
        return self._transport.patch(f"/admin/machines/{machine_id}", Json, {"admin_state": admin_state})

    def label_machine(self, machine_id: str, labels: dict[str, str]) -> Json:
        """Replace all of its labels."""
        return self._transport.patch(f"/admin/machines/{machine_id}", Json, {"labels": labels})

    def create_enrolment_token(self, *, description: str, uses: int = 1, machine_id: str | None = None) -> Json:
        """With `machine_id`, for a machine that joins again; without, for machines with new names."""
        wanted = {"description": description, "uses": uses, "machine_id": machine_id}
        return self._transport.post("/admin/machines/enrolment-tokens", Json, wanted)

    def revoke_enrolment_token(self, token_id: str) -> None:
        self._transport.delete(f"/admin/machines/enrolment-tokens/{token_id}")

    def end_allocation(self, allocation_id: str) -> Json:
        return self._transport.post(f"/admin/allocations/{allocation_id}/end", Json)

    def task_output(
        self, task_id: str, *, attempt: int | None = None, rank: int = 0, element: int | None = None
    ) -> Iterator[LogRecord]:
        """What any customer's task has written up to now, as `tasks.logs` has it. That it was read is in the audit."""
        path = f"/admin/tasks/{task_id}/logs"
        for batch in logs.read(
            self._transport, path, attempt=attempt, rank=rank, position=0, stream=None, element=element, limit=_AT_ONCE
        ):
            yield from batch.records

    def reset_password(self, user_id: str) -> Json:
        return self._transport.post(f"/admin/users/{user_id}/reset-password", Json)
