"""A certificate authority for daemon tests, with lives that tests choose."""

import datetime
import ipaddress
from datetime import UTC, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM
HOUR = timedelta(hours=1)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make_certificates(directory: Path) -> None:
    """`ca.pem`, and key and certificate of `server` (127.0.0.1) and `host`."""
    for name in ("ca", "server", "host"):
        key = ec.generate_private_key(ec.SECP256R1())
        secret = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / f"{name}.key").write_bytes(secret)
        (directory / f"{name}.pem").write_text(sign(directory, key.public_key(), name))


def sign(
    directory: Path,
    key: ec.EllipticCurvePublicKey,
    name: str,
    *,
    age: timedelta = HOUR,
    left: timedelta = HOUR,
    issuer: str = "ca",
) -> str:
    """A certificate by the authority in `directory`, PEM; its life began `age` ago and ends when `left` has passed."""
    ca_key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - age)
        .not_valid_after(now + left)
        .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if name == "server":
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(ca_key, hashes.SHA256()).public_bytes(_PEM).decode()


def sign_request(directory: Path, csr_pem: str, *, left: timedelta) -> str:
    """What the platform answers to a host's signing request."""
    key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return sign(directory, key, "host", left=left)


def expire_in(directory: Path, *, age: timedelta, left: timedelta) -> None:
    """Give `host` another certificate for its key."""
    key = serialization.load_pem_private_key((directory / "host.key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    (directory / "host.pem").write_text(sign(directory, key.public_key(), "host", age=age, left=left))


def serial_of(path: Path) -> str:
    return f"{x509.load_pem_x509_certificate(path.read_bytes()).serial_number:x}"
