"""A job of Ray's clients as a task: the document, what has to be looked up for it, and what is to be given back."""

import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from api.ray_jobs import metadata, resources, runtime_env, script
from api.ray_jobs.request import JobSubmit, Refused
from api.ray_jobs.runtime_env import RuntimeEnv
from api.tasks.mistakes import lines
from api.tasks.spec import TaskSpec

DEFAULT_IMAGE = "base"
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LETTERS = sorted(set(string.ascii_letters + string.digits) - set("IloO0"))  # none that are mistaken for another
_ID_LETTERS = 16
# Who sent a job knows these names, not the document's. The first that fits counts.
_GIVEN_AS = (
    ("resources.gpus", "entrypoint_num_gpus"),
    ("resources.cpus", "entrypoint_num_cpus"),
    ("resources.memory", "entrypoint_memory"),
    ("resources.gpu_model", "gpu_model"),
    ("resources.selectors", "entrypoint_label_selector"),
    ("env", "runtime_env.env_vars"),
    ("setup", "runtime_env"),
    ("command", "entrypoint"),
    ("image", "metadata.image"),
    ("priority", "metadata.priority"),
    ("nodes", "metadata.nodes"),
    ("timeout", "metadata.timeout"),
)


@dataclass(frozen=True, slots=True)
class PackageUse:
    """An uploaded package, by `protocol/name`. `target` is where it is unpacked, None: it is the working directory."""

    name: str
    target: str | None = None


@dataclass(frozen=True, slots=True)
class JobTask:
    """`image` is the name or the reference of an image of the catalogue. `given` comes back in the job's details."""

    submission_id: str
    workspace: str | None
    image: str
    packages: tuple[PackageUse, ...]
    document: dict[str, Any]  # Any: JSON; with the image's name as far as it is one
    given: dict[str, Any]  # Any: JSON


def new_submission_id() -> str:
    """As Ray makes them up."""
    return "raysubmit_" + "".join(secrets.choice(_LETTERS) for _ in range(_ID_LETTERS))


def task_of(job: JobSubmit) -> JobTask:
    """
    Raises:
        Refused: it can't be run as it was asked for.
    """
    wishes = metadata.read(job.metadata or {})
    env = runtime_env.read(job.runtime_env or {})
    submission_id = job.submission_id or job.job_id or new_submission_id()
    image = wishes.image or env.image or DEFAULT_IMAGE
    over_nodes = wishes.fields.get("nodes", 1) > 1
    document = {
        "name": _name(wishes.name or submission_id),
        "image": image if _IMAGE.fullmatch(image) else DEFAULT_IMAGE,
        "resources": resources.read(job, models=wishes.models),
        "command": script.command(job.entrypoint, env, over_nodes=over_nodes),
        **wishes.fields,
    }
    if over_nodes:
        document["ray"] = True
    if (setup := script.setup(env)) is not None:
        document["setup"] = setup
    if variables := script.plain(env.env_vars):
        document["env"] = variables
    _check(document)
    return JobTask(submission_id, wishes.workspace, image, _packages(env), document, _given(job))


def _packages(env: RuntimeEnv) -> tuple[PackageUse, ...]:
    used = [
        PackageUse(module.package, script.module_dir(number))
        for number, module in enumerate(env.py_modules)
        if module.package is not None
    ]
    if env.working_dir is not None and env.working_dir.package is not None:
        used.insert(0, PackageUse(env.working_dir.package))
    return tuple(used)


def _given(job: JobSubmit) -> dict[str, Any]:  # Any: JSON
    return job.model_dump(mode="json", exclude_none=True, exclude={"submission_id", "job_id"})


def _name(text: str) -> str:
    """A name for the task, which is a DNS label."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:63].strip("-") or "job"


def _check(document: dict[str, Any]) -> None:  # Any: JSON
    try:
        TaskSpec.model_validate(document)
    except ValidationError as error:
        raise Refused("; ".join(_as_given(line) for line in lines(error))) from error


def _as_given(line: str, names: Sequence[tuple[str, str]] = _GIVEN_AS) -> str:
    for ours, theirs in names:
        if line.startswith(ours):
            return theirs + line.removeprefix(ours)
    return line
