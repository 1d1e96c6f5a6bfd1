"""Where the command line keeps the address and the tokens of the last sign-in: a file that only its user can read."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from remotegpu.errors import RemoteGpuError
from remotegpu.models import Tokens


class Profile(msgspec.Struct, frozen=True):
    address: str
    tokens: Tokens | None = None


def profile_path() -> Path:
    """`REMOTEGPU_PROFILE`, or `remotegpu/profile.json` below the user's configuration directory."""
    if named := os.environ.get("REMOTEGPU_PROFILE"):
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "remotegpu" / "profile.json"


def load_profile() -> Profile | None:
    """The kept profile, if there is one.

    Raises:
        RemoteGpuError: the file is damaged.
    """
    path = profile_path()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, OSError) as error:
        raise RemoteGpuError(f"{path} can't be read ({error}); sign in again to replace it.") from error


def save_profile(profile: Profile) -> None:
    """Replace the kept profile. It is never readable by others, not even for a moment."""
    path = profile_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(profile))
    draft.replace(path)
