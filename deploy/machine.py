"""What the machine itself must have before the platform can start: packages, an engine, images, the Hub's proxy."""

from pathlib import Path

import docker
import pynvml
from docker.errors import DockerException

from deploy.base_image import ensure_base_image
from deploy.engine import DEFAULT_HOST, Engine, on_this_machine, remember_started, start_with_systemd
from deploy.environment_image import ensure_environment_image
from deploy.hub_proxy import ensure_proxy
from deploy.instance import Instance
from deploy.packages import install_packages, missing_packages
from deploy.programs import docker_program
from deploy.progress import StepError, step
from deploy.supervisor import Supervisor

_BUILD_S = 900


def ensure_packages(instance: Instance) -> None:
    with step("system packages") as current:
        external = not on_this_machine(instance.docker_host) or Engine(instance.docker_host).version() is not None
        missing = missing_packages(docker_external=external)
        if missing:
            install_packages(missing)
        current.note = f"installed {', '.join(missing)}" if missing else "all there"


def ensure_engine(instance: Instance, supervisor: Supervisor) -> None:
    """Use the engine that answers; else the system's own unit; else one under our supervisor, ended by `down`."""
    engine = Engine(instance.docker_host)
    with step("Docker Engine") as current:
        version = engine.version()
        if version is None and instance.docker_host == DEFAULT_HOST and start_with_systemd():
            version = engine.wait()
        if version is None:
            docker_program(instance)  # raises where no engine can be started
            supervisor.start("docker")
            remember_started(instance)
            version = engine.wait()
        current.note = f"{version} at {instance.docker_host}"


def ensure_images(instance: Instance) -> None:
    """The base image and the environment image on it."""
    client = Engine(instance.docker_host).client(timeout_s=_BUILD_S)
    try:
        with step("base image") as current:
            base, current.note = ensure_base_image(client, named=instance.base_image)
        with step("environment image") as current:
            authority = Path(instance.tls_ca) if instance.tls_ca else None
            current.note = ensure_environment_image(client, base=base, authority=authority)
    except DockerException as error:
        raise StepError(f"Docker Engine refused: {error}") from error
    finally:
        client.close()


def ensure_hub_proxy() -> None:
    with step("JupyterHub's proxy, from npm") as current:
        current.note = ensure_proxy()


def nvidia_present() -> bool:
    """Whether NVML loads and finds a GPU."""
    try:
        pynvml.nvmlInit()
        try:
            return bool(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return False


def engine_containers(client: docker.DockerClient) -> list[str]:
    """Names of what runs on the engine, whoever started it."""
    return [container.name or "" for container in client.containers.list()]
