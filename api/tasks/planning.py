"""What submitting tasks would come to: when and where each would start, and what it would cost at most."""

from api.allocations import what_if
from api.allocations.plan_schemas import PlanIn
from api.allocations.planner import Planner
from api.db import Database
from api.principal import Principal
from api.settings import Settings
from api.tasks import queueing, service
from api.tasks.schemas import TaskPlan, TasksPlan
from api.tasks.spec import TaskSpec
from api.tasks.submission import Submission


def plan(
    database: Database, settings: Settings, planner: Planner, principal: Principal, submission: Submission
) -> TasksPlan:
    """
    Raises:
        Unprocessable, Conflict: as `service.submit`, of what is named.
        api.allocations.planner.ControllerUnavailable
    """
    bound_to = database.transact(lambda session: service.check(session, principal.caller, submission))
    plans = []
    for wanted, bound_host_id in zip(submission.tasks, bound_to, strict=True):
        spec = wanted.spec
        planned = what_if.plan(
            database,
            settings,
            planner,
            principal,
            _request(spec, submission.workspace),
            hold_s=spec.disconnect_s,
            cost_s=spec.timeout_s,
            bound_host_id=bound_host_id,
            task=True,
        )
        ceilings = [cost.micro_for_limit for cost in planned.costs if cost.micro_for_limit is not None]
        plans.append(
            TaskPlan(
                name=spec.name,
                plan=planned,
                currency=planned.costs[0].currency if planned.costs else None,
                ceiling_micro=_of_all(spec, max(ceilings, default=None)) if spec.resources.gpus else 0,
                depends_on=[depends.task for depends in spec.depends_on],
            )
        )
    return TasksPlan(tasks=plans)


def _of_all(spec: TaskSpec, ceiling_micro: int | None) -> int | None:
    """Of all elements of an array."""
    return None if ceiling_micro is None else ceiling_micro * len(spec.elements or (0,))


def _request(spec: TaskSpec, workspace: str | None) -> PlanIn:
    resources = spec.resources
    return PlanIn(
        **queueing.options_of(spec).model_dump(),
        gpus=resources.whole_gpus,
        cpu_milli=resources.cpu_milli,
        memory_bytes=resources.memory_bytes,
        nodes=spec.nodes,
        image=spec.image,
        workspace=workspace,
    )
