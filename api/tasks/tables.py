"""Tasks, the attempts to run them, and what they wait for."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from api.db import Base, BigId, Moment
from api.ids import new_uid
from api.tasks.graph import Condition
from scheduler.states import TASK, AttemptEnd, AttemptState, TaskState

OPEN = ", ".join(repr(str(state)) for state, following in TASK.items() if following)
"""The states that a task leaves again, as a list in SQL."""

ELEMENT_STATES = tuple(state for state in TaskState if state not in (TaskState.BLOCKED, TaskState.STOPPING))
"""`starting`: a worker was given it. `queued`: it is tried again."""


class Task(Base):
    """`spec` is the document as it was given, without defaults.

    `allocation_id` is the one that it waits for or runs in, or of a task that has ended the last; null while it is to
    be queued.

    `submission_id` is the name that whoever submitted it gave it, unique among the customer's: Ray's clients do so.

    An array has no allocation: its workers have, tasks of its own that nobody else sees, each with `array_id`. A
    worker has one attempt, whose number is unique among those of the array.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint(f"state in ({', '.join(repr(str(s)) for s in TaskState)})", name="state"),
        CheckConstraint(f"(ended_at is null) = (state in ({OPEN}))", name="ended_at"),
        Index("uq_tasks_submission", "customer_id", "submission_id", unique=True),
        Index("ix_tasks_customer", "customer_id", "id"),
        Index("ix_tasks_name", "workspace_id", "name", "id"),
        Index("ix_tasks_open", "id", postgresql_where=text(f"state in ({OPEN})")),
        Index("ix_tasks_due", "due_at", postgresql_where=text("due_at is not null")),
        Index("ix_tasks_array_id", "array_id", postgresql_where=text("array_id is not null")),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    submission_id: Mapped[str | None]
    spec: Mapped[dict[str, Any]] = mapped_column(JSONB)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    working_dir: Mapped[str | None]  # digest of an upload of the customer's
    more: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")  # what Ray's clients gave and get back
    state: Mapped[str] = mapped_column(server_default=TaskState.QUEUED)
    detail: Mapped[str] = mapped_column(server_default="")  # why it is in this state, in words for its owner
    attempts: Mapped[int] = mapped_column(server_default=text("0"))  # how many have begun
    retries: Mapped[int] = mapped_column(server_default=text("0"))  # how many of them count against `retry.max`
    allocation_id: Mapped[int | None] = mapped_column(ForeignKey("allocations.id"), index=True)
    array_id: Mapped[int | None] = mapped_column(ForeignKey("tasks.id"))
    due_at: Mapped[datetime | None] = mapped_column(Moment)  # `settling` looks at it then: see there
    cancelled_at: Mapped[datetime | None] = mapped_column(Moment)  # somebody asked for its end
    exit_code: Mapped[int | None]  # of its last attempt
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSONB)  # {"fraction", "line", "at"}
    version: Mapped[int] = mapped_column(BigId, server_default=text("0"))  # rises with every change, by a trigger
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    started_at: Mapped[datetime | None] = mapped_column(Moment)  # of its first attempt's command
    ended_at: Mapped[datetime | None] = mapped_column(Moment)


class TaskEvent(Base):
    """Append-only: one row per transition."""

    __tablename__ = "task_events"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), index=True)
    at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    actor: Mapped[str]
    from_state: Mapped[str | None]
    to_state: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")


class TaskAttempt(Base):
    """One try, under one generation of one allocation: begun when that is active. Numbers begin with 1."""

    __tablename__ = "task_attempts"
    __table_args__ = (
        CheckConstraint(f"state in ({', '.join(repr(str(s)) for s in AttemptState)})", name="state"),
        CheckConstraint(f'"end" in ({", ".join(repr(str(e)) for e in AttemptEnd)})', name="end"),
        CheckConstraint("""state not in ('stopping', 'ended') or "end" is not null""", name="has_end"),
        Index("uq_task_attempts_number", "task_id", "number", unique=True),
        Index("uq_task_attempts_lease", "allocation_id", "generation", unique=True),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    uid: Mapped[UUID] = mapped_column(unique=True, default=new_uid)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
    number: Mapped[int]
    allocation_id: Mapped[int] = mapped_column(ForeignKey("allocations.id"))
    generation: Mapped[int]
    state: Mapped[str] = mapped_column(server_default=AttemptState.STARTING)
    phase: Mapped[str] = mapped_column(server_default="")  # of starting: what the host does now, in words
    end: Mapped[str | None]
    exit_code: Mapped[int | None]
    signal: Mapped[int | None]  # that ended the command
    limit_hit: Mapped[str | None]  # which limit it was, in words
    detail: Mapped[str] = mapped_column(server_default="")
    notice: Mapped[str] = mapped_column(server_default="")  # how it was told to give way, or why it was not
    ended_rank: Mapped[int | None]  # of a gang: the node that ended first with another end than success
    ranks_done: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default="{}")  # of a gang: that succeeded
    elements_taken: Mapped[int] = mapped_column(server_default=text("0"))  # of a worker: how many it was given
    elements_ended: Mapped[int] = mapped_column(server_default=text("0"))
    started_at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    running_at: Mapped[datetime | None] = mapped_column(Moment)  # its command
    stopping_at: Mapped[datetime | None] = mapped_column(Moment)
    ended_at: Mapped[datetime | None] = mapped_column(Moment)


class TaskAttemptEvent(Base):
    """Append-only: one row per transition."""

    __tablename__ = "task_attempt_events"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    attempt_id: Mapped[int] = mapped_column(ForeignKey("task_attempts.id"), index=True)
    at: Mapped[datetime] = mapped_column(Moment, server_default=text("now()"))
    actor: Mapped[str]
    from_state: Mapped[str | None]
    to_state: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")


class TaskDependency(Base):
    __tablename__ = "task_dependencies"
    __table_args__ = (
        CheckConstraint(f"condition in ({', '.join(repr(str(c)) for c in Condition)})", name="condition"),
    )
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    parent_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), primary_key=True, index=True)
    condition: Mapped[str]


class TaskArray(Base):
    """What an array has beside its task, whose row is locked for any change here.

    An element is in `pending` (ranges of indices: it may be handed out), counted in `waiting` (it is tried again
    later), `succeeded` or `failed`, or a worker has it.
    """

    __tablename__ = "task_arrays"
    __table_args__ = (
        CheckConstraint(
            "waiting >= 0 and succeeded >= 0 and failed >= 0 and waiting + succeeded + failed <= total", name="counts"
        ),
    )
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    total: Mapped[int]
    pending: Mapped[str]
    waiting: Mapped[int] = mapped_column(server_default=text("0"))
    succeeded: Mapped[int] = mapped_column(server_default=text("0"))
    failed: Mapped[int] = mapped_column(server_default=text("0"))
    lanes: Mapped[int]  # workers that it may have at once; one that fails for good takes its lane with it
    setbacks: Mapped[int] = mapped_column(server_default=text("0"))  # workers in a row that ended before any element
    setback: Mapped[str] = mapped_column(server_default="")  # the last of them, in words
    rests_until: Mapped[datetime | None] = mapped_column(Moment)  # no new worker before


class TaskElement(Base):
    """An element of an array, from when a worker was first given it.

    `attempt_id` is the worker's that has it or had it last, and `place` counts what that worker was given, from 0: it
    tells a late word about an earlier try from one about this. Output lies in the attempt's, from `log_from` to
    `log_to`.
    """

    __tablename__ = "task_elements"
    __table_args__ = (
        CheckConstraint(f"state in ({', '.join(repr(str(s)) for s in ELEMENT_STATES)})", name="state"),
        Index("ix_task_elements_attempt", "attempt_id", "place"),
        Index("ix_task_elements_state", "task_id", "state", "index"),
    )
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str]
    tries: Mapped[int] = mapped_column(server_default=text("0"))  # that count against `retry.max`
    attempt_id: Mapped[int] = mapped_column(ForeignKey("task_attempts.id"))
    place: Mapped[int]
    end: Mapped[str | None]
    exit_code: Mapped[int | None]
    signal: Mapped[int | None]
    log_from: Mapped[int | None] = mapped_column(BigId)
    log_to: Mapped[int | None] = mapped_column(BigId)
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    ended_at: Mapped[datetime | None] = mapped_column(Moment)
    due_at: Mapped[datetime | None] = mapped_column(Moment)  # it is tried again then


class TaskElementTry(Base):
    """A try of an element after which it was tried again: where its output is. The last one is in `TaskElement`."""

    __tablename__ = "task_element_tries"
    __table_args__ = (Index("ix_task_element_tries_element", "task_id", "index", "id"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
    index: Mapped[int]
    attempt_id: Mapped[int] = mapped_column(ForeignKey("task_attempts.id"))
    place: Mapped[int]
    log_from: Mapped[int] = mapped_column(BigId)
    log_to: Mapped[int | None] = mapped_column(BigId)  # null: it ended with its attempt
