"""Creating once: a repeated `POST` with the same `Idempotency-Key` gets the first one's reply.

An endpoint that creates takes `once: OnceDep` and creates inside `once.run`, in the transaction of the creation:

    @router.post("/customer/things", status_code=201, responses=problems(409))
    def create(body: ThingCreate, principal: PrincipalDep, database: DatabaseDep, once: OnceDep) -> Thing:
        return database.transact(
            lambda session: once.run(session, Thing, lambda: service.create(session, principal, body))
        )

where the last function does the work and returns the reply model. Without the header it just runs. The same key
with another request answers 409 `idempotency_key_reused`. Replies are kept for a day.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Header, Request
from pydantic import BaseModel
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from api.clock import utc_now
from api.errors import Conflict
from api.idempotency.tables import IdempotentReply
from api.principal import Principal
from api.seal import sealer
from api.settings import Settings

_KEPT = timedelta(days=1)
_SWEPT_AT_ONCE = 100
_PURPOSE = "idempotent-reply"

Reply = TypeVar("Reply", bound=BaseModel)
KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="Your own unique name for this creation: a repeated request gets the first one's reply.",
    ),
]


@dataclass(frozen=True, slots=True)
class Once:
    """One request's claim to be carried out once."""

    settings: Settings
    actor: str
    key: str | None
    request_hash: bytes

    def run(self, session: Session, kind: type[Reply], create: Callable[[], Reply]) -> Reply:
        """The stored reply of this key, or else what `create` returns, stored in the same transaction.

        Raises:
            Conflict: `idempotency_key_reused`.
        """
        if self.key is None:
            return create()
        # Before every other lock: a repetition that arrives while the first one works waits for its end.
        session.execute(
            select(func.pg_advisory_xact_lock(func.hashtextextended(f"{self.actor} {self.key}", 7_301_011)))
        )
        box = sealer(self.settings, purpose=_PURPOSE)
        stored = session.get(IdempotentReply, (self.actor, self.key))
        if stored is not None and utc_now() - stored.created_at < _KEPT:
            if stored.request_hash != self.request_hash:
                raise Conflict(
                    "This Idempotency-Key was used for a different request; take a new one.",
                    code="idempotency_key_reused",
                )
            return kind.model_validate_json(box.decrypt(stored.reply_sealed))
        reply = create()
        _sweep(session)
        sealed = box.encrypt(reply.model_dump_json(by_alias=True).encode())
        session.add(
            IdempotentReply(actor=self.actor, key=self.key, request_hash=self.request_hash, reply_sealed=sealed)
        )
        return reply


def _sweep(session: Session) -> None:
    """Forget some of the replies that are too old, so that the table stays small without a job of its own."""
    old = select(IdempotentReply.actor, IdempotentReply.key).where(IdempotentReply.created_at < utc_now() - _KEPT)
    for actor, key in session.execute(old.limit(_SWEPT_AT_ONCE)).all():
        session.execute(delete(IdempotentReply).where(IdempotentReply.actor == actor, IdempotentReply.key == key))


async def _once(request: Request, key: KeyHeader = None) -> Once:
    body = await request.body()
    described = f"{request.method} {request.url.path}\n".encode() + body
    principal = cast("Principal | None", getattr(request.state, "principal", None))
    return Once(
        settings=request.app.state.settings,
        actor=principal.actor if principal is not None else "anonymous",
        key=key if principal is not None else None,
        request_hash=hashlib.sha256(described).digest(),
    )


OnceDep = Annotated[Once, Depends(_once)]
