"""The embedded Ray head of an installation."""

from cluster.head import RayHead
from deploy.instance import REPOSITORY, Instance
from deploy.processes import MARKER
from deploy.supervisor import Program


def ray_head(instance: Instance) -> RayHead:
    return RayHead(
        directory=instance.ray,
        token_file=instance.secrets / "ray_token",
        address=instance.address,
        port=instance.ray_port,
        dashboard_port=instance.ray_dashboard_port,
        base_port=instance.ray_base_port,
    )


def ray_head_program(instance: Instance) -> Program:
    environment = {MARKER: str(instance.data), "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    # Ray's own processes end with the one that started them; the group makes sure of it.
    return Program("ray", ray_head(instance).arguments(), environment, stop_s=20, stop_group=True)
