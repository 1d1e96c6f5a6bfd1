"""A headless Chromium of the distribution, with screenshots kept as artefacts of the run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from tests.e2e.commands import Person

ARTEFACTS = Path(__file__).parents[2] / "artifacts"
_FLAGS = (
    "--no-sandbox",  # the tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 60_000
expect.set_options(timeout=TIMEOUT_MS)


@contextmanager
def browsing() -> Iterator[BrowserContext]:
    """A fresh browser profile, closed with everything it opened."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(_FLAGS))
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(TIMEOUT_MS)
        try:
            yield context
        finally:
            context.close()
            browser.close()


def keep_screenshot(page: Page, name: str) -> None:
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{re.sub(r'[^a-z0-9-]+', '-', name.lower())}.png")


def fill_sign_in(page: Page, person: Person) -> None:
    """Fill in the platform's sign-in form, which must be what is shown, and send it."""
    page.get_by_label("User name").fill(person.username)
    page.get_by_label("Password").fill(person.password)
    page.get_by_role("button", name="Sign in").click()


def visit_hub(page: Page, hub_url: str, person: Person) -> None:
    """Sign in at the Hub's address and wait for its home page."""
    page.goto(hub_url)
    fill_sign_in(page, person)
    page.wait_for_url(f"{hub_url}/hub/home")
