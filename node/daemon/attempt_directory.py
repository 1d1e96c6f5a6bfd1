"""An attempt's directory on the host: what its container reads, and what it writes.

`in` is mounted read-only; the values of secrets lie in memory where this machine has a directory for that. `out` is
written by the tenant: nothing in it is believed.
"""

import compileall
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

import node.task_runner
from node.daemon.task_nodes import hosts_file, ray_node
from scheduler.host_protocol import AttemptOrder, Lease

_ORDER = TypeAdapter(AttemptOrder)
_OPEN_TO_ALL = 0o777  # the user of an image can be any; the host's directory around it is root's alone
_READABLE, _ENTERABLE = 0o444, 0o755


@dataclass(frozen=True, slots=True)
class AttemptDirectory:
    """`secrets` lies elsewhere, and is mounted into `in`."""

    path: Path
    secrets: Path

    @property
    def inside(self) -> Path:
        return self.path / "in"

    @property
    def outside(self) -> Path:
        return self.path / "out"

    @property
    def notice(self) -> Path:
        return self.inside / "notice.json"

    @property
    def status(self) -> Path:
        return self.outside / "status.json"

    @property
    def progress(self) -> Path:
        return self.outside / "progress.json"

    @property
    def order(self) -> Path:
        return self.inside / "order.json"

    @property
    def begun(self) -> bool:
        """Whether its runner ever ran."""
        return (self.outside / "claim").exists()

    def make(self) -> None:
        """Idempotent. Raises: OSError."""
        for directory in (self.inside, self.inside / "secrets", self.inside / "archives", self.outside, self.secrets):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(_ENTERABLE)
        self.outside.chmod(_OPEN_TO_ALL)

    def write(self, order: AttemptOrder, lease: Lease, *, archives: dict[str, Path]) -> None:
        """All that the container reads, whole before it is made. Raises: OSError."""
        for name, value in order.secrets.items():
            _write(self.secrets / name, value)
        for digest, path in archives.items():
            _link(path, self.inside / "archives" / f"{digest}.zip")
        _write(self.path / "rank", str(lease.rank))  # outlives what is inside
        _write(self.inside / "hosts", hosts_file(order, lease))
        node = ray_node(order, lease)
        document = asdict(order) | {"disk_bytes": lease.disk_bytes, "ray_node": None if node is None else asdict(node)}
        del document["secrets"]
        _write(self.order, json.dumps(document))  # the last: with it, all is there

    def known_order(self) -> AttemptOrder | None:
        """As it was written, but for the secrets."""
        try:
            document = json.loads(self.order.read_text())
            return _ORDER.validate_python({**document, "secrets": {}})
        except (FileNotFoundError, ValueError):
            return None

    def known_rank(self) -> int:
        """Of this host among those of the gang, as it was written; 0 if nothing was."""
        try:
            return int((self.path / "rank").read_text())
        except FileNotFoundError:
            return 0

    def give_notice(self, reason: str, deadline_ms: int) -> None:
        """`deadline_ms` is of the wall clock, as the container sees it."""
        temporary = self.inside / ".notice.new"
        _write(temporary, json.dumps({"reason": reason, "deadline_ms": deadline_ms}))
        temporary.replace(self.notice)

    def noticed_until_ms(self) -> int | None:
        """The deadline that the container was given; None: no notice."""
        try:
            return int(json.loads(self.notice.read_text())["deadline_ms"])
        except FileNotFoundError:
            return None

    def forget_inside(self) -> None:
        """Secrets first."""
        shutil.rmtree(self.secrets, ignore_errors=True)
        shutil.rmtree(self.inside, ignore_errors=True)

    def remove(self) -> None:
        self.forget_inside()
        shutil.rmtree(self.path, ignore_errors=True)


class AttemptDirectories:
    """Those of one host, and the runner that all containers share."""

    def __init__(self, root: Path, host_id: str) -> None:
        self._root = root
        self._secrets = secrets_root(host_id) or root / "secrets"

    def of(self, allocation_uid: str, generation: int) -> AttemptDirectory:
        name = f"{allocation_uid}.{generation}"
        return AttemptDirectory(self._root / name, self._secrets / name)

    def all(self) -> Iterator[tuple[str, int, AttemptDirectory]]:
        """Those that are there, with allocation and generation."""
        for path in sorted(self._root.glob("*.*")):
            uid, _, generation = path.name.rpartition(".")
            if generation.isdigit():
                yield uid, int(generation), self.of(uid, int(generation))

    def install_runner(self) -> Path:
        """A copy that any user can read, named by its content: what runs keeps its own when the daemon changes."""
        files = sorted(Path(node.task_runner.__file__).parent.glob("*.py"))
        digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
        place = self._root / f"runner-{digest[:16]}"
        package = place / "task_runner"
        package.mkdir(parents=True, exist_ok=True)
        for file in files:
            temporary = package / f".{file.name}"
            shutil.copyfile(file, temporary)
            temporary.chmod(_READABLE)
            temporary.replace(package / file.name)
        compileall.compile_dir(package, quiet=2)  # serves the images that have this Python
        for directory in (place, package):
            directory.chmod(_ENTERABLE)
        return place


def secrets_root(host_id: str) -> Path | None:
    """A directory in memory; None where the machine has none."""
    mounted = {line.split()[1]: line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    found = next((path for path in ("/run", "/dev/shm") if mounted.get(path) == "tmpfs"), None)
    return Path(found) / f"remotegpu-{host_id}" if found else None


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=_READABLE)
    path.write_text(text, newline="")
    path.chmod(_READABLE)


def _link(source: Path, path: Path) -> None:
    """The same file, so that a cache may forget its name; a copy where that can't be."""
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)
    path.chmod(_READABLE)
