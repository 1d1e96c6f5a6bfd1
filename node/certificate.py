"""The host's certificate: renewed long before it expires, and written so that there is a whole one at every moment.

The key stays: key and certificate are two files, which can't be replaced at one instant. A new key would gain nothing,
for whoever has the key can have a certificate of any other key signed as long as the host is not revoked.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from node.daemon.config import HostDirectory
from node.platform import Platform, PlatformUnavailableError

log = logging.getLogger(__name__)

_RENEWED_AT = 2 / 3  # of its life
_TRIES = 50  # in what is left of it then
_LONGEST_PAUSE = timedelta(hours=1)


class RefusedCertificateError(Exception):
    """What the platform answered is no use as this host's certificate."""


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """PEM. The platform takes the key alone and gives the name itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


@dataclass(frozen=True, slots=True)
class Validity:
    begins: datetime
    ends: datetime

    def renewal(self) -> datetime:
        return self.begins + (self.ends - self.begins) * _RENEWED_AT

    def pause(self, now: datetime) -> timedelta:
        """How long to wait after an attempt that failed: never so long that few are left."""
        return min((self.ends - max(now, self.renewal())) / _TRIES, _LONGEST_PAUSE)


class CertificateKeeper:
    """Renews when it is due. `now` is server time: the wall clock here may be wrong. For one thread."""

    def __init__(self, directory: HostDirectory, platform: Platform, now: Callable[[], datetime]) -> None:
        self._directory, self._platform, self._now = directory, platform, now
        self._next_try: datetime | None = None

    def validity(self) -> Validity:
        certificate = self._current()
        return Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc)

    def keep(self) -> None:
        """Renew if it is time to. What fails is logged and tried again."""
        now, validity = self._now(), self.validity()
        if now < (self._next_try or validity.renewal()):
            return
        try:
            self._renew()
            self._next_try = None
            log.info("the host's certificate was renewed; it is good until %s", self.validity().ends)
        except (PlatformUnavailableError, RefusedCertificateError) as error:
            self._next_try = now + max(validity.pause(now), timedelta(seconds=1))
            log.warning("the certificate, good until %s, is not renewed yet: %s", validity.ends, error)

    def problem(self) -> str | None:
        """What an operator has to do, once it is too late: an expired host can't ask for a certificate."""
        ends = self.validity().ends
        return f"the host's certificate expired at {ends:%Y-%m-%d %H:%M}: join again" if ends <= self._now() else None

    def _renew(self) -> None:
        key = serialization.load_pem_private_key(self._directory.key.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # as `join` made it
        pem = self._platform.certificate(signing_request(key, "renewal"))
        self._check(pem, key.public_key())
        self._directory.write(self._directory.certificate.name, pem)

    def _check(self, pem: str, key: ec.EllipticCurvePublicKey) -> None:
        """A certificate that would cut this host off must not take the place of one that works."""
        try:
            renewed = x509.load_pem_x509_certificate(pem.encode())
            renewed.verify_directly_issued_by(x509.load_pem_x509_certificate(self._directory.ca.read_bytes()))
        except (ValueError, TypeError, InvalidSignature) as error:
            raise RefusedCertificateError(f"it is not of the CA that this host joined: {error}") from error
        current = self._current()
        if renewed.public_key() != key or renewed.subject != current.subject:
            raise RefusedCertificateError("it is for another key or name")
        if renewed.not_valid_after_utc <= current.not_valid_after_utc:
            raise RefusedCertificateError("it is good for no longer than the one at hand")

    def _current(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self._directory.certificate.read_bytes())
