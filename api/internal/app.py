"""The internal application: for hosts, the Hub and the monitoring, by certificate."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api import openapi
from api.app import VERSION, install_shared
from api.body_limit import BodyLimit
from api.change_feed import ChangeFeed
from api.db import Database
from api.host_calls import HostCalls
from api.hostlink import Hostlink
from api.internal import archive_endpoints, attempt_endpoints, host_endpoints, hub_endpoints, log_endpoints, metrics
from api.internal.peer import PeerRegister
from api.internal.pki import Authority
from api.logs.merging import Merging
from api.settings import Settings

MAX_BODY_BYTES = 8 * 2**20  # a usage batch or a HostFacts is far below it
WITHOUT_CERTIFICATE = frozenset({"/internal/ca", "/internal/enrol"})
GUARD = openapi.Guard(
    name="certificate",
    scheme={"type": "mutualTLS", "description": "A certificate of the platform's CA, of the role that the tag names."},
    guards=lambda _, path: path not in WITHOUT_CERTIFICATE,
    always=(503,),
)


def create_internal_app(settings: Settings, database: Database) -> FastAPI:
    """The application of the internal listener. `secrets_dir` holds the CA (`api.internal.pki.ensure_pki`)."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.changes.start()
        yield
        await app.state.changes.stop()
        app.state.hostlink.close()

    app = FastAPI(
        title="RemoteGPU internal API",
        version=VERSION,
        description="For hosts, the Hub and the monitoring. Errors are problem documents with a stable `code`.",
        lifespan=lifespan,
        openapi_url="/internal/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    install_shared(app, settings, database)
    openapi.install(app, GUARD)
    app.state.authority = Authority(settings.secrets_dir)
    app.state.peers = PeerRegister(database)
    app.state.hostlink = Hostlink(settings.hostlink_socket)
    app.state.host_calls = HostCalls()
    app.state.merging = Merging(database, app.state.objects)
    app.state.changes = ChangeFeed(database, "environments")
    app.include_router(host_endpoints.router)
    app.include_router(attempt_endpoints.router)
    app.include_router(archive_endpoints.router)
    app.include_router(log_endpoints.router)
    app.include_router(hub_endpoints.router)
    app.include_router(metrics.router)
    return app
