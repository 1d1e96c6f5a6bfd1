"""What the host daemons of an installation make outside its data directory: containers, networks, firewall tables.

Everything carries its host's id; what belongs to other hosts on the same engine is never touched.
"""

import contextlib
import shutil
import tomllib
from collections.abc import Iterator

import docker
from docker.errors import APIError, NotFound

from deploy.engine import Engine
from deploy.instance import Instance
from deploy.packages import search_path
from deploy.progress import StepError
from deploy.shell import execute
from node.daemon.engine import HOST_LABEL

_GRACE_S = 5


class Remains:
    def __init__(self, instance: Instance) -> None:
        self._hosts = _host_ids(instance)

    def remove_containers(self, engine: Engine) -> int:
        """End and remove the containers of our hosts; their volumes stay."""
        removed = 0
        for client, label in self._each(engine):
            for container in client.containers.list(all=True, filters={"label": label}):
                with contextlib.suppress(NotFound, APIError):
                    container.stop(timeout=_GRACE_S)
                with contextlib.suppress(NotFound):
                    container.remove(force=True)
                    removed += 1
        return removed

    def remove_networks(self, engine: Engine) -> int:
        removed = 0
        for client, label in self._each(engine):
            for network in client.networks.list(filters={"label": label}):
                with contextlib.suppress(NotFound, APIError):
                    network.remove()
                    removed += 1
        return removed

    def remove_tables(self) -> int:
        """Remove our hosts' firewall tables."""
        tables = self._tables()
        for family, name in tables:
            with contextlib.suppress(StepError):
                execute([_nft(), "delete", "table", family, name], timeout_s=10)
        return len(tables)

    def found(self, engine: Engine) -> list[str]:
        """What is there still, one line each."""
        left = [f"firewall table {family} {name}" for family, name in self._tables()]
        for client, label in self._each(engine):
            left += [f"container {entry.name}" for entry in client.containers.list(all=True, filters={"label": label})]
            left += [f"network {entry.name}" for entry in client.networks.list(filters={"label": label})]
        return left

    def _each(self, engine: Engine) -> Iterator[tuple[docker.DockerClient, str]]:
        if not self._hosts:
            return
        client = engine.client()
        try:
            for host_id in self._hosts:
                yield client, f"{HOST_LABEL}={host_id}"
        finally:
            client.close()

    def _tables(self) -> list[tuple[str, str]]:
        try:
            lines = execute([_nft(), "list", "tables"], timeout_s=10).splitlines()
        except StepError:
            return []
        tables = [(words[1], words[2]) for words in map(str.split, lines) if len(words) == 3]
        return [(family, name) for family, name in tables if any(_in_name(host, name) for host in self._hosts)]


def _host_ids(instance: Instance) -> list[str]:
    ids = []
    for name in instance.host_names():
        with contextlib.suppress(OSError, KeyError, tomllib.TOMLDecodeError):
            ids.append(str(tomllib.loads((instance.hosts / name / "host.toml").read_text())["host_id"]))
    return ids


def _in_name(host_id: str, table: str) -> bool:
    return host_id.replace("-", "") in table.replace("-", "").replace("_", "")


def _nft() -> str:
    return shutil.which("nft", path=search_path()) or "nft"
