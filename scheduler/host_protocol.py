"""What the control plane and a host say to each other: plain values, the same on both ends.

Times are milliseconds of server time since the epoch, durations milliseconds, memory bytes, CPU milli-cores and GPU
shares thousandths of a device.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from scheduler.gang_network import GangNetwork


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One GPU as the provider found it. What could not be read is None, never zero."""

    index: int
    uuid: str
    model: str
    memory_bytes: int
    pci_bus_id: str | None = None
    nvlink_peer_uuids: tuple[str, ...] = ()
    mig_enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One live reading of a GPU. An absent capability is None."""

    uuid: str
    simulated: bool
    healthy: bool
    utilisation_percent: int | None = None
    memory_used_bytes: int | None = None
    temperature_c: int | None = None
    power_mw: int | None = None
    power_limit_mw: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    last_xid: int | None = None
    process_count: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host registers: found on the machine, never typed."""

    boot_id: str
    hostname: str
    address: str
    os: str
    kernel: str
    cpu_count: int
    memory_bytes: int
    disk_bytes: int
    docker_version: str
    disk_limit: str  # how a container's disk is limited: "project_quota" or "watcher"
    simulated: bool
    driver_version: str | None = None
    cuda_version: str | None = None
    gpus: tuple[GpuFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceShare:
    uuid: str
    milli: int


class LeaseKind(StrEnum):
    ENVIRONMENT = "environment"  # its container is made at the Hub's word
    TASK = "task"  # the host starts it by itself, once for each generation, as the `AttemptOrder` says


@dataclass(frozen=True, slots=True)
class Lease:
    """What a host may run for one allocation. An older generation of the same allocation changes nothing (fencing)."""

    allocation_uid: str
    generation: int
    customer_uid: str
    devices: tuple[DeviceShare, ...]
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    pids: int
    run_until_ms: int
    image: str  # the only image reference its containers may use
    container_name: str  # the only container that may be created under it
    home_volume: str | None = None  # mounted at /home/jovyan, outlives the container
    ports: tuple[int, ...] = (8888,)
    labels: dict[str, str] = field(default_factory=dict)
    kind: LeaseKind = LeaseKind.ENVIRONMENT
    shm_bytes: int | None = None  # of the memory; None: half of it
    rank: int = 0  # of this host among those of a gang
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class VolumeMount:
    volume: str  # its name in Docker
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Archive:
    """An uploaded zip archive. `digest` is its SHA-256, hexadecimal; `target` where it is unpacked in the container."""

    digest: str
    size_bytes: int
    target: str


@dataclass(frozen=True, slots=True)
class AttemptOrder:
    """What a host is to run under the lease of an attempt: fetched from the platform, by the lease's generation.

    `secrets` are given as variables and as files; their values never leave the host's memory but for the container.
    """

    task_uid: str
    attempt_uid: str
    number: int  # of the attempt, from 1
    command: str
    setup: str | None
    environment: dict[str, str]
    secrets: dict[str, str]
    archives: tuple[Archive, ...]
    mounts: tuple[VolumeMount, ...]
    timeout_s: int | None  # of the command
    signal: str  # that says it has to give way, as SIGTERM
    grace_s: int
    nodes: int = 1
    gang: GangNetwork | None = None  # where its nodes meet, if it has several
    log_limit_bytes: int = 2**30  # of output that is kept
    array: bool = False  # a worker: its command runs once for each element that it is given
    ray: bool = (
        False  # a Ray spans its nodes; its token is the secret RAY_AUTH_TOKEN, its command runs on the first alone
    )


@dataclass(frozen=True, slots=True)
class ElementRun:
    """An element of an array that a worker is given. `place` counts those of this worker, from 0."""

    place: int
    index: int
    number: int  # of the try, from 1


@dataclass(frozen=True, slots=True)
class ElementStart:
    place: int
    at_ms: int
    log_from: int


@dataclass(frozen=True, slots=True)
class ElementResult:
    """`end` is one of `scheduler.states.AttemptEnd`. Its output is from `log_from` to `log_to` in the attempt's."""

    place: int
    end: str
    exit_code: int | None
    signal: int | None
    started_at_ms: int
    ended_at_ms: int
    log_from: int
    log_to: int


@dataclass(frozen=True, slots=True)
class ElementsAsked:
    """What became of a worker's elements, and how many it takes more. Repeatable.

    `have` is how many it was given in all: what it was given beyond, in an answer that was lost, it is given again.
    """

    have: int
    take: int
    started: tuple[ElementStart, ...] = ()
    results: tuple[ElementResult, ...] = ()


@dataclass(frozen=True, slots=True)
class ElementsGiven:
    """`over`: there are no more for this worker; it ends when it has run what it has."""

    runs: tuple[ElementRun, ...]
    over: bool


class AttemptPhase(StrEnum):
    FETCHING = "fetching"  # its order and its uploads
    PULLING = "pulling"  # its image
    SETTING_UP = "setting_up"  # unpacking, and its own setup command
    RUNNING = "running"  # its command
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """What a task says of itself. `fraction` is from 0 to 1."""

    fraction: float | None
    line: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """How an attempt stands on this host; told again in each heartbeat until its lease has ended.

    `end` is one of `scheduler.states.AttemptEnd`, set when it has ended by itself or by this host's own decision;
    `exit_code` the command's (or setup's), `signal` the number of the one that ended it. `gone`: its container has
    exited, so that nothing of it runs on this host.
    """

    allocation_uid: str
    generation: int
    phase: AttemptPhase
    detail: str = ""  # of the phase, in words: how far a pull is, which limit was hit
    running_at_ms: int | None = None
    ended_at_ms: int | None = None
    end: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    limit_hit: str | None = None
    gone: bool = False
    progress: TaskProgress | None = None
    notice: str = ""  # how the task was told to give way, or why it was not
    checkpoint_at_ms: int | None = None  # up to when its work is safe, as it says itself


@dataclass(frozen=True, slots=True)
class ExecOutput:
    """What a command wrote that was run beside a task's own, as base64, since that was asked for the last time.

    `over`: it has ended, and this is the last of it; without an `exit_code` it ended together with its container.
    """

    stdout: str
    stderr: str
    over: bool
    exit_code: int | None


class ContainerState(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class ContainerReport:
    allocation_uid: str
    generation: int
    container_id: str
    name: str
    state: ContainerState
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    exit_code: int | None = None
    oom_killed: bool = False


@dataclass(frozen=True, slots=True)
class HeldLease:
    allocation_uid: str
    generation: int


@dataclass(frozen=True, slots=True)
class EndNotice:
    """A lease that the host ended by itself, and why, in words for its owner. Sent until a heartbeat is answered."""

    allocation_uid: str
    generation: int
    detail: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent by the daemon itself, every `heartbeat_interval_s` and at once when a container starts or exits."""

    boot_id: str
    daemon_id: str  # new at every start of the daemon
    leases: tuple[HeldLease, ...]
    containers: tuple[ContainerReport, ...]
    readings: tuple[GpuReading, ...]
    spool_backlog: int
    problems: tuple[str, ...] = ()
    endings: tuple[EndNotice, ...] = ()
    peers_version: str = ""  # of the PeerList that is in force here
    attempts: tuple[AttemptReport, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseVerdict:
    """The answer for each lease that the host holds: how long it may run now, or that it must end.

    A task that must end is told the `reason`, and has `grace_s` from now; None: as little as the host gives.
    """

    allocation_uid: str
    generation: int
    run_until_ms: int
    end: bool
    grace_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PeerList:
    """The addresses of all hosts, from which each host keeps its tenants away."""

    version: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    server_time_ms: int
    verdicts: tuple[LeaseVerdict, ...]
    peers: PeerList | None = None  # None: those that the host has are still right


@dataclass(frozen=True, slots=True)
class UsageWindow:
    """Proof that an allocation's container ran on a device for a time. (node, boot, sequence) is unique."""

    boot_id: str
    sequence: int
    allocation_uid: str
    generation: int
    container_id: str
    device_uuid: str
    milli: int
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class WindowId:
    """Names a window among those of one host."""

    boot_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class LeaseEnd:
    """The end of a lease, confirmed by its host: nothing of it runs any more and its last window is written.

    `last_window` is the last of its windows that waits to be shipped, None if none does. Windows are shipped in
    their order, so when that one has arrived no more proof of the lease can come.
    """

    ended_at_ms: int
    exit_code: int | None
    last_window: WindowId | None


MAX_BATCH = 5_000
"""Windows that a host ships at once, where so many wait."""


@dataclass(frozen=True, slots=True)
class UsageBatch:
    windows: tuple[UsageWindow, ...]


@dataclass(frozen=True, slots=True)
class UsageReceipt:
    """Windows up to and including these are kept for good; the host may forget them."""

    boot_id: str
    accepted_through: int
