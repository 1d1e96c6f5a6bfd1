"""A bill to be checked: its export, the heads that were signed for it, and the keys that signed them."""

import base64
from typing import Annotated, cast
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from api.billing.chain.bill import Exports, prepare
from api.billing.chain.heads import head_body
from api.billing.chain.keys import ALGORITHM, public_keys
from api.billing.chain.month import Month
from api.billing.chain.schemas import BillKeyOut, BillKeysOut, HeadBody, HeadOut
from api.billing.chain.tables import BillKey, UsageHead
from api.clock import utc_now
from api.deps import DatabaseDep, PrincipalDep, SettingsDep
from api.errors import Unprocessable
from api.pagination import CursorQuery, LimitQuery, Page, page_rows
from api.problems import problems
from api.tenants.tables import Customer

router = APIRouter(tags=["billing"])

_JSON_LINES = "application/jsonl"
PeriodQuery = Annotated[str, Query(pattern=r"^[0-9]{4}-[0-9]{2}$", description="A month, UTC", examples=["2026-11"])]


@router.get(
    "/customer/billing/bill",
    response_class=StreamingResponse,
    responses={200: {"content": {_JSON_LINES: {"schema": {"type": "string"}}}}},
)
def export_bill(
    request: Request, period: PeriodQuery, database: DatabaseDep, settings: SettingsDep, principal: PrincipalDep
) -> StreamingResponse:
    """Everything by which a month's amounts can be recomputed, line by line, signed; docs/reference/bill-format.md.

    It may be of a month that is not over. Usage that is not sealed yet is sealed for it.
    """
    now = utc_now()
    try:
        month = Month.parse(period)
    except ValueError as error:
        raise Unprocessable(f"`period`: {error}.") from error
    if month.start > now:
        raise Unprocessable(f"`period`: {month} has not begun.")
    export = prepare(database, settings, principal.tenant_id, month, now=now)
    content = cast(Exports, request.app.state.exports).open(database, export)
    headers = {"content-disposition": f'attachment; filename="bill-{month}.jsonl"'}
    return StreamingResponse(content, media_type=_JSON_LINES, headers=headers)


@router.get("/customer/billing/heads", responses=problems(400))
def own_heads(
    database: DatabaseDep, principal: PrincipalDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[HeadOut]:
    """The signed heads of your chain of usage records, newest first. Keep them: no record before one can be changed."""
    query = (
        select(UsageHead, BillKey.kid, Customer.uid)
        .join(BillKey, BillKey.id == UsageHead.key_id)
        .join(Customer, Customer.id == UsageHead.customer_id)
        .where(UsageHead.customer_id == principal.tenant_id)
    )

    def work(session: Session) -> Page[HeadOut]:
        rows, next_cursor = page_rows(session, query, key=UsageHead.__table__.c.id, cursor=cursor, limit=limit)
        return Page(items=[_head(row) for row in rows], next_cursor=next_cursor)

    return database.transact(work)


@router.get("/billing/keys")
def keys(response: Response, database: DatabaseDep, settings: SettingsDep) -> BillKeysOut:
    """The public keys that verify heads and bills, of all time."""
    response.headers["cache-control"] = "public, max-age=60"
    found = database.transact(lambda session: list(public_keys(session, settings)))
    return BillKeysOut(keys=[_key(row) for row in found])


def _head(row: Row[UsageHead, str, UUID, int]) -> HeadOut:
    head, kid, customer, _ = row
    body = head_body(head, customer=str(customer), kid=kid)
    return HeadOut(head=HeadBody.model_validate(body), signature=base64.b64encode(head.signature).decode())


def _key(row: BillKey) -> BillKeyOut:
    public = Ed25519PublicKey.from_public_bytes(row.public_key)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return BillKeyOut(id=row.kid, algorithm=ALGORITHM, public_key=pem, created_at=row.created_at)
