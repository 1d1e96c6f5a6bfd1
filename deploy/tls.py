"""The certificate of the public listeners: checked before anything starts, as most mistakes would show much later."""

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

from deploy.instance import Instance
from deploy.progress import StepError

_UNKNOWN_AUTHORITY = (18, 19, 20, 21)  # OpenSSL's X509_V_ERR_*: self-signed, no issuer known
_WRONG_NAME = (62, 64)  # of a host, of an address
_HANDSHAKE_TURNS = 4


def check_certificate(instance: Instance) -> None:
    """The certificate fits its key, is for the names that the listeners have, and is one that the Hub will trust.

    Raises:
        StepError: one of these is not so; the message says what to do.
    """
    if not instance.tls_cert and not instance.tls_key:
        return
    if not instance.tls_cert or not instance.tls_key:
        raise StepError("a certificate and its key belong together: give both --tls-cert and --tls-key")
    server, client = _server(instance.tls_cert, instance.tls_key), _client(instance)
    for name in _names(instance):
        try:
            _shake_hands(server, client, name)
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message.rstrip(".")
            raise StepError(
                f"the certificate {instance.tls_cert} will not be accepted at {name}: {reason}. "
                f"{_remedy(error.verify_code)}"
            ) from error
        except ssl.SSLError as error:
            raise StepError(f"the certificate {instance.tls_cert} can't be used: {error}") from error


def write_authorities(instance: Instance) -> None:
    """Write whom the Hub trusts: whom this machine trusts, and the authority that was named."""
    if instance.tls_ca:
        known = ssl.get_default_verify_paths().cafile
        parts = [Path(path).read_text().rstrip() for path in (known, instance.tls_ca) if path]
        instance.authorities.write_text("\n".join(parts) + "\n")


def _names(instance: Instance) -> Iterator[str]:
    yield instance.address
    if instance.hub_domain:
        yield instance.hub_domain
        yield f"someone.{instance.hub_domain}"


def _server(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")  # else it would ask at the terminal
    except OSError as error:  # ssl.SSLError is one
        raise StepError(
            f"the certificate {certificate} can't be used with the key {key}: {error}. "
            "Both must be PEM files, the key without a password and the certificate before those of its authorities"
        ) from error
    return context


def _client(instance: Instance) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if instance.tls_ca:
        try:
            context.load_verify_locations(instance.tls_ca)
        except OSError as error:
            raise StepError(f"the authority {instance.tls_ca} can't be read as a PEM file: {error}") from error
    return context


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """One handshake in memory.

    Raises:
        ssl.SSLError: the client did not accept the certificate for `name`.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(_HANDSHAKE_TURNS):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()


def _remedy(code: int) -> str:
    if code in _UNKNOWN_AUTHORITY:
        return "This machine does not know who signed it: name that authority's certificate with --tls-ca"
    if code in _WRONG_NAME:
        return "Name the host that it is for with --address (and --hub-domain), or get one for these names"
    return "Get another one"
