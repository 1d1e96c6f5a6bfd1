"""What hosts call: joining, renewing their certificate, registering, heartbeats and usage."""

from functools import partial
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.orm import Session

from api.deps import DatabaseDep, SettingsDep
from api.internal.peer import HostPeer
from api.internal.pki import Authority
from api.machines import enrolment, heartbeat, registration
from api.machines.tables import Host
from api.metering.service import ingest
from api.problems import problems
from scheduler.host_protocol import Heartbeat, HeartbeatReply, HostFacts, UsageBatch, UsageReceipt

router = APIRouter(prefix="/internal", tags=["hosts"])

HostName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/ -]{0,62}$")]
Pem = Annotated[str, StringConstraints(max_length=8192)]
_PEM_FILE = "application/x-pem-file"


class EnrolIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: Annotated[str, StringConstraints(max_length=400)]
    name: HostName
    csr_pem: Pem
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32)


class EnrolOut(BaseModel):
    host_id: str
    certificate_pem: str
    ca_pem: str
    ray_address: str
    ray_token: str
    heartbeat_interval_s: float
    lost_margin_s: float


class RenewIn(BaseModel):
    csr_pem: Pem


class CertificateOut(BaseModel):
    certificate_pem: str
    ca_pem: str


def _authority(request: Request) -> Authority:
    return cast(Authority, request.app.state.authority)


AuthorityDep = Annotated[Authority, Depends(_authority)]


@router.get("/ca", response_class=Response, responses={200: {"content": {_PEM_FILE: {"schema": {"type": "string"}}}}})
def get_ca(authority: AuthorityDep) -> Response:
    """The CA's certificate, PEM. Public: whoever joins compares its SHA-256 with the one in the token."""
    return Response(authority.ca_pem, media_type=_PEM_FILE)


@router.post("/enrol", responses=problems(401, 409))
def enrol(
    body: EnrolIn, request: Request, authority: AuthorityDep, database: DatabaseDep, settings: SettingsDep
) -> EnrolOut:
    """Join with a token: the host's id, its certificate, and what it needs to join Ray."""
    enrolled = database.transact(
        partial(
            enrolment.enrol,
            authority=authority,
            token_text=body.token,
            name=body.name,
            csr_pem=body.csr_pem,
            labels=body.labels,
            address=request.client.host if request.client else None,
        )
    )
    return EnrolOut(
        host_id=str(enrolled.host_uid),
        certificate_pem=enrolled.issued.certificate_pem,
        ca_pem=authority.ca_pem,
        ray_address=settings.ray_address,
        ray_token=settings.secret("ray_token"),
        heartbeat_interval_s=settings.heartbeat_interval_s,
        lost_margin_s=settings.lost_margin_s,
    )


@router.post("/certificate", responses=problems(409))
def renew_certificate(body: RenewIn, peer: HostPeer, authority: AuthorityDep, database: DatabaseDep) -> CertificateOut:
    """A new certificate for the host that asks; the one it has stays good until it expires."""

    def work(session: Session) -> str:
        host = session.get_one(Host, peer.host_id)
        return enrolment.issue(session, authority, host, body.csr_pem).certificate_pem

    return CertificateOut(certificate_pem=database.transact(work), ca_pem=authority.ca_pem)


@router.put("/host", status_code=204, responses=problems(409))
def register_host(facts: HostFacts, peer: HostPeer, database: DatabaseDep, settings: SettingsDep) -> None:
    assert peer.host_id is not None
    database.transact(partial(registration.register, settings=settings, host_id=peer.host_id, facts=facts))


@router.post("/heartbeat", responses=problems(409))
def receive_heartbeat(beat: Heartbeat, peer: HostPeer, database: DatabaseDep, settings: SettingsDep) -> HeartbeatReply:
    assert peer.host_id is not None
    return heartbeat.receive(database, settings, host_id=peer.host_id, beat=beat)


@router.post("/usage")
def receive_usage(batch: UsageBatch, peer: HostPeer, database: DatabaseDep) -> UsageReceipt:
    assert peer.host_id is not None
    return ingest(database, peer.host_id, batch)
