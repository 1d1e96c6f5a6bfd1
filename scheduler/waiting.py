"""Why a request waits, in a code for programs and a sentence for people."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from scheduler.ports import HostView, WaitReason

_NAMED_HOSTS = 3  # in a sentence; the rest are counted


def no_capacity(gpu_model: str | None, figures: Mapping[str, int]) -> WaitReason:
    """`figures`: free, total, wanted, ahead."""
    sentence = f"{_free_of(gpu_model, figures)}; {_needed(figures)} on one host, with its CPU and memory."
    return WaitReason("no_capacity", sentence + _ahead(figures["ahead"]), figures["ahead"] + 1, figures)


def behind_others(gpu_model: str | None, figures: Mapping[str, int]) -> WaitReason:
    """What is free is kept for requests that came before."""
    sentence = f"{_free_of(gpu_model, figures)}, and kept for who came before."
    return WaitReason("behind_others", sentence + _ahead(figures["ahead"]), figures["ahead"] + 1, figures)


def bound_host_busy(host: HostView, figures: Mapping[str, int]) -> WaitReason:
    sentence = (
        f"Its volume lives on host {host.name}, where {figures['free']} of {figures['total']} GPUs that fit are free; "
        f"{_needed(figures)}, with its CPU and memory."
    )
    return WaitReason("bound_host_busy", sentence, figures["ahead"] + 1, figures)


def bound_host_unavailable(host: HostView | None, ahead: int) -> WaitReason:
    if host is None:
        sentence = "The host that its volume lives on has left."
    else:
        why = host.why_not or "it lacks the GPUs, CPU or memory asked for"
        sentence = f"Its volume lives on host {host.name}, which takes no new work now: {why}."
    return WaitReason("bound_host_unavailable", sentence, ahead + 1)


def host_not_available(gpu_model: str | None, hosts: Sequence[HostView], ahead: int) -> WaitReason:
    """No host that could run it takes new work now."""
    if not hosts:
        sentence = f"No host has a healthy {gpu_model or 'GPU'} now."
    else:
        named = [f"{host.name}: {host.why_not or 'too small at present'}" for host in hosts[:_NAMED_HOSTS]]
        more = f" and {len(hosts) - _NAMED_HOSTS} more" if len(hosts) > _NAMED_HOSTS else ""
        sentence = f"No host with {gpu_model or 'GPUs'} can take it now ({'; '.join(named)}{more})."
    return WaitReason("host_not_available", sentence, ahead + 1)


def backing_off(until: datetime, ahead: int) -> WaitReason:
    sentence = f"Its host failed to take it; it is tried again at {until:%H:%M:%S} UTC."
    return WaitReason("host_not_available", sentence, ahead + 1)


def same_limit(reason: WaitReason) -> WaitReason:
    """For a customer's later requests that are no smaller than one that a limit holds back."""
    sentence = f"An earlier request of yours that is no larger waits for the same: {reason.detail}"
    return WaitReason(reason.code, sentence, reason.position + 1)


def _free_of(gpu_model: str | None, figures: Mapping[str, int]) -> str:
    return f"{figures['free']} of {figures['total']} {gpu_model + ' ' if gpu_model else ''}GPUs that fit are free"


def _needed(figures: Mapping[str, int]) -> str:
    return f"{figures['wanted']} {'is' if figures['wanted'] == 1 else 'are'} needed"


def _ahead(ahead: int) -> str:
    if ahead == 0:
        return ""
    return f" {ahead} {'request is' if ahead == 1 else 'requests are'} ahead of it."
