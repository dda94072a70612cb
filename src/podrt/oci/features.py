"""What `podrt oci features` says. Source: runtime-spec features.md, features-linux.md."""

from __future__ import annotations

from typing import Any

import podrt
from podrt.linux import caps
from podrt.linux.features import namespace_types
from podrt.linux.lsm import security_modules
from podrt.model import runtimespec as oci
from podrt.spec import seccomp_tables

_NAMESPACES = {"mnt": "mount", "net": "network"}
MOUNT_OPTIONS = sorted(
    (
        "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev "
        "nodiratime noexec noiversion nolazytime norelatime nostrictatime nosuid nosymfollow "
        "private ratime rbind rdev rdiratime relatime remount rexec rnoatime rnodev rnodiratime "
        "rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw "
        "rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave "
        "strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap"
    ).split()
)
SECCOMP_ACTIONS = [
    f"SCMP_ACT_{name}"
    for name in "ALLOW ERRNO KILL KILL_PROCESS KILL_THREAD LOG NOTIFY TRACE TRAP".split()
]
SECCOMP_OPERATORS = [f"SCMP_CMP_{name}" for name in "EQ GE GT LE LT MASKED_EQ NE".split()]
SECCOMP_FLAGS = [
    f"SECCOMP_FILTER_FLAG_{name}" for name in "TSYNC LOG SPEC_ALLOW WAIT_KILLABLE_RECV".split()
]


def features() -> dict[str, Any]:
    """The document. Raises: OSError."""
    modules = security_modules()
    hooks = "prestart createRuntime createContainer startContainer poststart poststop"
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": oci.OCI_VERSION,
        "hooks": hooks.split(),
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": sorted(_NAMESPACES.get(name, name) for name in namespace_types()),
            "capabilities": list(caps.NAMES[: caps.last_cap() + 1]),
            "cgroup": {
                "v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True,
            },
            "seccomp": {
                "enabled": True,
                "actions": SECCOMP_ACTIONS,
                "operators": SECCOMP_OPERATORS,
                "archs": sorted(seccomp_tables.ARCHES),
                "knownFlags": SECCOMP_FLAGS,
                "supportedFlags": SECCOMP_FLAGS,
            },
            "apparmor": {"enabled": "apparmor" in modules},
            "selinux": {"enabled": "selinux" in modules},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": False},
        },
        "annotations": {"io.podrt.version": podrt.__version__},
        "potentiallyUnsafeConfigAnnotations": [],
    }  # fmt: skip
