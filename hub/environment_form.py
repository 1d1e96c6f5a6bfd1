"""What the environment form sends, as the options of a start."""

from decimal import Decimal, InvalidOperation
from typing import Any

from hub.spawn_errors import SpawnRefused

_GIB = 2**30
_MAX_GPUS = 1024
_MAX_CPUS = 4096
_MAX_MEMORY_GIB = 65_536
_MAX_DISK_GIB = 1_048_576
_MAX_PRIORITY = 1000
_MAX_HOURS = 8784
_MIN_DISK_GIB = Decimal("0.25")
MORE_OPTIONS = (
    "other_models", "gpu_memory_gib", "disk_gib", "labels", "driver", "cuda", "apart", "priority", "time_limit_h",
    "min_runtime_h", "preemptible", "reservation", "capacity_group", "workspace",
)  # fmt: skip
"""Fields that the form hides at first."""
_TIMES = (("time_limit_h", "Time limit", "time_limit_s"), ("min_runtime_h", "Minimum runtime", "min_runtime_s"))
_WORDS = ("driver", "cuda", "apart", "reservation", "capacity_group", "workspace")


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
    options: dict[str, Any] = {"image": image, **_gpus(form)}
    return options | _models(form) | _size(form) | _scheduling(form)


def _models(form: dict[str, list[str]]) -> dict[str, list[str]]:
    """The one that was chosen, and those that would do as well."""
    texts = [_field(form, "gpu_model"), *_field(form, "other_models").split(",")]
    models = [text.strip() for text in texts if text.strip()]
    return {"gpu_models": models} if models else {}


def _gpus(form: dict[str, list[str]]) -> dict[str, int]:
    """Whole ones, or a share of one in thousandths."""
    gpus = _number(form, "gpus", label="GPUs", least=Decimal("0.001"), most=_MAX_GPUS)
    if gpus is None:
        return {"gpus": 1}
    if gpus < 1:
        return {"gpus": 1, "gpu_milli": int(gpus * 1000)}
    if gpus != gpus.to_integral_value():
        raise SpawnRefused("GPUs: give a whole number, or less than 1 for a share of one.", reason="invalid")
    return {"gpus": int(gpus)}


def _size(form: dict[str, list[str]]) -> dict[str, int]:
    options = {}
    cpus = _number(form, "cpus", label="CPUs", least=Decimal("0.1"), most=_MAX_CPUS)
    if cpus is not None:
        options["cpu_milli"] = int(cpus * 1000)
    memory = _number(form, "memory_gib", label="Memory", least=Decimal("0.5"), most=_MAX_MEMORY_GIB)
    if memory is not None:
        options["memory_bytes"] = int(memory * _GIB)
    disk = _number(form, "disk_gib", label="Disk", least=_MIN_DISK_GIB, most=_MAX_DISK_GIB)
    if disk is not None:
        options["disk_bytes"] = int(disk * _GIB)
    return options


def _scheduling(form: dict[str, list[str]]) -> dict[str, Any]:
    """What the form calls more options; those that were filled in."""
    options: dict[str, Any] = {key: text for key in _WORDS if (text := _field(form, key))}
    gpu_memory = _number(form, "gpu_memory_gib", label="GPU memory", least=1, most=_MAX_MEMORY_GIB)
    if gpu_memory is not None:
        options["gpu_memory_bytes"] = int(gpu_memory * _GIB)
    if labels := _field(form, "labels"):
        options["selectors"] = [labels]
    priority = _number(form, "priority", label="Priority", least=0, most=_MAX_PRIORITY, whole=True)
    if priority:
        options["priority"] = int(priority)
    if _field(form, "preemptible"):
        options["preemptible"] = True
    for name, label, option in _TIMES:
        hours = _number(form, name, label=label, least=Decimal("0.01"), most=_MAX_HOURS)
        if hours is not None:
            options[option] = int(hours * 3600)
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
