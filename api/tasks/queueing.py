"""What a task asks of the scheduler: an allocation of its own for each attempt."""

import secrets
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.allocations import claims
from api.allocations.claims import Claim
from api.allocations.request import SchedulingOptions, demand_of
from api.allocations.service import Workload, submit
from api.allocations.tables import Allocation
from api.clock import utc_now
from api.errors import Unprocessable
from api.images.tables import Image
from api.quotas.limits import Path
from api.quotas.service import Asked as Counted
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


@dataclass(slots=True)
class Queue:
    """Where the tasks of one customer are queued, for one transaction: what they have in common is looked up once."""

    session: Session
    customer_id: int
    _claims: dict[tuple[int, bool], Claim] = field(default_factory=dict)
    _images: dict[int, str] = field(default_factory=dict)

    def check(self, task: Task, spec: TaskSpec) -> None:
        """Whether it could ever run, whatever else runs now: of a task that is not queued yet.

        Raises:
            Unprocessable: as `add`, but for a queue that is full.
        """
        asked = self._ask(task, spec)
        demand = claims.in_group(asked.claim, asked.demand)
        models = claims.check(self.session, asked.claim, demand)
        path = Path(self.customer_id, task.workspace_id, task.user_id)
        check_ever(self.session, path, Counted(demand.counted(task=True), None, models))

    def add(self, task: Task, spec: TaskSpec, *, actor: str, again: bool = False) -> Allocation:
        """A new allocation for a task, which need not be in the database yet. `again` as `submit` has it.

        Raises:
            Unprocessable: its `shm` is too large, its volumes are not there, or apart, or as
                `api.allocations.service.submit`.
        """
        asked = self._ask(task, spec)
        workload = Workload(
            kind=KIND,
            workspace_id=task.workspace_id,
            user_id=task.user_id,
            # A name of its own for each allocation: an older one's container can never be taken for this one's.
            container_name=f"rg-task-{task.uid}-{secrets.token_hex(4)}",
            home_volume=None,
            disk_bytes=asked.disk_bytes,
            disconnect_s=spec.disconnect_s,
            grace_s=spec.checkpoint.grace_s,
            shm_bytes=spec.resources.shm_bytes,
        )
        return submit(self.session, claim=asked.claim, demand=asked.demand, workload=workload, actor=actor, again=again)

    def _ask(self, task: Task, spec: TaskSpec) -> Asked:
        options, resources = options_of(spec), spec.resources
        claim = self._claim(options)
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
                self.session, workspace_id=task.workspace_id, names=spec.volumes, nodes=spec.nodes
            ),
            image=self._reference(task.image_id),
        )
        return Asked(claim, demand, size.disk_bytes)

    def _claim(self, options: SchedulingOptions) -> Claim:
        key = options.priority, options.preemptible
        if key not in self._claims:
            self._claims[key] = claims.find(self.session, customer_id=self.customer_id, run=options, now=utc_now())
        return self._claims[key]

    def _reference(self, image_id: int) -> str:
        if image_id not in self._images:
            query = select(Image.reference).where(Image.id == image_id)
            self._images[image_id] = self.session.execute(query).scalar_one()
        return self._images[image_id]
