"""The OpenID clients: our own, known in advance, so that nobody is asked for consent."""

import hmac
from dataclasses import dataclass

from api.settings import Settings

HUB_CLIENT_ID = "remotegpu-hub"
SCOPES = ("openid", "profile", "email")


@dataclass(frozen=True, slots=True)
class Client:
    """Authlib's `ClientMixin` by shape: a confidential client with one redirect URI."""

    client_id: str
    secret: str
    redirect_uri: str
    post_logout_redirect_uris: tuple[str, ...]

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_allowed_scope(self, scope: str | None) -> str:
        return " ".join(name for name in SCOPES if name in (scope or "").split())

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect_uri

    def check_client_secret(self, client_secret: str) -> bool:
        return hmac.compare_digest(client_secret.encode(), self.secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in ("client_secret_basic", "client_secret_post")

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


def find_client(settings: Settings, client_id: str | None) -> Client | None:
    """The client with this id."""
    if client_id != HUB_CLIENT_ID:
        return None
    return Client(
        client_id=HUB_CLIENT_ID,
        secret=settings.secret("hub_oidc_client_secret"),
        redirect_uri=f"{settings.hub_url}/hub/oauth_callback",
        post_logout_redirect_uris=(settings.hub_url, f"{settings.hub_url}/", f"{settings.hub_url}/hub/home"),
    )
