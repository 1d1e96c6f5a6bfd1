"""Passwords: argon2id hashes, the rules for new ones, and generated first ones."""

import secrets
from typing import Annotated

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pydantic import AfterValidator, Field

from api.waiting_room import WaitingRoom

_hasher = PasswordHasher()  # argon2id with the library's RFC 9106 low-memory profile
_ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # no look-alikes
# A hash takes 64 MiB, and a tenth of a second.
_room = WaitingRoom(at_once=4, waiting=12, refusal="Too many people sign in at this moment; try again.")
MIN_CHARS = 10
MAX_CHARS = 200


def hash_password(password: str) -> str:
    """Raises TooManyRequests, as `verify_password` does, while many others do the same."""
    with _room.turn():
        return _hasher.hash(password)


_DECOY = hash_password(secrets.token_urlsafe(16))


def verify_password(password: str, password_hash: str | None) -> bool:
    """Whether it is the password. With None (no such user) the same time is spent, and it is not."""
    try:
        with _room.turn():
            return _hasher.verify(password_hash or _DECOY, password) and password_hash is not None
    except (VerificationError, InvalidHashError):
        return False


def new_password() -> str:
    """A first password: about 100 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(18))


def _storable(password: str) -> str:
    if "\x00" in password:
        raise ValueError("must not contain a NUL character")
    return password


NewPassword = Annotated[str, Field(min_length=MIN_CHARS, max_length=MAX_CHARS), AfterValidator(_storable)]
AnyPassword = Annotated[str, Field(min_length=1, max_length=MAX_CHARS)]
