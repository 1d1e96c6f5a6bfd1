"""Ports for what tests start, below those that the kernel gives out by itself, so that no connection takes them."""

import secrets
import socket

_FIRST, _END = 12_000, 32_000
_handed_out: set[int] = set()


def free_port() -> int:
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of `count` ports in a row on which nobody listens; each is handed out once in a test session."""
    start = _FIRST + secrets.randbelow(_END - _FIRST - count)
    for base in [*range(start, _END - count, count), *range(_FIRST, start, count)]:
        ports = range(base, base + count)
        if _handed_out.isdisjoint(ports) and all(map(_is_free, ports)):
            _handed_out.update(ports)
            return base
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True
