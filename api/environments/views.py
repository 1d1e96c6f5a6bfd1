"""Environments as others see them: the public API, and the Hub (ServerView)."""

from pydantic import BaseModel

from api.allocations.request import SchedulingOptions
from api.environments.repository import Loaded
from api.environments.schemas import AllocationOut, DeviceOut, EnvironmentOut, WaitOut
from api.environments.service import options_of
from api.settings import Settings
from scheduler.states import AllocationState, EnvironmentDesired, EnvironmentState

PORT = 8888


class ServerView(BaseModel):
    """What the Hub needs to know of one of its named servers. `version` rises with every change."""

    environment_id: str
    version: int
    observed: EnvironmentState
    desired: EnvironmentDesired
    allocation_id: str | None
    allocation_state: AllocationState | None
    generation: int | None
    host: str | None
    container_name: str | None
    image: str
    port: int
    cpu_milli: int
    memory_bytes: int
    devices: list[DeviceOut]
    wait: WaitOut | None
    last_error: str | None


class ServerEntry(BaseModel):
    """One row of the Hub's home page."""

    name: str
    image: str
    gpus: int
    gpu_milli: int
    gpu_model: str | None
    observed: EnvironmentState
    desired: EnvironmentDesired
    devices: list[DeviceOut]
    wait: WaitOut | None
    last_error: str | None


class ServerList(BaseModel):
    items: list[ServerEntry]


def public_view(loaded: Loaded, settings: Settings) -> EnvironmentOut:
    environment, options = loaded.environment, options_of(loaded.environment)
    return EnvironmentOut(
        **options.model_dump(),
        id=environment.uid,
        name=environment.name,
        owner=loaded.username,
        workspace=loaded.workspace,
        image=loaded.image.name,
        gpus=environment.gpus,
        gpu_model=_models(options),
        cpu_milli=environment.cpu_milli,
        memory_bytes=environment.memory_bytes,
        disk_bytes=environment.disk_bytes,
        desired=EnvironmentDesired(environment.desired),
        observed=EnvironmentState(environment.observed),
        allocation=_allocation(loaded),
        wait=_wait(loaded),
        url=f"{settings.hub_url}/user/{loaded.username}/{environment.name}/",
        last_error=environment.last_error,
        created_at=environment.created_at,
    )


def server_view(loaded: Loaded) -> ServerView:
    environment, allocation = loaded.environment, loaded.allocation
    return ServerView(
        environment_id=str(environment.uid),
        version=environment.version,
        observed=EnvironmentState(environment.observed),
        desired=EnvironmentDesired(environment.desired),
        allocation_id=str(allocation.uid) if allocation else None,
        allocation_state=AllocationState(allocation.state) if allocation else None,
        generation=allocation.generation if allocation else None,
        host=loaded.host,
        container_name=allocation.container_name if allocation else None,
        image=allocation.image_reference if allocation else loaded.image.reference,
        port=loaded.image.ports[0] if loaded.image.ports else PORT,
        cpu_milli=environment.cpu_milli,
        memory_bytes=environment.memory_bytes,
        devices=_devices(loaded),
        wait=_wait(loaded),
        last_error=environment.last_error,
    )


def server_entry(loaded: Loaded) -> ServerEntry:
    environment, options = loaded.environment, options_of(loaded.environment)
    return ServerEntry(
        name=environment.name,
        image=loaded.image.name,
        gpus=environment.gpus,
        gpu_milli=options.gpu_milli,
        gpu_model=_models(options),
        observed=EnvironmentState(environment.observed),
        desired=EnvironmentDesired(environment.desired),
        devices=_devices(loaded),
        wait=_wait(loaded),
        last_error=environment.last_error,
    )


def _devices(loaded: Loaded) -> list[DeviceOut]:
    return [
        DeviceOut(uuid=device.uuid, model=device.model, milli=device.milli, simulated=device.simulated)
        for device in loaded.devices
    ]


def _allocation(loaded: Loaded) -> AllocationOut | None:
    allocation = loaded.allocation
    if allocation is None or allocation.state == AllocationState.RELEASED:
        return None
    return AllocationOut(
        id=allocation.uid,
        state=AllocationState(allocation.state),
        devices=_devices(loaded),
        host=loaded.host,
        run_until=allocation.run_until,
        price_micro_per_gpu_hour=loaded.price_micro_per_gpu_hour,
        price_terms=loaded.price_terms,
        price_kept_until=loaded.price_kept_until,
    )


def _wait(loaded: Loaded) -> WaitOut | None:
    allocation = loaded.allocation
    if allocation is None or allocation.state != AllocationState.QUEUED:
        return None
    return WaitOut.of(allocation.wait_reason)


def _models(options: SchedulingOptions) -> str | None:
    return " or ".join(options.gpu_models) or None
