"""Fixtures for tests over HTTP: the application, and people with their access tokens."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from api.app import create_app
from api.db import Database
from api.identity.passwords import hash_password
from api.identity.sessions import open_session
from api.identity.tables import User
from api.internal.pki import ensure_pki
from api.principal import Role
from api.settings import Settings
from api.tenants.tables import Customer, Workspace
from tests.db.hub_side import controller, hub, world  # noqa: F401 - fixtures
from tests.db.listener import listener  # noqa: F401 - a fixture

PASSWORD = "correct-horse-battery"
SECRETS = ("signing_key_secret", "hub_oidc_client_secret", "hub_api_token", "ray_token")


@dataclass(frozen=True, slots=True)
class Person:
    """A user with a live access token; `headers` is what its requests send."""

    user: User
    access_token: str
    refresh_token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access_token}"}


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer with its default workspace, an owner and a member."""

    customer: Customer
    workspace: Workspace
    owner: Person
    member: Person


@pytest.fixture(scope="session")
def secrets_dir(scratch: Path) -> Path:
    directory = scratch / "secrets"
    directory.mkdir(mode=0o700, exist_ok=True)
    for name in SECRETS:
        (directory / name).write_text(f"{name}-for-tests")
    ensure_pki(directory, ["127.0.0.1", "localhost"])
    return directory


@pytest.fixture
def settings(database: Database, secrets_dir: Path, tmp_path: Path) -> Settings:
    return Settings(
        database_url=database.engine.url.render_as_string(hide_password=False),
        secrets_dir=secrets_dir,
        public_url="http://testserver",
        hub_url="http://hub.testserver",
        hostlink_socket=tmp_path / "hostlink.sock",
        object_store_url=(tmp_path / "objects").as_uri(),
        rate_limit_sign_in="10000/minute",
    )


@pytest.fixture
def app(settings: Settings, database: Database) -> FastAPI:
    return create_app(settings, database)


@pytest.fixture
def app_client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the public application. A failure inside is a 500 answer, as it would be to a real client."""
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def password_hash() -> str:
    """Of `PASSWORD`, at the platform's own cost: made once, since that takes a tenth of a second."""
    return hash_password(PASSWORD)


@pytest.fixture
def make_person(app: FastAPI, settings: Settings, database: Database, password_hash: str) -> Callable[..., Person]:
    """`make_person(username, role, customer=None)`: a user with the password `PASSWORD`, signed in."""

    def make(username: str, role: Role, customer: Customer | None = None) -> Person:
        def work(session: Session) -> User:
            user = User(
                username=username,
                role=role,
                customer_id=customer.id if customer else None,
                password_hash=password_hash,
                email=f"{username}@example.test",
                must_change_password=False,
            )
            session.add(user)
            session.flush()
            return user

        user = database.transact(work)
        pair = open_session(database, app.state.keys, settings, user_id=user.id, address=None)
        return Person(user, pair.access_token, pair.refresh_token)

    return make


@pytest.fixture
def admin(make_person: Callable[..., Person]) -> Person:
    return make_person("admin", Role.ADMIN)


@pytest.fixture
def make_tenant(database: Database, make_person: Callable[..., Person]) -> Callable[[str], Tenant]:
    """`make_tenant("acme")`: customer `acme` with users `acme-owner` and `acme-member`."""

    def make(name: str) -> Tenant:
        def work(session: Session) -> tuple[Customer, Workspace]:
            customer = Customer(name=name)
            session.add(customer)
            session.flush()
            workspace = Workspace(customer_id=customer.id, name="default", is_default=True)
            session.add(workspace)
            session.flush()
            return customer, workspace

        customer, workspace = database.transact(work)
        owner = make_person(f"{name}-owner", Role.OWNER, customer)
        member = make_person(f"{name}-member", Role.MEMBER, customer)
        return Tenant(customer, workspace, owner, member)

    return make


@pytest.fixture
def tenant(make_tenant: Callable[[str], Tenant]) -> Tenant:
    return make_tenant("acme")


@pytest.fixture
def other_tenant(make_tenant: Callable[[str], Tenant]) -> Tenant:
    """A second customer, whose rows the first must never see."""
    return make_tenant("rival")
