"""`remotegpud up`: everything in order, each only when what it needs answers.

Side by side where nothing is needed of each other: the Ray head beside PostgreSQL, its migrations and the API; then, as
soon as the API answers, the Hub's proxy and the Hub beside the hosts (which join through the API, and need Ray) and the
controller (which needs Ray).
"""

import concurrent.futures
import time
from collections.abc import Callable, Iterator

from api.internal.pki import ensure_pki
from deploy import health
from deploy.database import check_urls, migrate_databases, seed_database
from deploy.engine import can_be_started
from deploy.hosts import ensure_local_hosts, update_local_hosts
from deploy.instance import DEFAULT_SIMULATION, Instance
from deploy.leftovers import end_leftovers, end_raylets
from deploy.machine import ensure_engine, ensure_hub_proxy, ensure_images, ensure_packages, nvidia_present
from deploy.ports import ensure_free
from deploy.processes import wait_until
from deploy.programs import (
    api_program,
    controller_program,
    daemon_name,
    database_url,
    docker_program,
    embedded_postgres,
    host_programs,
    hub_program,
    hub_proxy_program,
    postgres_program,
)
from deploy.progress import StepError, step
from deploy.ray_head import check_external_head, ray_head_program, take_token
from deploy.secrets import ensure_secrets
from deploy.supervisor import Program, Supervisor
from deploy.tls import check_certificate, write_authorities

_READY_S = 180  # a raylet on a machine that is busy takes its time
_DYING_S = 15  # one that keeps dying this long will not come
_LOG_LINES = 15


def start_everything(instance: Instance) -> None:
    """Start what does not run, and return when every part answers.

    Raises:
        StepError: a step failed; what runs by then keeps running, and the next `up` carries on from there.
    """
    supervisor = Supervisor(instance)
    check_urls(instance)
    check_certificate(instance)
    ensure_free(instance)
    ensure_packages(instance)
    _prepare_directories(instance)
    with step("supervisor") as current:
        left = end_leftovers(instance) if not supervisor.answers() else 0
        supervisor.write(list(_programs(instance, instance.host_names())))
        started = supervisor.ensure_running()
        current.note = ("started" if started else "runs") + (f"; ended {left} left-over processes" if left else "")
    ensure_engine(instance, supervisor)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        # Images take minutes the first time and nothing before the Hub needs them.
        images = pool.submit(_prepare_images, instance)
        ray = pool.submit(_start_ray, instance, supervisor)
        _start_database(instance, supervisor)
        _start_api(instance, supervisor)
        hub = pool.submit(_start_hub, instance, supervisor, images)
        _join_hosts(instance, supervisor)
        ray.result()
        controller = pool.submit(_start_controller, instance, supervisor)
        _start_hosts(instance, supervisor)
        for part in (controller, hub):
            part.result()


def _prepare_images(instance: Instance) -> None:
    ensure_images(instance)
    ensure_hub_proxy()


def choose_hosts(instance: Instance) -> str | None:
    """What to simulate: as asked, else nothing where there are GPUs, else the default."""
    if instance.simulate:
        return instance.simulate
    return None if nvidia_present() else DEFAULT_SIMULATION


def _programs(instance: Instance, hosts: list[str]) -> Iterator[Program]:
    if can_be_started(instance.docker_host):
        yield docker_program(instance)
    server = embedded_postgres(instance)
    if server is not None:
        yield postgres_program(instance, server)
    if instance.ray_address is None:
        yield ray_head_program(instance)
    yield api_program(instance)
    yield controller_program(instance)
    yield from host_programs(instance, hosts)
    yield hub_proxy_program(instance)
    yield hub_program(instance)


def _prepare_directories(instance: Instance) -> None:
    with step("directories, secrets, certificates") as current:
        for directory in (instance.data, instance.logs, instance.run, instance.hosts, instance.hub, instance.ray):
            directory.mkdir(parents=True, exist_ok=True)
        # PostgreSQL's unprivileged user must be able to pass through; everything secret below is closed by itself.
        instance.data.chmod(0o711)
        for directory in (instance.logs, instance.run, instance.hosts, instance.hub, instance.ray):
            directory.chmod(0o700)
        take_token(instance)
        instance.save()
        created = ensure_secrets(instance.secrets)
        ensure_pki(instance.secrets, sorted({instance.address, "127.0.0.1", "localhost"}))
        write_authorities(instance)
        current.note = f"created {len(created)} secrets" if created else "all there"


def _start_database(instance: Instance, supervisor: Supervisor) -> None:
    server = embedded_postgres(instance)
    with step("PostgreSQL") as current:
        if server is not None:
            server.initialise()
            server.prepare()
            supervisor.start("postgres")
            _await(supervisor, "postgres", lambda: health.database(server.url("postgres")))
        current.note = "embedded" if server else "external"
    with step("migrations, catalogue, administrator") as current:
        migrate_databases(instance)
        seed_database(instance)
        current.note = health.ask("database", lambda: health.database(database_url(instance))).detail


def _start_ray(instance: Instance, supervisor: Supervisor) -> None:
    if instance.ray_address is None:
        _start(supervisor, "ray", lambda: health.ray(instance), title="Ray head")
        return
    with step("Ray head") as current:
        current.note = f"external, {check_external_head(instance)}"


def _start_api(instance: Instance, supervisor: Supervisor) -> None:
    checks = health.health_checks(instance)
    with step("API") as current:
        supervisor.start("api")
        _await(supervisor, "api", checks["api (internal)"])
        current.note = _await(supervisor, "api", checks["api"])


def _join_hosts(instance: Instance, supervisor: Supervisor) -> None:
    with step("hosts join") as current:
        changed = update_local_hosts(instance)
        if changed:
            supervisor.stop(*map(daemon_name, changed))
            end_raylets(instance)
        current.note = ensure_local_hosts(instance) + (f", {', '.join(changed)} moved" if changed else "")
        supervisor.write(list(_programs(instance, instance.host_names())))
        supervisor.ensure_running()


def _start_hosts(instance: Instance, supervisor: Supervisor) -> None:
    checks = health.health_checks(instance)
    # One after another: two raylets started at the same instant on one address collide.
    for name in instance.host_names():
        _start(supervisor, daemon_name(name), checks[f"host {name}"], title=f"host daemon {name}")


def _start_controller(instance: Instance, supervisor: Supervisor) -> None:
    _start(supervisor, "controller", health.health_checks(instance)["controller"])


def _start_hub(instance: Instance, supervisor: Supervisor, images: concurrent.futures.Future[None]) -> None:
    images.result()  # the proxy's program comes with them
    checks = health.health_checks(instance)
    _start(supervisor, "proxy", checks["proxy"])
    _start(supervisor, "hub", checks["hub"], title="JupyterHub")


def _start(supervisor: Supervisor, name: str, question: Callable[[], str], *, title: str | None = None) -> None:
    with step(title or name) as current:
        supervisor.start(name)
        current.note = _await(supervisor, name, question)


def _await(supervisor: Supervisor, name: str, question: Callable[[], str]) -> str:
    """What it answers, as soon as it is well.

    Raises:
        StepError: it was given up by the supervisor, or did not answer in time; with the end of its log.
    """
    last = health.PartHealth(name, False, "not asked")
    patience = time.monotonic() + _DYING_S

    def settled() -> bool:
        nonlocal last
        last = health.ask(name, question)
        if last.healthy:
            return True
        state = supervisor.state(name)
        return state == "FATAL" or (state == "BACKOFF" and time.monotonic() > patience)

    wait_until(settled, timeout_s=_READY_S, interval_s=0.1)
    if not last.healthy:
        log = supervisor.log(name)
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
        raise StepError(f"{name} does not answer: {last.detail}\nThe end of {log}:\n" + "\n".join(lines))
    return last.detail
