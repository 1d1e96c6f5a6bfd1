"""DESIGN 7: a tenant's page attacks whoever looks at it, with JavaScript of the tenant's, in a real browser.

First on one host name, where platform and Hub differ by port alone; then with a host name of the Hub's own and a
subdomain for each of its users, which keeps the Hub and users' environments apart, too.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.browser import browsing
from tests.e2e.commands import Customer, Person
from tests.e2e.conftest import Platform
from tests.e2e.trap import Trap, lay

HUB_DOMAIN = "hub.localhost"  # browsers resolve names below .localhost themselves
# Whether the page can read the answer to a request that it makes in its visitor's name.
_FETCH = """async ([url, method, mode, headers]) => {
    try {
        const answer = await fetch(url, {method, mode, headers, credentials: "include"});
        return {type: answer.type, status: answer.status, text: await answer.text()};
    } catch (error) { return {type: "refused"}; }
}"""
_OPEN = """async (url) => {
    const opened = window.open(url, "_blank");
    try {
        for (let turn = 0; turn < 50; turn++) {
            await new Promise((done) => setTimeout(done, 100));
            if (opened.location.href !== "about:blank" && opened.document.readyState === "complete") {
                return {read: opened.document.documentElement.outerHTML};
            }
        }
        return {read: null};
    } catch (error) { return {read: null}; } finally { if (opened) opened.close(); }
}"""
_FRAME = """async (url) => {
    const frame = document.body.appendChild(document.createElement("iframe"));
    await new Promise((done) => { frame.onload = done; frame.src = url; setTimeout(done, 5000); });
    try { return {read: frame.contentDocument.documentElement.outerHTML}; } catch (error) { return {read: null}; }
}"""
_POST = """async ([url, fields]) => {
    const form = document.createElement("form");
    Object.assign(form, {method: "post", action: url, target: "_blank"});
    for (const [name, value] of Object.entries(fields)) {
        form.appendChild(Object.assign(document.createElement("input"), {name, value}));
    }
    document.body.appendChild(form).submit();
    await new Promise((done) => setTimeout(done, 2000));
}"""


@pytest.fixture(scope="module", autouse=True)
def price(operator: Person) -> None:
    """The fixture's work is what is wanted."""


@pytest.fixture(scope="module")
def trap(lovelace: Customer) -> Iterator[Trap]:
    try:
        yield lay(lovelace.owner, "trap")
    finally:
        end(lovelace.owner, "trap")


@pytest.fixture(scope="module")
def own(hopper: Customer) -> Iterator[dict[str, Any]]:
    """The visiting customer's own environment."""
    try:
        yield hopper.owner.json("env", "create", "--gpus", "1", "--gpu-model", "A100", "--name", "own", "--wait")
    finally:
        end(hopper.owner, "own")


def end(owner: Person, name: str) -> None:
    owner.run("env", "stop", name, "--wait", check=False)
    owner.run("env", "rm", name, "--yes", check=False)


@contextmanager
def signed_in(platform: Platform, visitor: Person) -> Iterator[BrowserContext]:
    """A browser in which the visitor is signed in at the platform and the Hub."""
    with browsing() as context:
        page = context.new_page()
        page.goto(f"{hub_url(platform)}/hub/home")
        page.get_by_label("User name").fill(visitor.username)
        page.get_by_label("Password").fill(visitor.password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{hub_url(platform)}/hub/home")
        page.close()
        yield context


def hub_url(platform: Platform) -> str:
    settings = platform.settings
    return f"http://{settings.get('hub_domain') or settings['address']}:{settings['hub_port']}"


@pytest.fixture(params=["administrator", "customer"])
def visitor(request: pytest.FixtureRequest, operator: Person, hopper: Customer, own: dict[str, Any]) -> Person:
    return operator if request.param == "administrator" else hopper.owner


def is_signed_in(platform: Platform, context: BrowserContext, visitor: Person) -> bool:
    page = context.new_page()
    page.goto(f"{platform.public_url}/account/")
    found = visitor.username in page.content() and page.url.endswith("/account/")
    page.close()
    return found


def reads(page: Page, url: str, method: str = "GET", *, headers: dict[str, str] | None = None) -> str | None:
    """What the page learns by a request in its visitor's name; None if nothing."""
    for mode in ("cors", "no-cors"):
        answer = page.evaluate(_FETCH, [url, method, mode, headers or {}])
        if answer["type"] in ("basic", "cors") and answer["status"] == 200:
            return str(answer["text"])
    return None


def look_at_own(context: BrowserContext, own: dict[str, Any], visitor: Person) -> None:
    """The visitor's own JupyterLab, if it is theirs: the browser then keeps what lets them in there."""
    if f"/user/{visitor.username}/" in own["url"]:
        page = context.new_page()
        page.goto(own["url"])
        expect(page.locator("#jp-main-dock-panel")).to_be_visible()
        page.close()


def test_the_platform_is_out_of_a_tenants_page(
    platform: Platform, trap: Trap, own: dict[str, Any], visitor: Person
) -> None:
    """On one host name, where the browser itself takes both for one site."""
    with signed_in(platform, visitor) as context:
        look_at_own(context, own, visitor)
        page = context.new_page()
        page.goto(trap.url)
        expect(page.get_by_text("Free GPUs")).to_be_visible()
        attack_platform(platform, page)
        assert is_signed_in(platform, context, visitor), "nothing that the page did has changed that"
        forged_cookies(platform, context, page)
    assert_no_credentials(platform, trap, visitor)


def attack_platform(platform: Platform, page: Page) -> None:
    public = platform.public_url
    assert reads(page, page.url) is not None and page.evaluate(_OPEN, page.url)["read"], (
        "the tools work on its own page"
    )
    assert "Free GPUs" in page.evaluate(_FRAME, page.url)["read"]
    pages = (
        "/account/",
        "/account/login",
        "/ops/ray/",
        "/ops/ray/api/jobs/",
        "/oauth/authorize?client_id=remotegpu-hub",
    )
    for path in (*pages, "/api/v1/auth/me", "/api/v1/customer/environments", "/api/v1/admin/customers"):
        assert reads(page, public + path) is None, path
    assert reads(page, f"{public}/ops/ray/api/jobs/", "POST", headers={"content-type": "text/plain"}) is None
    for path in pages[:3]:
        assert page.evaluate(_OPEN, public + path)["read"] is None, path
        assert page.evaluate(_FRAME, public + path)["read"] is None, path
        assert [frame.url for frame in page.frames if frame.url.startswith(public)] == [], f"{path} can be framed"
    new = "a pass phrase of somebody else"
    change = {"current_password": "x", "new_password": new, "repeat_password": new}
    for path, fields in (("/account/logout", {}), ("/oauth/logout", {}), ("/account/password", change)):
        page.evaluate(_POST, [public + path, {"csrf": "0" * 64, **fields}])
    assert "rg_" not in page.evaluate("document.cookie")


def forged_cookies(platform: Platform, context: BrowserContext, page: Page) -> None:
    """The page can add cookies for the host name; the platform takes none of two for its own."""
    page.evaluate("document.cookie = 'rg_session=forged; path=/account'")
    page.evaluate("document.cookie = 'rg_session=forged; path=/account/password'")
    page.evaluate("document.cookie = 'rg_session=forged; path=/'")
    opened = context.new_page()
    for path in ("/account/", "/account/password"):
        answer = opened.goto(platform.public_url + path)
        assert answer is not None and answer.status == 400 and answer.json()["code"] == "cookies"


def assert_no_credentials(platform: Platform, trap: Trap, visitor: Person) -> None:
    """What the tenant's server was sent names no session, and lets the tenant do nothing in the visitor's name."""
    cookies = trap.cookies()
    assert trap.seen() and "authorization" not in json.dumps(trap.seen()).lower()
    for name in ("rg_session", "rg_visit", "jupyterhub-hub-login", f"jupyterhub-user-{visitor.username}"):
        assert name not in cookies.replace("rg_session=forged", ""), name
    hub = hub_url(platform)
    targets = {
        f"{platform.public_url}/account/", f"{platform.public_url}/ops/ray/", f"{hub}/hub/home", f"{hub}/hub/api/user",
        f"{hub}/user/{visitor.username}/own/api/contents",
    }  # fmt: skip
    for header in set(cookies.splitlines()):
        for url in targets:
            answer = httpx.get(by_address(platform, url), headers={"cookie": header}, trust_env=False)
            assert answer.status_code in (302, 303, 307, 400, 403, 404), (url, answer.status_code)


def by_address(platform: Platform, url: str) -> str:
    return url.replace(HUB_DOMAIN, platform.settings["address"])


def test_anothers_server_gets_no_token_of_a_visitor(platform: Platform, trap: Trap, visitor: Person) -> None:
    """JupyterLab itself sends visitors to the Hub, which gives no token for a server that they may not enter."""
    with signed_in(platform, visitor) as context:
        page = context.new_page()
        answer = page.goto(trap.url.replace("trap/trap/", "trap/lab"))
        assert answer is not None and answer.status == 403
        tenant = trap.url.split("/user/")[1].split("/")[0]
        kept = {each["name"] for each in context.cookies() if each["name"].startswith(f"jupyterhub-user-{tenant}")}
        assert {name for name in kept if not name.endswith("-oauth-state")} == set()


@pytest.fixture(scope="module")
def with_subdomains(platform: Platform) -> Iterator[None]:
    """The same installation with a host name of the Hub's own; what is started then learns its address."""
    platform.run("up", "--hub-domain", HUB_DOMAIN, timeout_s=900)
    yield
    platform.run("up", "--hub-domain", "", timeout_s=900)


@pytest.fixture(scope="module")
def far_trap(with_subdomains: None, lovelace: Customer) -> Iterator[Trap]:
    try:
        trap = lay(lovelace.owner, "far")
        yield Trap(trap.url.replace(HUB_DOMAIN, f"{lovelace.owner.username}.{HUB_DOMAIN}"), trap.container)
    finally:
        end(lovelace.owner, "far")


@pytest.fixture(scope="module")
def far_own(own: dict[str, Any], with_subdomains: None, hopper: Customer) -> dict[str, Any]:
    hopper.owner.run("env", "stop", "own", "--wait")
    started: dict[str, Any] = hopper.owner.json("env", "start", "own", "--wait")
    return started


def test_subdomains_keep_the_hub_and_environments_out_too(
    platform: Platform, far_trap: Trap, far_own: dict[str, Any], visitor: Person
) -> None:
    hub, name = hub_url(platform), visitor.username
    lab = f"http://{name}.{HUB_DOMAIN}:{platform.settings['hub_port']}/user/{name}/own"
    with signed_in(platform, visitor) as context:
        look_at_own(context, far_own, visitor)
        page = context.new_page()
        page.goto(far_trap.url)
        expect(page.get_by_text("Free GPUs")).to_be_visible()
        attack_platform(platform, page)
        for url in (f"{hub}/hub/home", f"{hub}/hub/api/user", f"{hub}/hub/token", f"{lab}/lab", f"{lab}/api/contents"):
            assert reads(page, url) is None, url
            assert page.evaluate(_OPEN, url)["read"] is None, url
            assert page.evaluate(_FRAME, url)["read"] is None, url
        for url in (f"{hub}/hub/api/users/{name}/tokens", f"{hub}/hub/api/users/{name}/servers/other"):
            assert reads(page, url, "POST", headers={"content-type": "text/plain"}) is None, url
            page.evaluate(_POST, [url, {}])
        page.evaluate(_POST, [f"{hub}/hub/spawn/{name}/other", {"image": "base", "gpus": "1", "gpu_model": "A100"}])
        assert is_signed_in(platform, context, visitor)
        home = context.new_page()
        home.goto(f"{hub}/hub/home")
        assert "other" not in [link.inner_text() for link in home.get_by_role("link").all()], "nothing was started"
    assert_no_credentials(platform, far_trap, visitor)
