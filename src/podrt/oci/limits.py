"""`linux.resources` as what the cgroup manager takes, and as writes for what only OCI knows."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from podrt.cgroups.hierarchies import Hierarchies
from podrt.cgroups.knobs import FLAGS
from podrt.errors import InvalidConfig, PodrtError, Unsupported
from podrt.model import runtimespec as oci
from podrt.model.resources import Resources
from podrt.model.unsupported import refuse_limits
from podrt.spec.devices import DEFAULT_RULES

_AT = "linux.resources"
# Where the specification has what a flag of the command line sets.
_FIELDS = {
    "cpu_quota_us": "cpu.quota",
    "cpu_period_us": "cpu.period",
    "cpu_shares": "cpu.shares",
    "cpuset_cpus": "cpu.cpus",
    "cpuset_mems": "cpu.mems",
    "memory_bytes": "memory.limit",
    "memory_reservation_bytes": "memory.reservation",
    "memory_swap_bytes": "memory.swap",
    "pids_limit": "pids.limit",
    "blkio_weight": "blockIO.weight",
}
_BY_FLAG = {FLAGS[name]: f"{_AT}.{field}" for name, field in _FIELDS.items()}


class Write(NamedTuple):
    """A value for the first of the files `v1`, or of `v2`, that this kernel has.

    Where cgroup v2 differs, `v2_controller` and `v2_value` say so.
    """

    field: str
    controller: str
    value: str
    v1: tuple[str, ...] = ()
    v2: tuple[str, ...] = ()
    v2_controller: str = ""
    v2_value: str = ""


def known_limits(resources: oci.Resources) -> Resources:
    """The limits every podrt container may have. 0 is "not given", as other runtimes read it."""
    memory, cpu = resources.memory or oci.Memory(), resources.cpu or oci.Cpu()
    pids = resources.pids.limit if resources.pids is not None else 0
    block = resources.block_io or oci.BlockIo()
    return Resources(
        cpu_quota_us=cpu.quota or None,
        cpu_period_us=cpu.period or None,
        cpu_shares=cpu.shares or None,
        cpuset_cpus=cpu.cpus or None,
        cpuset_mems=cpu.mems or None,
        memory_bytes=memory.limit or None,
        memory_reservation_bytes=memory.reservation or None,
        memory_swap_bytes=memory.swap or None,
        pids_limit=max(pids, -1) or None,
        blkio_weight=block.weight or None,
    )


def device_rules(resources: oci.Resources) -> tuple[oci.DeviceRule, ...]:
    """The rules asked for, then those of the devices every container has.

    Source: runtime-spec config-linux.md, "Default Devices".
    """
    return (*DEFAULT_RULES[:1], *resources.devices, *DEFAULT_RULES[1:])


def other_writes(resources: oci.Resources) -> list[Write]:
    """What is left. Raises: Unsupported naming a field that podrt does not honour."""
    refuse_limits(resources)
    return [
        *_memory(resources.memory or oci.Memory()),
        *_cpu(resources.cpu or oci.Cpu()),
        *_block_io(resources.block_io or oci.BlockIo()),
        *_others(resources),
    ]


def _memory(memory: oci.Memory) -> Iterator[Write]:
    if memory.swappiness is not None:
        yield Write(
            "memory.swappiness", "memory", str(memory.swappiness), v1=("memory.swappiness",)
        )
    if memory.disable_oom_killer:
        yield Write("memory.disableOOMKiller", "memory", "1", v1=("memory.oom_control",))


def _cpu(cpu: oci.Cpu) -> Iterator[Write]:
    if cpu.burst is not None:
        yield Write(
            "cpu.burst", "cpu", str(cpu.burst), v1=("cpu.cfs_burst_us",), v2=("cpu.max.burst",)
        )
    if cpu.idle is not None:
        yield Write("cpu.idle", "cpu", str(cpu.idle), v1=("cpu.idle",), v2=("cpu.idle",))


_Devices: TypeAlias = tuple[oci.ThrottleDevice, ...]
_THROTTLES: tuple[tuple[str, Callable[[oci.BlockIo], _Devices], str, str], ...] = (
    ("throttleReadBpsDevice", lambda io: io.throttle_read_bps_device, "read_bps", "rbps"),
    ("throttleWriteBpsDevice", lambda io: io.throttle_write_bps_device, "write_bps", "wbps"),
    ("throttleReadIOPSDevice", lambda io: io.throttle_read_iops_device, "read_iops", "riops"),
    ("throttleWriteIOPSDevice", lambda io: io.throttle_write_iops_device, "write_iops", "wiops"),
)  # fmt: skip


def _block_io(block: oci.BlockIo) -> Iterator[Write]:
    for device in block.weight_device:
        if device.weight is not None:
            yield Write(
                "blockIO.weightDevice",
                "blkio",
                f"{device.major}:{device.minor} {device.weight}",
                v1=("blkio.bfq.weight_device", "blkio.weight_device"),
                v2=("io.bfq.weight",),
                v2_controller="io",
            )
    for field, rules, v1, v2 in _THROTTLES:
        for rule in rules(block):
            number = f"{rule.major}:{rule.minor}"
            yield Write(
                f"blockIO.{field}",
                "blkio",
                f"{number} {rule.rate}",
                v1=(f"blkio.throttle.{v1}_device",),
                v2=("io.max",),
                v2_controller="io",
                v2_value=f"{number} {v2}={rule.rate or 'max'}",
            )


def _others(resources: oci.Resources) -> Iterator[Write]:
    for page in resources.hugepage_limits:
        name = f"hugetlb.{page.page_size}"
        yield Write(
            "hugepageLimits", "hugetlb", str(page.limit),
            v1=(f"{name}.limit_in_bytes",), v2=(f"{name}.max",),
        )  # fmt: skip
    network = resources.network or oci.NetworkLimits()
    if network.class_id is not None:
        yield Write("network.classID", "net_cls", str(network.class_id), v1=("net_cls.classid",))
    for one in network.priorities:
        value = f"{one.name} {one.priority}"
        yield Write("network.priorities", "net_prio", value, v1=("net_prio.ifpriomap",))
    for device, rdma in resources.rdma.items():
        words = [device]
        words += [f"hca_handle={rdma.hca_handles}"] if rdma.hca_handles is not None else []
        words += [f"hca_object={rdma.hca_objects}"] if rdma.hca_objects is not None else []
        yield Write("rdma", "rdma", " ".join(words), v1=("rdma.max",), v2=("rdma.max",))
    for file, value in resources.unified.items():
        if "/" in file or file.startswith("cgroup.") or "." not in file:
            raise InvalidConfig(f"{_AT}.unified", f"{file!r} is no file of a controller")
        yield Write("unified", file.partition(".")[0], value, v2=(file,))


def apply_writes(writes: list[Write], hierarchies: Hierarchies, cgroup: str) -> None:
    """Do the writes in the cgroup `cgroup`. Raises: Unsupported, InvalidConfig naming the field."""
    for one in writes:
        if not _apply(one, hierarchies, cgroup):
            raise Unsupported(f"{_AT}.{one.field}", "this host's cgroups do not have it")


def _apply(one: Write, hierarchies: Hierarchies, cgroup: str) -> bool:
    """Whether a file took the value."""
    hierarchy = hierarchies.of(one.controller)
    if hierarchy is None and one.v2_controller:
        hierarchy = hierarchies.of(one.v2_controller)
    if hierarchy is None:
        return False
    value = (one.v2_value or one.value) if hierarchy.version == 2 else one.value
    for name in one.v1 if hierarchy.version == 1 else one.v2:
        try:
            fd = os.open(f"{hierarchy.mount}{cgroup}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.write(fd, value.encode())
        except OSError as exc:
            if exc.errno == errno.EOPNOTSUPP:
                continue
            reason = f"the kernel refuses {value!r}: {os.strerror(exc.errno or 0)}"
            raise InvalidConfig(f"{_AT}.{one.field}", reason) from exc
        finally:
            os.close(fd)
        return True
    return False


def by_field(error: PodrtError) -> PodrtError:
    """The manager's error about a flag, as one about a field of the specification."""
    if isinstance(error, InvalidConfig | Unsupported) and error.field in _BY_FLAG:
        return type(error)(_BY_FLAG[error.field], error.reason)
    return error
