"""Why a start from the Hub did not end in a running server. All are shown to the user; none is the Hub's failure."""

from html import escape

from jupyterhub.spawner import SpawnException

from hub.platform_client import PlatformError, Wait
from hub.waiting import waiting_message


class SpawnRefused(SpawnException):
    """The platform does not start this: bad options, no such environment, no money. Nothing was queued."""

    def __init__(self, message: str, *, reason: str = "refused", status_code: int = 400) -> None:
        super().__init__(message, reason=reason, status_code=status_code, message_html=escape(message))
        self.jupyterhub_message = message

    @classmethod
    def from_platform(cls, error: PlatformError) -> "SpawnRefused":
        return cls(error.detail, reason=error.code, status_code=error.status if 400 <= error.status < 500 else 503)


class StillQueued(SpawnException):
    """The environment keeps its place in the platform's queue, but no longer a starting slot of the Hub's.

    The platform starts the server through the Hub's REST API once the allocation is active.
    """

    queued = True  # read by the page templates

    def __init__(self, wait: Wait | None) -> None:
        message = waiting_message(wait)
        super().__init__(message, reason="queued", status_code=503, message_html=escape(message))
        self.jupyterhub_message = message


class StartFailed(SpawnException):
    """The environment had its allocation, but its container did not come up."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="start_failed", status_code=500, message_html=escape(message))
        self.jupyterhub_message = message
