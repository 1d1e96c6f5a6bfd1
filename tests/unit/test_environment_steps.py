"""What the reconciler does next."""

from itertools import product

import pytest

from api.environments.steps import Step, decide
from scheduler.states import AllocationState, EnvironmentDesired, EnvironmentState

_D, _E, _A = EnvironmentDesired, EnvironmentState, AllocationState


@pytest.mark.parametrize(
    ("desired", "observed", "allocation", "step"),
    [
        (_D.RUNNING, _E.QUEUED, _A.QUEUED, Step.NOTHING),
        (_D.RUNNING, _E.QUEUED, _A.PLACING, Step.START),
        (_D.RUNNING, _E.STARTING, _A.PLACING, Step.NOTHING),
        (_D.RUNNING, _E.QUEUED, _A.ACTIVE, Step.START),
        (_D.RUNNING, _E.STARTING, _A.ACTIVE, Step.CHECK),
        (_D.RUNNING, _E.RUNNING, _A.ACTIVE, Step.NOTHING),
        (_D.RUNNING, _E.RUNNING, _A.RELEASING, Step.TELL_STOP),
        (_D.STOPPED, _E.RUNNING, _A.ACTIVE, Step.WIND_DOWN),
        (_D.STOPPED, _E.STOPPING, _A.RELEASING, Step.TELL_STOP),
        (_D.STOPPED, _E.STOPPING, _A.RELEASED, Step.FINISH),
        (_D.RUNNING, _E.QUEUED, _A.RELEASED, Step.FINISH),
        (_D.RUNNING, _E.QUEUED, None, Step.FINISH),
        (_D.STOPPED, _E.STOPPED, _A.RELEASED, Step.NOTHING),
        (_D.DELETED, _E.FAILED, _A.RELEASED, Step.DELETE),
        (_D.DELETED, _E.DELETED, _A.RELEASED, Step.NOTHING),
    ],
)
def test_next_step(desired: _D, observed: _E, allocation: _A | None, step: Step) -> None:
    assert decide(desired=desired, observed=observed, allocation_state=allocation) is step


def test_the_hub_is_told_of_allocations_that_have_their_devices_and_of_no_others() -> None:
    for desired, observed, allocation in product(_D, _E, [*_A, None]):
        step = decide(desired=desired, observed=observed, allocation_state=allocation)
        if step is Step.START:
            assert (desired, allocation) in {(_D.RUNNING, _A.PLACING), (_D.RUNNING, _A.ACTIVE)}
        if step is Step.CHECK:
            assert (desired, allocation) == (_D.RUNNING, _A.ACTIVE)
