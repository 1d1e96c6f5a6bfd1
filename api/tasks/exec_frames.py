"""What both ends of a command in a task say to each other: binary messages whose first byte says what the rest is."""

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

MOST_COMMAND = 65_536  # bytes of all words together


class Channel(IntEnum):
    STDIN = 0  # without any bytes: its end
    STDOUT = 1
    STDERR = 2
    CONTROL = 3  # a JSON object


Form = TypeVar("Form", bound=BaseModel)
Size = Annotated[int, Field(ge=1, le=1000)]


class BadFrame(ValueError):
    """The message is none of these."""


class Command(BaseModel):
    """The first message."""

    model_config = ConfigDict(extra="forbid", strict=True)
    command: Annotated[list[Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> "Command":
        if not self.command[0]:
            raise ValueError("the command has no name")
        if len(self.command) > 1000 or sum(len(word.encode()) + 1 for word in self.command) > MOST_COMMAND:
            raise ValueError(f"the command has more than 1000 words or {MOST_COMMAND} bytes")
        return self


class Resize(BaseModel):
    """The window of whoever types has another size now."""

    model_config = ConfigDict(extra="forbid", strict=True)
    rows: Size
    cols: Size


@dataclass(frozen=True, slots=True)
class Input:
    data: bytes

    @property
    def end(self) -> bool:
        return not self.data


def first_of(frame: bytes) -> Command:
    """Raises: BadFrame."""
    return _control(frame, Command)


def parse(frame: bytes) -> Input | Resize:
    """Raises: BadFrame."""
    if frame[:1] == bytes([Channel.STDIN]):
        return Input(frame[1:])
    return _control(frame, Resize)


def output(channel: Channel, data: bytes) -> bytes:
    return bytes([channel]) + data


def control(**document: object) -> bytes:
    return output(Channel.CONTROL, json.dumps(document).encode())


def _control(frame: bytes, kind: type[Form]) -> Form:
    if frame[:1] != bytes([Channel.CONTROL]):
        raise BadFrame("the message begins with none of the channels that may be sent")
    try:
        return kind.model_validate_json(frame[1:])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadFrame(f"{where}: {first['msg']}" if where else first["msg"]) from error
