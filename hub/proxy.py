"""The Hub's proxy, a process of its own: `python -m hub.proxy` becomes configurable-http-proxy.

It stays while the Hub restarts, so that no connection to a running environment is cut. Its token travels by the
environment, never on the command line, which every user of the machine could read.
"""

import os

from hub.settings import HubSettings


def proxy_command(settings: HubSettings) -> list[str]:
    """Program and arguments of the proxy. `CONFIGPROXY_AUTH_TOKEN` must be in its environment."""
    command = [
        settings.proxy_command,
        "--ip", settings.listen_host,
        "--port", str(settings.listen_port),
        "--api-ip", "127.0.0.1",
        "--api-port", str(settings.proxy_api_port),
        "--default-target", f"http://127.0.0.1:{settings.api_port}",
        "--error-target", f"http://127.0.0.1:{settings.api_port}/hub/error",
        "--log-level", "warn",
    ]  # fmt: skip
    if settings.tls:
        command += ["--ssl-cert", settings.tls_cert, "--ssl-key", settings.tls_key]
    if settings.subdomain_host:
        command.append("--host-routing")
    return command


def main() -> None:
    settings = HubSettings.from_environment()
    command = proxy_command(settings)
    token = settings.secret("hub_proxy_token")
    os.execvpe(command[0], command, os.environ | {"CONFIGPROXY_AUTH_TOKEN": token})


if __name__ == "__main__":
    main()
