"""`/auth`: signing in and out, refreshing, the password, the profile."""

from fastapi import APIRouter
from sqlalchemy.orm import Session

from api.db import Database
from api.deps import AddressDep, DatabaseDep, KeysDep, PrincipalDep, SettingsDep, SignInLimit
from api.errors import Unprocessable
from api.identity import sessions, users
from api.identity.login import prove_password
from api.identity.schemas import Login, Me, PasswordChange, ProfileChange, RefreshTokenBody, Tokens
from api.identity.sessions import TokenPair
from api.identity.tables import User
from api.identity.users import FirstPassword
from api.principal import Principal
from api.problems import problems

router = APIRouter(prefix="/auth", tags=["auth"])


@router.post("/login", responses=problems(401, 403), dependencies=[SignInLimit])
def login(body: Login, database: DatabaseDep, keys: KeysDep, settings: SettingsDep, address: AddressDep) -> Tokens:
    """Trade a user name and a password for tokens."""
    proven = prove_password(database, username=body.username, password=body.password, address=address)
    return _tokens(sessions.open_session(database, keys, settings, user_id=proven.user_id, address=address))


@router.post("/refresh", responses=problems(401), dependencies=[SignInLimit])
def refresh(body: RefreshTokenBody, database: DatabaseDep, keys: KeysDep, settings: SettingsDep) -> Tokens:
    """Trade a refresh token for new tokens. Using one twice ends its session."""
    return _tokens(sessions.refresh(database, keys, settings, refresh_token=body.refresh_token))


@router.post("/logout", status_code=204, dependencies=[SignInLimit])
def logout(body: RefreshTokenBody, database: DatabaseDep, address: AddressDep) -> None:
    """End the session of a refresh token, and its access tokens with it."""
    sessions.end_session(database, refresh_token=body.refresh_token, address=address)


@router.post("/password", status_code=204, responses=problems(401), dependencies=[SignInLimit])
def password(body: PasswordChange, database: DatabaseDep, principal: PrincipalDep) -> None:
    """Choose a new password. Every other session of the user ends."""
    change_password(database, principal, current=body.current_password, new=body.new_password)


@router.get("/me")
def read_me(database: DatabaseDep, principal: PrincipalDep) -> Me:
    """Who one is."""
    return database.transact(lambda session: users.me(session, principal))


@router.patch("/me", responses=problems(409))
def patch_me(body: ProfileChange, database: DatabaseDep, principal: PrincipalDep) -> Me:
    """Change the e-mail address or the name shown; null removes it."""
    changes = body.model_dump(exclude_unset=True)
    return database.transact(lambda session: users.change_profile(session, principal, changes))


def change_password(database: Database, principal: Principal, *, current: str, new: str) -> None:
    """Replace one's own password.

    Raises:
        Unauthenticated: the current one is wrong.
        Unprocessable: `password_unchanged`.
    """
    prove_password(database, username=principal.username, password=current, address=principal.address)
    if new == current:
        raise Unprocessable("The new password must differ from the current one.", code="password_unchanged")
    chosen = FirstPassword.own(new)

    def work(session: Session) -> None:
        user = session.get_one(User, principal.user_id, with_for_update=True)
        users.set_password(session, user, chosen, keep_session=principal.session_uid)
        users.audit(session, principal, user, "user.change_password")

    database.transact(work)


def _tokens(pair: TokenPair) -> Tokens:
    return Tokens(
        access_token=pair.access_token,
        refresh_token=pair.refresh_token,
        expires_in=pair.expires_in_s,
        must_change_password=pair.must_change_password,
    )
