"""The shell texts of a job: what is done before its entrypoint, and the entrypoint in what that has prepared."""

import re
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from api.ray_jobs import python_packages
from api.ray_jobs.runtime_env import RuntimeEnv

FETCHED_DIR = "/tmp/ray_job/working_dir"
_MODULES_DIR = "/tmp/ray_job/py_modules"
# What `ray job submit` does on a cluster: where Ray starts processes for this job, it gives them this.
_JOB_CONFIG = """import json, os, sys
env = {"env_vars": {name: os.environ[name] for name in sys.argv[2:]}}
if sys.argv[1]:
    env["py_executable"] = sys.argv[1]
print(json.dumps({"runtime_env": env}))"""
_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def module_dir(number: int) -> str:
    """Where the archive of the `number`th of py_modules, from 0, is unpacked."""
    return f"{_MODULES_DIR}/{number}"


def plain(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that refer to no other variable: they are given to the container as they are."""
    return {name: value for name, value in variables.items() if not _REFERENCE.search(value)}


def setup(env: RuntimeEnv) -> str | None:
    """What prepares the container, None if there is nothing to do. It stops at the first command that fails."""
    lines = [*_fetching(env)]
    if env.installation is not None:
        lines += _surroundings(env)
        lines.append('export RAY_RUNTIME_ENV_CREATE_WORKING_DIR="$PWD"')  # which Ray's requirements may name
        lines += python_packages.lines(env.installation)
    return "\n".join(["set -e", "mkdir -p /tmp/ray_job", *lines]) if lines else None


def command(entrypoint: str, env: RuntimeEnv, *, over_nodes: bool = False) -> str:
    """The entrypoint in its directory, with its modules, its packages and its variables.

    `over_nodes`: what it has its Ray do runs with these as well, on all of its nodes.
    """
    lines = _surroundings(env)
    if env.installation is not None:
        venv = python_packages.VENV
        lines.append(f'export VIRTUAL_ENV={venv} PATH="{venv}/bin:$PATH"')
    if over_nodes and lines:
        lines.append(_job_config(env))
    return "\n".join([*lines, entrypoint])


def _fetching(env: RuntimeEnv) -> list[str]:
    wanted = [(module.url, module_dir(number)) for number, module in enumerate(env.py_modules)]
    if env.working_dir is not None:
        wanted.append((env.working_dir.url, FETCHED_DIR))
    return [shlex.join(["python3", "-c", _fetch_source(), url, directory]) for url, directory in wanted if url]


def _surroundings(env: RuntimeEnv) -> list[str]:
    lines = [f"export {name}={_expanding(value)}" for name, value in sorted(env.env_vars.items()) if _refers(value)]
    if env.working_dir is not None and env.working_dir.url is not None:
        lines.append(f"cd {FETCHED_DIR}")
    if path := _python_path(env):
        lines.append(f'export PYTHONPATH="{":".join(path)}${{PYTHONPATH:+:$PYTHONPATH}}"')
    return lines


def _python_path(env: RuntimeEnv) -> list[str]:
    path = ["$PWD"] if env.working_dir is not None else []
    return path + [module_dir(number) for number in range(len(env.py_modules))]


def _job_config(env: RuntimeEnv) -> str:
    names = sorted(name for name, value in env.env_vars.items() if _refers(value))
    if _python_path(env):
        names.append("PYTHONPATH")
    python = f"{python_packages.VENV}/bin/python" if env.installation is not None else ""
    made = shlex.join(["python3", "-c", _JOB_CONFIG, python, *names])
    return f'export RAY_JOB_CONFIG_JSON_ENV_VAR="$({made})"'


def _refers(value: str) -> bool:
    return _REFERENCE.search(value) is not None


def _expanding(value: str) -> str:
    """The value as a word of the shell in which references, and nothing else, are expanded.

    As in Ray, one in braces to a variable that is not there is nothing, and one without stays as it is.
    """
    word, end = "", 0
    for found in _REFERENCE.finditer(value):
        word += _quoted(value[end : found.start()])
        in_braces, bare = found.groups()
        word += f'"${{{in_braces}-}}"' if in_braces else f'"${{{bare}-\\${bare}}}"'
        end = found.end()
    return word + _quoted(value[end:])


def _quoted(text: str) -> str:
    return shlex.quote(text) if text else ""


@cache
def _fetch_source() -> str:
    return Path(__file__).with_name("fetch_archive.py").read_text()
