"""The Hub with its real proxy, real containers, and the platform replaced behind its two listeners."""

import html
import re
import signal
import time
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import docker
import httpx
import pytest
from docker.errors import NotFound

from tests.process.hub_fixtures import FORM, server, start_by_form, start_by_rest, stop_by_rest, wait_ready, xsrf
from tests.process.hub_platform import Environment, HubPlatform
from tests.process.hub_processes import HubProcesses
from tests.waiting import wait_for


@pytest.fixture
def platform(hub_platform: HubPlatform) -> HubPlatform:
    hub_platform.forget()
    return hub_platform


def test_sign_in_uses_state_and_pkce(hub: HubProcesses) -> None:
    with httpx.Client(base_url=hub.url, follow_redirects=False) as client:
        answer = client.get("/hub/home")
        for _ in range(4):
            if "/oauth/authorize" in answer.headers["location"]:
                break
            answer = client.get(answer.headers["location"])
        asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["code_challenge"] and asked["state"]
    assert asked["redirect_uri"] == [f"{hub.url}/hub/oauth_callback"]


def test_a_callback_with_another_state_is_refused(browser: httpx.Client) -> None:
    answer = browser.get("/hub/oauth_callback?code=x&state=eyJzdGF0ZV9pZCI6ICJ4In0=")
    assert answer.status_code == 400


def test_sign_out_ends_the_platforms_session(browser: httpx.Client, hub: HubProcesses) -> None:
    answer = browser.get("/hub/logout")
    assert answer.json() == {"signed_out": True, "then": f"{hub.url}/hub/home", "client": "remotegpu-hub"}


def test_a_disabled_account_is_out_of_the_hub_too(
    browser: httpx.Client, hub: HubProcesses, platform: HubPlatform
) -> None:
    """With its session and with its tokens. A Hub that just started asks about everybody at once, not in a minute."""
    made = browser.post(f"/hub/api/users/ada/tokens?_xsrf={xsrf(browser)}", json={"note": "kept elsewhere"})
    token = {"Authorization": f"token {made.raise_for_status().json()['token']}"}
    try:
        for shut_out, home, own in (set(), 200, 200), ({"ada"}, 302, 403), (set(), 200, 200):
            hub.stop_hub()
            platform.shut_out = shut_out
            hub.start_hub()
            assert httpx.get(f"{hub.url}/hub/api/user", headers=token, timeout=60).status_code == own
            assert browser.get("/hub/home", follow_redirects=False).status_code == home
    finally:
        platform.shut_out = set()


def test_a_change_of_password_ends_the_hubs_sessions(
    browser: httpx.Client, hub: HubProcesses, platform: HubPlatform
) -> None:
    """A stolen cookie is worth nothing from then on, also when its owner is signed in again."""
    made = browser.post(f"/hub/api/users/ada/tokens?_xsrf={xsrf(browser)}", json={"note": "kept elsewhere"})
    token = {"Authorization": f"token {made.raise_for_status().json()['token']}"}
    with httpx.Client(base_url=hub.url, cookies=dict(browser.cookies), timeout=60) as thief:
        assert thief.get("/hub/home").status_code == 200
        try:
            hub.stop_hub()  # so that it asks at once, not in a minute
            platform.password_changed_at = datetime.now(UTC).isoformat()
            hub.start_hub()
            assert thief.get("/hub/home").status_code == 302
            assert browser.get("/hub/home").url.path == "/hub/home", "the platform's session signs its owner in again"
            assert thief.get("/hub/home").status_code == 302
            thief.cookies = httpx.Cookies(dict(browser.cookies))
            assert thief.get("/hub/home").status_code == 200
            platform.password_changed_at = datetime.now(UTC).isoformat()
            browser.cookies.clear()
            assert browser.get("/hub/home").url.path == "/hub/home", "a sign-in is the first to tell of a change"
            assert browser.get("/hub/home", follow_redirects=False).status_code == 200
            assert thief.get("/hub/home").status_code == 302
            assert httpx.get(f"{hub.url}/hub/api/user", headers=token, timeout=60).status_code == 200, "no session"
        finally:
            platform.password_changed_at = None
    assert "AttributeError" not in hub.log()


def test_pages_may_not_be_framed(browser: httpx.Client) -> None:
    headers = browser.get("/hub/home").headers
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_form_shows_models_prices_and_escapes(browser: httpx.Client) -> None:
    page = browser.get("/hub/spawn/ada/formed").text
    assert "2 of 4 free" in re.sub(r"\s+", " ", page)
    assert "1.50 EUR per GPU and hour" in re.sub(r"\s+", " ", page)
    assert "(simulated)" in page
    assert "&lt;plain&gt;" in page


def test_a_bad_form_is_shown_again_with_its_values(browser: httpx.Client, platform: HubPlatform) -> None:
    answer = start_by_form(browser, "refused", FORM | {"gpus": "9"})
    assert answer.status_code == 422, answer.text
    assert "you may have up to 4 GPUs" in answer.text
    assert 'value="9"' in answer.text
    answer = start_by_form(browser, "refused", FORM | {"gpus": "one"})
    assert answer.status_code == 400
    assert "GPUs: give a number from 0.001 to 1024." in answer.text
    assert ("ada", "refused") not in platform.environments


def test_a_link_starts_nothing(browser: httpx.Client, platform: HubPlatform) -> None:
    answer = browser.get("/hub/spawn/ada/linked?opt-image=base&opt-gpus=4")
    assert answer.status_code == 400
    assert ("ada", "linked") not in platform.environments


def test_the_default_server_does_not_exist(browser: httpx.Client, hub: HubProcesses) -> None:
    assert browser.get("/hub/spawn").url.path == "/hub/home"
    with hub.api as api:
        answer = api.post("/users/ada/server")
    assert answer.status_code == 400
    assert "name" in answer.json()["message"]


def test_an_environment_from_the_form_to_the_browser_and_back(
    browser: httpx.Client, hub: HubProcesses, platform: HubPlatform, engine: docker.APIClient
) -> None:
    answer = start_by_form(browser, "lab")
    assert answer.status_code == 200, answer.text
    wait_ready(hub, "lab")
    environment = platform.environments["ada", "lab"]
    assert environment.options == {
        "image": "base", "gpus": 1, "gpu_models": ["A100-80GB"], "cpu_milli": 2000, "memory_bytes": 2 * 2**30
    }  # fmt: skip
    assert environment.ready.wait(10)
    lab = browser.get("/user/ada/lab/lab")
    assert lab.status_code == 200 and "JupyterLab" in lab.text
    assert set(platform.created[-1]) == {"command", "environment", "labels"}
    assert platform.created[-1]["environment"]["JUPYTERHUB_API_URL"] == f"{hub.url}/hub/api"
    assert platform.created[-1]["environment"]["MEM_LIMIT"] == str(2 * 2**30)

    stop_by_rest(hub, "lab")
    assert environment.desired == "stopped"
    assert platform.operations[-3:] == ["platform:stop", "stop", "remove_container"]
    with pytest.raises(NotFound):
        engine.inspect_container(environment.container_name)


def test_an_unknown_environment_is_refused_over_rest(browser: httpx.Client, hub: HubProcesses) -> None:
    with hub.api as api:
        answer = api.post("/users/ada/servers/nobody")
    assert answer.status_code == 404
    assert answer.json()["message"] == "there is no such environment"


def test_a_hub_restart_keeps_the_server(browser: httpx.Client, hub: HubProcesses, platform: HubPlatform) -> None:
    start_by_form(browser, "kept")
    wait_ready(hub, "kept")
    container = platform.environments["ada", "kept"].container_name
    before = platform.engine.inspect_container(container)["Id"]
    hub.stop_hub(signal.SIGKILL)
    assert browser.get("/user/ada/kept/api").status_code == 200, "the proxy serves on without the Hub"
    hub.start_hub()
    wait_ready(hub, "kept")
    assert browser.get("/user/ada/kept/api").status_code == 200
    assert platform.engine.inspect_container(container)["Id"] == before
    assert "platform:stop" not in platform.operations

    # An unreachable host is not a stopped server, neither for a running Hub nor for one that starts.
    platform.change("ada", "kept", host_answers=False)
    platform.engine.pause(container)
    hub.stop_hub()
    hub.start_hub()
    wait_for(lambda: "inspect_container" in platform.operations, timeout_s=60, what="the Hub asks")
    asked = len(platform.operations)
    wait_for(lambda: len(platform.operations) > asked + 1, timeout_s=40, what="the Hub asks again")
    assert "platform:stop" not in platform.operations
    platform.engine.unpause(container)
    platform.change("ada", "kept", host_answers=True)
    wait_ready(hub, "kept")
    stop_by_rest(hub, "kept")


def test_a_queued_start_gives_its_slot_back(browser: httpx.Client, hub: HubProcesses, platform: HubPlatform) -> None:
    platform.activate_at_once = False
    began = time.monotonic()
    answer = start_by_form(browser, "patient")
    assert answer.url.path == "/hub/spawn-pending/ada/patient"
    with browser.stream("GET", "/hub/api/users/ada/servers/patient/progress") as events:
        lines = (line for line in events.iter_lines() if "A100" in line)
        assert "number 3 in the queue: no free A100 now" in next(lines)
    wait_for(lambda: not server(hub, "patient")["pending"], timeout_s=60, what="the slot is given back")
    assert 20 < time.monotonic() - began < 45
    assert platform.environments["ada", "patient"].desired == "running", "it keeps its place in the queue"
    assert "platform:stop" not in platform.operations

    pending = browser.get("/hub/spawn-pending/ada/patient")
    assert "/hub/waiting/ada/patient" in pending.text
    waiting = browser.get("/hub/waiting/ada/patient")
    assert "number 3 in the queue: no free A100 now" in waiting.text
    assert waiting.headers["refresh"] == "5"

    platform.change("ada", "patient", active=True, observed="starting")
    start_by_rest(hub, "patient")
    assert browser.get("/hub/waiting/ada/patient").url.path.startswith("/user/ada/patient")
    stop_by_rest(hub, "patient")


def test_who_waits_reads_when_it_may_start_and_that_it_gave_way(browser: httpx.Client, platform: HubPlatform) -> None:
    environment = Environment(f"{platform.prefix}-expected", {}, active=False, last_error="It gave way; queued again.")
    platform.environments["ada", "expected"] = environment
    unknown = browser.get("/hub/waiting/ada/expected").text
    assert "It gave way; queued again." in unknown
    assert "When it starts is unknown." in unknown
    environment.eta = "2030-01-01T14:05:00Z"
    for page in ("/hub/waiting/ada/expected", "/hub/home"):
        shown = browser.get(page).text
        assert 'Expected to start about <time datetime="2030-01-01T14:05:00+00:00">' in shown, page
        assert "</time> (estimate)." in shown


def test_the_form_hides_and_sends_more_options(browser: httpx.Client, hub: HubProcesses, platform: HubPlatform) -> None:
    platform.activate_at_once = False
    page = browser.get("/hub/spawn/ada/choosy").text
    assert "From 0 to 500" in page and "2030-01-01 09:00 UTC, 2 GPUs" in page and ">gold</option>" in page
    assert ">vision lab</option>" in page
    assert '<details class="mb-3">' in page
    more = {"labels": "region=eu", "priority": "7", "gpus": "0.5", "capacity_group": "gold", "apart": "web"}
    more |= {"workspace": "vision lab"}
    start_by_form(browser, "choosy", FORM | more)
    options = platform.environments["ada", "choosy"].options
    assert (options["gpu_milli"], options["selectors"], options["priority"]) == (500, ["region=eu"], 7)
    assert (options["capacity_group"], options["apart"], options["workspace"]) == ("gold", "web", "vision lab")
    stop_by_rest(hub, "choosy")


def test_stopping_while_it_waits_leaves_the_queue(
    browser: httpx.Client, hub: HubProcesses, platform: HubPlatform
) -> None:
    platform.activate_at_once = False
    start_by_form(browser, "given-up")
    stop_by_rest(hub, "given-up")
    assert platform.environments["ada", "given-up"].desired == "stopped"


def test_the_home_page_lists_what_the_platform_has_and_stops_it_there(
    browser: httpx.Client, platform: HubPlatform
) -> None:
    """The Hub has never seen this one: it was made with the command and waits."""
    platform.environments["ada", "unseen"] = Environment(f"{platform.prefix}-unseen", {}, active=False)
    page = browser.get("/hub/home").text
    assert "number 3 in the queue: no free A100 now" in page
    token = re.search(r'name="_xsrf" value="([^"]+)"', page)
    assert token
    assert browser.post("/hub/stop/ada/unseen").status_code == 403, "not without the form's token"
    assert platform.environments["ada", "unseen"].desired == "running"
    stopped = browser.post("/hub/stop/ada/unseen", data={"_xsrf": html.unescape(token[1])})
    assert stopped.url.path == "/hub/home"
    assert platform.environments["ada", "unseen"].desired == "stopped"
    other = browser.post("/hub/stop/bob/lab", data={"_xsrf": html.unescape(token[1])})
    assert other.status_code == 404


def test_platform_administrators_see_servers_but_enter_none(hub: HubProcesses, platform: HubPlatform) -> None:
    platform.user = platform.user | {"preferred_username": "root-of-all", "role": "admin"}
    with httpx.Client(base_url=hub.url, follow_redirects=True, timeout=60) as client:
        client.get("/")
        assert client.get("/hub/admin").status_code == 200
    with hub.api as api:
        model = api.get("/users/root-of-all").raise_for_status().json()
    assert model["admin"] is False
    assert model["groups"] == ["platform-admins"]
    platform.user = platform.user | {"preferred_username": "ada", "role": "customer_owner"}


def test_waiting_pages_of_others_are_hidden(browser: httpx.Client, hub: HubProcesses) -> None:
    with hub.api as api:
        api.post("/users/bob")
    assert browser.get("/hub/waiting/bob/lab").status_code == 404
    assert browser.get("/hub/spawn/bob/lab").status_code == 404
