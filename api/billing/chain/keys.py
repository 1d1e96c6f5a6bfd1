"""The platform's keys for bills: Ed25519, of their own, the private halves sealed in the database."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from api.billing.chain.canonical import Value, canonical
from api.billing.chain.tables import BillKey
from api.seal import sealer
from api.settings import Settings

ALGORITHM: Final = "Ed25519"
_PURPOSE = "bill-key"
_MAKING_LOCK = 7_303_010  # one key is made, whichever process needs it first
_HEAD, _BILL = b"remotegpu head 1\n", b"remotegpu bill 1\n"


@dataclass(frozen=True, slots=True)
class Signer:
    """The key that signs now. What it signs says what it is, so that no signature can pass for another."""

    id: int
    kid: str
    _private: Ed25519PrivateKey

    def sign_head(self, head: Value) -> bytes:
        return self._private.sign(_HEAD + canonical(head))

    def sign_bill(self, running: bytes) -> bytes:
        """`running` is the hash of the file's last line before the signature."""
        return self._private.sign(_BILL + running.hex().encode())


def signer(session: Session, settings: Settings) -> Signer:
    """The newest key. One is made where there is none, or none that opens: `signing_key_secret` is another then."""
    found = _newest(session, settings)
    if found is None:
        session.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _MAKING_LOCK})
        found = _newest(session, settings) or _make(session, settings)
    return found


def public_keys(session: Session, settings: Settings) -> Sequence[BillKey]:
    """Every key there ever was, the newest first; at least one."""
    signer(session, settings)
    return session.scalars(select(BillKey).order_by(BillKey.id.desc())).all()


def _newest(session: Session, settings: Settings) -> Signer | None:
    row = session.scalar(select(BillKey).order_by(BillKey.id.desc()).limit(1))
    if row is None:
        return None
    try:
        private = sealer(settings, purpose=_PURPOSE).decrypt(row.private_sealed)
    except InvalidToken:
        return None
    return Signer(row.id, row.kid, Ed25519PrivateKey.from_private_bytes(private))


def _make(session: Session, settings: Settings) -> Signer:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    sealed = sealer(settings, purpose=_PURPOSE).encrypt(private.private_bytes_raw())
    row = BillKey(kid=hashlib.sha256(public).hexdigest(), public_key=public, private_sealed=sealed)
    session.add(row)
    session.flush()
    return Signer(row.id, row.kid, private)
