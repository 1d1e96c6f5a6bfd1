"""The hosts of this machine: joined once, through the same endpoint as hosts anywhere else."""

import re
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.db import Database
from api.identity.tables import User
from api.internal.pki import Authority
from api.machines.enrolment import create_token
from api.machines.tables import Host
from api.principal import Principal, Role
from deploy.instance import Instance
from deploy.programs import database_url
from deploy.progress import StepError
from node.daemon.config import ConfigError, HostDirectory, config_toml, read_config
from node.join import JoinError, join

_SIMULATION = re.compile(r"([1-9][0-9]?)x([1-9][0-9]?):([A-Za-z0-9][A-Za-z0-9-]{0,60})")
_TOKEN_S = 600


@dataclass(frozen=True, slots=True)
class LocalHost:
    """`simulate` is `GPUS:MODEL`, or None for the GPUs that NVML finds."""

    name: str
    simulate: str | None


def wanted_hosts(simulate: str | None) -> list[LocalHost]:
    """The hosts for `HOSTSxGPUS:MODEL`, or this machine itself.

    Raises:
        StepError: the description can't be read.
    """
    if simulate is None:
        return [LocalHost(socket.gethostname(), None)]
    found = _SIMULATION.fullmatch(simulate)
    if found is None:
        raise StepError(f"--simulate {simulate!r} can't be read: give HOSTSxGPUS:MODEL, as in 2x4:A100-80GB")
    hosts, gpus, model = int(found[1]), int(found[2]), found[3]
    return [LocalHost(f"sim-{number}", f"{gpus}:{model}") for number in range(1, hosts + 1)]


def ensure_local_hosts(instance: Instance) -> str:
    """Join the hosts that have not joined yet; returns what was done. The API must answer.

    Raises:
        StepError: one could not join.
    """
    wanted = wanted_hosts(instance.simulate)
    missing = [host for host in wanted if host.name not in instance.host_names()]
    if not missing:
        return f"{len(wanted)} have joined"
    tokens = _new_tokens(instance, [host.name for host in missing])
    for host in missing:
        directory = instance.hosts / host.name
        shutil.rmtree(directory, ignore_errors=True)  # of a join that did not come to its end
        try:
            join(
                directory,
                address=instance.internal_url,
                token=tokens[host.name],
                name=host.name,
                simulate=host.simulate,
                host_address=instance.address,
                docker_host=instance.docker_host,
                tenant_ports=(instance.port, instance.hub_port),
            )
        except JoinError as error:
            raise StepError(f"host {host.name} could not join: {error}") from error
    return f"joined {', '.join(host.name for host in missing)}"


def update_local_hosts(instance: Instance) -> list[str]:
    """Tell the hosts that have joined what the options say by now; returns the names of those to whom it was news.

    Raises:
        StepError: what one was told before can't be read.
    """
    changed = []
    for name in instance.host_names():
        directory = HostDirectory(instance.hosts / name)
        try:
            known = read_config(directory)
        except ConfigError as error:
            raise StepError(f"{error}: remove {directory.path}, and the host joins again") from error
        wanted = replace(
            known,
            internal_url=instance.internal_url,
            ray_address=instance.ray_cluster_address,
            docker_host=instance.docker_host,
            address=instance.address,
            tenant_ports=(instance.port, instance.hub_port),
        )
        if wanted != known:
            directory.write("host.toml", config_toml(wanted))
            changed.append(name)
    return changed


def _new_tokens(instance: Instance, names: Sequence[str]) -> dict[str, str]:
    """Enrolment tokens made in the database, in the first administrator's name: nobody has signed in yet."""
    database = Database(database_url(instance), pool_size=1)
    authority = Authority(instance.secrets)
    try:
        return database.transact(partial(_create_tokens, authority=authority, names=names))
    finally:
        database.close()


def _create_tokens(session: Session, *, authority: Authority, names: Sequence[str]) -> dict[str, str]:
    """For a host whose directory was lost one with which it joins again."""
    admin = session.scalars(select(User).where(User.role == Role.ADMIN).order_by(User.id).limit(1)).one()
    principal = Principal(admin.id, admin.uid, admin.username, Role.ADMIN, None)
    known = {host.name: host for host in session.scalars(select(Host).where(Host.name.in_(names)))}
    return {
        name: create_token(
            session, authority, principal, description=f"{name}, of this machine", uses=1, expires_in_s=_TOKEN_S,
            host=known.get(name),
        )[1]
        for name in names
    }  # fmt: skip
