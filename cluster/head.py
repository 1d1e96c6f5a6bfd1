"""The Ray head as a supervised foreground process: `python -m cluster.head --directory ... --token-file ...`.

State is kept in RocksDB below the directory, so that placement groups and agents survive a `kill -9` of the head. Every
port is given, below one base, so that several clusters share a machine.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from node.ray_settings import environment

_OBJECT_STORE_BYTES = 80_000_000  # nothing of ours travels through the object store; this is close to Ray's minimum
_WORKER_PORTS = 100


@dataclass(frozen=True, slots=True)
class RayHead:
    """One head. `directory` must be short: Ray puts sockets with names of up to 65 characters below it (limit 107).

    `base_port` is the first of 120 ports; `port` is the GCS's, which hosts and drivers are told.
    """

    directory: Path
    token_file: Path
    address: str
    port: int
    dashboard_port: int
    base_port: int

    def arguments(self) -> list[str]:
        """This module's own command line, for a supervisor."""
        values = {
            "--directory": self.directory,
            "--token-file": self.token_file,
            "--address": self.address,
            "--port": self.port,
            "--dashboard-port": self.dashboard_port,
            "--base-port": self.base_port,
        }
        return [sys.executable, "-m", "cluster.head", *(str(part) for pair in values.items() for part in pair)]

    def command(self) -> list[str]:
        """`ray start` itself, which blocks until one of its processes ends, and takes all of them along."""
        ports = {
            "--port": self.port,
            "--dashboard-port": self.dashboard_port,
            "--object-manager-port": self.base_port,
            "--node-manager-port": self.base_port + 1,
            "--dashboard-agent-listen-port": self.base_port + 2,
            "--dashboard-agent-grpc-port": self.base_port + 3,
            "--runtime-env-agent-port": self.base_port + 4,
            "--metrics-export-port": self.base_port + 5,
            "--ray-client-server-port": self.base_port + 8,  # nobody uses Ray Client, but Ray 2.60 refuses 0
            "--min-worker-port": self.base_port + 20,
            "--max-worker-port": self.base_port + 20 + _WORKER_PORTS - 1,
        }
        return [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
            f"--node-ip-address={self.address}",
            f"--temp-dir={self.directory}",
            "--dashboard-host=127.0.0.1",
            "--num-cpus=0",
            "--num-gpus=0",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            "--no-monitor",  # no autoscaler: 110 MB less, and one fixed port
            "--include-log-monitor=false",  # it sends workers' output to drivers, and ours want none
            "--disable-usage-stats",
            "--log-color=false",
            *(f"{option}={value}" for option, value in ports.items()),
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        return {
            **environment(token_file=self.token_file),
            "HOME": str(self.directory / "home"),  # ~/.ray stays as it is
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(self.directory / "gcs"),
            # Told to end, Ray drains its node for 30 s first. The head's own offers nothing that could be drained.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "DASHBOARD_METRIC_PORT": str(self.base_port + 6),
            "AUTOSCALER_METRIC_PORT": str(self.base_port + 7),
        }

    def prepare(self) -> None:
        """Make the directories, and forget the head before this one.

        The file with the last head's address makes `ray start` refuse ("already running") while a raylet or driver of
        that cluster still lives on this machine, as it must during a restart of the head.
        """
        for directory in (self.directory, self.directory / "home", self.directory / "gcs"):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.directory / "ray_current_cluster").unlink(missing_ok=True)


def parse(arguments: list[str]) -> RayHead:
    parser = argparse.ArgumentParser(prog="python -m cluster.head", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--address", required=True)
    for option in ("--port", "--dashboard-port", "--base-port"):
        parser.add_argument(option, type=int, required=True)
    return RayHead(**vars(parser.parse_args(arguments)))


def main() -> None:
    head = parse(sys.argv[1:])
    head.prepare()
    command = head.command()
    os.execve(command[0], command, {**os.environ, **head.environment()})


if __name__ == "__main__":
    main()
