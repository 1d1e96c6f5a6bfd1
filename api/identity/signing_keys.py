"""The keys that sign access tokens and id tokens: kept in the database, sealed, rotated by age."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from joserfc.jwk import ECKey
from sqlalchemy import or_, select, text
from sqlalchemy.orm import Session

from api.clock import utc_now
from api.db import Database
from api.identity.tables import SigningKey
from api.seal import sealer
from api.settings import Settings

ALGORITHM = "ES256"
_ROTATION_LOCK = 7_301_010  # one rotation at a time, whichever replica notices first
_PURPOSE = "signing-key"
_RELOAD_S = 60.0
_MISS_RELOAD_S = 2.0  # an unknown key id causes at most one look into the database in this time


@dataclass(frozen=True, slots=True)
class LoadedKeys:
    """The keys as of one look at the database: `signing` signs, `verifying` holds it and the retiring ones by id."""

    signing: ECKey
    signing_kid: str
    verifying: dict[str, ECKey]
    public: Sequence[dict[str, Any]]
    loaded_at: float  # monotonic


class KeyRing:
    """The signing keys of this process, looked up again once a minute and when an unknown id appears."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._lock = threading.Lock()
        self._loaded: LoadedKeys | None = None

    def current(self) -> LoadedKeys:
        """The keys, at most a minute old."""
        return self._fresh(_RELOAD_S)

    def verifying(self, kid: str) -> ECKey | None:
        """The public or private key with this id, None if it does not exist or may no longer verify."""
        key = self.current().verifying.get(kid)
        return key or self._fresh(_MISS_RELOAD_S).verifying.get(kid)

    def _fresh(self, max_age_s: float) -> LoadedKeys:
        with self._lock:
            loaded = self._loaded
            if loaded is None or time.monotonic() - loaded.loaded_at > max_age_s:
                loaded = self._database.transact(self._load)
                self._loaded = loaded
            return loaded

    def _load(self, session: Session) -> LoadedKeys:
        rows = _verifying_rows(session)
        signing = next((row for row in rows if row.verifies_until is None), None)
        due = timedelta(seconds=self._settings.signing_key_rotation_s)
        if signing is None or utc_now() - signing.created_at > due:
            rotate(session, self._settings, unless_younger_than=due)
            rows = _verifying_rows(session)
            signing = next(row for row in rows if row.verifies_until is None)
        box = sealer(self._settings, purpose=_PURPOSE)
        keys = {row.kid: ECKey.import_key(box.decrypt(row.private_sealed)) for row in rows}
        return LoadedKeys(
            signing=keys[signing.kid],
            signing_kid=signing.kid,
            verifying=keys,
            public=tuple(row.public_jwk for row in rows),
            loaded_at=time.monotonic(),
        )


def rotate(session: Session, settings: Settings, *, unless_younger_than: timedelta | None = None) -> None:
    """Make a new key sign; the one before verifies until the last token that it signed has expired."""
    session.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _ROTATION_LOCK})
    now = utc_now()
    current = session.scalar(select(SigningKey).where(SigningKey.verifies_until.is_(None)))
    if current is not None:
        if unless_younger_than is not None and now - current.created_at <= unless_younger_than:
            return
        # Twice: other replicas go on signing with it until they look again.
        current.verifies_until = now + timedelta(seconds=settings.access_token_s + 2 * _RELOAD_S)
        session.flush()
    key = ECKey.generate_key("P-256", private=True)
    kid = key.thumbprint()
    public = {**key.as_dict(private=False), "kid": kid, "use": "sig", "alg": ALGORITHM}
    sealed = sealer(settings, purpose=_PURPOSE).encrypt(key.as_pem(private=True))
    session.add(SigningKey(kid=kid, private_sealed=sealed, public_jwk=public))
    session.flush()


def _verifying_rows(session: Session) -> list[SigningKey]:
    query = select(SigningKey).where(or_(SigningKey.verifies_until.is_(None), SigningKey.verifies_until > utc_now()))
    return list(session.scalars(query.order_by(SigningKey.id.desc())))
