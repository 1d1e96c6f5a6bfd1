"""The Ray head of an installation: the embedded one, or one that is there already."""

import json
import sys
from pathlib import Path

from cluster.head import RayHead
from deploy.instance import REPOSITORY, Instance
from deploy.processes import MARKER
from deploy.progress import StepError
from deploy.secrets import replace_secret
from deploy.shell import execute
from deploy.supervisor import Program

TOKEN = "ray_token"
_PROBE_S = 60


def ray_head(instance: Instance) -> RayHead:
    return RayHead(
        directory=instance.ray,
        token_file=instance.secrets / TOKEN,
        address=instance.address,
        port=instance.ray_port,
        dashboard_port=instance.ray_dashboard_port,
        base_port=instance.ray_base_port,
    )


def ray_head_program(instance: Instance) -> Program:
    environment = {MARKER: str(instance.data), "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    # Ray's own processes end with the one that started them; the group makes sure of it.
    return Program("ray", ray_head(instance).arguments(), environment, stop_s=20, stop_group=True)


def take_token(instance: Instance) -> None:
    """Take over the token of an external head, for the platform and for the hosts that live here.

    Raises:
        StepError: there is no such token.
    """
    if instance.ray_address is None:
        return
    if instance.ray_token_file is None:
        if not (instance.secrets / TOKEN).exists():
            raise StepError(f"name the file with the token of the Ray head at {instance.ray_address}: --ray-token-file")
        return
    try:
        token = Path(instance.ray_token_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StepError(f"the token of the Ray head can't be read: {error}") from error
    if not token:
        raise StepError(f"{instance.ray_token_file} holds no token")
    instance.secrets.mkdir(mode=0o700, exist_ok=True)
    for directory in (instance.secrets, *(instance.hosts / name for name in instance.host_names())):
        replace_secret(directory, TOKEN, token)


def check_external_head(instance: Instance) -> str:
    """What the head at `ray_address` is.

    Raises:
        StepError: it can't be the platform's; the message says why.
    """
    command = [sys.executable, "-m", "cluster.probe", str(instance.ray_address), str(instance.secrets / TOKEN)]
    answer = json.loads(execute(command, timeout_s=_PROBE_S, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}))
    if answer["problem"]:
        raise StepError(f"{answer['problem']}. See --ray-address, --ray-token-file and docs/how-to/external-parts.md")
    return f"{answer['version']} at {instance.ray_address}"
