"""A job's runtime environment, as Ray's clients send it: what of it can be honoured, and the refusal of all else."""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from api.ray_jobs import python_packages
from api.ray_jobs.python_packages import Installation
from api.ray_jobs.request import Refused
from api.tasks.fields import VariableName

PACKAGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.(zip|whl)")
"""A name that Ray's clients give to an upload. A wheel is a zip archive too, and unpacked as one."""
_MAX_MODULES = 32
_MAX_URL = 2000
_READ = frozenset({"working_dir", "py_modules", "env_vars", "pip", "uv", "image_uri"})
# The client's own notes, and what it has done before it sent anything.
_IGNORED = frozenset({"excludes", "_ray_commit", "_ray_release", "_inject_current_ray"})
_WHY_NOT = {
    "conda": "name an image that has the packages in metadata.image, or use pip or uv",
    "container": "name an image of the catalogue in metadata.image",
    "py_executable": "write it into the entrypoint",
    "java_jars": "jobs run Python and shell commands",
    "mpi": "ask for several hosts with metadata.nodes",
    "nsight": "start the profiler in the entrypoint",
    "_nsight": "start the profiler in the entrypoint",
    "_rocprof_sys": "start the profiler in the entrypoint",
    "worker_process_setup_hook": "pass it to ray.init() in your program",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where files come from: a package that was uploaded, by `protocol/name`, or a URL that the container fetches."""

    package: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class RuntimeEnv:
    working_dir: Source | None = None
    py_modules: tuple[Source, ...] = ()
    env_vars: dict[str, str] = field(default_factory=dict)
    installation: Installation | None = None
    image: str | None = None


def read(given: dict[str, Any]) -> RuntimeEnv:  # Any: JSON
    """
    Raises:
        Refused: a key can't be honoured here, or its value is none that Ray knows.
    """
    given = {name: value for name, value in given.items() if value is not None and name not in _IGNORED}
    for name in sorted(set(given) - _READ):
        _check_unread(name, given[name])
    if "pip" in given and "uv" in given:
        raise Refused("runtime_env: pip and uv can't be given together")
    return RuntimeEnv(
        working_dir=_source("working_dir", given["working_dir"]) if given.get("working_dir") else None,
        py_modules=_modules(given.get("py_modules", [])),
        env_vars=_variables(given.get("env_vars", {})),
        installation=_installation(given),
        image=_text("image_uri", given["image_uri"]) if "image_uri" in given else None,
    )


def _check_unread(name: str, value: Any) -> None:  # Any: JSON
    if name == "config" and isinstance(value, dict):
        value = {key: each for key, each in value.items() if (key, each) != ("setup_timeout_seconds", -1)}
        if set(value) <= {"eager_install"}:  # what is installed is installed before the entrypoint in any case
            return
        raise Refused("runtime_env.config: only eager_install is known here; metadata.timeout bounds the whole job")
    reason = _WHY_NOT.get(name, f"known here: {', '.join(sorted(_READ))}")
    raise Refused(f"runtime_env.{name[:100]}: not possible here; {reason}")


def _installation(given: dict[str, Any]) -> Installation | None:  # Any: JSON
    if "pip" in given:
        return python_packages.read_pip(given["pip"])
    return python_packages.read_uv(given["uv"]) if "uv" in given else None


def _modules(given: Any) -> tuple[Source, ...]:  # Any: JSON
    if not isinstance(given, list) or len(given) > _MAX_MODULES:
        raise Refused(f"runtime_env.py_modules: must be a list of at most {_MAX_MODULES}")
    return tuple(_source("py_modules", each) for each in given)


def _source(name: str, given: Any) -> Source:  # Any: JSON
    text = _text(name, given)
    scheme, _, rest = text.partition("://")
    if scheme == "gcs" and PACKAGE.fullmatch(rest):
        return Source(package=f"{scheme}/{rest}")
    if scheme == "https" and len(text) <= _MAX_URL and text.isprintable() and " " not in text:
        if urlsplit(text).path.endswith(".zip"):
            return Source(url=text)
        raise Refused(f"runtime_env.{name}: {text[:200]!r}: only zip archives are fetched")
    raise Refused(
        f"runtime_env.{name}: {text[:200]!r}: must be a directory or a zip archive that the client uploads,"
        " or the https:// address of a zip archive"
    )


def _variables(given: Any) -> dict[str, str]:  # Any: JSON
    if not isinstance(given, dict):
        raise Refused("runtime_env.env_vars: must be an object")
    for name, value in given.items():
        _text(f"env_vars.{name[:100]}", value)
        try:
            TypeAdapter(VariableName).validate_python(name)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise Refused(f"runtime_env.env_vars: {name[:100]!r}: {said}") from error
    return given


def _text(name: str, given: Any) -> str:  # Any: JSON
    if not isinstance(given, str) or "\0" in given:
        raise Refused(f"runtime_env.{name}: must be a text")
    return given
