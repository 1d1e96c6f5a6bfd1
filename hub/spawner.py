"""Starting, watching and stopping environments: a DockerSpawner with no Docker engine of its own.

The platform queues, places and limits; its hosts run the containers. Every Docker call that DockerSpawner makes becomes
a typed operation on the environment's own container, on the host where its allocation is.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from docker.errors import APIError, NotFound
from dockerspawner import DockerSpawner
from traitlets import Float, Unicode

from hub.docker_calls import HostUnreachable, UnsupportedDockerCall, docker_error, typed_operation
from hub.environment_form import parse_form
from hub.late_stops import LateStops
from hub.patience import Patience
from hub.platform_client import PlatformClient, PlatformError, PlatformUnreachable, ServerView
from hub.server_wait import answers, wait_until_answers
from hub.spawn_errors import SpawnRefused, StartFailed, StillQueued
from hub.spawn_progress import SpawnProgress
from hub.waiting import waiting_message

_LONG_POLL_S = 10.0
_RECHECK_INTERVAL_S = 5.0
_RECHECKS = 17_280  # a day of them
_READY_TIMEOUT_S = 600.0
_BEFORE_HUBS_LIMIT_S = 10.0


class PlatformSpawner(DockerSpawner):
    """One environment: the named server `self.name` of the user `self.user.name`."""

    internal_url = Unicode(config=True, help="URL of the platform's internal listener.")
    secrets_dir = Unicode(config=True, help="Directory with ca.pem, hub.pem and hub.key.")
    queue_patience = Float(
        25.0,
        config=True,
        help="Seconds for which a start waits in the platform's queue before it gives its slot in the Hub back.",
    )
    host_patience = Float(
        120.0,
        config=True,
        help="Seconds for which a start asks again while its host, or the platform, does not answer.",
    )

    _platform: PlatformClient | None = None
    _late_stops = LateStops()
    _stop_future: "asyncio.Future[None] | None" = None  # the Hub's, while it stops what somebody asked it to stop
    object_name: str
    image: str

    def __init__(self, **kwargs: Any) -> None:  # Any: traits
        super().__init__(**kwargs)
        self.spawn_progress = SpawnProgress()
        self._interrupted = False
        self._problem = ""
        self._background: set[asyncio.Task[None]] = set()

    @property
    def platform(self) -> PlatformClient:
        """The Hub's one client, shared by all spawners."""
        cls = PlatformSpawner
        if cls._platform is None:
            cls._platform = PlatformClient(self.internal_url, Path(self.secrets_dir))
        return cls._platform

    @property
    def client(self) -> NoReturn:
        raise UnsupportedDockerCall("client")

    # --- Docker calls -------------------------------------------------------------------------------------------------

    async def docker(self, method: str, *args: Any, **kwargs: Any) -> Any:  # Any: as docker.APIClient's methods
        """Run one Docker call on the environment's host.

        Raises:
            docker.errors.APIError: what the engine answered.
            HostUnreachable: nothing is known about the container now.
            PlatformUnreachable: neither the platform answered.
            UnsupportedDockerCall: there is no such operation.
        """
        operation, arguments = typed_operation(method, args, kwargs)
        try:
            return await self.platform.docker(self.user.name, self.name, operation, arguments)
        except PlatformError as error:
            raise docker_error(error) from error

    async def get_object(self) -> Any:  # the container as Docker describes it, or None
        """The container; None only if its host says that there is none: an error is no proof of absence."""
        try:
            container = await self.docker("inspect_container", self.object_name)
        except NotFound:
            self.object_id = ""
            return None
        self.object_id = container["Id"]
        return container

    async def create_object(self) -> Any:
        """Create the container. One that a start before this left behind is replaced."""
        arguments = {"command": await self.get_command(), "environment": self.get_env(), "labels": {}}
        try:
            return await self.docker("create_container", **arguments)
        except APIError as error:
            if error.status_code != 409:
                raise
        await self.remove_object()
        return await self.docker("create_container", **arguments)

    async def get_ip_and_port(self) -> tuple[str, int]:
        """Where the container's server is published, as the container's host says."""
        published = await self.docker("port", self.container_id, self.port)
        if not published:
            await self._check_alive()  # one that has ended publishes nothing
            raise StartFailed("The environment's port is not published on its host.")
        return str(published[0]["HostIp"]), int(published[0]["HostPort"])

    # --- Start --------------------------------------------------------------------------------------------------------

    async def start(self) -> tuple[str, int]:
        """Queue the environment, wait for its allocation, start its container, and return once that answers.

        Raises:
            SpawnRefused: the platform starts nothing.
            StillQueued: it waits longer than `queue_patience`; the platform will start it.
            StartFailed: it had its allocation but did not come up; the platform tries again. See stop().
        """
        if not self.name:
            raise SpawnRefused("Every environment has a name: start a named one from the home page.")
        self._late_stops.withdraw((self.user.name, self.name))
        self.spawn_progress = SpawnProgress()
        self._interrupted, self._problem = False, ""
        try:
            # The Hub's own limit cancels, as somebody's stop does; ours comes first and is a failure.
            async with asyncio.timeout(self.start_timeout - _BEFORE_HUBS_LIMIT_S):
                view = await self._wait_for_allocation(await self._queue())
                address = await self._start_container(view)
        except (StillQueued, SpawnRefused):
            raise
        except TimeoutError as error:
            self._interrupted, self._problem = True, f"It did not start within {self.start_timeout} s."
            raise StartFailed(self._problem) from error
        except BaseException as error:
            # Something may run, or be queued: the Hub's clean-up must end it. See poll() and stop().
            self._interrupted, self._problem = True, str(error)
            raise
        self._report_ready_later()
        return address

    async def _queue(self) -> ServerView:
        try:
            return await self.platform.start(self.user.name, self.name, self.user_options)
        except PlatformError as error:
            raise SpawnRefused.from_platform(error) from error
        except PlatformUnreachable as error:
            raise SpawnRefused("The platform does not answer. Try again in a minute.", status_code=503) from error

    async def _wait_for_allocation(self, view: ServerView) -> ServerView:
        deadline = asyncio.get_running_loop().time() + self.queue_patience
        while not view.active:
            if view.over or view.desired != "running":
                raise SpawnRefused(
                    view.last_error or "The environment was stopped before it started.", reason="stopped"
                )
            self.spawn_progress.add(10, waiting_message(view.wait))
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise StillQueued(view.wait)
            try:
                view = await self.platform.next_view(
                    self.user.name, self.name, seen=view.version, wait_s=min(max(left, 1.0), _LONG_POLL_S)
                )
            except (PlatformError, PlatformUnreachable) as error:
                self.log.warning("No news of %s from the platform: %s", self._log_name, error)
                raise StillQueued(view.wait) from error
        return view

    async def _start_container(self, view: ServerView) -> tuple[str, int]:
        self.image = view.image or self.image
        self.object_name = view.container_name or ""  # after the image, whose change would render the name anew
        self.mem_limit = view.memory_bytes
        self.cpu_limit = view.cpu_milli / 1000 if view.cpu_milli else None
        self.spawn_progress.add(40, f"Starting the container on {view.host}")
        try:
            ip, port = await self._bring_up(Patience(self.host_patience))
        except APIError as error:
            raise StartFailed(f"The host could not start the container: {error.explanation}") from error
        except HostUnreachable as error:
            raise StartFailed(f"The host {view.host} does not answer.") from error
        except (PlatformError, PlatformUnreachable) as error:
            raise StartFailed(f"The platform could not start the container: {error}") from error
        self.spawn_progress.add(70, "The container runs. Waiting for JupyterLab")
        url = f"http://{ip}:{port}{self.server.base_url}api"
        if not await wait_until_answers(url, timeout_s=self.http_timeout, check=self._check_alive):
            raise StartFailed(f"JupyterLab did not answer within {self.http_timeout} s.{await self._log_end()}")
        return ip, port

    async def _bring_up(self, patience: Patience) -> tuple[str, int]:
        """Each step may be repeated: it may have happened though its answer was lost."""
        self.object_id = (await patience.ask(self.create_object))["Id"]
        await patience.ask(self.start_object)
        return await patience.ask(self.get_ip_and_port)

    async def _check_alive(self) -> None:
        """
        Raises:
            StartFailed: the container has ended; with the end of its log.
        """
        code = await self.poll()
        if code is not None:
            raise StartFailed(f"The environment ended with exit code {code} before it answered.{await self._log_end()}")

    async def _log_end(self) -> str:
        try:
            answer = await self.docker("logs", self.container_id)
        except (APIError, HostUnreachable, PlatformError, PlatformUnreachable):
            return ""
        text = answer.get("logs", "") if isinstance(answer, dict) else answer
        return f" Its last words: {str(text)[-1000:]}" if text else ""

    def _report_ready_later(self) -> None:
        # Not before the Hub has added the route: who reads "running" at the platform must find the server.
        task = asyncio.create_task(self._report_ready(self._spawn_future))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _report_ready(self, spawned: "asyncio.Future[None]") -> None:
        await asyncio.wait([spawned], timeout=_READY_TIMEOUT_S)
        if not spawned.done() or spawned.cancelled() or spawned.exception() is not None:
            return
        try:
            await self.platform.ready(self.user.name, self.name)
        except (PlatformError, PlatformUnreachable) as error:
            self.log.error("Could not report %s as ready: %s", self._log_name, error)

    # --- Poll and stop ------------------------------------------------------------------------------------------------

    async def poll(self) -> int | None:
        """None while it runs, or may run: only its host's word, or the platform's, makes it a stopped server."""
        if self._interrupted:
            return None  # makes the Hub call stop()
        if not self.object_id:
            return 0
        try:
            container = await self.get_object()
        except NotFound:
            return 0
        except HostUnreachable:
            return await self._poll_platform()
        except (APIError, PlatformError, PlatformUnreachable) as error:
            self.log.warning("Nothing is known about %s now: %s", self._log_name, error)
            return None
        if container is None:
            return 0
        state = container["State"]
        return None if state["Running"] else int(state.get("ExitCode") or 0)

    async def _poll_platform(self) -> int | None:
        """The platform knows when an unreachable host's lease is over."""
        try:
            view = await self.platform.view(self.user.name, self.name)
        except (PlatformError, PlatformUnreachable):
            return None
        return 1 if view.over else None

    async def stop(self, now: bool = False) -> None:
        """End the container, and tell the platform why. Idempotent.

        Only a stop that somebody asked for ends the environment. The Hub also calls this by itself, to clean up after a
        start that failed: of that the platform is told as such, and tries again.
        """
        wished = self._stop_future is not None
        problem = self._problem or "The Hub could not reach its server."
        self._interrupted, self._problem = False, ""
        # Of an older run, whose end the Hub has missed: then this must not stop the current one.
        container = self.object_name if self.object_id else ""
        tell = partial(self._tell_stop, container) if wished else partial(self._tell_failed, self.object_name, problem)
        if not await tell():
            self._late_stops.add((self.user.name, self.name), tell)
        try:
            if wished and self.object_id:
                await self.stop_object()
            if self.object_id or not wished:
                await self.remove_object()
        except (APIError, HostUnreachable, PlatformError, PlatformUnreachable) as error:
            # The platform has it on record: the next start replaces it, or its host ends it with the lease.
            self.log.warning("%s will be ended by its host: %s", self._log_name, error)
        self.clear_state()

    async def _tell_stop(self, container: str) -> bool:
        """Whether the platform has heard that this environment is to stop."""
        return await self._told("stop", self.platform.stop(self.user.name, self.name, container))

    async def _tell_failed(self, container: str, problem: str) -> bool:
        """Whether the platform has heard that the start, or the server, of this container failed."""
        return await self._told("give up", self.platform.failed(self.user.name, self.name, container, problem))

    async def _told(self, what: str, telling: Awaitable[object]) -> bool:
        try:
            await telling
        except PlatformError as error:
            if error.status != 404:
                self.log.error("The platform refused to %s %s: %s", what, self._log_name, error)
        except PlatformUnreachable as error:
            self.log.warning("The platform will be told later to %s %s: %s", what, self._log_name, error)
            return False
        return True

    def clear_state(self) -> None:
        super().clear_state()
        self.object_id = ""

    async def get_url(self) -> str:
        """Called when the Hub has restarted and looks for its servers, right before it ends those that don't answer.

        So return only once this one answers, or is known to have stopped: unreachable is not gone.
        """
        url = str(await super().get_url())
        for _ in range(_RECHECKS):
            if not self._check_pending or await answers(f"{url.rstrip('/')}/api") or await self.poll() is not None:
                break
            await asyncio.sleep(_RECHECK_INTERVAL_S)
        return url

    # --- Pages --------------------------------------------------------------------------------------------------------

    async def get_options_form(self) -> str:
        """The Hub asks whether there is a form; hub/pages.py renders it."""
        return "environment"

    def options_from_form(self, form_data: dict[str, list[str]]) -> dict[str, Any]:
        return parse_form(form_data)

    def options_from_query(self, query_data: dict[str, list[str]]) -> NoReturn:
        """A link must not spend a customer's money."""
        raise SpawnRefused("Environments are started with the form below, not by a link.", reason="link")

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """The steps of the start, as they come; position and reason while it waits."""
        async for event in self.spawn_progress.events():
            yield event
