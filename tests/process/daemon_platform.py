"""The platform's internal listener as a host sees it: real TLS, certificates made here, replies that tests choose."""

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_PEM = serialization.Encoding.PEM


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make_certificates(directory: Path) -> None:
    """`ca.pem`, and key and certificate of `server` (127.0.0.1) and `host`."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    for number, name in enumerate(("ca", "server", "host")):
        key = ca_key if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("ca"))
            .public_key(key.public_key())
            .serial_number(number + 1)
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )
        if name == "server":
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        certificate = builder.sign(ca_key, hashes.SHA256())
        (directory / f"{name}.pem").write_bytes(certificate.public_bytes(_PEM))
        secret = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / f"{name}.key").write_bytes(secret)


class FakePlatform:
    """`run_until` maps allocations to what the next heartbeat's reply says; absent ones are not mentioned."""

    def __init__(self, certificates: Path) -> None:
        self.facts: list[dict[str, Any]] = []
        self.beats: list[dict[str, Any]] = []
        self.windows: list[dict[str, Any]] = []
        self.run_until: dict[str, int] = {}
        self.skew_ms = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            Starlette(
                routes=[
                    Route("/internal/host", self._host, methods=["PUT"]),
                    Route("/internal/heartbeat", self._heartbeat, methods=["POST"]),
                    Route("/internal/usage", self._usage, methods=["POST"]),
                ]
            ),
            ssl_certfile=certificates / "server.pem",
            ssl_keyfile=certificates / "server.key",
            ssl_ca_certs=str(certificates / "ca.pem"),
            ssl_cert_reqs=ssl.CERT_REQUIRED,
            log_level="warning",
            lifespan="off",
            loop="asyncio",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})

    def now_ms(self) -> int:
        return time.time_ns() // 10**6 + self.skew_ms

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._listener.close()

    async def _host(self, request: Request) -> Response:
        self.facts.append(await request.json())
        return Response(status_code=204)

    async def _heartbeat(self, request: Request) -> Response:
        beat = await request.json()
        self.beats.append(beat)
        verdicts = [
            {**lease, "run_until_ms": self.run_until[lease["allocation_uid"]], "end": False}
            for lease in beat["leases"]
            if lease["allocation_uid"] in self.run_until
        ]
        return JSONResponse({"server_time_ms": self.now_ms(), "verdicts": verdicts})

    async def _usage(self, request: Request) -> Response:
        batch = (await request.json())["windows"]
        self.windows += batch
        return JSONResponse({"boot_id": batch[0]["boot_id"], "accepted_through": batch[-1]["sequence"]})
