"""The controller's own way to the hosts, in the form that the control plane's loops ask for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.hostlink import HostUnreachable
from cluster.agents import Agents
from scheduler.ports import HostUnreachableError

_DEFAULT_S = 20.0


@dataclass(frozen=True, slots=True)
class AgentHosts:
    """Implements `api.hostlink.Hosts`."""

    agents: Agents

    def call(
        self, host_uid: str, operation: str, body: Mapping[str, Any], *, timeout_s: float = _DEFAULT_S
    ) -> tuple[int, Any]:
        """Any: JSON in, JSON out.

        Raises:
            api.hostlink.HostUnreachable: the host does not answer.
        """
        try:
            answer = self.agents.call(host_uid, operation, body, timeout_s=timeout_s)
        except HostUnreachableError as error:
            raise HostUnreachable(str(error)) from error
        return answer.status, answer.body
