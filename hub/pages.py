"""The Hub's pages about environments: the list, the form that starts one, and the page on which one waits."""

from datetime import UTC, datetime
from typing import Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.handlers.pages import SpawnHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import url_escape_path, url_path_join
from tornado import web

from hub.environment_form import MORE_OPTIONS
from hub.money import ending
from hub.platform_client import Json, PlatformError, PlatformUnreachable, ServerView, Wait
from hub.waiting import Expected, expected_start, place_and_reason

_REFRESH_S = 5
_UNREACHABLE = "The platform does not answer. Try again in a minute."


class HomeHandler(BaseHandler):
    """`/hub/home`: the user's environments, whether the Hub has ever seen them or not, and a form for another."""

    @web.authenticated
    async def get(self) -> None:
        user = self.current_user
        problem, money, entries = "", "", []
        try:
            entries = await user.spawner.platform.servers(user.name)
            money = ending(await user.spawner.platform.run_time(user.name), now=datetime.now(UTC))
        except PlatformError as error:
            problem = error.detail
        except PlatformUnreachable:
            problem = _UNREACHABLE
        ready = {spawner.name for spawner in user.all_spawners(include_default=False) if spawner.ready}
        self.set_header("Cache-Control", "no-store")
        rows = [home_row(entry, ready=entry["name"] in ready) for entry in entries]
        self.finish(await self.render_template("home.html", user=user, rows=rows, problem=problem, money=money))


class StopHandler(BaseHandler):
    """`POST /hub/stop/USER/SERVER`: stops an environment, or takes it out of the queue, as the command does."""

    @web.authenticated
    @needs_scope("delete:servers")
    async def post(self, user_name: str, server_name: str) -> None:
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, "There is no such user.")
        try:
            await user.spawner.platform.stop(user.name, server_name)
        except PlatformError as error:
            raise web.HTTPError(error.status if error.status == 404 else 503, error.detail) from error
        except PlatformUnreachable as error:
            raise web.HTTPError(503, _UNREACHABLE) from error
        self.redirect(url_path_join(self.hub.base_url, "home"))


def home_row(entry: Json, *, ready: bool) -> Json:
    """One environment as the home page shows it: what it is, how it is, and what may be done."""
    observed, wanted = entry["observed"], entry["desired"] == "running"
    if observed in ("queued", "starting", "running") and not wanted:
        observed = "stopping"
    state = "starting" if observed == "running" and not ready else observed
    devices = entry["devices"]
    gpus = entry["gpus"] * entry.get("gpu_milli", 1000)  # in thousandths
    model = devices[0]["model"] if devices else entry["gpu_model"] or "any model"
    simulated = " (simulated)" if any(device["simulated"] for device in devices) else ""
    wait = Wait.parse(entry["wait"]) if state == "queued" and entry["wait"] else None
    notes = (entry["last_error"], place_and_reason(wait) if wait is not None else "")
    return {
        "name": entry["name"],
        "image": entry["image"],
        "gpus": f"{gpus / 1000:g} x {model}{simulated}" if gpus else "no GPU",
        "state": "waiting" if state == "queued" else state,
        "note": " ".join(note for note in notes if note),
        "expected": expected_start(wait),
        "opens": state == "running",
        "waits": state in ("queued", "starting"),
        "stops": state in ("queued", "starting", "running"),
        "starts": state in ("stopped", "failed"),
    }


class EnvironmentFormHandler(SpawnHandler):
    """The Hub's spawn page, for named servers only, with what the platform offers right now."""

    @web.authenticated
    def get(self, user_name: str | None = None, server_name: str = "") -> Any:
        name = server_name or self.get_query_argument("name", "")
        if not name:
            return self.redirect(url_path_join(self.hub.base_url, "home"))
        if not server_name:
            # The home page's form, which can't put a name into a path.
            user = self.current_user.escaped_name
            return self.redirect(url_path_join(self.hub.base_url, "spawn", user, url_escape_path(name)))
        return super().get(user_name, server_name)

    async def _render_form(
        self, for_user: Any, spawner_options_form: str, message: str | None = "", html_message: str | None = ""
    ) -> str:
        # On an error the Hub hands the form of the default server; this is about the one in the path.
        name = self.path_args[1]
        options, environment, problem = await self._offer(for_user, name)
        values = {key: self.get_body_argument(key) for key in self.request.body_arguments}
        return str(
            await self.render_template(
                "spawn.html",
                for_user=for_user,
                server_name=name,
                options=options,
                environment=environment,
                values=values,
                more_options=any(values.get(name) not in (None, "", "0") for name in MORE_OPTIONS),
                error_message=message or html_message or problem,
                url=self.request.uri,
                spawner=for_user.spawners[name],
            )
        )

    async def _offer(self, user: Any, name: str) -> tuple[Json | None, ServerView | None, str]:
        """What may be started, and the environment if there is one of this name already; or why neither is known."""
        platform = user.spawners[name].platform
        try:
            environment = await platform.view(user.name, name)
            if environment.observed != "deleted":
                return None, environment, ""
        except PlatformError as error:
            if error.status != 404:
                return None, None, error.detail
        except PlatformUnreachable:
            return None, None, _UNREACHABLE
        try:
            return await platform.options(user.name), None, ""
        except PlatformError as error:
            return None, None, error.detail
        except PlatformUnreachable:
            return None, None, _UNREACHABLE


class WaitingHandler(BaseHandler):
    """`/hub/waiting/USER/SERVER`: place and reason in the queue; goes on to the server once that starts."""

    @web.authenticated
    @needs_scope("read:servers")
    async def get(self, user_name: str, server_name: str) -> None:
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, "There is no such user.")
        spawner = user.spawners.get(server_name)
        if spawner is not None and spawner.active:
            page = url_path_join(self.hub.base_url, "spawn-pending", user.escaped_name, url_escape_path(server_name))
            self.redirect(user.server_url(server_name) if spawner.ready else page)
            return
        view, message, expected = await self._news(user, server_name)
        waiting = view is None or view.observed in ("queued", "starting")
        if waiting:
            self.set_header("Refresh", str(_REFRESH_S))
        self.set_header("Cache-Control", "no-store")
        self.finish(
            await self.render_template(
                "waiting.html",
                for_user=user,
                server_name=server_name,
                view=view,
                waiting=waiting,
                message=message,
                expected=expected,
            )
        )

    async def _news(self, user: Any, server_name: str) -> tuple[ServerView | None, str, Expected | None]:
        """The environment as far as it is known, what to say of it, and when it may start."""
        try:
            view = await user.spawner.platform.view(user.name, server_name)
        except PlatformError as error:
            raise web.HTTPError(error.status if error.status == 404 else 503, error.detail) from error
        except PlatformUnreachable:
            return None, "The platform does not answer at the moment.", None
        if view.observed == "queued":
            return view, place_and_reason(view.wait), expected_start(view.wait)
        if view.observed == "starting":
            return view, "The environment is starting.", None
        return view, view.last_error or f"The environment is {view.observed}.", None


def page_handlers() -> list[tuple[str, type]]:
    return [
        (r"/home", HomeHandler),
        (r"/stop/([^/]+)/([^/]+)", StopHandler),
        (r"/spawn", EnvironmentFormHandler),
        (r"/spawn/([^/]+)", EnvironmentFormHandler),
        (r"/spawn/([^/]+)/([^/]+)", EnvironmentFormHandler),
        (r"/waiting/([^/]+)/([^/]+)", WaitingHandler),
    ]
