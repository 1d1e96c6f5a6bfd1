"""Sealing what must not lie readable in the database, with the secret `signing_key_secret`."""

import base64
import hashlib
import hmac

from cryptography.fernet import Fernet

from api.settings import Settings


def sealer(settings: Settings, *, purpose: str) -> Fernet:
    """Authenticated encryption with a key of its own for each purpose."""
    secret = settings.secret("signing_key_secret")
    digest = hashlib.sha256(f"{purpose}:{secret}".encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))


def derived_token(settings: Settings, *, purpose: str, name: str) -> str:
    """A token that is kept nowhere: the same for the same name, and not to be guessed from another one."""
    secret = settings.secret("signing_key_secret")
    return hmac.digest(secret.encode(), f"{purpose}:{name}".encode(), "sha256").hex()
