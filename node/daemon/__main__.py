"""`python -m node.daemon HOST_DIR`: one host's daemon, in the foreground."""

import argparse
import fcntl
import logging
import os
import socket
import sys
from pathlib import Path

import uvicorn
from docker.errors import DockerException

from node.daemon.config import ConfigError, HostDirectory, read_config
from node.daemon.firewall import FirewallError
from node.daemon.host import Host
from node.daemon.server import make_app

_BACKLOG = 128


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m node.daemon", description=__doc__)
    parser.add_argument("host_dir", type=Path)
    directory = HostDirectory(parser.parse_args().host_dir.resolve())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with (directory.path / ".daemon.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("another daemon serves this host\n")
            return 1
        try:
            return _serve(directory)
        except (ConfigError, FirewallError, DockerException) as error:
            sys.stderr.write(f"{error}\n")
            return 1


def _serve(directory: HostDirectory) -> int:
    host = Host(directory, read_config(directory))
    host.start()
    listener = _listen(directory.socket)
    server = uvicorn.Server(uvicorn.Config(make_app(host), log_level="warning", lifespan="off", access_log=False))
    try:
        server.run(sockets=[listener])
    finally:
        host.stop()
    return 0


def _listen(path: Path) -> socket.socket:
    """A socket that only this user may connect to, from its first moment on."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener


if __name__ == "__main__":
    sys.exit(main())
