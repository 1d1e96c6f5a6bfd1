"""Taking a host's things off its machine: containers, networks, firewall; home volumes only when asked."""

import shutil

from node.daemon.attempt_directory import secrets_root
from node.daemon.config import HostConfig
from node.daemon.engine import Engine
from node.daemon.firewall import Firewall


def leave(config: HostConfig, *, volumes: bool = False) -> None:
    """Call it with the daemon stopped. Idempotent; only what carries the host's label is touched.

    Raises:
        docker.errors.DockerException, FirewallError
    """
    engine = Engine(config.docker_host, config.host_id)
    for container in engine.containers():
        engine.remove_container(container["Id"])
    for network in engine.api.networks(filters=engine.filters):
        engine.api.remove_network(network["Id"])
    if volumes:
        for volume in engine.api.volumes(filters=engine.filters)["Volumes"] or []:
            engine.api.remove_volume(volume["Name"])
    memory = secrets_root(config.host_id)
    if memory is not None:
        shutil.rmtree(memory, ignore_errors=True)
    Firewall(config).remove()
    engine.api.close()
