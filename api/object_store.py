"""Objects by name: uploads and output. A local directory by default, any S3 by configuration.

Whoever asks may be a thread of its own: calls wait for the disk or the network, without holding the interpreter's lock.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from api.errors import Unavailable
from api.settings import Settings

PIECE_BYTES = 2**20
ACCESS_KEY, SECRET_KEY = "object_store_access_key", "object_store_secret_key"  # files in the directory of secrets

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_TIMEOUT = timedelta(seconds=30)
_CONNECT = timedelta(seconds=5)
_RETRIES = 3

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class ObjectStoreUnavailable(Unavailable):
    """It did not do what it was asked; trying again may help."""


class NoSuchObject(Exception):
    """There is no object of this name."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Location:
    """Where objects are: a directory, or a bucket with what it takes to reach it.

    Without keys an S3 is asked with what the process's environment (`AWS_*`) or the machine's role gives.
    """

    url: str  # file:///DIRECTORY or s3://BUCKET[/PREFIX]
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)


def location_of(settings: Settings) -> Location:
    access_key, secret_key = (_secret(settings.secrets_dir / name) for name in (ACCESS_KEY, SECRET_KEY))
    return Location(
        settings.object_store_url,
        settings.object_store_endpoint,
        settings.object_store_region,
        access_key,
        secret_key,
    )


class ObjectStore:
    """Keys are paths of plain names, as in `uploads/CUSTOMER/DIGEST`. Nothing is opened before it is used first.

    Every method may raise `ObjectStoreUnavailable`, and ValueError for what is no key.
    """

    def __init__(self, location: Location) -> None:
        self._location = location

    def put(self, key: str, content: bytes | Path | Iterable[bytes]) -> None:
        """Keep `content`, over what was there. It appears whole, or not at all if `content` or the store fails."""
        try:
            self._ask(lambda: obstore.put(self._store, _checked(key), content))
        except NoSuchObject as error:  # a bucket that is not there
            raise _unavailable(error) from error

    def get(self, key: str) -> bytes:
        """
        Raises:
            NoSuchObject
        """
        return self._ask(lambda: bytes(obstore.get(self._store, _checked(key)).bytes()))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end.

        Raises:
            NoSuchObject
        """
        if start >= self.size(key):
            return b""
        return self._ask(lambda: bytes(obstore.get_range(self._store, _checked(key), start=start, length=length)))

    def stream(self, key: str) -> Iterator[bytes]:
        """The content in pieces of about `PIECE_BYTES`; the object is opened at once.

        Raises:
            NoSuchObject
        """
        pieces = iter(self._ask(lambda: obstore.get(self._store, _checked(key)).stream(PIECE_BYTES)))

        def read() -> Iterator[bytes]:
            while (piece := self._ask(lambda: next(pieces, None))) is not None:
                yield bytes(piece)

        return read()

    def size(self, key: str) -> int:
        """In bytes.

        Raises:
            NoSuchObject
        """
        return self._ask(lambda: obstore.head(self._store, _checked(key))["size"])

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except NoSuchObject:
            return False
        return True

    def delete(self, key: str) -> None:
        """It is gone afterwards, whether or not it was there."""
        try:
            self._ask(lambda: obstore.delete(self._store, _checked(key)))
        except NoSuchObject:
            return

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """What is below `prefix`, which is whole names, without a slash at its end. In no order."""
        batches = iter(self._ask(lambda: obstore.list(self._store, prefix=_checked(prefix))))
        while (batch := self._ask(lambda: next(batches, None))) is not None:
            for found in batch:
                yield StoredObject(found["path"], found["size"])

    @cached_property
    def _store(self) -> LocalStore | S3Store:
        return _open(self._location)

    def _ask(self, question: Callable[[], _Result]) -> _Result:
        with _translated():
            return question()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NoSuchObject(str(error).partition("\n")[0]) from error
    except (BaseError, OSError) as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> ObjectStoreUnavailable:
    _log.warning("the object store failed: %s", str(error).partition("\n")[0])
    return ObjectStoreUnavailable("The store of objects does not do what it is asked; try again.")


def _open(location: Location) -> LocalStore | S3Store:
    """
    Raises:
        ValueError: the URL is neither a directory's nor a bucket's.
    """
    parts = urlsplit(location.url)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        directory = Path(unquote(parts.path))
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        return LocalStore(directory, automatic_cleanup=True)
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError(f"{location.url} is neither file:///DIRECTORY nor s3://BUCKET[/PREFIX]")
    return _bucket(location, parts.netloc, parts.path.strip("/"))


def _bucket(location: Location, bucket: str, prefix: str) -> S3Store:
    known = {
        "endpoint": location.endpoint,
        "region": location.region,
        "access_key_id": location.access_key,
        "secret_access_key": location.secret_key,
    }
    plain = (location.endpoint or "").startswith("http://")
    return S3Store(
        bucket,
        prefix=prefix or None,
        config={key: value for key, value in known.items() if value},  # type: ignore[arg-type] # keys of S3Config
        client_options={"timeout": _TIMEOUT, "connect_timeout": _CONNECT, "allow_http": plain},
        retry_config={"max_retries": _RETRIES, "retry_timeout": _TIMEOUT},
    )


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key of an object")
    return key


def _secret(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None
