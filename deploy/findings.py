"""What `doctor` looks at: each function says how one thing stands, and what to do where it is wrong."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from cryptography import x509
from sqlalchemy.exc import SQLAlchemyError

from api.billing.verify import check as verify_ledger
from api.db import Database
from api.migrations.migrate import NewerSchemaError, check_schema
from deploy.apt_sources import distribution_source
from deploy.engine import Engine, on_this_machine
from deploy.instance import Instance
from deploy.packages import missing_packages, search_path
from deploy.ports import conflicts
from deploy.programs import database_url
from deploy.progress import StepError
from deploy.shell import execute

_DISK_FREE_GIB = 10
_CLOCK_SKEW_S = 5.0
_EXPIRES_SOON = timedelta(days=7)  # hosts renew theirs with ten days left
_CERTIFICATES = ("ca", "internal", "hub")


@dataclass(frozen=True, slots=True)
class Finding:
    """`remedy` says what to do; it is empty where all is well."""

    subject: str
    text: str
    remedy: str = ""


def packages(instance: Instance) -> Finding:
    external = not on_this_machine(instance.docker_host) or Engine(instance.docker_host).version() is not None
    missing = missing_packages(docker_external=external)
    if missing:
        return Finding("packages", f"missing: {', '.join(missing)}", f"as root: apt-get install {' '.join(missing)}")
    return Finding("packages", "all there")


def engine(instance: Instance) -> Finding:
    version = Engine(instance.docker_host).version()
    if version is None:
        return Finding(
            "docker", f"no engine answers at {instance.docker_host}", "`make up` starts one; see DATA/logs/docker.log"
        )
    return Finding("docker", f"Engine {version} at {instance.docker_host}")


def firewall() -> Finding:
    try:
        execute([shutil.which("nft", path=search_path()) or "nft", "list", "tables"], timeout_s=10)
    except StepError as error:
        return Finding(
            "firewall", str(error).splitlines()[0], "install nftables and run as root on a kernel with nf_tables"
        )
    return Finding("firewall", "nftables works")


def control_groups() -> Finding:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        offered = set((root / "cgroup.controllers").read_text().split())
        version = "v2"
    else:
        offered = {path.name for path in root.iterdir()} if root.is_dir() else set()
        version = "v1"
    absent = {"cpu", "memory", "pids"} - offered
    if absent:
        remedy = "boot with cgroup_enable=memory or mount the controllers: limits of containers need them"
        return Finding("cgroups", f"{version} without {', '.join(sorted(absent))}", remedy)
    return Finding("cgroups", f"{version} with cpu, memory, pids")


def disk(instance: Instance) -> Finding:
    place = instance.data if instance.data.exists() else instance.data.parent
    place = place if place.exists() else Path("/")
    free = shutil.disk_usage(place).free / 2**30
    if free < _DISK_FREE_GIB:
        return Finding(
            "disk",
            f"{free:.1f} GiB free at {place}",
            f"free some: {_DISK_FREE_GIB} GiB are the least; `docker system df` shows images",
        )
    return Finding("disk", f"{free:.0f} GiB free at {place}")


def ports(instance: Instance) -> Iterator[Finding]:
    """Each port is free, or held by a process of this installation."""
    found = conflicts(instance)
    for conflict in found:
        yield Finding("ports", str(conflict), conflict.remedy)
    if not found:
        yield Finding("ports", "free, or ours")


def clock() -> Finding:
    """Against the clock of the distribution's mirror; certificates and bills need the right time."""
    try:
        reply = httpx.head(distribution_source().uri, timeout=5, follow_redirects=True)
        theirs = parsedate_to_datetime(reply.headers["Date"])
    except (httpx.HTTPError, StepError, KeyError, ValueError, OSError):
        return Finding("clock", "no mirror to compare with answers")
    skew_s = abs((datetime.now(UTC) - theirs).total_seconds())
    if skew_s > _CLOCK_SKEW_S:
        return Finding(
            "clock",
            f"{skew_s:.0f} s away from {distribution_source().uri}",
            "run a time service, e.g. apt-get install systemd-timesyncd",
        )
    return Finding("clock", f"within {_CLOCK_SKEW_S:.0f} s of the mirror's")


def certificates(instance: Instance) -> Iterator[Finding]:
    paths = [instance.secrets / f"{name}.pem" for name in _CERTIFICATES]
    paths += [instance.hosts / name / "host.pem" for name in instance.host_names()]
    if instance.tls_cert:
        paths.append(Path(instance.tls_cert))
    wrong = False
    for path in paths:
        remedy = "`remotegpud up` makes it again" if path.parent == instance.secrets else "renew it"
        if path.name == "host.pem":
            remedy = "its daemon should have renewed it: see its log; an expired host joins again"
        try:
            left = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc - datetime.now(UTC)
        except (OSError, ValueError) as error:
            wrong = True
            yield Finding("certificates", f"{path} can't be read: {error}", remedy)
            continue
        if left < _EXPIRES_SOON:
            wrong = True
            yield Finding("certificates", f"{path} has {left.days} days left", remedy)
    if not wrong:
        yield Finding("certificates", f"{len(paths)} certificates, all valid for {_EXPIRES_SOON.days} days or more")


def schema(instance: Instance) -> Finding:
    database = Database(database_url(instance), pool_size=1)
    try:
        check_schema(database.engine)
    except NewerSchemaError as error:
        return Finding("schema", str(error), "start the version that wrote it")
    except SQLAlchemyError as error:
        return Finding("schema", f"the database does not answer: {str(error).splitlines()[0]}", "`remotegpud up`")
    finally:
        database.close()
    return Finding("schema", "known to this version")


def ledger(instance: Instance) -> Finding:
    """Every balance against its postings."""
    database = Database(database_url(instance), pool_size=1)
    try:
        problems = database.transact(verify_ledger)
    except SQLAlchemyError as error:
        return Finding("ledger", f"the database does not answer: {str(error).splitlines()[0]}", "`remotegpud up`")
    finally:
        database.close()
    if problems:
        return Finding("ledger", "; ".join(problems[:5]), "stop the platform, keep its data, and report this")
    return Finding("ledger", "every transaction sums to zero")
