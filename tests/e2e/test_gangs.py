"""Tasks over two hosts that are machines of their own, each with an engine, in network namespaces on one bridge."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import Customer, Person
from tests.e2e.conftest import REPOSITORY, Platform
from tests.e2e.torch_image import ensure_torch_image
from tests.leftovers import processes_of
from tests.machines import Machine, machines
from tests.waiting import wait_for

Json = dict[str, Any]
_NODE = "1:A100-80GB"
_POOL = "pool: gangs"  # the label of these hosts alone
_BASE = "remotegpu/base:1"  # the catalogue's `base`
_ONLINE_S = 120
_TRAIN = """\
import os, socket
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
print(f"rank {dist.get_rank()} of {dist.get_world_size()} on {socket.gethostname()}: {total.item():g}", flush=True)
dist.destroy_process_group()
"""
_POOL_OF_ACTORS = """\
import socket
import ray

@ray.remote(num_gpus=1)
class Worker:
    def where(self):
        return socket.gethostname()

ray.init(log_to_driver=False)
workers = [Worker.remote() for _ in range(2)]
seen, names = ray.cluster_resources(), sorted(ray.get([worker.where.remote() for worker in workers]))
print(f"{len(ray.nodes())} nodes, CPU {seen['CPU']:g}, GPU {seen['GPU']:g}, on {' '.join(names)}", flush=True)
"""


@pytest.fixture(scope="module")
def hosts(platform: Platform, operator: Person, scratch: Path) -> Iterator[list[Machine]]:
    """Two machines that have joined as an operator joins them, and run the daemon."""
    directory = scratch / "gangs"
    directory.mkdir()
    image = ensure_torch_image(directory)
    with operator.rest() as rest:
        offered = {"name": "torch", "framework": "pytorch", "version": "2", "reference": image, "ports": [8888]}
        rest.post("/admin/images", json=offered).raise_for_status()
    with ExitStack() as cleanup:
        found = cleanup.enter_context(machines(directory, 2, [image, _BASE]))
        for number, machine in enumerate(found):
            _join(platform, operator, machine, directory / f"h{number}", cleanup)
        names = {f"gang-{number}" for number in range(2)}

        def online() -> bool:
            listed = {host["name"]: host["device_status"] for host in operator.json("admin", "machine", "list")}
            return all(listed.get(name) == "online" for name in names)

        wait_for(online, timeout_s=_ONLINE_S, what="both hosts")
        yield found
        for name in names:
            operator.run("admin", "machine", "set", name, "retired", check=False)
    assert [process.cmdline() for process in processes_of(directory)] == []


def _join(platform: Platform, operator: Person, machine: Machine, directory: Path, cleanup: ExitStack) -> None:
    name = f"gang-{directory.name[1:]}"
    internal = f"https://{platform.settings['address']}:{platform.settings['internal_port']}"
    token = operator.json("admin", "machine", "token", "--description", name)["token"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "REMOTEGPU_JOIN_TOKEN": token}
    command = [
        sys.executable, "-m", "deploy.cli", "node", "join", "--data-dir", str(directory), "--address", internal,
        "--name", name, "--simulate", _NODE, "--label", "pool=gangs", "--docker-host", machine.engine.host,
        "--tenant-port", str(platform.settings["port"]),
    ]  # fmt: skip
    done = subprocess.run(
        machine.command(*command), env=environment, capture_output=True, text=True, timeout=120, check=False,
        cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with (directory / "log").open("wb") as log:
        daemon = machine.python(
            "-m", "deploy.cli", "node", "run", "--data-dir", str(directory), "--name", name,
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY,
        )  # fmt: skip
    cleanup.callback(_end, daemon, directory)


def _end(daemon: subprocess.Popen[bytes], directory: Path) -> None:
    """The daemon, and the raylet that outlives it."""
    daemon.terminate()
    daemon.wait(30)
    for process in processes_of(directory / "hosts"):
        process.kill()


def task(
    tmp_path: Path, name: str, command: str, *lines: str, image: str = "torch", cpus: float = 0.5, memory: str = "1GiB"
) -> str:
    """A document of two nodes, as a file."""
    text = textwrap.dedent(f"""\
        name: {name}
        image: {image}
        nodes: 2
        resources: {{gpus: 1, cpus: {cpus}, memory: {memory}, labels: {{{_POOL}}}}}
        retry: {{max: 0}}
        """)
    path = tmp_path / f"{name}.yaml"
    path.write_text(text + "".join(f"{line}\n" for line in lines) + "command: |\n" + textwrap.indent(command, "  "))
    return str(path)


def shown(customer: Customer, name: str) -> Json:
    found: Json = customer.owner.json("task", "show", name)
    return found


def test_torchrun_works_over_two_machines(hosts: list[Machine], lovelace: Customer, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(_TRAIN)
    command = (
        "torchrun --nnodes $WORLD_SIZE --node-rank $NODE_RANK --nproc-per-node 1"
        " --master-addr $MASTER_ADDR --master-port $MASTER_PORT train.py\n"
    )
    done = lovelace.owner.run("run", task(tmp_path, "torch", command, "working_dir: ."), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rank 0 of 2 on node-0: 3" in done.stdout
    assert "[node 1] rank 1 of 2 on node-1: 3" in done.stdout
    other = lovelace.owner.run("task", "logs", "torch", "--rank", "1").stdout
    assert "rank 1 of 2 on node-1: 3" in other


def test_nodes_know_each_other_by_name(hosts: list[Machine], lovelace: Customer, tmp_path: Path) -> None:
    command = textwrap.dedent("""\
        python3 - <<'END'
        import os, socket
        rank = int(os.environ["NODE_RANK"])
        if rank == 0:
            with socket.create_server(("", 7777)) as server:
                connection, _ = server.accept()
                print(connection.recv(100).decode())
        else:
            while True:
                try:
                    with socket.create_connection(("node-0", 7777), 5) as connection:
                        connection.sendall(b"from node " + os.environ["RANK"].encode())
                    break
                except OSError:
                    pass
        END
        """)
    done = lovelace.owner.run("run", task(tmp_path, "names", command), check=False)
    assert (done.returncode, done.stdout) == (0, "from node 1\n"), done.stderr


def test_a_ray_of_its_own_spans_both_machines(hosts: list[Machine], lovelace: Customer, tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(_POOL_OF_ACTORS)
    document = task(
        tmp_path, "ray", "cat $REMOTEGPU_HOSTS_FILE; python3 pool.py\n", "ray: true", "working_dir: .", image="base",
        cpus=1, memory="2GiB",
    )  # fmt: skip
    done = lovelace.owner.run("run", document, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["node-0 slots=1", "node-1 slots=1"]
    assert "2 nodes, CPU 2, GPU 2, on node-0 node-1" in lines
    assert "[node 1]" not in done.stdout, "the command runs on the first alone"


def test_one_failing_ends_all_promptly(hosts: list[Machine], lovelace: Customer, tmp_path: Path) -> None:
    command = "test $NODE_RANK = 1 && exit 9\nsleep 600\n"
    done = lovelace.owner.run("run", task(tmp_path, "fails", command), check=False)
    assert done.returncode == 9
    found = shown(lovelace, "fails")
    assert found["state"] == "failed" and "node 1" in found["detail"]


def test_a_machine_that_is_cut_off_ends_the_whole(hosts: list[Machine], lovelace: Customer, tmp_path: Path) -> None:
    """Nothing runs on when its host can't tell: the other node is ended, and the lost one ends itself."""
    document = task(tmp_path, "cut", "echo up; sleep 600\n", "disconnect: 5s")
    lovelace.owner.run("run", "--detach", document)
    wait_for(lambda: "up" in lovelace.owner.run("task", "logs", "cut").stdout, timeout_s=60, what="its output")
    hosts[1].cut_off()
    try:
        ended = wait_for(
            lambda: (found := shown(lovelace, "cut"))["state"] == "failed" and found, timeout_s=90, what="its end"
        )
        assert ended["attempt_list"][-1]["end"] == "host_lost"
        wait_for(lambda: _containers(hosts[0]) == _containers(hosts[1]) == "", timeout_s=30, what="no containers")
    finally:
        hosts[1].join_again()


def _containers(machine: Machine) -> str:
    command = ["docker", "--host", machine.engine.host, "ps", "--quiet", "--filter", "name=rg-task"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
