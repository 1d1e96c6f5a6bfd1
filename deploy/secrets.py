"""Secrets of an installation: generated once, one file each (0600) in a directory of its own (0700)."""

import os
import secrets
from pathlib import Path

# Bytes of randomness; JupyterHub's cookie secret must be 32 bytes in hexadecimal.
_GENERATED = {
    "hub_api_token": 32,
    "hub_cookie_secret": 32,
    "hub_proxy_token": 32,
    "hub_oidc_client_secret": 32,
    "ray_token": 32,
    "signing_key_secret": 32,
}


def ensure_secrets(directory: Path) -> list[str]:
    """Create what is missing and return its names. Existing secrets are never changed."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    created = []
    for name, size in _GENERATED.items():
        if write_secret(directory, name, secrets.token_hex(size)):
            created.append(name)
    return created


def write_secret(directory: Path, name: str, value: str) -> bool:
    """Write a secret that is not there yet; False if it was. It appears whole or not at all."""
    target = directory / name
    if target.exists() and target.stat().st_size > 0:
        return False
    replace_secret(directory, name, value)
    return True


def replace_secret(directory: Path, name: str, value: str) -> None:
    """Write a secret over the one that was there. It appears whole or not at all."""
    temporary = directory / f".{name}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / name)


def new_password() -> str:
    """A first password: 18 characters without look-alikes, about 100 bits."""
    alphabet = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return "".join(secrets.choice(alphabet) for _ in range(18))
