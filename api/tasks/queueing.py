"""What a task asks of the scheduler: an allocation of its own for each attempt."""

import secrets
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations import claims, service
from api.allocations.claims import Claim
from api.allocations.request import SchedulingOptions, amounts, demand_of
from api.allocations.tables import Allocation
from api.clock import utc_now
from api.errors import Unprocessable
from api.images.tables import Image
from api.quotas.service import check_ever
from api.tasks.spec import TaskSpec
from api.tasks.tables import Task
from api.volumes import service as volumes
from scheduler.demand import Demand

KIND = "task"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a task asks for, as its customer may claim it now."""

    claim: Claim
    demand: Demand
    disk_bytes: int


def options_of(spec: TaskSpec) -> SchedulingOptions:
    return SchedulingOptions(
        priority=spec.priority,
        preemptible=spec.preemptible,
        gpu_models=spec.resources.gpu_model,
        gpu_milli=spec.resources.gpu_milli,
        selectors=spec.resources.conditions,
    )


def ask(session: Session, spec: TaskSpec, *, customer_id: int, workspace_id: int, image: str) -> Asked:
    """`image` is the image's reference.

    Raises:
        Unprocessable: nothing is of the kind that it asks for, its priority is too high, its `shm` too large, or its
            volumes are not there, or apart.
    """
    options, resources = options_of(spec), spec.resources
    claim = claims.find(session, customer_id=customer_id, run=options, now=utc_now())
    size = claims.size_of(claim, options, gpus=resources.whole_gpus)
    memory_bytes = resources.memory_bytes or size.memory_bytes
    if resources.shm_bytes is not None and resources.shm_bytes > memory_bytes:
        raise Unprocessable(
            f"{resources.shm} of shared memory is more than the {memory_bytes} bytes of memory that it gets; "
            "name its memory too.",
            code="shm_too_large",
        )
    demand = demand_of(
        options,
        gpus=resources.whole_gpus,
        cpu_milli=resources.cpu_milli or size.cpu_milli,
        memory_bytes=memory_bytes,
        nodes=spec.nodes,
        bound_host_id=volumes.bind(
            session, workspace_id=workspace_id, names=[mount.volume for mount in spec.mounts], nodes=spec.nodes
        ),
        image=image,
    )
    return Asked(claim, demand, size.disk_bytes)


def check(session: Session, spec: TaskSpec, *, customer_id: int, workspace_id: int, image: str) -> None:
    """Whether it could ever run, whatever else runs now: of a task that is not queued yet.

    Raises:
        Unprocessable: as `api.allocations.service.submit`.
    """
    asked = ask(session, spec, customer_id=customer_id, workspace_id=workspace_id, image=image)
    demand = claims.in_group(asked.claim, asked.demand)
    claims.check(session, asked.claim, demand)
    check_ever(session, customer_id, **amounts(demand))


def queue(session: Session, task: Task, spec: TaskSpec, *, actor: str, again: bool = False) -> Allocation:
    """A new allocation for a task, which need not be in the database yet. `again` as `submit` has it.

    Raises:
        Unprocessable: as `api.allocations.service.submit`.
    """
    image = reference_of(session, task.image_id)
    asked = ask(session, spec, customer_id=task.customer_id, workspace_id=task.workspace_id, image=image)
    return service.submit(
        session,
        claim=asked.claim,
        demand=asked.demand,
        workspace_id=task.workspace_id,
        user_id=task.user_id,
        kind=KIND,
        disk_bytes=asked.disk_bytes,
        # A name of its own for each allocation: an older one's container can never be taken for this one's.
        container_name=f"rg-task-{task.uid}-{secrets.token_hex(4)}",
        home_volume=None,
        disconnect_s=spec.disconnect_s,
        actor=actor,
        again=again,
        grace_s=spec.checkpoint.grace_s,
        shm_bytes=spec.resources.shm_bytes,
    )


def reference_of(session: Session, image_id: int) -> str:
    return session.execute(select(Image.reference).where(Image.id == image_id)).scalar_one()
