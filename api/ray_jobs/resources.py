"""What a job's entrypoint asks for, as a task's resources."""

from typing import Any

from api.ray_jobs import selectors
from api.ray_jobs.request import JobSubmit, Refused

_MODEL = "accelerator_type:"  # Ray's resource for a model of accelerator; jobs ask for a sliver of it


def read(job: JobSubmit, *, models: tuple[str, ...] = ()) -> dict[str, Any]:  # Any: a section of a task's document
    """The section `resources`. `models` are those that the metadata names. In Ray 0 is the same as not saying.

    Raises:
        Refused: a custom resource, or a label, that means nothing here.
    """
    labels = selectors.read(job.entrypoint_label_selector or {})
    models = _one_way(models, labels.models, _models(job))
    section: dict[str, Any] = {"gpus": job.entrypoint_num_gpus or (1 if models else 0)}
    if job.entrypoint_num_cpus:
        section["cpus"] = job.entrypoint_num_cpus
    if job.entrypoint_memory:
        section["memory"] = f"{job.entrypoint_memory}B"
    if models:
        section["gpu_model"] = list(models)
    if labels.selectors:
        section["selectors"] = list(labels.selectors)
    return section


def _models(job: JobSubmit) -> tuple[str, ...]:
    """Those of `entrypoint_resources`, which may name nothing else.

    Ray's own names of devices and bundles (`GPU_group_0_...`) would be dangerous on its cluster; here they are nothing.
    """
    asked = {name: amount for name, amount in (job.entrypoint_resources or {}).items() if amount}
    for name in asked:
        if not name.startswith(_MODEL):
            raise Refused(
                f"entrypoint_resources: there is no resource {name!r} here; use --entrypoint-num-gpus,"
                " --entrypoint-num-cpus, --entrypoint-memory, or a label selector"
            )
    return tuple(sorted(name.removeprefix(_MODEL) for name in asked))


def _one_way(*ways: tuple[str, ...]) -> tuple[str, ...]:
    given = [models for models in ways if models]
    if len(given) > 1:
        raise Refused("the GPU's model is named more than once: in metadata, labels or resources; name it once")
    return given[0] if given else ()
