"""Public ids: UUIDv7, so that they sort by creation and index well."""

from uuid import UUID

from uuid_utils.compat import uuid7


def new_uid() -> UUID:
    return uuid7()


def parse_uid(text: str) -> UUID | None:
    """The id that a host or a client wrote; None for what is no id, and so names nothing."""
    try:
        return UUID(text)
    except ValueError:
        return None
