"""The `pip` and `uv` of a runtime environment, as shell lines that install into a virtual environment.

The environment sees what the image's own Python has, so that only what is missing, or of another version, is installed.
"""

import shlex
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from api.ray_jobs.request import Refused

VENV = "/tmp/ray_job/venv"
_PYTHON = f"{VENV}/bin/python"
_REQUIREMENTS = "/tmp/ray_job/requirements.txt"
_MAX_PACKAGES = 500
# `site` of the environment itself comes first: what is installed there wins over the image's.
_ADD_THE_IMAGES = """import sys
for path in sys.path:
    if path.endswith(("site-packages", "dist-packages")):
        print(f"import site; site.addsitedir({path!r})")"""

Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[^\x00]+$")]
Texts = Annotated[list[Text], Field(max_length=_MAX_PACKAGES)]
Version = Annotated[str, StringConstraints(pattern=r"^[<>=!~0-9][<>=!~0-9A-Za-z.,*+ -]{0,99}$")]


class _Pip(BaseModel):
    model_config = ConfigDict(extra="forbid")

    packages: Texts
    pip_check: bool = False
    pip_version: Version | None = None
    pip_install_options: Texts | None = None


class _Uv(BaseModel):
    model_config = ConfigDict(extra="forbid")

    packages: Texts
    uv_check: bool = False
    uv_version: Version | None = None
    uv_pip_install_options: Texts | None = None


_Given = TypeVar("_Given", _Pip, _Uv)


@dataclass(frozen=True, slots=True)
class Installation:
    """`installer` and its `version` ("==1.2", None: what the image has) install `packages`, then `check` them."""

    installer: Literal["pip", "uv"]
    packages: tuple[str, ...]
    version: str | None
    options: tuple[str, ...]
    check: bool


def read_pip(given: Any) -> Installation | None:  # Any: JSON
    """None if there is nothing to install.

    Raises:
        Refused: it is neither a list nor the object that Ray knows.
    """
    pip = _read("pip", _Pip, given)
    options = ["--quiet", "--no-cache-dir"] if pip.pip_install_options is None else pip.pip_install_options
    return _installation("pip", pip.packages, pip.pip_version, options, pip.pip_check)


def read_uv(given: Any) -> Installation | None:  # Any: JSON
    """As `read_pip`."""
    uv = _read("uv", _Uv, given)
    options = ["--quiet", "--no-cache"] if uv.uv_pip_install_options is None else uv.uv_pip_install_options
    return _installation("uv", uv.packages, uv.uv_version, options, uv.uv_check)


def lines(installation: Installation) -> list[str]:
    """Shell lines that make the environment and install into it; with `set -e`, the first that fails ends them."""
    packages = " ".join(map(shlex.quote, installation.packages))
    return [
        f"python3 -m venv --without-pip {VENV}",
        f"python3 -Ec {shlex.quote(_ADD_THE_IMAGES)}"
        f' > "$({_PYTHON} -c \'import sysconfig; print(sysconfig.get_path("purelib"))\')/image.pth"',
        f"{_PYTHON} -m pip --version > /dev/null 2>&1 || {_PYTHON} -m ensurepip > /dev/null",
        f"printf '%s\\n' {packages} > {_REQUIREMENTS}",
        *(_pip_lines if installation.installer == "pip" else _uv_lines)(installation),
    ]


def _pip_lines(installation: Installation) -> list[str]:
    found = [_pip("install", "--quiet", "--no-cache-dir", f"pip{installation.version}")] if installation.version else []
    found.append(_pip("install", "--requirement", _REQUIREMENTS, *installation.options))
    return [*found, _pip("check")] if installation.check else found


def _uv_lines(installation: Installation) -> list[str]:
    get = _pip("install", "--quiet", "--no-cache-dir", f"uv{installation.version or ''}")
    have = f"{_PYTHON} -m uv --version > /dev/null 2>&1 || {get}"
    install = _uv("install", "--requirement", _REQUIREMENTS, *installation.options)
    found = [get if installation.version else have, install]
    return [*found, _uv("check")] if installation.check else found


def _pip(command: str, *arguments: str) -> str:
    return shlex.join([_PYTHON, "-m", "pip", "--disable-pip-version-check", command, *arguments])


def _uv(command: str, *arguments: str) -> str:
    return shlex.join([_PYTHON, "-m", "uv", "pip", command, "--python", _PYTHON, *arguments])


def _read(name: str, kind: type[_Given], given: Any) -> _Given:  # Any: JSON
    try:
        return kind.model_validate({"packages": given} if isinstance(given, list) else given, strict=True)
    except ValidationError as error:
        first: ErrorDetails = error.errors()[0]
        place = ".".join(str(part) for part in (name, *first["loc"]))
        raise Refused(f"runtime_env.{place}: {first['msg']}") from error


def _installation(
    installer: Literal["pip", "uv"], packages: list[str], version: str | None, options: list[str], check: bool
) -> Installation | None:
    if not packages:
        return None
    once = tuple(dict.fromkeys(packages))
    return Installation(installer, once, version, tuple(options), check)
