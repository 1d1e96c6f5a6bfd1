"""This process as a driver of the platform's Ray."""

import logging
import os
import socket
import time
from pathlib import Path

import ray
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]  # a C extension
from ray.exceptions import AuthenticationError, RayError

from node.ray_settings import environment

log = logging.getLogger(__name__)

_ATTEMPT_S = 2.0


class RayUnavailableError(Exception):
    """The platform's Ray does not answer, or refuses our token."""


def connect(address: str, *, namespace: str, token_file: Path, timeout_s: float = 60.0) -> str:
    """Connect, waiting at most `timeout_s` for the head, and return this driver's Ray node id (hex).

    The driver lives on the head's machine and belongs to the head's raylet, even where other raylets run beside it.

    Raises:
        RayUnavailableError: no head answered in time, or it refused us.
    """
    open_head(address, token_file=token_file, timeout_s=timeout_s)  # first: ray.init would try a wrong token for 40 s
    try:
        ray.init(
            address=address,
            namespace=namespace,
            log_to_driver=False,
            configure_logging=False,
            ignore_reinit_error=False,
        )
    except (RuntimeError, ConnectionError, RayError) as error:
        raise _refused(address, error) from error
    return str(ray.get_runtime_context().get_node_id())


def open_head(address: str, *, token_file: Path, timeout_s: float) -> GcsClient:
    """A client of the head alone, with the platform's token, which this process has from now on.

    Raises:
        RayUnavailableError: no head answered in time, or it refused us.
    """
    os.environ.update(environment(token_file=token_file))
    # Ray read its variables when it was imported, and keeps the first token that it finds.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    _await_listener(address, timeout_s)
    try:
        return GcsClient(address=address)
    except AuthenticationError as error:
        raise RayUnavailableError(f"Ray at {address} refused our token ({token_file})") from error
    except (RuntimeError, ConnectionError, RayError) as error:
        raise _refused(address, error) from error


def disconnect() -> None:
    """Detached groups and actors stay. Idempotent."""
    ray.shutdown()


def _refused(address: str, error: Exception) -> RayUnavailableError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return RayUnavailableError(f"Ray at {address} refused the connection: {reason}")


def _await_listener(address: str, timeout_s: float) -> None:
    # ray.init hangs for minutes when nobody listens, so the port is knocked at first.
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout_s
    warned = False
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=_ATTEMPT_S).close()
        except OSError as error:
            if time.monotonic() >= deadline:
                raise RayUnavailableError(f"nothing listens at {address}: {error}") from error
            if not warned:
                log.warning("waiting up to %.0f s for Ray at %s: %s", timeout_s, address, error)
                warned = True
            time.sleep(0.2)
        else:
            return
