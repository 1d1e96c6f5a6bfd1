"""The agents: one detached actor per host, created here, bound to its host's label, and called here."""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from cluster import metrics
from cluster.membership import Membership
from node.ray_settings import HOST_LABEL
from scheduler.ports import HostUnreachableError

log = logging.getLogger(__name__)

_CONCURRENCY = 32  # an agent mostly waits for its daemon
_RECHECK_S = 10.0

ActorClass = Any  # the class that ray.remote() makes; Ray ships no types
ActorHandle = Any


def agent_name(host_uid: str) -> str:
    return f"agent:{host_uid}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A daemon's answer: HTTP status and JSON body."""

    status: int
    body: dict[str, Any]  # Any: JSON


class Agents:
    """Keeps every alive host's agent there, and calls them. Safe to use from many threads."""

    def __init__(self, agent_class: type[object], membership: Membership, *, namespace: str) -> None:
        self._remote: ActorClass = ray.remote(agent_class)
        self._membership = membership
        self._namespace = namespace
        self._handles: dict[str, ActorHandle] = {}
        self._ensured: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def ensure(self) -> None:
        """Create the agents that are missing on alive hosts.

        With the label selector, an agent waits while its host is away and comes back by itself with it; one that died
        for good (its constructor failed) is created again here.
        """
        hosts: Mapping[str, str] = self._membership.hosts
        now = time.monotonic()
        for host_uid, node_id in hosts.items():
            known_node, checked_at = self._ensured.get(host_uid, ("", 0.0))
            if known_node == node_id and now - checked_at < _RECHECK_S:
                continue
            self._create(host_uid)
            self._ensured[host_uid] = (node_id, now)
        for gone in self._ensured.keys() - hosts.keys():
            del self._ensured[gone]

    def call(self, host_uid: str, operation: str, body: Mapping[str, Any], *, timeout_s: float) -> Answer:
        """Pass one operation to the host's daemon.

        Raises:
            HostUnreachableError: no answer in time. Whether the operation happened is unknown.
        """
        if host_uid not in self._membership.hosts:
            # A call to an absent agent would wait in Ray and be carried out when its host comes back.
            raise HostUnreachableError(f"host {host_uid} is not in Ray")
        began = time.monotonic()
        outcome = "unreachable"
        try:
            reply = self._call(host_uid, operation, dict(body), timeout_s)
            outcome = "answered"
        except GetTimeoutError as error:
            raise HostUnreachableError(f"host {host_uid}: no answer to {operation} in {timeout_s:.1f} s") from error
        except (RayError, ValueError) as error:
            self._forget(host_uid, died=isinstance(error, ActorDiedError))
            raise HostUnreachableError(f"host {host_uid}: its agent does not answer: {_line(error)}") from error
        finally:
            metrics.HOST_CALLS.labels(outcome=outcome).observe(time.monotonic() - began)
        return Answer(int(reply["status"]), reply["body"])

    def _call(self, host_uid: str, operation: str, body: dict[str, Any], timeout_s: float) -> Mapping[str, Any]:
        reference = self._handle(host_uid).call.remote(operation, body)
        try:
            reply: Mapping[str, Any] = ray.get(reference, timeout=timeout_s)
        except GetTimeoutError:
            ray.cancel(reference)  # what has not begun does not begin any more
            raise
        return reply

    def _handle(self, host_uid: str) -> ActorHandle:
        with self._lock:
            handle = self._handles.get(host_uid)
        if handle is None:
            handle = ray.get_actor(agent_name(host_uid), namespace=self._namespace)
            with self._lock:
                self._handles[host_uid] = handle
        return handle

    def _create(self, host_uid: str) -> None:
        handle = self._remote.options(
            name=agent_name(host_uid),
            namespace=self._namespace,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=_CONCURRENCY,
            label_selector={HOST_LABEL: host_uid},
        ).remote()
        with self._lock:
            self._handles[host_uid] = handle

    def _forget(self, host_uid: str, *, died: bool) -> None:
        with self._lock:
            self._handles.pop(host_uid, None)
        if died:
            self._ensured.pop(host_uid, None)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
