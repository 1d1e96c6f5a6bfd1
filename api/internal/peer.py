"""Who is at the other end of the internal listener: the role and id in its certificate, unless it was revoked."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy import select

from api.db import Database
from api.errors import Forbidden, Unauthenticated
from api.machines.tables import Certificate, Host

PEER_CERTIFICATE = "remotegpu.peer_certificate"  # key in the ASGI scope: `ssl.SSLSocket.getpeercert()`'s dict


@dataclass(frozen=True, slots=True)
class Peer:
    """`host_id` is set for hosts alone. `serial` is lower-case hexadecimal without leading zeros."""

    role: str
    uid: str
    serial: str
    host_id: int | None = None

    @property
    def actor(self) -> str:
        return "hub" if self.role == "hub" else f"{self.role}:{self.uid}"


@dataclass(frozen=True, slots=True)
class _Standing:
    valid: bool
    host_id: int | None
    read_at_s: float


class PeerRegister:
    """Whether a certificate is still good, remembered for a second: a revocation takes effect within that."""

    REMEMBERED_S = 1.0
    SIZE = 4096

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Standing] = OrderedDict()

    def identify(self, certificate: dict[str, Any]) -> Peer:
        """The peer that TLS has proven.

        Raises:
            Unauthenticated: the certificate was revoked, is unknown, or carries no role.
        """
        role, _, uid = _common_name(certificate).partition(":")
        serial = str(certificate.get("serialNumber", "")).lower().lstrip("0")
        if not uid or not serial:
            raise Unauthenticated("The certificate names no role.", code="bad_certificate")
        standing = self._standing(role, uid, serial)
        if not standing.valid:
            raise Unauthenticated("The certificate is revoked or unknown; enrol again.", code="certificate_revoked")
        return Peer(role, uid, serial, standing.host_id)

    def _standing(self, role: str, uid: str, serial: str) -> _Standing:
        now = time.monotonic()
        with self._lock:
            known = self._known.get(serial)
        if known is not None and now - known.read_at_s < self.REMEMBERED_S:
            return known
        standing = self._read(role, uid, serial, now)
        with self._lock:
            self._known[serial] = standing
            self._known.move_to_end(serial)
            while len(self._known) > self.SIZE:
                self._known.popitem(last=False)
        return standing

    def _read(self, role: str, uid: str, serial: str, now: float) -> _Standing:
        with self._database.session() as session:
            row = session.get(Certificate, serial)
            if role != "host":
                # The launcher issues these before there is a database: a row exists only to revoke one.
                return _Standing(row is None or row.revoked_at is None, None, now)
            host_id = session.scalar(select(Host.id).where(Host.uid == UUID(uid)))
            valid = row is not None and row.revoked_at is None and row.host_id == host_id and host_id is not None
            return _Standing(valid, host_id, now)


def _common_name(certificate: dict[str, Any]) -> str:
    for relative_name in certificate.get("subject", ()):
        for key, value in relative_name:
            if key == "commonName":
                return str(value)
    return ""


def _peer(request: Request) -> Peer:
    certificate = request.scope.get(PEER_CERTIFICATE)
    if not certificate:
        raise Unauthenticated("This endpoint needs a client certificate of the platform.", code="certificate_required")
    register: PeerRegister = request.app.state.peers
    return register.identify(certificate)


def _host(peer: Annotated[Peer, Depends(_peer)]) -> Peer:
    return _require(peer, "host")


def _hub(peer: Annotated[Peer, Depends(_peer)]) -> Peer:
    return _require(peer, "hub")


def _monitoring(peer: Annotated[Peer, Depends(_peer)]) -> Peer:
    return _require(peer, "monitoring")


def _require(peer: Peer, role: str) -> Peer:
    if peer.role != role:
        raise Forbidden(f"This endpoint is for the role {role}; the certificate's is {peer.role}.", code="wrong_role")
    return peer


HostPeer = Annotated[Peer, Depends(_host)]
HubPeer = Annotated[Peer, Depends(_hub)]
MonitoringPeer = Annotated[Peer, Depends(_monitoring)]
