"""Joining a platform: check its CA against the token, get a certificate for a key made here, write the directory."""

import base64
import hashlib
import re
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from node.certificate import signing_request
from node.daemon.config import HostConfig, HostDirectory, config_toml

_TIMEOUT_S = 20.0
_MAX_CA_BYTES = 65_536


class JoinError(Exception):
    """The host could not join; the message says why and what to do."""


def join(
    host_dir: Path,
    *,
    address: str,
    token: str,
    name: str,
    simulate: str | None = None,
    labels: Mapping[str, str] | None = None,
    host_address: str | None = None,
    **settings: Any,  # the fields of HostConfig that the platform does not answer
) -> HostConfig:
    """Enrol at `address` (the internal listener's URL) and write `host_dir`.

    `host_address` is where the platform and tenants reach this host; by default its address towards the platform.

    Raises:
        JoinError: the platform is not the one the token names, does not answer, or refuses.
    """
    url = address.rstrip("/")
    ca_pem = _pinned_ca(url, token)
    key = ec.generate_private_key(ec.SECP256R1())
    reply = _enrol(
        url, ca_pem, {"token": token, "name": name, "csr_pem": signing_request(key, name), "labels": dict(labels or {})}
    )
    config = HostConfig(
        host_id=reply["host_id"],
        name=name,
        internal_url=url,
        ray_address=reply["ray_address"] or None,
        simulate=simulate,
        address=host_address or _own_address(url),
        heartbeat_interval_s=reply["heartbeat_interval_s"],
        lost_margin_s=reply["lost_margin_s"],
        **settings,
    )
    _write(HostDirectory(host_dir), config, key, reply)
    return config


def _own_address(url: str) -> str:
    """The address from which this machine reaches the platform; no packet is sent to find it."""
    target = httpx.URL(url)
    family, kind, _, _, place = socket.getaddrinfo(target.host, target.port or 443, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0])


def _pinned_ca(url: str, token: str) -> str:
    """The CA's certificate, fetched without trust and then checked against the token's fingerprint."""
    fingerprint = token.rpartition(".")[2]
    try:
        with httpx.Client(verify=False, timeout=_TIMEOUT_S, trust_env=False) as client:
            pem = client.get(f"{url}/internal/ca").raise_for_status().text
    except httpx.HTTPError as error:
        raise JoinError(f"{url} does not answer as a platform: {error}") from error
    # Only the first certificate counts: what follows it would be trusted without having been checked.
    found = re.search(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", pem[:_MAX_CA_BYTES], re.DOTALL)
    der = base64.b64decode(found[1]) if found else b""
    if hashlib.sha256(der).hexdigest() != fingerprint.lower():
        raise JoinError(f"{url} is not the platform that made the token: its CA's fingerprint differs")
    return ssl.DER_cert_to_PEM_cert(der)


def _enrol(url: str, ca_pem: str, body: Mapping[str, Any]) -> dict[str, Any]:
    context = ssl.create_default_context(cadata=ca_pem)
    try:
        with httpx.Client(verify=context, timeout=_TIMEOUT_S, trust_env=False) as client:
            reply = client.post(f"{url}/internal/enrol", json=body)
    except httpx.HTTPError as error:
        raise JoinError(f"{url} does not answer: {error}") from error
    if reply.status_code != httpx.codes.OK:
        raise JoinError(f"{url} refuses ({reply.status_code}): {_reason(reply)}")
    answer: dict[str, Any] = reply.json()
    return answer | {"ca_pem": ca_pem}


def _reason(reply: httpx.Response) -> str:
    try:
        return str(reply.json().get("detail", reply.text[:200]))
    except ValueError:
        return reply.text[:200]


def _write(
    directory: HostDirectory, config: HostConfig, key: ec.EllipticCurvePrivateKey, reply: Mapping[str, Any]
) -> None:
    directory.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    directory.write("host.key", key_pem.decode())
    directory.write("host.pem", reply["certificate_pem"])
    directory.write("ca.pem", reply["ca_pem"])
    directory.write("ray_token", reply["ray_token"])
    # Last: a directory with host.toml is one that has joined.
    directory.write("host.toml", config_toml(config))
