"""`remotegpud doctor`: what is wrong on this machine, and what to do about it."""

from collections.abc import Iterator

from deploy import findings
from deploy.findings import Finding
from deploy.health import check_all
from deploy.instance import Instance
from deploy.processes import instance_processes
from deploy.progress import say
from deploy.supervisor import Supervisor


def report(instance: Instance, *, installed: bool) -> bool:
    """Print every finding; True if nothing is wrong."""
    found = list(_machine(instance))
    if installed:
        found += _installation(instance)
    for finding in found:
        say(f"  {'wrong' if finding.remedy else 'ok':6} {finding.subject:14} {finding.text}")
        if finding.remedy:
            say(f"{'':24}-> {finding.remedy}")
    wrong = sum(bool(finding.remedy) for finding in found)
    say(f"\n{wrong} of {len(found)} findings need you." if wrong else "\nNothing is wrong.")
    return wrong == 0


def _machine(instance: Instance) -> Iterator[Finding]:
    yield findings.packages(instance)
    yield findings.engine(instance)
    yield findings.firewall()
    yield findings.control_groups()
    yield findings.disk(instance)
    yield from findings.ports(instance)
    yield findings.clock()


def _installation(instance: Instance) -> Iterator[Finding]:
    yield from findings.certificates(instance)
    yield findings.schema(instance)
    yield findings.ledger(instance)
    supervisor = Supervisor(instance)
    if not supervisor.answers():
        orphans = instance_processes(instance.data)
        if orphans:
            yield Finding(
                "supervisor", f"gone, and {len(orphans)} of its processes run on", "`remotegpud up` puts that right"
            )
        else:
            yield Finding("supervisor", "the platform is not running", "`remotegpud up`")
        return
    for name, state in supervisor.states().items():
        if state in ("FATAL", "BACKOFF"):
            yield Finding(name, f"dies again and again ({state})", f"read {supervisor.log(name)}, then `remotegpud up`")
    for part in check_all(instance):
        if not part.healthy:
            yield Finding(part.name, part.detail, f"read the logs in {instance.logs}, then `remotegpud up`")
