"""Disk limits. Docker enforces them itself on XFS with project quotas; elsewhere a watcher ends who goes over.

What counts is what the tenant writes: the container's own layer and its volumes; of a task also what its runner writes
for the host, while volumes that were made with a size of their own are held to that. Looking costs work that tenants
decide about, so it is done at the lowest priority, by one process at a time, and a tree that takes long is left alone
for ten times as long.
"""

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from node.daemon.container_spec import OUTSIDE
from node.daemon.engine import Engine, Json
from node.daemon.leases import HeldLease
from node.daemon.store import Store

log = logging.getLogger(__name__)

PROJECT_QUOTA, WATCHER = "project_quota", "watcher"
BYTES_PER_FILE = 16_384  # as mkfs.ext4 shares out inodes: empty files must not use up the machine's
GRACE_BYTES = 2**28
CLEAN_UP_S = 1800.0
_INTERVAL_S = 15.0
_REST = 10  # times as long as the look took
_LONGEST_LOOK_S = 600.0
_TICK_S = 1.0
_GIB = 2**30
_KEPT = " What is in its home directory is kept."
_ADVICE = f"Start it again and delete files: it is given {CLEAN_UP_S / 60:.0f} minutes for that."


def limit_kind(engine: Engine) -> str:
    """How disk use is limited here."""
    info = engine.api.info()
    status = dict(info.get("DriverStatus") or [])
    root = Path(info["DockerRootDir"])
    quota = info["Driver"] == "overlay2" and status.get("Backing Filesystem") == "xfs" and _has_project_quota(root)
    return PROJECT_QUOTA if quota else WATCHER


def _has_project_quota(root: Path) -> bool:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    below = [fields for fields in mounts if root.is_relative_to(fields[1])]
    if not below:
        return False
    options = max(below, key=lambda fields: len(fields[1]))[3].split(",")
    return "prjquota" in options or "pquota" in options


@dataclass(frozen=True, slots=True)
class SizedVolume:
    """A volume with a limit of its own: a customer's, for tasks."""

    name: str
    tree: str
    path: str  # in the container
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Trees:
    """What a container writes to. The layer and the `beside` directories go with it, volumes stay."""

    layer: str
    volumes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    sized: tuple[SizedVolume, ...] = ()


def trees_of(inspected: Json, sizes: Mapping[str, int] = MappingProxyType({})) -> Trees | None:
    """From Docker's description of a container; None where the storage driver keeps no directory of its own for it.

    `sizes` are the limits of those volumes that have their own, by name.
    """
    layer = (inspected.get("GraphDriver", {}).get("Data") or {}).get("UpperDir")
    if not layer:
        return None
    written = [mount for mount in inspected.get("Mounts") or [] if mount["RW"]]
    volumes = [mount for mount in written if mount["Type"] == "volume"]
    sized = [
        SizedVolume(mount["Name"], mount["Source"], mount["Destination"], sizes[mount["Name"]])
        for mount in volumes
        if mount.get("Name") in sizes
    ]
    return Trees(
        layer,
        tuple(sorted({mount["Source"] for mount in volumes} - {each.tree for each in sized})),
        tuple(mount["Source"] for mount in written if mount.get("Destination") == OUTSIDE),
        tuple(sized),
    )


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes that are charged for the files of trees; `sized` are those of volumes with their own limit, by name."""

    layer: int  # and what goes with it
    volumes: int
    sized: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.layer + self.volumes


class TooManyFilesError(Exception):
    """They could not be counted in the time that there is."""


def measure(trees: Trees, *, longest_s: float = _LONGEST_LOOK_S) -> Use | None:
    """None: the container is gone.

    Raises:
        TooManyFilesError
    """
    paths = [trees.layer, *trees.volumes, *trees.beside, *(each.tree for each in trees.sized)]
    sizes, files = _du(paths, "-B1", longest_s), _du(paths, "--inodes", longest_s)
    if trees.layer not in sizes:
        return None
    charged = {path: max(size, files.get(path, 0) * BYTES_PER_FILE) for path, size in sizes.items()}
    return Use(
        sum(charged.get(path, 0) for path in (trees.layer, *trees.beside)),
        sum(charged.get(path, 0) for path in trees.volumes),
        {each.name: charged.get(each.tree, 0) for each in trees.sized},
    )


def _du(paths: Sequence[str], unit: str, longest_s: float) -> dict[str, int]:
    """`du` walks trees of any depth, and counts a file with several names once."""
    command = ["nice", "-n", "19", "du", "-s", "-x", "-0", unit, "--", *paths]
    try:
        done = subprocess.run(command, capture_output=True, timeout=longest_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise TooManyFilesError from error
    lines = (line.split("\t", 1) for line in done.stdout.decode(errors="replace").split("\0") if line)
    return {path: int(count) for count, path in lines}


def allowed_bytes(limit: int, *, overrun: int | None, running_s: float) -> int:
    """What a lease may use: its limit, but for a time after an end for this reason as much as there is, and a little.

    So its owner can start it and delete. `overrun` is what the volumes held at the first start after the end.
    """
    return limit if overrun is None or running_s > CLEAN_UP_S else max(limit, overrun + GRACE_BYTES)


class Overruns:
    """Volumes whose environment was ended for its disk use: how much they held when it was started again.

    The figure is taken once and stays until there is room again, so that restarts do not add up.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(self, volume: str) -> None:
        self._store.execute("insert or ignore into overruns values (?, null)", volume)

    def forget(self, volume: str) -> None:
        self._store.execute("delete from overruns where volume = ?", volume)

    def of(self, volume: str | None, *, used: int, limit: int) -> int | None:
        if volume is None:
            return None
        row = self._store.one("select bytes from overruns where volume = ?", volume)
        if row is None:
            return None
        if used + GRACE_BYTES <= limit:
            self.forget(volume)
            return None
        if row[0] is None:
            self._store.execute("update overruns set bytes = ? where volume = ?", used, volume)
        return used if row[0] is None else int(row[0])


@dataclass(slots=True)
class _Watched:
    held: HeldLease
    trees: Trees
    since: float
    due: float = field(default=0.0)


class DiskWatch:
    """Looks at what runs in a thread of its own, and says which lease is over its limit, in words for its owner."""

    def __init__(self, overruns: Overruns, on_exceeded: Callable[[HeldLease, str], None]) -> None:
        self._overruns, self._on_exceeded = overruns, on_exceeded
        self._watched: Mapping[str, _Watched] = {}
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="disk", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def watch(self, running: Mapping[str, tuple[HeldLease, Trees]]) -> None:
        """By container. The others are forgotten."""
        now, before = time.monotonic(), self._watched
        self._watched = {
            key: known if (known := before.get(key)) and known.trees == trees else _Watched(held, trees, since=now)
            for key, (held, trees) in running.items()
        }

    def _run(self) -> None:
        while not self._stopped.wait(_TICK_S):
            for watched in list(self._watched.values()):
                if watched.due <= time.monotonic() and not self._stopped.is_set():
                    self._look(watched)

    def _look(self, watched: _Watched) -> None:
        began = time.monotonic()
        try:
            self._judge(watched)
        except Exception:
            log.exception("the disk use of allocation %s is not known", watched.held.lease.allocation_uid)
        took = time.monotonic() - began
        watched.due = time.monotonic() + max(_INTERVAL_S, _REST * took)

    def _judge(self, watched: _Watched) -> None:
        lease = watched.held.lease
        try:
            use = measure(watched.trees)
        except TooManyFilesError:
            self._exceeded(watched, "so many files that they can't be counted")
            return
        if use is None:
            return
        running_s = time.monotonic() - watched.since
        self._judge_sized(watched, use, running_s)
        overrun = self._overruns.of(lease.home_volume, used=use.volumes, limit=lease.disk_bytes)
        if use.total > allowed_bytes(lease.disk_bytes, overrun=overrun, running_s=running_s):
            if lease.home_volume is None:
                self._on_exceeded(watched.held, _sentence(_size(use.total), lease.disk_bytes))
            elif use.volumes + GRACE_BYTES <= lease.disk_bytes:
                self._on_exceeded(watched.held, _sentence(_size(use.total), lease.disk_bytes) + _KEPT)
            else:
                self._exceeded(watched, _size(use.total))

    def _judge_sized(self, watched: _Watched, use: Use, running_s: float) -> None:
        for volume in watched.trees.sized:
            used, limit = use.sized[volume.name], volume.size_bytes
            overrun = self._overruns.of(volume.name, used=used, limit=limit)
            if used > allowed_bytes(limit, overrun=overrun, running_s=running_s):
                self._overruns.begin(volume.name)
                held = f"The volume at {volume.path} holds {_size(used)} and may hold {_size(limit)}, so it was ended."
                self._on_exceeded(watched.held, f"{held} {_ADVICE}")

    def _exceeded(self, watched: _Watched, used: str) -> None:
        lease = watched.held.lease
        if lease.home_volume:
            self._overruns.begin(lease.home_volume)
        kept = f"{_KEPT} {_ADVICE}" if lease.home_volume else ""
        self._on_exceeded(watched.held, _sentence(used, lease.disk_bytes) + kept)


def _size(count: int) -> str:
    return f"{count / _GIB:.2f} GiB"


def _sentence(used: str, limit: int) -> str:
    return f"It used {used} of disk and may use {_size(limit)}, so it was ended."
