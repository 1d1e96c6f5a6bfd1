"""Settings of the control plane's processes (API, controller), from `REMOTEGPU_*` environment variables.

Secrets are files below `secrets_dir` (mode 0600), never variables.
"""

from functools import cached_property
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="REMOTEGPU_", frozen=True)

    database_url: str
    """SQLAlchemy URL, `postgresql+psycopg://...`."""
    secrets_dir: Path
    """One file per secret; see docs/reference/interfaces.md."""
    public_url: str = "http://127.0.0.1:8000"
    """Where browsers and clients reach the platform; the OIDC issuer."""
    hub_url: str = "http://127.0.0.1:8080"
    """Where browsers reach the Hub."""
    hub_subdomains: bool = False
    """Whether each user of the Hub has a subdomain of its host name."""
    hub_api_url: str = "http://127.0.0.1:8081/hub/api"
    """Where the platform reaches the Hub's REST API."""
    listen_host: str = "127.0.0.1"
    listen_port: int = 8000
    internal_host: str = "127.0.0.1"
    internal_port: int = 8001
    internal_url: str = "https://127.0.0.1:8001"
    """Where hosts and the Hub reach the internal listener (mutual TLS)."""
    hostlink_socket: Path = Path("/run/remotegpu/hostlink.sock")
    """Unix socket of the controller, through which typed host operations travel over Ray."""
    ray_address: str = "127.0.0.1:6379"
    ray_dashboard_url: str = "http://127.0.0.1:8265"
    ray_namespace: str = "remotegpu"
    object_store_url: str = "file:///var/lib/remotegpu/objects"
    """Where uploads and output are kept: `file:///DIRECTORY`, or `s3://BUCKET[/PREFIX]`."""
    object_store_endpoint: str | None = None
    """URL of an S3 that is not Amazon's. Keys are secrets: see docs/reference/interfaces.md."""
    object_store_region: str | None = None
    images_catalogue: Path = Path("images/catalogue.yaml")
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cors_origins: tuple[str, ...] = ()
    simulated: bool = False

    max_body_bytes: int = 1_048_576
    max_upload_bytes: int = 100 * 2**20
    """The largest archive that may be uploaded for tasks."""
    max_uploads_bytes: int = 20 * 2**30
    """What a customer's uploads may take up together; what no task needs makes room for others."""
    rate_limit_address: str = "12000/minute"
    """Requests of one address, in the notation of the library `limits`. High: a whole office may share one."""
    rate_limit_identity: str = "6000/minute"
    """Requests of one user or API key."""
    rate_limit_sign_in: str = "60/minute"
    """Attempts of one address to prove a password, a refresh token or an invitation."""
    access_token_s: int = 900
    refresh_token_s: int = 30 * 86_400
    """How long a refresh token may wait to be used; each use gives a new one."""
    web_session_s: int = 12 * 3600
    signing_key_rotation_s: int = 30 * 86_400
    """Age at which a new signing key takes over; the old one still verifies until its tokens have expired."""

    environment_disconnect_s: int = 600
    """How long an environment may run cut off from the platform (its lease's limit since the last renewal)."""
    heartbeat_interval_s: float = 2.0
    unreachable_after_s: float = 8.0
    lost_margin_s: float = 15.0
    stop_grace_s: int = 10
    container_pids: int = 4096
    """How many processes and threads a container may have."""
    log_limit_bytes: int = 2**30
    """How much output of an attempt is kept, of each of its nodes; the oldest goes first."""
    log_head_bytes: int = 16 * 2**20
    """But the first so many bytes of it stay."""
    log_followers: int = 1500
    """How many connections of one customer may follow output at a time."""
    gang_network_range: str = "10.208.0.0/12"
    """IPv4 range of the networks of gangs, the same for all hosts; none of them may use it for anything else."""
    idle_group_s: float = 30.0
    """How long a placement group is kept for the next allocation of the same shape."""
    fair_share_half_life_s: float = 7 * 86_400
    """After so long, what a customer has used counts half in fair sharing."""

    scheduler_recordings_dir: Path | None = None
    """Where the controller records what the scheduler decides; without it, it does not."""

    def secret(self, name: str) -> str:
        return (self.secrets_dir / name).read_text().strip()

    @cached_property
    def tls(self) -> bool:
        return self.tls_cert is not None and self.tls_key is not None
