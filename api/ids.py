"""Public ids: UUIDv7, so that they sort by creation and index well."""

from uuid import UUID

from uuid_utils.compat import uuid7


def new_uid() -> UUID:
    return uuid7()
