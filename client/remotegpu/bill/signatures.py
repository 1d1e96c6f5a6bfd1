"""Signatures of heads and files: Ed25519."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from remotegpu.errors import RemoteGpuError

Keys = Mapping[str, bytes]
"""The 32 raw bytes of public keys, by id: the SHA-256 of them."""

_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


class NoKey(RemoteGpuError):
    """A file has no public key that can verify bills."""


def read_keys(pem: bytes) -> dict[str, bytes]:
    """The keys of a PEM file, by id.

    Raises:
        NoKey: there is none, or one that is no Ed25519 key.
    """
    found = {}
    for block in _PEM.findall(pem):
        try:
            key = load_pem_public_key(block)
        except ValueError as error:
            raise NoKey(f"A public key can't be read: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise NoKey("A public key is not of Ed25519.")
        raw = key.public_bytes_raw()
        found[key_id(raw)] = raw
    if not found:
        raise NoKey("There is no public key in PEM.")
    return found


def key_id(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def decode(text: str) -> bytes | None:
    """Of base64 in its one form; None for anything else."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.b64encode(raw).decode() == text else None


def holds(keys: Keys, key: str, signature: str, message: bytes) -> bool:
    """Whether that key, which must be one of `keys`, has signed the message."""
    raw = decode(signature)
    if key not in keys or raw is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(keys[key]).verify(raw, message)
    except (InvalidSignature, ValueError):
        return False
    return True
