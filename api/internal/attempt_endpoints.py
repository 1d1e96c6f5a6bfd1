"""What hosts ask about attempts at tasks."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path

from api.deps import DatabaseDep, SettingsDep
from api.errors import Conflict
from api.internal.peer import HostPeer
from api.problems import problems
from api.tasks import elements, orders
from scheduler.host_protocol import AttemptOrder, ElementsAsked, ElementsGiven

router = APIRouter(prefix="/internal/attempts", tags=["hosts"])

GenerationPath = Annotated[int, Path(ge=0, lt=2**31)]
UidPath = Annotated[str, Path(max_length=64)]


@router.get("/{allocation_uid}/{generation}", responses=problems(404, 409))
def get_order(
    allocation_uid: UidPath, generation: GenerationPath, peer: HostPeer, database: DatabaseDep, settings: SettingsDep
) -> AttemptOrder:
    """Begin the attempt under a lease that the host holds, and say what is to run. Asking again answers the same.

    409 `not_yet`: it is being placed, ask again soon. 409 `attempt_over`: it is not to start, or not any more.
    """
    assert peer.host_id is not None
    answer = database.transact(
        partial(
            orders.order,
            settings=settings,
            host_id=peer.host_id,
            allocation_uid=allocation_uid,
            generation=generation,
            actor=peer.actor,
        )
    )
    if isinstance(answer, orders.Over):
        raise Conflict(answer.detail, code="attempt_over")
    return answer


@router.post("/{allocation_uid}/{generation}/elements", responses=problems(404, 409))
def exchange_elements(
    allocation_uid: UidPath, generation: GenerationPath, asked: ElementsAsked, peer: HostPeer, database: DatabaseDep
) -> ElementsGiven:
    """What became of the elements that a worker of an array has, and others for it. Repeatable.

    409 `attempt_over`: nothing more is taken from it, nor given to it.
    """
    assert peer.host_id is not None
    return database.transact(
        partial(
            elements.exchange,
            host_id=peer.host_id,
            allocation_uid=allocation_uid,
            generation=generation,
            asked=asked,
        )
    )
