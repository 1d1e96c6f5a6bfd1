"""A job of Ray's clients as a task: what each key becomes, and what is refused by name."""

from typing import Any

import pytest
from pydantic import ValidationError

from api.ray_jobs.mapping import PackageUse, new_submission_id, task_of
from api.ray_jobs.request import JobSubmit, Refused
from api.tasks.spec import TaskSpec


def document(**fields: Any) -> dict[str, Any]:  # Any: JSON
    return task_of(JobSubmit(entrypoint="python x.py", submission_id="j1", **fields)).document


def refusal(**fields: Any) -> str:
    with pytest.raises(Refused) as caught:
        document(**fields)
    return str(caught.value)


def test_the_least_that_can_be_asked_for() -> None:
    job = task_of(JobSubmit(entrypoint="python x.py", submission_id="my_Job.1"))
    assert job.document == {
        "name": "my-job-1", "image": "base", "resources": {"gpus": 0}, "command": "python x.py",
    }  # fmt: skip
    assert (job.submission_id, job.workspace, job.image, job.packages) == ("my_Job.1", None, "base", ())
    assert job.given == {"entrypoint": "python x.py"}


def test_an_id_is_made_up_as_ray_does() -> None:
    made = {new_submission_id() for _ in range(100)}
    assert len(made) == 100
    assert all(each.startswith("raysubmit_") and len(each) == 26 and each[10:].isalnum() for each in made)
    assert task_of(JobSubmit(entrypoint="true", job_id="older")).submission_id == "older"


def test_resources() -> None:
    found = document(
        entrypoint_num_gpus=0.5,
        entrypoint_num_cpus=2,
        entrypoint_memory=2**30,
        entrypoint_resources={"accelerator_type:A100": 0.001, "other": 0},
    )
    assert found["resources"] == {"gpus": 0.5, "cpus": 2.0, "memory": f"{2**30}B", "gpu_model": ["A100"]}
    task = TaskSpec.model_validate(found)
    assert (task.resources.gpu_milli, task.resources.memory_bytes) == (500, 2**30)


def test_zero_is_the_same_as_not_saying() -> None:
    assert document(entrypoint_num_gpus=0, entrypoint_num_cpus=0, entrypoint_memory=0) == document()


@pytest.mark.parametrize(
    ("given", "selector"),
    [
        ({"region": "eu"}, "region=eu"),
        ({"spot": "!true"}, "spot!=true"),
        ({"zone": "in(a,b)"}, "zone in (a,b)"),
        ({"zone": "in(a, b)"}, "zone in (a,b)"),
        ({"zone": "!in(a, b)"}, "zone notin (a,b)"),
        ({"zone": "in(a)"}, "zone=a"),
        ({"zone": ""}, "zone="),
    ],
)
def test_label_selectors(given: dict[str, str], selector: str) -> None:
    assert document(entrypoint_label_selector=given)["resources"]["selectors"] == [selector]


def test_a_model_by_rays_own_label() -> None:
    found = document(entrypoint_label_selector={"ray.io/accelerator-type": "in(A100, H100)", "region": "eu"})
    assert found["resources"] == {
        "gpus": 1,
        "gpu_model": ["A100", "H100"],
        "selectors": ["region=eu"],
    }


def test_metadata() -> None:
    wishes = {
        "image": "torch", "priority": "200", "nodes": "2", "workspace": "lab", "preemptible": "True",
        "timeout": "6h", "gpu_model": "A100, H100", "job_name": "Fine Tune!", "owner": "me",
    }  # fmt: skip
    job = task_of(JobSubmit(entrypoint="true", metadata=wishes))
    assert job.document == {
        "name": "fine-tune", "image": "torch", "priority": 200, "nodes": 2, "preemptible": True, "timeout": "6h",
        "command": "true", "ray": True, "resources": {"gpus": 1, "gpu_model": ["A100", "H100"]},
    }  # fmt: skip
    assert (job.workspace, job.given["metadata"]) == ("lab", wishes)


def test_packages_and_their_places() -> None:
    env = {
        "working_dir": "gcs://_ray_pkg_a.zip",
        "py_modules": ["gcs://_ray_pkg_b.zip", "gcs://m-1.0-py3-none-any.whl"],
    }
    job = task_of(JobSubmit(entrypoint="python x.py", runtime_env=env))
    assert job.packages == (
        PackageUse("gcs/_ray_pkg_a.zip"),
        PackageUse("gcs/_ray_pkg_b.zip", "/tmp/ray_job/py_modules/0"),
        PackageUse("gcs/m-1.0-py3-none-any.whl", "/tmp/ray_job/py_modules/1"),
    )
    assert "setup" not in job.document
    path = "$PWD:/tmp/ray_job/py_modules/0:/tmp/ray_job/py_modules/1"
    assert job.document["command"] == f'export PYTHONPATH="{path}${{PYTHONPATH:+:$PYTHONPATH}}"\npython x.py'
    assert job.given["runtime_env"] == env


def test_an_image_of_the_catalogue_by_name_or_reference() -> None:
    job = task_of(JobSubmit(entrypoint="true", runtime_env={"image_uri": "registry.example/torch:2"}))
    assert job.image == "registry.example/torch:2"
    both = JobSubmit(entrypoint="true", runtime_env={"image_uri": "other"}, metadata={"image": "torch"})
    assert task_of(both).image == task_of(both).document["image"] == "torch"


def test_the_clients_own_notes_are_ignored() -> None:
    env = {
        "excludes": ["*.bin"], "_ray_commit": "abc", "config": {"setup_timeout_seconds": -1, "eager_install": True},
        "conda": None, "pip": [], "py_modules": [], "working_dir": None,
    }  # fmt: skip
    assert document(runtime_env=env) == document()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"entrypoint_num_gpus": 1.5}, "entrypoint_num_gpus: 1.5: write a whole number of GPUs, or a share of one"),
        ({"entrypoint_num_cpus": 0.01}, "entrypoint_num_cpus: "),
        ({"entrypoint_memory": 1000}, "entrypoint_memory: '1000B' is 1000 bytes; it has to be from"),
        ({"entrypoint_resources": {"TPU": 1}}, "entrypoint_resources: there is no resource 'TPU' here"),
        ({"entrypoint_resources": {"GPU_group_0_ab": 1}}, "there is no resource 'GPU_group_0_ab' here"),
        (
            {"entrypoint_label_selector": {"ray.io/node-id": "abc"}},
            "ray.io/node-id='abc': only ray.io/accelerator-type",
        ),
        ({"entrypoint_label_selector": {"zone": "in(a"}}, "zone: 'in(a' is no condition"),
        ({"entrypoint_label_selector": {"a b": "c"}}, "'a b' is no label"),
        (
            {"entrypoint_resources": {"accelerator_type:A100": 1}, "metadata": {"gpu_model": "A100"}},
            "the GPU's model is named more than once",
        ),
        ({"metadata": {"priority": "high"}}, "metadata.priority: 'high' is no whole number"),
        ({"metadata": {"priority": "2000"}}, "metadata.priority: Input should be less than or equal to 1000"),
        ({"metadata": {"preemptible": "1"}}, "metadata.preemptible: '1' is neither"),
        ({"metadata": {"timeout": "5"}}, "metadata.timeout: '5' is no length of time"),
        ({"metadata": {"gpu_model": "a/b"}}, "gpu_model[0]: "),
        ({"runtime_env": {"conda": "env"}}, "runtime_env.conda: not possible here; name an image"),
        ({"runtime_env": {"container": {"image": "x"}}}, "runtime_env.container: not possible here"),
        ({"runtime_env": {"mpi": {}}}, "runtime_env.mpi: not possible here"),
        (
            {"runtime_env": {"tomorrows": 1}},
            "runtime_env.tomorrows: not possible here; known here: env_vars, image_uri",
        ),
        ({"runtime_env": {"config": {"setup_timeout_seconds": 5}}}, "runtime_env.config: only eager_install"),
        ({"runtime_env": {"pip": ["a"], "uv": ["b"]}}, "pip and uv can't be given together"),
        ({"runtime_env": {"pip": "requirements.txt"}}, "runtime_env.pip: "),
        ({"runtime_env": {"pip": {"packages": [1]}}}, "runtime_env.pip.packages.0: "),
        ({"runtime_env": {"pip": {"packages": ["a"], "other": 1}}}, "runtime_env.pip.other: "),
        ({"runtime_env": {"pip": {"packages": ["a"], "pip_version": "; id"}}}, "runtime_env.pip.pip_version: "),
        ({"runtime_env": {"working_dir": "."}}, "runtime_env.working_dir: '.': must be a directory or a zip archive"),
        ({"runtime_env": {"working_dir": "s3://b/x.zip"}}, "runtime_env.working_dir: 's3://b/x.zip': must be"),
        ({"runtime_env": {"working_dir": "gcs://../x.zip"}}, "runtime_env.working_dir: 'gcs://../x.zip': must be"),
        ({"runtime_env": {"working_dir": "gcs://x.tar.gz"}}, "runtime_env.working_dir: 'gcs://x.tar.gz': must be"),
        ({"runtime_env": {"working_dir": "https://h/x.tgz"}}, "'https://h/x.tgz': only zip archives are fetched"),
        ({"runtime_env": {"py_modules": "gcs://a.zip"}}, "runtime_env.py_modules: must be a list"),
        ({"runtime_env": {"env_vars": {"A": 1}}}, "runtime_env.env_vars.A: must be a text"),
        ({"runtime_env": {"env_vars": {"A B": "1"}}}, "runtime_env.env_vars: 'A B': "),
        ({"runtime_env": {"env_vars": {"NVIDIA_VISIBLE_DEVICES": "all"}}}, "are the platform's"),
    ],
)
def test_refusals(fields: dict[str, Any], said: str) -> None:
    assert said in refusal(**fields)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"entrypoint": ""},
        {"entrypoint": 1},
        {"entrypoint": "true", "more": 1},
        {"entrypoint": "true", "submission_id": "a/b"},
        {"entrypoint": "true", "metadata": {"a": 1}},
        {"entrypoint": "true", "entrypoint_num_gpus": "1"},
        {"entrypoint": "true", "entrypoint_num_gpus": True},
        {"entrypoint": "true", "entrypoint_num_cpus": -1},
        {"entrypoint": "true", "entrypoint_memory": 1.5},
    ],
)
def test_what_is_no_job(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobSubmit.model_validate(body)
