"""What the launcher tells the Hub, and the proxy's command line."""

from pathlib import Path

import pytest
from jupyterhub.app import JupyterHub
from traitlets.config import PyFileConfigLoader

from api.settings import Settings
from deploy.instance import REPOSITORY
from hub.proxy import proxy_command
from hub.settings import HubSettings, SettingsError

ENVIRONMENT = {
    "REMOTEGPU_PUBLIC_URL": "https://cloud.example.org/",
    "REMOTEGPU_HUB_URL": "https://hub.example.org",
    "REMOTEGPU_INTERNAL_URL": "https://10.0.0.1:8001",
    "REMOTEGPU_SECRETS_DIR": "/secrets",
}


def test_defaults() -> None:
    settings = HubSettings.from_environment(ENVIRONMENT)
    assert settings.public_url == "https://cloud.example.org"
    assert (settings.listen_port, settings.api_port, settings.proxy_api_port) == (8080, 8081, 8082)
    assert not settings.tls
    assert settings.connect_url == settings.hub_url


def test_environments_may_reach_the_hub_at_another_address() -> None:
    there = {"REMOTEGPU_HUB_CONNECT_URL": "http://10.0.0.1:8080/", "REMOTEGPU_HUB_SUBDOMAIN_HOST": "http://hub.test"}
    settings = HubSettings.from_environment(ENVIRONMENT | there)
    assert (settings.connect_url, settings.hub_url) == ("http://10.0.0.1:8080", "https://hub.example.org")
    assert "--host-routing" in proxy_command(settings)


def test_the_hubs_sign_in_lasts_no_longer_than_the_platforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hub_api_token", "hub_cookie_secret", "hub_proxy_token", "hub_oidc_client_secret"):
        (tmp_path / name).write_text("00" * 32)
    for name, value in (ENVIRONMENT | {"REMOTEGPU_SECRETS_DIR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    config = PyFileConfigLoader(str(REPOSITORY / "hub" / "jupyterhub_config.py")).load_config()
    platforms = Settings(database_url="postgresql://", secrets_dir=tmp_path).web_session_s
    assert JupyterHub(config=config).cookie_max_age_days * 86_400 <= platforms


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        HubSettings.from_environment({key: value for key, value in ENVIRONMENT.items() if key != name})


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", ""])
def test_ports_are_checked(port: str) -> None:
    with pytest.raises(SettingsError, match="REMOTEGPU_HUB_LISTEN_PORT"):
        HubSettings.from_environment(ENVIRONMENT | {"REMOTEGPU_HUB_LISTEN_PORT": port})


def test_the_proxys_own_api_is_never_public() -> None:
    settings = HubSettings.from_environment(ENVIRONMENT | {"REMOTEGPU_HUB_LISTEN_HOST": "0.0.0.0"})
    command = proxy_command(settings)
    assert command[command.index("--api-ip") + 1] == "127.0.0.1"
    assert command[command.index("--ip") + 1] == "0.0.0.0"


def test_a_certificate_makes_the_proxy_speak_tls() -> None:
    tls = {"REMOTEGPU_TLS_CERT": "/c.pem", "REMOTEGPU_TLS_KEY": "/k.pem"}
    command = proxy_command(HubSettings.from_environment(ENVIRONMENT | tls))
    assert command[command.index("--ssl-cert") + 1] == "/c.pem"
    assert command[command.index("--ssl-key") + 1] == "/k.pem"
