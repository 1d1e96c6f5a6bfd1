"""Whether a Ray head that others run can be the platform's, in JSON: `python -m cluster.probe ADDRESS TOKEN_FILE`.

A process of its own: Ray reads its variables once, when it is imported.
"""

import json
import os
import platform
import sys
from pathlib import Path

import ray
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._raylet import AuthenticationTokenLoader, GcsClient  # type: ignore[attr-defined]  # a C extension
from ray.exceptions import AuthenticationError

from cluster.connection import RayUnavailableError, open_head

_TIMEOUT_S = 10.0


def problem(address: str, token_file: Path) -> str | None:
    """What stands against the head at `address`; None if it can be used.

    Raises:
        RayUnavailableError: it does not answer, or refuses the token.
    """
    metadata = get_cluster_metadata(open_head(address, token_file=token_file, timeout_s=_TIMEOUT_S)) or {}
    theirs = (metadata.get("ray_version"), _minor(metadata.get("python_version", "")))
    ours = (ray.__version__, _minor(platform.python_version()))
    if theirs != ours:
        return f"Ray at {address} is {_named(theirs)}, and the platform's {_named(ours)}: start the head with the same"
    if _takes_any_token(address):
        return f"Ray at {address} asks for no token: start it with RAY_AUTH_MODE=token"
    return None


def _takes_any_token(address: str) -> bool:
    os.environ["RAY_AUTH_TOKEN"] = "0" * 64  # goes before the file
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        GcsClient(address=address)
    except AuthenticationError:
        return False
    return True


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _named(versions: tuple[object, object]) -> str:
    return f"Ray {versions[0]} with Python {versions[1]}"


def main() -> None:
    address, token_file = sys.argv[1:]
    try:
        found = problem(address, Path(token_file))
    except RayUnavailableError as error:
        found = str(error)
    sys.stdout.write(json.dumps({"problem": found, "version": ray.__version__}) + "\n")


if __name__ == "__main__":
    main()
