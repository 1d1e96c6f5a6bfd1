"""Sessions of the Hub after a change of password, on JupyterHub's own tables."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub import orm

from hub.sessions import SESSION_DAYS, PasswordChanges, end_sessions, is_session

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
CHANGED = NOW - timedelta(minutes=1)


@pytest.fixture
def user() -> Iterator[Any]:
    """Ada, with a token of a browser for an environment, and one that she has made."""
    factory = orm.new_session_factory("sqlite:///:memory:")
    db = factory()
    ada = orm.User(name="ada")
    db.add(ada)
    db.add_all([orm.OAuthClient(identifier=name) for name in ("jupyterhub", "jupyterhub-user-ada-lab")])
    db.commit()
    for client in ("jupyterhub", "jupyterhub-user-ada-lab"):
        db.add(orm.APIToken(user=ada, client_id=client, hashed=client, prefix=client[:8]))
    db.commit()
    yield SimpleNamespace(name="ada", orm_user=ada, db=db)
    db.close()
    factory.kw["bind"].dispose()


def handler(*, token: Any = None, current_user: Any = None) -> Any:
    return SimpleNamespace(get_token=lambda: token, current_user=current_user)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "changes.json"


def test_a_change_is_news_until_sessions_were_ended_for_it(kept: Path) -> None:
    changes = PasswordChanges(kept)
    assert not changes.is_news("ada", None, now=NOW)
    assert changes.is_news("ada", CHANGED, now=NOW)
    changes.ended("ada", CHANGED, now=NOW)
    for known in (changes, PasswordChanges(kept)):
        assert not known.is_news("ada", CHANGED, now=NOW), "not by a Hub that has started anew either"
        assert known.is_news("bob", CHANGED, now=NOW)
        assert known.is_news("ada", NOW, now=NOW)


def test_a_change_before_any_session_that_there_can_be_is_none(kept: Path) -> None:
    assert not PasswordChanges(kept).is_news("ada", NOW - timedelta(days=SESSION_DAYS), now=NOW)


def test_such_changes_are_forgotten(kept: Path) -> None:
    changes = PasswordChanges(kept)
    changes.ended("ada", CHANGED, now=NOW)
    changes.ended("bob", NOW, now=CHANGED + timedelta(days=SESSION_DAYS))
    assert list(json.loads(kept.read_text())) == ["bob"]


@pytest.mark.parametrize("text", ["", "[]", "null", '{"ada": 7}', '{"ada": "yesterday"}'])
def test_what_can_not_be_read_is_nothing(kept: Path, text: str) -> None:
    kept.write_text(text)
    assert PasswordChanges(kept).is_news("ada", CHANGED, now=NOW)


def test_cookies_and_what_browsers_hold_for_environments_end(user: Any) -> None:
    before = user.orm_user.cookie_id
    end_sessions(user)
    assert user.orm_user.cookie_id != before
    assert [token.client_id for token in user.db.query(orm.APIToken)] == ["jupyterhub"]


def test_a_session_is_a_browsers_cookie_or_token(user: Any) -> None:
    made, browsers = user.orm_user.api_tokens
    assert is_session(user, handler(current_user=user))
    assert is_session(user, handler(token=browsers))
    assert not is_session(user, handler(token=made))
    assert not is_session(user, handler(current_user=SimpleNamespace(name="an administrator")))
    assert not is_session(user, None)
