"""The OCI runtime specification, version 1.2, for Linux, as frozen values.

Foreign documents are tolerated: unknown fields are ignored and a JSON null means "not given".
Field names are the specification's, in snake case; JSON names are its own.
Source: https://github.com/opencontainers/runtime-spec (config.md, config-linux.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeAlias

import msgspec

from podrt.errors import InvalidConfig

OCI_VERSION = "1.2.0"
MAX_BYTES = 8 << 20
"""A document longer than this is refused: a plan may have half of it."""
NO_NUMBER = -1
"""The major or minor number of a device that has none."""

# What a number may be in a document. Unsigned numbers of 64 bits have no bound here that msgspec
# could hold: whoever uses one has it checked.
_I32: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
_I64: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_U16: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 16) - 1)]
_U32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
_U64: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


def _always(value: Any) -> Any:
    """A field with a default that is written nevertheless: strict readers want it to be there."""
    return msgspec.field(default_factory=lambda: value)


class Value(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The base of every part of a specification."""


class Box(Value, frozen=True, kw_only=True):
    """A terminal's size in characters."""

    height: _U64 = 0
    width: _U64 = 0


class User(Value, frozen=True, kw_only=True):
    """Who the process is, in the container's IDs."""

    uid: _U32 = _always(0)
    gid: _U32 = _always(0)
    umask: _U32 | None = None
    additional_gids: tuple[_U32, ...] = ()
    username: str = ""


class Capabilities(Value, frozen=True, kw_only=True):
    """Capability names (CAP_...) of each set."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(Value, frozen=True, kw_only=True):
    """A resource limit by its full name (RLIMIT_NOFILE)."""

    type: str
    hard: _U64
    soft: _U64


class IoPriority(Value, frozen=True, kw_only=True):
    """ioprio_set(2)."""

    class_: str = msgspec.field(name="class", default="")
    priority: _I32 = 0


class Scheduler(Value, frozen=True, kw_only=True):
    """sched_setattr(2). Units: `runtime`, `deadline` and `period` in nanoseconds."""

    policy: str = ""
    nice: _I32 = 0
    priority: _I32 = 0
    flags: tuple[str, ...] = ()
    runtime: _U64 = 0
    deadline: _U64 = 0
    period: _U64 = 0


class CpuAffinity(Value, frozen=True, kw_only=True):
    """CPU lists of an exec'd process, before and after it enters the cgroup."""

    initial: str = ""
    final: str = ""


class Process(Value, frozen=True, kw_only=True):
    """The container's first process."""

    terminal: bool = False
    console_size: Box | None = None
    user: User = _always(User())
    args: tuple[str, ...] = ()
    command_line: str = ""
    env: tuple[str, ...] = ()
    cwd: str = _always("/")
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: _I64 | None = None
    selinux_label: str = ""
    io_priority: IoPriority | None = None
    scheduler: Scheduler | None = None
    exec_cpu_affinity: CpuAffinity | None = msgspec.field(name="execCPUAffinity", default=None)


class Root(Value, frozen=True, kw_only=True):
    """The root file system on the host."""

    path: str
    readonly: bool = False


class IdMapping(Value, frozen=True, kw_only=True):
    """One range of IDs: `size` IDs from `container_id` are those from `host_id`."""

    container_id: _U32 = msgspec.field(name="containerID")
    host_id: _U32 = msgspec.field(name="hostID")
    size: _U32 = 0


class Mount(Value, frozen=True, kw_only=True):
    """One mount, in the order of the list; `destination` is absolute inside the container."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


class Hook(Value, frozen=True, kw_only=True):
    """A program run at a point of the life cycle. Units: `timeout` in seconds."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: _I64 | None = None


class Hooks(Value, frozen=True, kw_only=True):
    """Hooks by the point they run at."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Namespace(Value, frozen=True, kw_only=True):
    """A namespace by type (pid network mount ipc uts user cgroup time); `path` joins one."""

    type: str
    path: str = ""


class TimeOffset(Value, frozen=True, kw_only=True):
    """An offset of a clock in a time namespace."""

    secs: _I64 = 0
    nanosecs: _U32 = 0


class Device(Value, frozen=True, kw_only=True):
    """A device node to make; `type` is c, b, u or p, `file_mode` its permission bits."""

    type: str
    path: str
    major: _I64 = NO_NUMBER
    minor: _I64 = NO_NUMBER
    file_mode: _U32 | None = None
    uid: _U32 | None = None
    gid: _U32 | None = None


class DeviceRule(Value, frozen=True, kw_only=True):
    """A rule of the device cgroup; None stands for every number, type "a" for every type."""

    allow: bool = _always(False)
    type: str = "a"
    major: _I64 | None = None
    minor: _I64 | None = None
    access: str = ""


class Memory(Value, frozen=True, kw_only=True):
    """Memory limits in bytes; `swap` is memory plus swap."""

    limit: _I64 | None = None
    reservation: _I64 | None = None
    swap: _I64 | None = None
    kernel: _I64 | None = None
    kernel_tcp: _I64 | None = msgspec.field(name="kernelTCP", default=None)
    swappiness: _U64 | None = None
    disable_oom_killer: bool | None = msgspec.field(name="disableOOMKiller", default=None)
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class Cpu(Value, frozen=True, kw_only=True):
    """CPU limits; times in microseconds."""

    shares: _U64 | None = None
    quota: _I64 | None = None
    burst: _U64 | None = None
    period: _U64 | None = None
    realtime_runtime: _I64 | None = None
    realtime_period: _U64 | None = None
    cpus: str = ""
    mems: str = ""
    idle: _I64 | None = None


class Pids(Value, frozen=True, kw_only=True):
    """The highest number of tasks; -1 is unlimited."""

    limit: _I64


class WeightDevice(Value, frozen=True, kw_only=True):
    """A block device's weight."""

    major: _I64
    minor: _I64
    weight: _U16 | None = None
    leaf_weight: _U16 | None = None


class ThrottleDevice(Value, frozen=True, kw_only=True):
    """A block device's highest rate, in bytes or operations a second."""

    major: _I64
    minor: _I64
    rate: _U64


class BlockIo(Value, frozen=True, kw_only=True):
    """Block device limits."""

    weight: _U16 | None = None
    leaf_weight: _U16 | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(
        name="throttleReadIOPSDevice", default=()
    )
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(
        name="throttleWriteIOPSDevice", default=()
    )


class HugepageLimit(Value, frozen=True, kw_only=True):
    """A limit in bytes on pages of one size ("2MB")."""

    page_size: str
    limit: _U64


class NetworkPriority(Value, frozen=True, kw_only=True):
    """The priority of traffic on an interface."""

    name: str
    priority: _U32


class NetworkLimits(Value, frozen=True, kw_only=True):
    """The class and priorities of network traffic."""

    class_id: _U32 | None = msgspec.field(name="classID", default=None)
    priorities: tuple[NetworkPriority, ...] = ()


class Rdma(Value, frozen=True, kw_only=True):
    """Limits on one RDMA device."""

    hca_handles: _U32 | None = None
    hca_objects: _U32 | None = None


class Resources(Value, frozen=True, kw_only=True):
    """What the container's cgroup limits."""

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIo | None = msgspec.field(name="blockIO", default=None)
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: NetworkLimits | None = None
    rdma: Mapping[str, Rdma] = {}
    unified: Mapping[str, str] = {}


NOTIFY = "SCMP_ACT_NOTIFY"


class SeccompArg(Value, frozen=True, kw_only=True):
    """A condition on a system call's argument; both values are unsigned 64 bit."""

    index: _U32
    value: _U64
    value_two: _U64 = 0
    op: str


class SeccompRule(Value, frozen=True, kw_only=True):
    """What happens to the named system calls when every condition holds."""

    names: tuple[str, ...]
    action: str
    errno_ret: _U32 | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(Value, frozen=True, kw_only=True):
    """A seccomp filter: an action for what no rule names, and rules."""

    default_action: str
    default_errno_ret: _U32 | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SeccompRule, ...] = ()

    @property
    def notifies(self) -> bool:
        """Whether a rule hands the decision to somebody who listens."""
        return any(rule.action == NOTIFY for rule in self.syscalls)


class IntelRdt(Value, frozen=True, kw_only=True):
    """Cache and memory bandwidth allocation."""

    clos_id: str = msgspec.field(name="closID", default="")
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    schemata: tuple[str, ...] = ()
    enable_cmt: bool = msgspec.field(name="enableCMT", default=False)
    enable_mbm: bool = msgspec.field(name="enableMBM", default=False)
    enable_monitoring: bool = False


class Personality(Value, frozen=True, kw_only=True):
    """personality(2)."""

    domain: str
    flags: tuple[str, ...] = ()


class NetDevice(Value, frozen=True, kw_only=True):
    """An interface of the host moved into the container."""

    name: str = ""


class MemoryPolicy(Value, frozen=True, kw_only=True):
    """set_mempolicy(2)."""

    mode: str = ""
    nodes: str = ""
    flags: tuple[str, ...] = ()


class Linux(Value, frozen=True, kw_only=True):
    """What is particular to Linux."""

    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    time_offsets: Mapping[str, TimeOffset] = {}
    devices: tuple[Device, ...] = ()
    net_devices: Mapping[str, NetDevice] = {}
    cgroups_path: str = ""
    resources: Resources | None = None
    rootfs_propagation: str = ""
    seccomp: Seccomp | None = None
    sysctl: Mapping[str, str] = {}
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    intel_rdt: IntelRdt | None = None
    personality: Personality | None = None
    memory_policy: MemoryPolicy | None = None

    def has_namespace(self, kind: str) -> bool:
        """Whether the container makes or joins a namespace of this type."""
        return any(one.type == kind for one in self.namespaces)


class Spec(Value, frozen=True, kw_only=True):
    """A whole runtime specification (a bundle's config.json)."""

    oci_version: str = _always(OCI_VERSION)
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks | None = None
    annotations: Mapping[str, str] = {}
    linux: Linux | None = None
    vm: Mapping[str, Any] | None = None


_encoder = msgspec.json.Encoder()


def encode(spec: Spec) -> bytes:
    """The JSON document of `spec`, as a bundle's config.json holds it."""
    return _encoder.encode(spec)


def decode(data: bytes) -> Spec:
    """Read a JSON document that anybody may have written.

    Raises: InvalidConfig naming the field.
    """
    if len(data) > MAX_BYTES:
        raise InvalidConfig("config.json", f"has more than {MAX_BYTES} bytes")
    try:
        document = drop_nulls(msgspec.json.decode(data))
        _check_texts(data, document)
        return msgspec.convert(document, Spec)
    except msgspec.ValidationError as exc:
        reason, _, where = str(exc).partition(" - at ")
        raise InvalidConfig(where.strip("`").removeprefix("$.") or "config.json", reason) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidConfig("config.json", f"not JSON: {exc}") from exc


def _check_texts(data: bytes, document: Any) -> None:
    """Refuse texts the kernel would read to their first NUL only. They are hardly ever there."""
    if b"\\u0000" in data:
        for where in _with_nul(document, ""):
            raise InvalidConfig(where or "config.json", "holds a NUL character")


def _with_nul(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, str) and "\0" in value:
        yield where
    elif isinstance(value, dict):
        for key, item in value.items():
            inner = f"{where}.{key}".lstrip(".")
            if "\0" in key:
                yield inner.replace("\0", "\\0")
            yield from _with_nul(item, inner)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _with_nul(item, f"{where}[{index}]")


def drop_nulls(value: Any) -> Any:
    """`value` (decoded JSON) without members that are null: Go writes empty lists that way."""
    if isinstance(value, dict):
        return {key: drop_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [drop_nulls(item) for item in value]
    return value
