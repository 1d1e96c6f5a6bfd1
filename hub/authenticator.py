"""Signing in to the Hub with the platform's own sign-in: one account, one session, one sign-out for both."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from oauthenticator.generic import GenericOAuthenticator
from traitlets import Unicode, default

from hub.pages import page_handlers
from hub.platform_client import PlatformError, PlatformUnreachable
from hub.sessions import PasswordChanges, end_sessions, is_session

CLIENT_ID = "remotegpu-hub"
ADMIN_GROUP = "platform-admins"
_SHUT_OUT = ("account_disabled", "no_such_user")
_TRAITS = {
    "client_id": CLIENT_ID,
    "login_service": "RemoteGPU",
    "username_claim": "preferred_username",
    "scope": ["openid", "profile", "email"],
    "enable_pkce": True,
    "allow_all": True,
    "auto_login": True,
    "manage_groups": True,
    "auth_refresh_age": 60,  # seconds between questions to the platform about a user who is at work
    "auth_refresh_strict": True,  # tokens of environments, too, are worth nothing once their user is shut out
    "auth_state_groups_key": lambda auth_state: platform_groups(auth_state["oauth_user"]),
}


class PlatformAuthenticator(GenericOAuthenticator):
    """OpenID Connect against the platform: authorization code, state and PKCE (S256).

    Whoever the platform signs in may use the Hub. Nobody is a Hub administrator: platform administrators are in the
    group `platform-admins`, whose role lets them see and stop servers but not enter them.
    """

    platform_url = Unicode(config=True, help="URL of the platform, the OpenID provider.")
    hub_url = Unicode(config=True, help="URL of the Hub as browsers reach it.")
    password_changes_file = Unicode(
        "password_changes.json",
        config=True,
        help="Keeps for which changes of passwords sessions were ended.",
    )

    def __init__(self, **kwargs: Any) -> None:  # Any: traits
        # What makes it the platform's sign-in is not for a configuration to change.
        super().__init__(**(kwargs | _TRAITS))
        self._password_changes = PasswordChanges(Path(self.password_changes_file))

    @default("authorize_url")
    def _authorize_url_default(self) -> str:
        return f"{self.platform_url}/oauth/authorize"

    @default("token_url")
    def _token_url_default(self) -> str:
        return f"{self.platform_url}/oauth/token"

    @default("userdata_url")
    def _userdata_url_default(self) -> str:
        return f"{self.platform_url}/oauth/userinfo"

    @default("oauth_callback_url")
    def _oauth_callback_url_default(self) -> str:
        return f"{self.hub_url}/hub/oauth_callback"

    @default("logout_redirect_url")
    def _logout_redirect_url_default(self) -> str:
        """RP-initiated logout: the platform ends its session and sends the browser back to the Hub."""
        query = {"client_id": self.client_id, "post_logout_redirect_uri": f"{self.hub_url}/hub/home"}
        return f"{self.platform_url}/oauth/logout?{urlencode(query)}"

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> bool:  # Any: JupyterHub's
        """Whether the platform still lets the user in: the Hub's own sessions would outlive a disabled account, and a
        change of password.

        While the platform does not answer, who is in stays in.
        """
        asked_by_session = is_session(user, handler)
        try:
            changed_at = await user.spawner.platform.password_changed_at(user.name)
            let_in = not (self._end_older(user.name, user, changed_at) and asked_by_session)
        except PlatformError as error:
            let_in = error.code not in _SHUT_OUT
        except PlatformUnreachable as error:
            self.log.warning("whether %s is still let in is not known: %s", user.name, error)
            let_in = True
        if not let_in and handler is not None:
            # JupyterHub reads this attribute of whom it shuts out, and has set it for tokens only.
            vars(handler).setdefault("_token_authenticated", False)
        return let_in

    async def run_post_auth_hook(self, handler: Any, auth_model: Any) -> Any:
        """Before the new session is made: a change of password before it must not be taken for one after it."""
        changed_at = auth_model["auth_state"]["oauth_user"].get("password_changed_at")
        name = auth_model["name"]
        self._end_older(name, handler.find_user(name), datetime.fromisoformat(changed_at) if changed_at else None)
        return await super().run_post_auth_hook(handler, auth_model)

    def _end_older(self, name: str, user: Any, changed_at: datetime | None) -> bool:
        """Whether that is a change of password that was not known here; then all of the user's sessions have ended.

        `user` None: the Hub sees this one for the first time, and there is none to end.
        """
        now = datetime.now(UTC)
        if changed_at is None or not self._password_changes.is_news(name, changed_at, now=now):
            return False
        if user is not None:
            self.log.info("%s has changed the password: all sessions end", name)
            end_sessions(user)
        self._password_changes.ended(name, changed_at, now=now)
        return True

    def normalize_username(self, username: str) -> str:
        """The platform's usernames are DNS labels already, and its URLs are built from them as they are."""
        return username

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:
        """The sign-in's handlers, and the pages about environments: these come before the Hub's own."""
        return [*super().get_handlers(app), *page_handlers()]


def platform_groups(userinfo: dict[str, Any]) -> list[str]:
    """The Hub's groups of a user, from the claims of `/oauth/userinfo`."""
    return [ADMIN_GROUP] if userinfo.get("role") == "admin" else []
