"""What the control plane and a host say to each other: plain values, the same on both ends.

Times are milliseconds of server time since the epoch, durations milliseconds, memory bytes, CPU milli-cores and GPU
shares thousandths of a device.
"""

from dataclasses import dataclass, field
from enum import StrEnum


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


@dataclass(frozen=True, slots=True)
class LeaseVerdict:
    """The answer for each lease that the host holds: how long it may run now, or that it must end."""

    allocation_uid: str
    generation: int
    run_until_ms: int
    end: bool


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
    """The end of a lease, confirmed by its host: its containers are gone and its last window is written.

    `last_window` is the last of its windows that waits to be shipped, None if none does. Windows are shipped in
    their order, so when that one has arrived no more proof of the lease can come.
    """

    ended_at_ms: int
    exit_code: int | None
    last_window: WindowId | None


@dataclass(frozen=True, slots=True)
class UsageBatch:
    windows: tuple[UsageWindow, ...]


@dataclass(frozen=True, slots=True)
class UsageReceipt:
    """Windows up to and including these are kept for good; the host may forget them."""

    boot_id: str
    accepted_through: int
