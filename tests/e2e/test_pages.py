"""Every page a customer may meet: wide and narrow, with its words, its labels, and nothing of other people's stock."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.e2e.browser import browsing, keep_screenshot, visit_hub
from tests.e2e.commands import Customer
from tests.e2e.conftest import Platform

_WIDTHS = {"wide": 1280, "narrow": 400}
# Fields that a label names, and whether a reader would have to scroll sideways.
_UNLABELLED = """() => [...document.querySelectorAll('input:not([type=hidden]), select, textarea')]
    .filter(field => !field.labels.length && !field.getAttribute('aria-label')).map(field => field.outerHTML)"""
_OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def page(platform: Platform, hopper: Customer) -> Iterator[Page]:
    hopper.owner.run("env", "create", "--name", "idle", "--cpus", "1", "--memory", "1GiB")
    hopper.owner.run("env", "stop", "idle", "--wait")
    with browsing() as context:
        page = context.new_page()
        visit_hub(page, platform.hub_url, hopper.owner)
        yield page
    hopper.owner.run("env", "rm", "idle", "--yes")


@pytest.mark.parametrize(
    ("name", "place", "path", "status", "heading"),
    [
        ("home", "hub", "/hub/home", 200, "Environments"),
        ("spawn", "hub", "/hub/spawn?name=fresh", 200, "Start fresh"),
        ("spawn-again", "hub", "/hub/spawn/{user}/idle", 200, "Start idle"),
        ("waiting-stopped", "hub", "/hub/waiting/{user}/idle", 200, "idle"),
        ("not-running", "hub", "/user/{user}/idle/lab", 424, "idle is not running"),
        ("no-such-page", "hub", "/hub/nothing-here", 404, "There is nothing here"),
        ("anothers-page", "hub", "/hub/spawn/somebody/lab", 404, "There is nothing here"),
        ("started-by-a-link", "hub", "/hub/spawn/{user}/fresh?opt-gpus=4", 400, "Start fresh"),
        ("account", "public", "/account/", 200, "{user}"),
        ("password", "public", "/account/password", 200, "Choose a password"),
        ("sign-out", "public", "/account/logout", 200, "Sign out?"),
        ("no-administrator", "public", "/ops/ray/", 403, "That did not work"),
        ("sign-in", "public", "/account/login?again=true", 200, "Sign in"),
    ],
)
def test_a_page_is_fit_to_be_seen(
    platform: Platform, hopper: Customer, page: Page, name: str, place: str, path: str, status: int, heading: str
) -> None:
    user = hopper.owner.username
    base = platform.hub_url if place == "hub" else platform.public_url
    for width_name, width in _WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 800})
        answer = page.goto(base + path.format(user=user))
        assert answer is not None and answer.status == status
        assert page.locator("h1").inner_text() == heading.format(user=user)
        keep_screenshot(page, f"page-{name}-{width_name}")
        unlabelled: Any = page.evaluate(_UNLABELLED)
        assert unlabelled == []
        assert page.evaluate(_OVERFLOW) <= 0, f"{width} px are too few"
        assert "RemoteGPU" in page.title() and "Jupyter" not in page.title()
        for stock in ("lots of moons", "My Server", "JupyterHub", "Bad Request", "No access to resources"):
            assert stock not in page.locator("body").inner_text()
