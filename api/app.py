"""The public application: error handling, the policy before every endpoint, and all routers."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel

from api import openapi, problems
from api.allocations import endpoints as allocations
from api.allocations.planner import SocketPlanner
from api.audit import endpoints as audit
from api.billing import endpoints as billing
from api.billing import movement_endpoints as billing_movements
from api.billing import price_endpoints as prices
from api.billing import run_time_endpoints as billing_run_time
from api.billing.chain import endpoints as bills
from api.billing.chain.bill import Exports
from api.body_limit import BodyLimit, LargeBody
from api.capacity import endpoints as capacity
from api.db import Database
from api.environments import endpoints as environments
from api.hostlink import Hostlink
from api.identity import admin_users, api_keys
from api.identity import endpoints as identity
from api.identity.authentication import Authenticator
from api.identity.authorisation import authorise, endpoint_templates
from api.identity.signing_keys import KeyRing
from api.images import endpoints as images
from api.logs import endpoints as logs
from api.logs.following import Following
from api.machines import endpoints as machines
from api.object_store import ObjectStore, location_of
from api.oidc import endpoints as oidc
from api.oidc.provider import Provider
from api.ops import ray_dashboard
from api.policy import POLICY
from api.quotas import endpoints as quotas
from api.rate_limit import RateLimits
from api.ray_jobs import endpoints as ray_jobs
from api.ray_jobs import packages as ray_packages
from api.reservations import endpoints as reservations
from api.secrets import endpoints as secrets
from api.security_headers import SecurityHeaders
from api.settings import Settings
from api.tasks import admin_endpoints as admin_tasks
from api.tasks import endpoints as tasks
from api.tasks import exec_endpoints as task_execs
from api.tasks.exec_relay import ExecHosts
from api.tenants import admin_endpoints as admin_tenants
from api.tenants import endpoints as tenants
from api.uploads import endpoints as uploads
from api.uploads.receiving import Receiver
from api.volumes import endpoints as volumes
from api.web import endpoints as web

API = "/api/v1"
VERSION = "0.1.0"


GUARD = openapi.Guard(
    name="bearer",
    scheme={
        "type": "http",
        "scheme": "bearer",
        "description": "An access token from `/auth/login`, or an API key (`rgpu_...`).",
    },
    guards=lambda method, path: (rule := POLICY.get((method, path))) is None or rule.roles is not None,
    always=(429, 503),
)


class Health(BaseModel):
    status: str


def create_app(settings: Settings, database: Database) -> FastAPI:
    """The application of the public listener."""
    app = FastAPI(
        title="RemoteGPU",
        version=VERSION,
        description="Rent GPUs. Errors are problem documents (RFC 9457) with a stable `code`.",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # FastAPI's pages load scripts from elsewhere, which the content security policy refuses
        redoc_url=None,
        lifespan=_lifespan,
        dependencies=[Depends(authorise)],
    )
    install_shared(app, settings, database)
    openapi.install(app, GUARD)
    keys = KeyRing(database, settings)
    app.state.keys = keys
    app.state.oidc = Provider(database, keys, settings)
    app.state.ray_dashboard = ray_dashboard.dashboard_client(settings)
    app.state.planner = SocketPlanner(settings.hostlink_socket)
    app.state.authenticator = Authenticator(database, keys, settings.public_url, settings)
    app.state.following = Following(database, app.state.objects, most_of_customer=settings.log_followers)
    app.state.exec_hosts = ExecHosts(Hostlink(settings.hostlink_socket))
    app.state.rate_limits = RateLimits(settings)
    app.state.receiver = Receiver()
    app.state.exports = Exports()
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, larger=_large_bodies(settings))
    app.add_middleware(SecurityHeaders, hsts=settings.tls)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "idempotency-key"],
            max_age=600,
        )
    app.add_api_route("/health", health, methods=["GET"], tags=["platform"])
    for router in _api_routers():
        app.include_router(router, prefix=API)
    for router in (
        ray_jobs.router,
        ray_jobs.following_router,
        ray_packages.router,
        web.router,
        oidc.router,
        ray_dashboard.router,
    ):
        app.include_router(router)
    app.state.endpoint_templates = endpoint_templates(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await app.state.following.stop()
    await app.state.ray_dashboard.aclose()
    app.state.planner.close()
    app.state.exec_hosts.close()


def _api_routers() -> Sequence[APIRouter]:
    """The routers below `/api/v1`. A domain's router has its own paths, such as `/customer/environments`.

    A request's path is tried on each route in this order, so what is asked for most comes first.
    """
    return [
        allocations.router,
        environments.router,
        identity.router,
        api_keys.router,
        admin_users.router,
        tenants.router,
        admin_tenants.router,
        audit.router,
        machines.router,
        images.router,
        billing.router,
        prices.router,
        bills.router,
        billing_movements.router,
        billing_run_time.router,
        quotas.router,
        capacity.router,
        reservations.router,
        tasks.router,
        admin_tasks.router,
        logs.router,
        logs.admin_router,
        task_execs.router,
        secrets.router,
        uploads.router,
        volumes.router,
    ]


def _large_bodies(settings: Settings) -> Sequence[LargeBody]:
    uploads = f"{API}/customer/uploads/[^/]+|{ray_packages.PATH}"
    return [LargeBody("PUT", re.compile(uploads), settings.max_upload_bytes)]


def install_shared(app: FastAPI, settings: Settings, database: Database) -> None:
    """What the public and the internal application have in common: state for the dependencies, and error handling."""
    app.state.settings = settings
    app.state.database = database
    app.state.objects = ObjectStore(location_of(settings))
    problems.install(app)


def health() -> Health:
    """Liveness: the process answers."""
    return Health(status="ok")
