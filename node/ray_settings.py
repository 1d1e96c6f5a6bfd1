"""What head, raylets and drivers of the platform's Ray have in common; docs/explanation/ray.md gives the reasons."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

HOST_LABEL = "remotegpu-host"

# Measured: a killed raylet is noticed after 1.2 s, a silent host after 4.2 s; Ray's defaults take 14 s and 64 s.
_COMMON: Mapping[str, str] = MappingProxyType(
    {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        # Raylets wait a day for a head that is away, instead of ending after a minute.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",
        # Released capacity is given out again sooner (default 100).
        "RAY_raylet_report_resources_period_milliseconds": "20",
        "RAY_ROTATION_MAX_BYTES": str(32 * 2**20),
        "RAY_ROTATION_BACKUP_COUNT": "2",
        # A host says itself what devices it has; Ray must not hide GPUs from the agents.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
)


def environment(*, token_file: Path) -> dict[str, str]:
    """Environment variables for any process that talks Ray with the platform's token."""
    return {**_COMMON, "RAY_AUTH_TOKEN_PATH": str(token_file)}


def device_resource(device_uuid: str) -> str:
    """The custom resource of one device: a host's raylet offers 1 of it, a bundle asks for its share."""
    return f"gpu-{device_uuid}"
