"""The platform's own certificate authority: how hosts, the Hub and the internal listener know each other.

Everything lies below the secrets directory, keys with mode 0600. A certificate's subject is `CN=ROLE:UID`.
"""

import hashlib
import ipaddress
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from api.clock import utc_now

CA_LIFETIME = timedelta(days=3650)
SERVICE_LIFETIME = timedelta(days=397)
HOST_LIFETIME = timedelta(days=30)
RENEW_BEFORE = timedelta(days=60)  # a service certificate with less left is issued again at start
BACKDATE = timedelta(minutes=5)  # hosts' clocks may be a little behind

SERVICES = {"hub": "hub:hub", "monitoring": "monitoring:prometheus"}


class InvalidRequestError(ValueError):
    """A certificate signing request that can't be used."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was just signed. `serial` is lower-case hexadecimal without leading zeros."""

    certificate_pem: str
    serial: str
    expires_at: datetime


class Authority:
    """The CA, read from `ca.pem` and `ca.key`."""

    def __init__(self, secrets_dir: Path) -> None:
        self.ca_pem = (secrets_dir / "ca.pem").read_text()
        self._certificate = x509.load_pem_x509_certificate(self.ca_pem.encode())
        self._key = _read_key(secrets_dir / "ca.key")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the CA certificate's DER form, in hexadecimal: what an enrolment token pins."""
        return hashlib.sha256(self._certificate.public_bytes(serialization.Encoding.DER)).hexdigest()

    def sign_request(self, csr_pem: str, *, common_name: str, lifetime: timedelta = HOST_LIFETIME) -> Issued:
        """Sign a host's request. Only its public key is taken: the name is ours to give.

        Raises:
            InvalidRequestError: it can't be read, its signature is wrong, or its key is not an elliptic curve's.
        """
        try:
            request = x509.load_pem_x509_csr(csr_pem.encode())
            valid, key = request.is_signature_valid, request.public_key()
        except (ValueError, InvalidSignature) as error:
            raise InvalidRequestError("the certificate signing request can't be read") from error
        if not valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidRequestError("the certificate signing request needs a valid signature by an EC key")
        return self._issue(key, common_name, lifetime, hosts=(), usage=ExtendedKeyUsageOID.CLIENT_AUTH)

    def issue_service(self, path: Path, *, common_name: str, hosts: Sequence[str] = ()) -> None:
        """Write `<path>.pem` and `<path>.key`: a server's with `hosts`, else a client's."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        issued = self._issue(key.public_key(), common_name, SERVICE_LIFETIME, hosts=hosts, usage=usage)
        _write(path.with_suffix(".key"), _key_pem(key))
        _write(path.with_suffix(".pem"), issued.certificate_pem.encode())

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        common_name: str,
        lifetime: timedelta,
        *,
        hosts: Sequence[str],
        usage: x509.ObjectIdentifier,
    ) -> Issued:
        now = utc_now()
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if hosts:
            names = [_general_name(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return Issued(pem, f"{certificate.serial_number:x}", certificate.not_valid_after_utc)


def ensure_pki(secrets_dir: Path, internal_hosts: Sequence[str]) -> None:
    """Make what is missing: the CA, the internal listener's certificate, and those of the Hub and the monitoring.

    The listener's certificate is made again when it does not name all of `internal_hosts` (DNS names or addresses);
    it and the others when they expire within RENEW_BEFORE.
    """
    secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (secrets_dir / "ca.pem").exists():
        _create_ca(secrets_dir)
    authority = Authority(secrets_dir)
    if not _is_current(secrets_dir / "internal", hosts=internal_hosts):
        authority.issue_service(secrets_dir / "internal", common_name="internal", hosts=internal_hosts)
    for name, common_name in SERVICES.items():
        if not _is_current(secrets_dir / name):
            authority.issue_service(secrets_dir / name, common_name=common_name)


def make_request(common_name: str) -> tuple[str, str]:
    """A new private key and a signing request for it, both PEM: what a host sends when it joins."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(common_name)).sign(key, hashes.SHA256())
    return _key_pem(key).decode(), request.public_bytes(serialization.Encoding.PEM).decode()


def _create_ca(secrets_dir: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = utc_now()
    subject = _name("RemoteGPU platform CA")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_CA_KEY_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The key first: ca.pem is what says that the authority is complete.
    _write(secrets_dir / "ca.key", _key_pem(key))
    _write(secrets_dir / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))


_CA_KEY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _is_current(path: Path, *, hosts: Sequence[str] = ()) -> bool:
    if not path.with_suffix(".key").exists() or not path.with_suffix(".pem").exists():
        return False
    certificate = x509.load_pem_x509_certificate(path.with_suffix(".pem").read_bytes())
    if certificate.not_valid_after_utc < utc_now() + RENEW_BEFORE:
        return False
    if not hosts:
        return True
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return all(_general_name(host) in names for host in hosts)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} does not hold an elliptic curve key")
    return key


def _write(path: Path, content: bytes) -> None:
    """Replace a file as a whole, readable by its owner only at every moment."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)
