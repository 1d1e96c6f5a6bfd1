"""Somebody at a browser without the browser: signs in at the Hub through the platform's page, by hand."""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape

import httpx

from tests.e2e.commands import Person
from tests.e2e.conftest import Platform

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Visitor:
    """Cookies of the platform and the Hub, as a browser keeps them."""

    platform: Platform
    http: httpx.Client

    def signed_in(self) -> bool:
        """Whether both know them still, without a new sign-in."""
        answers = [
            self.http.get(f"{self.platform.public_url}/account/"),
            self.http.get(f"{self.platform.hub_url}/hub/home"),
        ]
        return [answer.status_code for answer in answers] == [200, 200]


@contextmanager
def sign_in(platform: Platform, person: Person, *, trust: ssl.SSLContext | None = None) -> Iterator[Visitor]:
    """Signed in at both; `trust` says whose certificates count, by default those of everybody's authorities."""
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False, follow_redirects=False, verify=trust or True) as http:
        _sign_in(platform, person, http)
        visitor = Visitor(platform, http)
        assert visitor.signed_in()
        yield visitor


def _sign_in(platform: Platform, person: Person, http: httpx.Client) -> None:
    page = _follow(http, f"{platform.hub_url}/hub/home")
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text)
    form = {name: unescape(value) for name, value in fields}
    form |= {"username": person.username, "password": person.password}
    answer = http.post(f"{platform.public_url}/account/login", data=form)
    assert answer.status_code == 303, answer.text
    end = _follow(http, str(answer.url.join(answer.headers["location"])))
    assert end.status_code == 200 and str(end.url).startswith(platform.hub_url), end.text


def _follow(http: httpx.Client, url: str) -> httpx.Response:
    for _ in range(12):
        answer = http.get(url)
        if not answer.is_redirect:
            return answer
        url = str(answer.url.join(answer.headers["location"]))
    raise AssertionError(f"redirected in a circle, last to {url}")
