"""What the environment form sends, as the options of a start."""

from decimal import Decimal, InvalidOperation
from typing import Any

from hub.spawn_errors import SpawnRefused

_GIB = 2**30
_MAX_GPUS = 1024
_MAX_CPUS = 4096
_MAX_MEMORY_GIB = 65_536


def parse_form(form: dict[str, list[str]]) -> dict[str, Any]:
    """Options for the platform; empty for an environment that exists and is only started again.

    Raises:
        SpawnRefused: a field is missing or no number in its range. What exists and may be had, the platform checks.
    """
    if _field(form, "existing"):
        return {}
    image = _field(form, "image")
    if not image:
        raise SpawnRefused("Choose an image.", reason="invalid")
    gpus = int(_number(form, "gpus", label="GPUs", least=1, most=_MAX_GPUS, whole=True) or 1)
    options: dict[str, Any] = {"image": image, "gpus": gpus}
    model = _field(form, "gpu_model")
    if model:
        options["gpu_model"] = model
    cpus = _number(form, "cpus", label="CPUs", least=Decimal("0.1"), most=_MAX_CPUS)
    if cpus is not None:
        options["cpu_milli"] = int(cpus * 1000)
    memory = _number(form, "memory_gib", label="Memory", least=Decimal("0.5"), most=_MAX_MEMORY_GIB)
    if memory is not None:
        options["memory_bytes"] = int(memory * _GIB)
    return options


def _field(form: dict[str, list[str]], name: str) -> str:
    return (form.get(name) or [""])[0].strip()


def _number(
    form: dict[str, list[str]], name: str, *, label: str, least: Decimal | int, most: int, whole: bool = False
) -> Decimal | None:
    text = _field(form, name)
    if not text:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite() or not least <= value <= most or (whole and value != value.to_integral_value()):
        kind = "a whole number" if whole else "a number"
        raise SpawnRefused(f"{label}: give {kind} from {least} to {most}.", reason="invalid")
    return value
