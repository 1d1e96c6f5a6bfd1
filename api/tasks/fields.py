"""The kinds of value that a task's fields take, each with what it may be: for the check and the published schema."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Strict, StringConstraints
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from api.allocations.request import MAX_BYTES, MAX_GPUS, MAX_SECONDS
from api.tasks import units
from api.tasks.array import ARRAY, parse_array

MIN_MEMORY_BYTES = 2**28
MIN_SHM_BYTES = 2**20
MAX_TEXT = 65_536
MAX_ENV_BYTES = 2**18
_OURS = ("REMOTEGPU_", "NVIDIA_")
_SYSTEM_PATHS = ("/dev", "/proc", "/sys")


class OneOrMany:
    """Beside a list type: a single value stands for the list of it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_as_list, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _duration(low_s: int, high_s: int) -> AfterValidator:
    def check(text: str) -> str:
        length_s = units.duration_s(text)
        if not low_s <= length_s <= high_s:
            raise ValueError(f"{text!r} is {length_s} s; it has to be from {low_s} s to {high_s} s")
        return text

    return AfterValidator(check)


def _size(low: int, high: int) -> AfterValidator:
    def check(text: str) -> str:
        size = units.size_bytes(text)
        if not low <= size <= high:
            raise ValueError(f"{text!r} is {size} bytes; it has to be from {low} to {high}")
        return text

    return AfterValidator(check)


def _thousandths(number: float) -> float:
    units.milli(number)
    return number


def _whole_or_share(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"{gpus}: write a whole number of GPUs, or a share of one, such as 0.5")
    return gpus


def _array(text: str) -> str:
    parse_array(text)
    return text


def _users_own(name: str) -> str:
    if name.startswith(_OURS):
        raise ValueError(f"{name!r}: names that begin with {' or '.join(_OURS)} are the platform's")
    return name


def _mountable(path: str) -> str:
    parts = path.split("/")[1:]
    if "" in parts or "." in parts or ".." in parts:
        raise ValueError(f"{path!r}: write an absolute path without empty parts, '.' or '..', such as /data")
    if f"/{parts[0]}" in _SYSTEM_PATHS:
        raise ValueError(f"{path!r}: nothing can be mounted below {', '.join(_SYSTEM_PATHS)}")
    return path


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain a NUL character")
    return text


_duration_text = Field(json_schema_extra={"pattern": units.DURATION})
_size_text = Field(json_schema_extra={"pattern": units.SIZE}, examples=["32GB", "8GiB"])

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
ImageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Whole = Annotated[int, Strict()]
Flag = Annotated[bool, Strict()]
Gpus = Annotated[
    float,
    Strict(),
    Field(ge=0, le=MAX_GPUS, json_schema_extra={"anyOf": [{"type": "integer"}, {"maximum": 1}]}),
    AfterValidator(_whole_or_share),
    AfterValidator(_thousandths),
]
Cpus = Annotated[float, Strict(), Field(ge=0.1, le=1024), AfterValidator(_thousandths)]
Memory = Annotated[str, _size(MIN_MEMORY_BYTES, MAX_BYTES), _size_text]
SharedMemory = Annotated[str, _size(MIN_SHM_BYTES, MAX_BYTES), _size_text]
Timeout = Annotated[str, _duration(1, MAX_SECONDS), _duration_text]
Disconnect = Annotated[str, _duration(1, 86_400), _duration_text]
Pause = Annotated[str, _duration(0, 86_400), _duration_text]
Grace = Annotated[str, _duration(0, 3_600), _duration_text]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/ -]{0,62}$")]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"), AfterValidator(_users_own)]
VariableValue = Annotated[str, StringConstraints(max_length=32_768), AfterValidator(_no_nul)]
ShellText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT, pattern=r"\S"), AfterValidator(_no_nul)]
Directory = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_no_nul)]
MountPath = Annotated[str, StringConstraints(pattern=r"^/[^\x00]{1,254}$"), AfterValidator(_mountable)]
ArrayText = Annotated[
    str,
    StringConstraints(max_length=60_000),
    AfterValidator(_array),
    Field(examples=["0-9", "0-99%5", "1,3,5-7"], json_schema_extra={"pattern": ARRAY}),
]
