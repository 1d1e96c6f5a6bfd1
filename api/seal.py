"""Sealing what must not lie readable in the database, with the secret `signing_key_secret`."""

import base64
import hashlib

from cryptography.fernet import Fernet

from api.settings import Settings


def sealer(settings: Settings, *, purpose: str) -> Fernet:
    """Authenticated encryption with a key of its own for each purpose."""
    secret = settings.secret("signing_key_secret")
    digest = hashlib.sha256(f"{purpose}:{secret}".encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))
