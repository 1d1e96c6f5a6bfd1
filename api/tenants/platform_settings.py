"""The settings that an administrator may change while the platform runs."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.audit.service import record
from api.principal import Principal
from api.tenants.schemas import PlatformSettings, PlatformSettingsChange
from api.tenants.tables import Setting


def read(session: Session) -> PlatformSettings:
    """The settings: what is stored, and the defaults for the rest."""
    known = list(PlatformSettings.model_fields)
    rows = session.execute(select(Setting.key, Setting.value).where(Setting.key.in_(known)))
    return PlatformSettings.model_validate({row.key: row.value for row in rows})


def change(session: Session, principal: Principal, changes: PlatformSettingsChange) -> PlatformSettings:
    """Set what is named."""
    named = changes.model_dump(exclude_none=True, mode="json")
    for key, value in named.items():
        row = insert(Setting).values(key=key, value=value)
        session.execute(row.on_conflict_do_update(index_elements=[Setting.key], set_={"value": value}))
    if named:
        record(
            session, actor=principal.actor, action="settings.change", target="settings", address=principal.address,
            details=named,
        )  # fmt: skip
    return read(session)
