"""Machines and enrolment for administrators, and what customers may rent."""

from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.deps import DatabaseDep, PrincipalDep, SettingsDep
from api.idempotency.once import OnceDep
from api.internal.pki import Authority
from api.machines import enrolment, service
from api.machines.offers import ModelOffer, model_offers
from api.machines.schemas import (
    EnrolmentTokenCreated,
    EnrolmentTokenIn,
    EnrolmentTokenOut,
    MachineEventOut,
    MachineOut,
    MachinePatch,
)
from api.machines.tables import EnrolmentToken, Host, HostEvent
from api.pagination import CursorQuery, LimitQuery, Page, decode_cursor, encode_cursor, page_rows
from api.problems import problems
from api.tenants.tables import Customer
from scheduler.states import AdminState, DeviceStatus

router = APIRouter(tags=["machines"])

ModelQuery = Annotated[
    str | None, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$", description="Part of a GPU model's name")
]


@router.get("/admin/machines/enrolment-tokens", responses=problems(400))
def list_enrolment_tokens(
    database: DatabaseDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[EnrolmentTokenOut]:
    query = select(EnrolmentToken, Host.uid).outerjoin(Host, Host.id == EnrolmentToken.host_id)
    with database.session() as session:
        rows, following = page_rows(session, query, key=EnrolmentToken.id, cursor=cursor, limit=limit)
    return Page(items=[_token(row.EnrolmentToken, row.uid) for row in rows], next_cursor=following)


@router.post("/admin/machines/enrolment-tokens", status_code=201, responses=problems(404, 409))
def create_enrolment_token(
    body: EnrolmentTokenIn, database: DatabaseDep, settings: SettingsDep, principal: PrincipalDep, once: OnceDep
) -> EnrolmentTokenCreated:
    """A token with which hosts may join, or one joins again. It is shown this once."""
    authority = Authority(settings.secrets_dir)

    def create(session: Session) -> EnrolmentTokenCreated:
        host = service.find(session, body.machine_id) if body.machine_id is not None else None
        token, text = enrolment.create_token(
            session,
            authority,
            principal,
            description=body.description,
            uses=body.uses,
            expires_in_s=body.expires_in_s,
            host=host,
        )
        return EnrolmentTokenCreated(**_token(token, body.machine_id).model_dump(), token=text)

    return database.transact(lambda session: once.run(session, EnrolmentTokenCreated, partial(create, session)))


@router.delete("/admin/machines/enrolment-tokens/{token_id}", status_code=204, responses=problems(404))
def revoke_enrolment_token(token_id: UUID, database: DatabaseDep, principal: PrincipalDep) -> None:
    """Hosts that joined with it stay."""
    database.transact(partial(enrolment.revoke_token, principal=principal, uid=token_id))


@router.get("/admin/machines", responses=problems(400))
def list_machines(
    database: DatabaseDep,
    limit: LimitQuery = 50,
    cursor: CursorQuery = None,
    device_status: DeviceStatus | None = None,
    admin_state: AdminState | None = None,
    gpu_model: ModelQuery = None,
) -> Page[MachineOut]:
    """With their GPUs, live readings and leases."""
    query = service.machines(device_status=device_status, admin_state=admin_state, gpu_model=gpu_model)
    with database.session() as session:
        rows, following = page_rows(session, query, key=Host.id, cursor=cursor, limit=limit)
        return Page(items=service.views(session, [row.Host for row in rows]), next_cursor=following)


@router.get("/admin/machines/{machine_id}", responses=problems(404))
def get_machine(machine_id: UUID, database: DatabaseDep) -> MachineOut:
    with database.session() as session:
        return service.views(session, [service.find(session, machine_id)])[0]


@router.patch("/admin/machines/{machine_id}", responses=problems(404, 409))
def change_machine(machine_id: UUID, body: MachinePatch, database: DatabaseDep, principal: PrincipalDep) -> MachineOut:
    """Draining takes no new work and lets what runs go on; retiring needs a machine without leases."""
    database.transact(partial(service.change, principal=principal, uid=machine_id, wanted=body))
    return get_machine(machine_id, database)


@router.get("/admin/machines/{machine_id}/events", responses=problems(400, 404))
def list_machine_events(
    machine_id: UUID, database: DatabaseDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[MachineEventOut]:
    """What happened to it, the latest first."""
    with database.session() as session:
        host = service.find(session, machine_id)
        query = select(HostEvent).where(HostEvent.host_id == host.id)
        rows, following = page_rows(session, query, key=HostEvent.id, cursor=cursor, limit=limit)
    events = [row.HostEvent for row in rows]
    items = [
        MachineEventOut(
            at=event.at,
            actor=event.actor,
            kind=event.kind,
            from_state=event.from_state,
            to_state=event.to_state,
            reason=event.reason,
        )
        for event in events
    ]
    return Page(items=items, next_cursor=following)


@router.get("/customer/machines", responses=problems(400))
def list_offers(
    database: DatabaseDep, principal: PrincipalDep, limit: LimitQuery = 50, cursor: CursorQuery = None
) -> Page[ModelOffer]:
    """The GPU models that may be rented, with what is free now and the price."""
    begin = max(0, decode_cursor(cursor)) if cursor is not None else 0
    with database.session() as session:
        customer = session.get_one(Customer, principal.tenant_id)
        offers = model_offers(session, customer=customer)
    following = encode_cursor(begin + limit) if len(offers) > begin + limit else None
    return Page(items=offers[begin : begin + limit], next_cursor=following)


def _token(token: EnrolmentToken, machine_id: UUID | None) -> EnrolmentTokenOut:
    return EnrolmentTokenOut(
        id=token.uid,
        description=token.description,
        machine_id=machine_id,
        uses_left=token.uses_left,
        created_at=token.created_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
    )
