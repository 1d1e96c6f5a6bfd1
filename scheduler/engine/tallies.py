"""What is held by those who have limits, counted as it changes. Nobody else is counted, and costs nothing here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from scheduler.cluster.cluster import Cluster
from scheduler.quota import NOTHING, Resources, Scope
from scheduler.views import Held

_NO_MODELS: Mapping[str, int] = {}


@dataclass(slots=True)
class Tallies:
    cluster: Cluster
    _resources: dict[Scope, Resources] = field(default_factory=dict)  # its keys are all that is counted
    _gpus: dict[Scope, dict[str, int]] = field(default_factory=dict)  # by exact model
    _of_customer: dict[int, frozenset[Scope]] = field(default_factory=dict)
    _models: dict[int, str] = field(default_factory=dict)  # of the devices of what is counted, by allocation id

    def resources(self, scope: Scope) -> Resources:
        return self._resources.get(scope, NOTHING)

    def gpus(self, scope: Scope) -> Mapping[str, int]:
        """By exact model."""
        return self._gpus.get(scope, _NO_MODELS)

    def watch(self, customer_id: int, scopes: frozenset[Scope], held: Iterable[Held]) -> None:
        """From now on count for these of a customer; `held` is all that is held."""
        before = self._of_customer.get(customer_id, frozenset())
        if scopes == before:
            return
        for scope in before - scopes:
            del self._resources[scope], self._gpus[scope]
        if not self._resources:
            self._models.clear()
        new = scopes - before
        for scope in new:
            self._resources[scope], self._gpus[scope] = NOTHING, {}
        self._of_customer[customer_id] = scopes
        for each in held if new else ():
            if each.request.customer_id == customer_id:
                self._count(each, new.intersection(each.request.path), 1)

    def add(self, held: Held) -> None:
        if self._resources:
            self._count(held, self._counted(held), 1)

    def remove(self, held: Held) -> None:
        if self._resources:
            self._count(held, self._counted(held), -1)
            self._models.pop(held.request.allocation_id, None)

    def _counted(self, held: Held) -> Iterable[Scope]:
        return [scope for scope in held.request.path if scope in self._resources]

    def _count(self, held: Held, scopes: Iterable[Scope], sign: int) -> None:
        asked = held.request.resources.times(sign)
        for scope in scopes:
            self._resources[scope] += asked
            if asked.gpus:
                gpus, model = self._gpus[scope], self._model(held)
                gpus[model] = gpus.get(model, 0) + asked.gpus

    def _model(self, held: Held) -> str:
        """Its host may be gone when it is given back, so that it is kept."""
        number = held.request.allocation_id
        if number not in self._models:
            part = held.parts[0]
            host = self.cluster.host(part.host_id)
            models = {device.gpu_id: device.model for device in host.devices} if host is not None else {}
            self._models[number] = models.get(part.devices[0][0], "") if part.devices else ""
        return self._models[number]
