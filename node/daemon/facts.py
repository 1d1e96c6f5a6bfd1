"""What this machine is, found on it."""

import os
import platform
import shutil
import socket

import psutil

from node.daemon.clock import read_boot_id
from node.daemon.config import HostConfig
from node.daemon.engine import Engine
from node.gpus.provider import Gpus
from scheduler.host_protocol import HostFacts


def host_facts(config: HostConfig, engine: Engine, gpus: Gpus, disk_limit: str) -> HostFacts:
    """Raises: docker.errors.DockerException, when Docker does not answer."""
    info = engine.api.info()
    driver = gpus.driver()
    return HostFacts(
        boot_id=read_boot_id(),
        hostname=socket.gethostname(),
        address=config.publish_address or config.address,
        os=_os_name(),
        kernel=platform.release(),
        cpu_count=config.cpu_count or os.cpu_count() or 1,
        memory_bytes=config.memory_bytes or psutil.virtual_memory().total,
        disk_bytes=shutil.disk_usage(info["DockerRootDir"]).total,
        docker_version=info["ServerVersion"],
        disk_limit=disk_limit,
        simulated=gpus.simulated,
        driver_version=driver.driver_version,
        cuda_version=driver.cuda_version,
        gpus=gpus.facts(),
    )


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return platform.system()
