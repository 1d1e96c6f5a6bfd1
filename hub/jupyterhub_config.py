"""JupyterHub's configuration: `python -m jupyterhub -f hub/jupyterhub_config.py`, from the repository's root.

Everything that differs between installations comes from the environment; see hub/settings.py.
"""

from pathlib import Path

from hub.authenticator import ADMIN_GROUP, PlatformAuthenticator
from hub.database import ask_again_after_restarts
from hub.proxy_routes import PlatformProxy
from hub.sessions import SESSION_DAYS
from hub.settings import HubSettings
from hub.spawner import PlatformSpawner

settings = HubSettings.from_environment()
c = get_config()  # type: ignore[name-defined]  # noqa: F821  # traitlets puts it into this file's namespace

# Listeners. The proxy is a process of its own (hub/proxy.py), so that it outlives a restart of the Hub. The Hub's own
# API answers the proxy and the platform only; environments reach it through the proxy, as browsers do.
c.JupyterHub.bind_url = f"{'https' if settings.tls else 'http'}://{settings.listen_host}:{settings.listen_port}"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{settings.api_port}"
c.JupyterHub.public_url = settings.hub_url
c.JupyterHub.subdomain_host = settings.subdomain_host
c.JupyterHub.proxy_class = PlatformProxy
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{settings.proxy_api_port}"
c.ConfigurableHTTPProxy.auth_token = settings.secret("hub_proxy_token")

# State.
c.JupyterHub.db_url = settings.database_url
c.JupyterHub.upgrade_db = True
ask_again_after_restarts()
c.JupyterHub.cookie_secret = bytes.fromhex(settings.secret("hub_cookie_secret"))
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False

# Sign-in.
c.JupyterHub.authenticator_class = PlatformAuthenticator
c.PlatformAuthenticator.platform_url = settings.public_url
c.PlatformAuthenticator.hub_url = settings.hub_url
c.PlatformAuthenticator.client_secret = settings.secret("hub_oidc_client_secret")

c.JupyterHub.cookie_max_age_days = SESSION_DAYS
c.PlatformAuthenticator.password_changes_file = str(settings.hub_dir / "password_changes.json")

# With subdomains only: `__Host-` demands the path `/`, which on a shared host name leads to tenants' servers.
c.JupyterHub.cookie_host_prefix_enabled = bool(settings.subdomain_host and settings.tls)

# Who may do what. The platform creates users and starts and stops their servers; it never enters one.
c.JupyterHub.services = [{"name": "remotegpu", "api_token": settings.secret("hub_api_token")}]
c.JupyterHub.load_roles = [
    {
        "name": "remotegpu-platform",
        "description": "Creates users; starts, stops and reads their servers",
        "scopes": ["admin:users", "servers"],
        "services": ["remotegpu"],
    },
    {
        "name": ADMIN_GROUP,
        "description": "Sees and stops servers, without access to what is in them",
        "scopes": ["admin-ui", "list:users", "read:users", "read:servers", "delete:servers", "read:hub"],
        "groups": [ADMIN_GROUP],
    },
]

# Servers: each environment is a named one. How many may run or wait is the platform's queue and quota, not the Hub's.
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 0
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.active_server_limit = 0
c.JupyterHub.default_url = "/hub/home"
c.JupyterHub.redirect_to_server = False
c.JupyterHub.spawner_class = PlatformSpawner
c.PlatformSpawner.internal_url = settings.internal_url
c.PlatformSpawner.secrets_dir = str(settings.secrets_dir)
c.PlatformSpawner.hub_connect_url = settings.connect_url
c.PlatformSpawner.cmd = ["jupyterhub-singleuser"]
c.PlatformSpawner.remove = True
c.PlatformSpawner.http_timeout = 120
# Not a limit that is ever met: the spawner bounds its own waiting, for the queue and for the server's first answer.
c.PlatformSpawner.start_timeout = 600
c.PlatformSpawner.poll_interval = 30
# A tenant's failing starts must not end the Hub for all.
c.PlatformSpawner.consecutive_failure_limit = 0

# Pages.
c.JupyterHub.template_paths = [str(Path(__file__).parent / "templates")]
c.JupyterHub.template_vars = {"platform_url": settings.public_url}
c.JupyterHub.tornado_settings = {
    # A start that takes longer answers 202 to the platform, which does not keep a request open for it.
    "slow_spawn_timeout": 5,
    "cookie_options": {"SameSite": "Lax", "secure": settings.tls},
    "headers": {
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        **({"Strict-Transport-Security": "max-age=31536000"} if settings.tls else {}),
    },
}
