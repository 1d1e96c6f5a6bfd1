"""I1 from inside: a tenant with a shell in its container tries every door of the host that it is on."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.commands import Customer
from tests.e2e.conftest import Platform
from tests.e2e.tenant import TenantContainer, container_of

# Connects to every target at once; a target counts as answered when anything at all comes back, a refusal too.
_KNOCK = """
import errno, json, selectors, socket, sys, time
targets = json.load(open("/tmp/targets.json"))
answered, selector = [], selectors.DefaultSelector()
for address, port in targets:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket.socket(family)
    connection.setblocking(False)
    try:
        code = connection.connect_ex(socket.getaddrinfo(address, port, family, socket.SOCK_STREAM)[0][4])
    except OSError as error:
        code = error.errno
    if code == errno.EINPROGRESS:
        selector.register(connection, selectors.EVENT_WRITE, (address, port))
    elif code in (0, errno.ECONNREFUSED):
        answered.append((address, port))
deadline = time.monotonic() + float(sys.argv[1])
while selector.get_map() and (left := deadline - time.monotonic()) > 0:
    for key, _ in selector.select(left):
        if key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, errno.ECONNREFUSED):
            answered.append(key.data)
        selector.unregister(key.fileobj)
        key.fileobj.close()
print(json.dumps(answered))
"""
# An HTTP request for each of the given ones; its status, or what went wrong.
_ASK = """
import json, os, sys, urllib.error, urllib.request
answers = []
for method, url in json.loads(sys.argv[1]):
    headers = {"Authorization": sys.argv[2] + os.environ["JUPYTERHUB_API_TOKEN"], "Content-Type": "application/json"}
    body = b"{}" if method == "POST" else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=30) as answer:
            answers.append([answer.status, answer.read(20000).decode(errors="replace")])
    except urllib.error.HTTPError as error:
        answers.append([error.code, ""])
print(json.dumps(answers))
"""
_PATIENCE_S = 6.0
_LISTEN = "0A"


@pytest.fixture(scope="module")
def tenants(lovelace: Customer, hopper: Customer) -> Iterator[tuple[TenantContainer, TenantContainer]]:
    """The container of one customer, and the one of its neighbour."""
    with ExitStack() as ends:
        found = []
        for customer in (lovelace, hopper):
            owner = customer.owner
            ends.callback(lambda owner=owner: owner.run("env", "rm", "cell", "--yes"))
            ends.callback(lambda owner=owner: owner.run("env", "stop", "cell", "--wait"))
            found.append(
                container_of(
                    owner.json("env", "create", "--gpus", "1", "--gpu-model", "A100", "--name", "cell", "--wait")
                )
            )
        yield found[0], found[1]


@pytest.fixture(scope="module")
def attacker(tenants: tuple[TenantContainer, TenantContainer]) -> TenantContainer:
    return tenants[0]


@pytest.fixture(scope="module")
def neighbour(tenants: tuple[TenantContainer, TenantContainer]) -> TenantContainer:
    return tenants[1]


def knock(attacker: TenantContainer, targets: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of the targets that answer."""
    attacker.run("sh", "-c", "cat > /tmp/targets.json", stdin=json.dumps(sorted(targets)))
    return {(address, port) for address, port in attacker.python(_KNOCK, str(_PATIENCE_S))}


def listening_ports() -> set[int]:
    """Every TCP port that somebody listens on, on this machine, whatever the address."""
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == _LISTEN:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports


def host_addresses() -> set[str]:
    """Every address of this machine, the bridges' too; loopback names the container itself there."""
    found = set()
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family in (socket.AF_INET, socket.AF_INET6):
                found.add(entry.address)
    return {address for address in found if not address.startswith("127.") and address != "::1"}


def test_of_all_that_listens_on_the_host_two_listeners_are_in_reach(
    platform: Platform, attacker: TenantContainer, neighbour: TenantContainer
) -> None:
    settings = platform.settings
    allowed = {settings["port"], settings["hub_port"]}
    with socket.create_server(("0.0.0.0", 0)) as open4, socket.create_server(("::1", 0), family=socket.AF_INET6):
        ports, addresses = listening_ports(), host_addresses()
        own = {settings[name] for name in ("internal_port", "hub_api_port", "proxy_api_port", "ray_port")}
        published = int(neighbour.inspect()["NetworkSettings"]["Ports"]["8888/tcp"][0]["HostPort"])
        assert allowed | own | {settings["ray_dashboard_port"], published, open4.getsockname()[1]} <= ports
        assert {attacker.gateway, neighbour.gateway, settings["address"]} <= addresses
        reached = knock(attacker, {(address, port) for address in addresses for port in ports})
    # A bridge of somebody else's may have gone meanwhile: then its address leads to the network outside.
    there = addresses & host_addresses()
    expected = {(address, port) for address in there if ":" not in address for port in allowed}
    assert {target for target in reached if target[0] in there} == expected


def test_neither_neighbours_nor_metadata_services_are_in_reach(
    attacker: TenantContainer, neighbour: TenantContainer
) -> None:
    ports = (22, 53, 80, 443, 8888)
    addresses = (neighbour.address, "169.254.169.254", "fd00:ec2::254")
    assert knock(attacker, {(address, port) for address in addresses for port in ports}) == set()
    assert knock(neighbour, {(attacker.address, port) for port in ports}) == set()


def test_datagrams_do_not_arrive_either(platform: Platform, attacker: TenantContainer) -> None:
    send = "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM)"
    send += "; [s.sendto(b'x', (address, int(sys.argv[1]))) for address in sys.argv[2:]]"
    with socket.socket(type=socket.SOCK_DGRAM) as ear:
        ear.bind(("0.0.0.0", 0))
        ear.settimeout(1.0)
        port = ear.getsockname()[1]
        attacker.run("python3", "-c", send, str(port), attacker.gateway, platform.settings["address"])
        with pytest.raises(TimeoutError):
            ear.recv(1)
        with socket.socket(type=socket.SOCK_DGRAM) as neighbourly:
            neighbourly.sendto(b"x", (attacker.gateway, port))  # it does hear who may speak
        assert ear.recv(1) == b"x"


def test_the_internet_is_as_the_host_has_it(attacker: TenantContainer) -> None:
    script = "import socket; socket.create_connection(('pypi.org', 443), 20).close(); print('true')"
    try:
        socket.create_connection(("pypi.org", 443), 20).close()
    except OSError:
        pytest.skip("this machine has no way to pypi.org")
    assert attacker.python(script) is True


def test_the_tenant_has_no_privileges(attacker: TenantContainer) -> None:
    status = dict(line.split(":\t", 1) for line in attacker.run("cat", "/proc/self/status").splitlines())
    assert {status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    assert set(status["Uid"].split()) == {"1000"}
    # The worst case: root itself left a setuid program there.
    attacker.run("sh", "-c", "cp /usr/bin/id /var/tmp/id && chmod 6755 /var/tmp/id", user="0:0")
    assert "euid=0" not in attacker.run("/var/tmp/id") and attacker.run("/var/tmp/id", "-u").strip() == "1000"
    # And as root in there, as an image without a user of its own would run, the host stays closed.
    for attempt in ("mknod /tmp/disk b 8 0", "mount -t proc proc /mnt", "sysctl -w net.ipv6.conf.all.disable_ipv6=0",
                    "ip link add x type dummy", "chroot /proc/1/root"):  # fmt: skip
        failed = attacker.run("sh", "-c", f"{attempt} >/dev/null 2>&1 || echo failed", user="0:0")
        assert failed.strip() == "failed", attempt


def test_the_engine_was_asked_for_no_more_than_that(attacker: TenantContainer) -> None:
    host = attacker.inspect()["HostConfig"]
    assert host["Privileged"] is False and host["SecurityOpt"] == ["no-new-privileges"]
    assert set(host["CapDrop"]) == {"ALL"}
    assert not {"SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "MKNOD"} & set(host["CapAdd"] or [])
    assert (host["PidMode"], host["UTSMode"], host["UsernsMode"], host["IpcMode"]) == ("", "", "", "private")
    assert not host["Devices"] and not host["Binds"] and not host["ExtraHosts"] and not host["VolumesFrom"]


def test_mounts_are_home_and_the_leases_description(attacker: TenantContainer) -> None:
    mounts = attacker.inspect()["Mounts"]
    assert {(m["Type"], m["Destination"], m["RW"]) for m in mounts} == {
        ("volume", "/home/jovyan", True),
        ("bind", "/run/remotegpu/allocation.json", False),
    }
    lines = attacker.run("cat", "/proc/self/mountinfo").splitlines()
    sources = {line.split()[4].removeprefix("/usr") for line in lines}  # /sbin may be a link into it
    files = {"/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/sbin/docker-init"}
    kernel = ("/proc", "/sys", "/dev")
    seen = {source for source in sources if not f"{source}/".startswith(tuple(f"{each}/" for each in kernel))}
    assert seen == {"/", "/home/jovyan", "/run/remotegpu/allocation.json", *files}
    sockets = attacker.run(
        "sh", "-c", "find / -xdev -type s 2>/dev/null; find /run /var/run /tmp -type s 2>/dev/null; true"
    )
    assert [path for path in sockets.split() if not path.startswith(("/tmp/", "/home/"))] == []


def test_no_secret_of_the_platform_is_in_sight(platform: Platform, attacker: TenantContainer) -> None:
    seen = attacker.run("sh", "-c", "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null; cat /run/remotegpu/*; true")
    inspected = json.dumps(attacker.inspect())
    for path in (platform.data / "secrets").iterdir():
        lines = [line for line in path.read_text().splitlines() if len(line) >= 16 and "CERTIFICATE" not in line]
        assert lines, f"{path.name} is empty"
        assert not [line for line in lines if line in seen or line in inspected], path.name
    names = {pair.partition("=")[0] for pair in attacker.inspect()["Config"]["Env"]}
    # The Hub's, for this server, and the key with which its user submits tasks while the container lives.
    assert {name for name in names if "TOKEN" in name or "SECRET" in name or "PASSWORD" in name} == {
        "JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "RAY_AUTH_TOKEN"
    } & names  # fmt: skip


def ask(attacker: TenantContainer, requests: list[tuple[str, str]], scheme: str) -> list[tuple[int, str]]:
    """The tenant's requests with the token of its environment; status and body of each."""
    answers: list[Any] = attacker.python(_ASK, json.dumps(requests), scheme)
    return [(status, body) for status, body in answers]


def test_its_token_is_for_its_own_server_alone(
    platform: Platform, attacker: TenantContainer, lovelace: Customer, hopper: Customer
) -> None:
    ada, grace = lovelace.owner.username, hopper.owner.username
    api = f"{platform.hub_url}/hub/api"
    ((status, body),) = ask(attacker, [("GET", f"{api}/user")], "token ")
    assert status == 200 and json.loads(body)["name"] == ada
    assert set(json.loads(body)["scopes"]) <= {
        f"access:servers!server={ada}/cell", f"read:users:activity!user={ada}", f"read:users:groups!user={ada}",
        f"read:users:name!user={ada}", f"users:activity!user={ada}",
    }  # fmt: skip
    forbidden = [
        ("GET", f"{api}/users"), ("GET", f"{api}/users/{grace}"), ("GET", f"{api}/users/{grace}/tokens"),
        ("POST", f"{api}/users/{grace}/tokens"), ("POST", f"{api}/users/{ada}/tokens"),
        ("POST", f"{api}/users/{grace}/servers/cell"), ("DELETE", f"{api}/users/{grace}/servers/cell"),
        ("POST", f"{api}/users/{ada}/servers/other"), ("DELETE", f"{api}/users/{ada}/servers/cell"),
        ("POST", f"{api}/users/{grace}/activity"), ("DELETE", f"{api}/users/{grace}"), ("POST", f"{api}/users"),
        ("GET", f"{api}/groups"), ("GET", f"{api}/services"), ("GET", f"{api}/proxy"), ("POST", f"{api}/proxy"),
        ("GET", f"{api}/info"), ("POST", f"{api}/shutdown"), ("POST", f"{api}/shares/{grace}/cell"),
    ]  # fmt: skip
    for request, (status, _) in zip(forbidden, ask(attacker, forbidden, "token "), strict=True):
        assert status in (403, 404), (request, status)
    theirs = [("GET", f"{platform.hub_url}/user/{grace}/cell/api/{what}") for what in ("contents", "kernels")]
    assert {status for status, _ in ask(attacker, theirs, "token ")} <= {401, 403}
    mine = [("GET", f"{platform.hub_url}/user/{ada}/cell/api/contents")]
    assert ask(attacker, mine, "token ")[0][0] == 200


def test_its_token_is_worth_nothing_to_the_platform(platform: Platform, attacker: TenantContainer) -> None:
    paths = ("auth/me", "customer/environments", "customer/billing/balance", "admin/machines")
    requests = [("GET", f"{platform.public_url}/api/v1/{path}") for path in paths]
    requests.append(("GET", f"{platform.public_url}/oauth/userinfo"))
    assert {status for status, _ in ask(attacker, requests, "Bearer ")} == {401}
    assert ask(attacker, [("GET", f"{platform.public_url}/health")], "Bearer ")[0][0] == 200
    assert ask(attacker, [("GET", f"{platform.public_url}/ops/ray/api/jobs/")], "Bearer ")[0][0] == 403
