"""Containers of a gang meet over the VXLAN between two machines with an engine each, and nobody else does."""

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler.gang_network import gang_network
from tests.machines import ROUTER, Machine, machines
from tests.process.daemon_process import IMAGE, REPOSITORY
from tests.process.gang_member import GENERATION, RANGE
from tests.waiting import wait_for

FILE = "python3.11"  # some megabytes: more than one packet of any size


@dataclass(frozen=True, slots=True)
class Host:
    machine: Machine
    name: str
    member: subprocess.Popen[bytes]

    def do(self, *command: str) -> str:
        assert self.member.stdin is not None and self.member.stdout is not None
        self.member.stdin.write(f"{' '.join(command)}\n".encode())
        self.member.stdin.flush()
        answer = self.member.stdout.readline()
        assert answer, "it has ended with an error"
        return answer.decode().strip()

    def docker(self, *command: str) -> bytes:
        whole = ["docker", "--host", self.machine.engine.host, *command]
        return subprocess.run(whole, capture_output=True, timeout=60, check=True).stdout

    def fetch(self, allocation: str, address: str) -> str:
        """The digest of the file as this host's container gets it from the one at `address`, or why it does not."""
        code = (
            "import hashlib, urllib.request\n"
            f"try: print(hashlib.sha256(urllib.request.urlopen('http://{address}:9000/{FILE}', timeout=1.5).read())"
            ".hexdigest())\n"
            "except OSError as error: print(error)"
        )
        return self.docker("exec", f"{self.name}-{allocation}", "python3", "-c", code).decode().strip()

    def has(self, allocation: str) -> str:
        """The digest of the file that its container serves."""
        return hashlib.sha256(self.docker("exec", f"{self.name}-{allocation}", "cat", f"/usr/bin/{FILE}")).hexdigest()

    def left(self) -> list[str]:
        """Links of gangs on this machine."""
        links = subprocess.run(self.machine.command("ip", "-br", "link"), capture_output=True, text=True, check=True)
        return [line.split()[0] for line in links.stdout.splitlines() if line.startswith(("rg", "rx"))]


@contextmanager
def member(machine: Machine, name: str, *peers: str) -> Iterator[Host]:
    with machine.python(
        "-m", "tests.process.gang_member", machine.engine.host, name, *peers,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)},
    ) as process:  # fmt: skip
        yield Host(machine, name, process)


@pytest.fixture(scope="module")
def pair(scratch: Path) -> Iterator[tuple[Machine, Machine]]:
    directory = scratch / "gang"
    directory.mkdir()
    with machines(directory, 2, [IMAGE]) as (first, second):
        yield first, second


@pytest.fixture
def hosts(pair: tuple[Machine, Machine]) -> Iterator[list[Host]]:
    peers = [machine.address for machine in pair]
    with ExitStack() as stack:
        yield [stack.enter_context(member(machine, f"host-{rank}", *peers)) for rank, machine in enumerate(pair)]


def test_a_gang_meets_across_machines_and_nobody_else(hosts: list[Host]) -> None:
    addresses = tuple(host.machine.address for host in hosts)
    ours, theirs = "0198-aaaa", "0198-bbbb"
    at = {
        (allocation, rank): host.do("join", str(rank), allocation, *addresses)
        for allocation in (ours, theirs)
        for rank, host in enumerate(hosts)
    }
    gang = gang_network(ours, GENERATION, addresses, address_range=RANGE)
    assert [at[ours, 0], at[ours, 1]] == [gang.address(0), gang.address(1)]

    whole = hosts[1].has(ours)
    for allocation, rank in at:
        wait_for(
            lambda rank=rank, allocation=allocation: (
                hosts[rank].fetch(allocation, at[allocation, 1 - rank]) == whole
            ),
            timeout_s=20, what=f"the way from rank {rank} of {allocation} to the other",
        )  # fmt: skip
    for stranger in (at[theirs, 0], at[theirs, 1], addresses[1], ROUTER, gang.gateway(0), gang.gateway(1)):
        assert "timed out" in hosts[0].fetch(ours, stranger), stranger

    for host in hosts:
        host.do("leave", ours)
        assert len(host.left()) == 2, "those of the other gang"
    assert hosts[0].fetch(theirs, at[theirs, 1]) == whole
    for host in hosts:
        host.do("leave", theirs)
        assert host.left() == []


def test_hosts_that_share_an_engine_share_the_network(pair: tuple[Machine, Machine]) -> None:
    machine, allocation = pair[0], "0198-cccc"
    with member(machine, "sim-0", machine.address) as first, member(machine, "sim-1", machine.address) as second:
        at = [
            host.do("join", str(rank), allocation, *[machine.address] * 2) for rank, host in enumerate((first, second))
        ]
        wait_for(lambda: first.fetch(allocation, at[1]) == second.has(allocation), timeout_s=20, what="a way")
        first.do("leave", allocation)
        assert len(first.left()) == 1, "the other one is still there"
        second.do("leave", allocation)
        assert first.left() == []


def test_what_a_daemon_left_behind_is_taken_down(hosts: list[Host]) -> None:
    allocation = "0198-dddd"
    hosts[0].do("join", "0", allocation, *(host.machine.address for host in hosts))
    hosts[0].docker("rm", "--force", f"host-0-{allocation}")
    hosts[0].do("adopt")
    assert hosts[0].left() == []
