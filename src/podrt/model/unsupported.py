"""What of the runtime specification podrt does not do: the closed list, in one place.

Asked for, each is refused by its name before anything is made. Nothing else of the specification
for Linux is left out, and a test walks its schema to hold that. What has no effect by the
specification's own words is not refused:

- the sections of other systems (`windows`, `solaris`, `zos`, `freebsd`);
- `process.consoleSize` without a terminal, `linux.seccomp.listenerPath` without a rule that
  notifies, `process.execCPUAffinity` for the first process;
- the mappings beside a user namespace that is joined: they describe one that is already mapped;
- a limit of 0, or of -1 where that means none, on what podrt cannot limit;
- the mode and owner of a device in a user namespace, where the host's node is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from podrt.errors import Unsupported

from . import runtimespec as oci

Modules: TypeAlias = frozenset[str]
"""The security modules of a kernel by its own words: "apparmor", "selinux"."""

_GONE = "kernels no longer have it"


_Asks: TypeAlias = Callable[[Any], Any]

# Each field by the part of the specification it is in: its name, why, and whether one asks for it.
FIELDS: Mapping[str, tuple[tuple[str, str, _Asks], ...]] = {
    "": (("vm", "podrt runs containers", lambda spec: spec.vm is not None),),
    "process": (
        ("process.commandLine", "it is for Windows: use args", lambda part: part.command_line),
        ("process.user.username", "it is for Windows: use uid", lambda part: part.user.username),
    ),
    "linux": (
        ("linux.netDevices", "", lambda part: part.net_devices),
        ("linux.intelRdt", "", lambda part: part.intel_rdt is not None),
        ("linux.memoryPolicy", "", lambda part: part.memory_policy is not None),
    ),
    "memory": (
        ("linux.resources.memory.kernel", _GONE, lambda part: (part.kernel or 0) > 0),
        ("linux.resources.memory.kernelTCP", "", lambda part: (part.kernel_tcp or 0) > 0),
        (
            "linux.resources.memory.useHierarchy",
            "it cannot be turned off",
            lambda part: part.use_hierarchy is False,
        ),
    ),
    "cpu": (
        ("linux.resources.cpu.realtimeRuntime", "", lambda part: part.realtime_runtime),
        ("linux.resources.cpu.realtimePeriod", "", lambda part: part.realtime_period),
    ),
    "block_io": (
        ("linux.resources.blockIO.leafWeight", _GONE, lambda part: part.leaf_weight),
        (
            "linux.resources.blockIO.weightDevice[].leafWeight",
            _GONE,
            lambda part: any(device.leaf_weight for device in part.weight_device),
        ),
    ),
}

# Labels, which need a module the kernel may run without.
LABELS: tuple[tuple[str, str, Callable[[oci.Process, oci.Linux], str]], ...] = (
    (
        "process.apparmorProfile",
        "apparmor",
        lambda process, linux: process.apparmor_profile.removeprefix("unconfined"),
    ),
    ("process.selinuxLabel", "selinux", lambda process, linux: process.selinux_label),
    ("linux.mountLabel", "selinux", lambda process, linux: linux.mount_label),
)

# Values of fields that are honoured otherwise. The words in [] stand for any index or key.
VALUES: Mapping[str, str] = {
    "ociVersion": "other major versions than 1",
    "linux.resources": "limits that no cgroup hierarchy of this host has",
    "process.terminal": "podrt's monitor gives out no terminals yet",
    "process.scheduler.policy": "SCHED_ISO: Linux does not have it",
    "hooks": "only containers of `podrt oci` have hooks",
    "mounts[].options": "remount with options of a file system; tmpcopyup on anything but a tmpfs;"
    " idmap on anything but a bind; and for podrt's own containers, on a bind, options of a file"
    " system and, in a user namespace, shared, which a bundle gets a warning for",
    "linux.namespaces": "no mount namespace: for podrt's own containers, an exec, and beside a user"
    " namespace; of a bundle the mounts are the caller's, too, which it gets a warning for",
    "linux.personality.flags": "every flag: the specification has none either",
    "linux.seccomp": "programs longer than the kernel takes; machines without a table",
    "linux.seccomp.defaultAction": "SCMP_ACT_NOTIFY: the launcher's own calls would wait",
    "linux.seccomp.flags": "flags no kernel had when this was written",
    "linux.seccomp.syscalls[].action": "SCMP_ACT_NOTIFY for the calls that hand over the listener",
}

_INDEX = re.compile(r"\[[^]]*\]")


def refuse(spec: oci.Spec, modules: Modules) -> None:
    """Refuse what `spec` asks for of the closed list. Raises: Unsupported naming the field."""
    process, linux = spec.process or oci.Process(), spec.linux or oci.Linux()
    _refuse("", spec)
    _refuse("process", process)
    _refuse("linux", linux)
    if process.apparmor_profile or process.selinux_label or linux.mount_label:
        for field, module, asks in LABELS:
            if module not in modules and asks(process, linux):
                raise Unsupported(field, "the kernel runs without this security module")
    if linux.resources is not None:
        refuse_limits(linux.resources)


def refuse_limits(limits: oci.Resources) -> None:
    """The same for limits alone. Raises: Unsupported naming the field."""
    _refuse("memory", limits.memory)
    _refuse("cpu", limits.cpu)
    _refuse("block_io", limits.block_io)


def _refuse(name: str, part: Any) -> None:
    if part is None:
        return
    for field, reason, asks in FIELDS[name]:
        if asks(part):
            raise Unsupported(field, reason)


def unsupported(field: str, value: str) -> Unsupported:
    """The error for a value of a field that is in the list (`VALUES`)."""
    assert _INDEX.sub("[]", field) in VALUES, field
    return Unsupported(field, value)
