"""The internal listener: TLS with client certificates, and the peer's certificate handed to the application.

A certificate is optional at the TLS level, because a host has none before it enrols; every endpoint but the two of
enrolment asks for one (`api.internal.peer`).
"""

import ssl
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.db import Database
from api.internal.app import create_internal_app
from api.internal.peer import PEER_CERTIFICATE
from api.settings import Settings

KEEP_ALIVE_S = 75  # well above a heartbeat interval, so that hosts keep their connections
GRACE_S = 5
MAX_CONNECTIONS = 2000


class PeerCertificateProtocol(HttpToolsProtocol):
    """uvicorn does not put the peer's certificate in the ASGI scope; this does, for each request."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        tls = self.transport.get_extra_info("ssl_object")
        # Any: the scope is uvicorn's TypedDict, and this key is ours.
        scope: Any = self.scope
        scope[PEER_CERTIFICATE] = tls.getpeercert() if tls is not None else None


def serve_config(settings: Settings, database: Database) -> uvicorn.Config:
    """The configuration of a `uvicorn.Server` for the internal listener."""
    secrets = settings.secrets_dir
    return uvicorn.Config(
        create_internal_app(settings, database),
        host=settings.internal_host,
        port=settings.internal_port,
        http=PeerCertificateProtocol,
        ws="none",
        ssl_certfile=secrets / "internal.pem",
        ssl_keyfile=secrets / "internal.key",
        ssl_ca_certs=str(secrets / "ca.pem"),
        ssl_cert_reqs=ssl.CERT_OPTIONAL,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=MAX_CONNECTIONS,
        proxy_headers=False,
        server_header=False,
        access_log=False,
    )
