"""What a change of password ends at the Hub, whose sessions know nothing of it by themselves."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jupyterhub.orm import new_token

SESSION_DAYS = 0.5  # as long as the platform's own sessions
_SESSION = timedelta(days=SESSION_DAYS)
_OWN_CLIENT = "jupyterhub"  # of tokens that servers have, or that somebody made by hand


class PasswordChanges:
    """The last change of each password for which the sessions here were ended, kept in a file over restarts.

    Without the file a change is news as long as a session could be older: whoever has signed in since then signs in
    once more, which the platform's own session does without a word.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)

    def is_news(self, username: str, changed_at: datetime | None, *, now: datetime) -> bool:
        """Whether sessions may be older than this change, and have not been ended for it."""
        if changed_at is None or self._known.get(username) == changed_at:
            return False
        return now - changed_at < _SESSION

    def ended(self, username: str, changed_at: datetime, *, now: datetime) -> None:
        """The sessions have been ended for this change; those of which no session can be older are forgotten."""
        known = {**self._known, username: changed_at}
        self._known = {name: moment for name, moment in known.items() if now - moment < _SESSION}
        text = json.dumps({name: moment.isoformat() for name, moment in self._known.items()})
        new = self._path.with_suffix(".new")
        new.write_text(text)
        new.replace(self._path)


def _read(path: Path) -> dict[str, datetime]:
    """Nothing, if it is not there or broken: then sessions end once too often."""
    try:
        return {name: datetime.fromisoformat(moment) for name, moment in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def end_sessions(user: Any) -> None:  # Any: JupyterHub's User
    """The cookies of all of a user's browsers are worth nothing any more, nor what they hold for environments.

    Tokens of the servers themselves stay, and those that the user has made: like API keys, they are no sessions.
    """
    user.orm_user.cookie_id = new_token()
    for token in list(user.orm_user.api_tokens):
        if token.client_id != _OWN_CLIENT:
            user.db.delete(token)
    user.db.commit()


def is_session(user: Any, handler: Any) -> bool:  # Any: JupyterHub's User and request handler
    """Whether a request is one of a browser in which this user is signed in, here or in an environment."""
    token = handler.get_token() if handler is not None else None
    if token is not None:
        return bool(token.user is user.orm_user and token.client_id != _OWN_CLIENT)
    return handler is not None and handler.current_user is user
