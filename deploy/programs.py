"""The programs of an installation: command, environment and user of each supervised process."""

import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy.engine import make_url

from deploy.engine import daemon_command
from deploy.hub_proxy import proxy_program
from deploy.instance import REPOSITORY, Instance
from deploy.packages import search_path
from deploy.postgres import EmbeddedPostgres
from deploy.processes import MARKER
from deploy.supervisor import Program

DATABASE = "remotegpu"
HUB_DATABASE = "jupyterhub"


def embedded_postgres(instance: Instance) -> EmbeddedPostgres | None:
    """None where an external database is named."""
    return None if instance.database_url else EmbeddedPostgres(instance.data / "postgres")


def database_url(instance: Instance) -> str:
    server = embedded_postgres(instance)
    return server.url(DATABASE) if server else sqlalchemy_url(instance.database_url or "")


def hub_database_url(instance: Instance) -> str:
    """The Hub's own database: named, on the embedded server, or beside the platform's on the external one."""
    if instance.hub_database_url:
        return sqlalchemy_url(instance.hub_database_url)
    server = embedded_postgres(instance)
    if server:
        return server.url(HUB_DATABASE)
    return make_url(database_url(instance)).set(database=HUB_DATABASE).render_as_string(hide_password=False)


def sqlalchemy_url(url: str) -> str:
    """`postgres://...` and `postgresql://...` as SQLAlchemy wants them for psycopg."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme in ("postgres", "postgresql") else url


def daemon_name(host: str) -> str:
    return f"daemon-{host}"


def postgres_program(instance: Instance, server: EmbeddedPostgres) -> Program:
    # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every client.
    owner = server.owner() if os.geteuid() == 0 else None
    return Program("postgres", server.command(), _marked(instance), user=owner, stop_signal="INT", stop_s=60)


def docker_program(instance: Instance) -> Program:
    command = daemon_command(instance.docker_host, instance.data / "docker")
    # No marker: containers of others, too, may run on this engine, and must not be taken for ours.
    return Program("docker", command, {MARKER: "", "PATH": search_path()}, stop_s=60)


def api_program(instance: Instance) -> Program:
    return Program("api", _python("api.server"), platform_environment(instance), stop_s=20)


def controller_program(instance: Instance) -> Program:
    environment = platform_environment(instance) | {
        "REMOTEGPU_SCHEDULER_RECORDINGS_DIR": str(instance.data / "recordings")
    }
    return Program("controller", _python("cluster.controller"), environment, stop_s=20)


def daemon_program(instance: Instance, host: str) -> Program:
    """The daemon of a host that lives here. Its raylet and containers outlive it."""
    environment = {**_marked(instance), "RAY_USAGE_STATS_ENABLED": "0"}
    return Program(daemon_name(host), [*_python("node.daemon"), str(instance.hosts / host)], environment, stop_s=30)


def hub_proxy_program(instance: Instance) -> Program:
    """A process of its own, so that a restart of the Hub cuts no connection to an environment."""
    return Program("proxy", _python("hub.proxy"), hub_environment(instance))


def hub_program(instance: Instance) -> Program:
    command = [*_python("jupyterhub"), "-f", str(REPOSITORY / "hub" / "jupyterhub_config.py")]
    return Program("hub", command, hub_environment(instance), stop_s=20)


def hub_environment(instance: Instance) -> dict[str, str]:
    """Settings of the Hub and its proxy; see hub/settings.py."""
    environment = {
        **_marked(instance),
        "REMOTEGPU_PUBLIC_URL": instance.public_url,
        "REMOTEGPU_HUB_URL": instance.hub_url,
        "REMOTEGPU_HUB_CONNECT_URL": instance.hub_connect_url,
        "REMOTEGPU_HUB_SUBDOMAIN_HOST": instance.hub_url if instance.hub_domain else "",
        "REMOTEGPU_INTERNAL_URL": instance.internal_url,
        "REMOTEGPU_SECRETS_DIR": str(instance.secrets),
        "REMOTEGPU_HUB_DATABASE_URL": hub_database_url(instance),
        "REMOTEGPU_HUB_LISTEN_HOST": "0.0.0.0",
        "REMOTEGPU_HUB_LISTEN_PORT": str(instance.hub_port),
        "REMOTEGPU_HUB_API_PORT": str(instance.hub_api_port),
        "REMOTEGPU_HUB_PROXY_API_PORT": str(instance.proxy_api_port),
        "REMOTEGPU_HUB_DIR": str(instance.hub),
        "REMOTEGPU_PROXY_COMMAND": str(proxy_program()),
    }
    if instance.tls_ca:  # the Hub asks the platform at its public address who signs in
        environment["SSL_CERT_FILE"] = str(instance.authorities)
    return environment | _tls(instance)


def platform_environment(instance: Instance) -> dict[str, str]:
    """Settings of the API and the controller; see api/settings.py."""
    environment = {
        **_marked(instance),
        "REMOTEGPU_DATABASE_URL": database_url(instance),
        "REMOTEGPU_SECRETS_DIR": str(instance.secrets),
        "REMOTEGPU_PUBLIC_URL": instance.public_url,
        "REMOTEGPU_HUB_URL": instance.hub_url,
        "REMOTEGPU_HUB_SUBDOMAINS": "true" if instance.hub_domain else "false",
        "REMOTEGPU_HUB_API_URL": f"http://127.0.0.1:{instance.hub_api_port}/hub/api",
        "REMOTEGPU_LISTEN_HOST": "0.0.0.0",
        "REMOTEGPU_LISTEN_PORT": str(instance.port),
        "REMOTEGPU_INTERNAL_HOST": instance.address,
        "REMOTEGPU_INTERNAL_PORT": str(instance.internal_port),
        "REMOTEGPU_INTERNAL_URL": instance.internal_url,
        "REMOTEGPU_HOSTLINK_SOCKET": str(instance.hostlink),
        "REMOTEGPU_RAY_ADDRESS": instance.ray_cluster_address,
        "REMOTEGPU_RAY_DASHBOARD_URL": _ray_dashboard_url(instance),
        "REMOTEGPU_OBJECT_STORE_URL": instance.object_store_url or instance.objects.as_uri(),
        "REMOTEGPU_IMAGES_CATALOGUE": str(REPOSITORY / "images" / "catalogue.yaml"),
        "REMOTEGPU_SIMULATED": "true" if instance.simulate else "false",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(instance.secrets / "ray_token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HOME": str(instance.run),
    }
    if instance.object_store_endpoint:
        environment["REMOTEGPU_OBJECT_STORE_ENDPOINT"] = instance.object_store_endpoint
    if instance.object_store_region:
        environment["REMOTEGPU_OBJECT_STORE_REGION"] = instance.object_store_region
    return environment | _tls(instance)


def _ray_dashboard_url(instance: Instance) -> str:
    """Empty where nobody has said it: what listens on the usual port here is not to be told the token."""
    if instance.ray_address:
        return instance.ray_dashboard_url or ""
    return f"http://127.0.0.1:{instance.ray_dashboard_port}"


def host_programs(instance: Instance, hosts: Iterable[str]) -> list[Program]:
    return [daemon_program(instance, host) for host in hosts]


def _marked(instance: Instance) -> dict[str, str]:
    return {MARKER: str(instance.data), "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _tls(instance: Instance) -> dict[str, str]:
    if instance.tls_cert and instance.tls_key:
        return {
            "REMOTEGPU_TLS_CERT": instance.tls_cert,
            "REMOTEGPU_TLS_KEY": instance.tls_key,
            # They read it when they start: with another one in the file `up` starts them again.
            "REMOTEGPU_TLS_CONTENT": hashlib.sha256(Path(instance.tls_cert).read_bytes()).hexdigest(),
        }
    return {}
