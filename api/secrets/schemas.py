"""Requests and replies about secrets. No reply has a value, and no mistake in a request repeats one."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, SecretStr

MAX_VALUE_BYTES = 65_536


def _of_a_process(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if "\0" in text:
        raise ValueError("must not contain a NUL character")
    if len(text.encode()) > MAX_VALUE_BYTES:
        raise ValueError(f"must have at most {MAX_VALUE_BYTES} bytes in UTF-8")
    return value


Value = Annotated[SecretStr, Field(min_length=1, max_length=MAX_VALUE_BYTES), AfterValidator(_of_a_process)]


class SecretPut(BaseModel):
    """Other keys are passed over: to refuse one is to repeat it, and it may be a value in the wrong place."""

    value: Value = Field(description="Text of at most 64 KiB in UTF-8. It is never shown again.")


class SecretOut(BaseModel):
    name: str
    created_at: datetime
    updated_at: datetime
