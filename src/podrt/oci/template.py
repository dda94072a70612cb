"""The config.json that `podrt oci spec` writes: a shell in namespaces of its own."""

from __future__ import annotations

import os

import msgspec

from podrt.linux.caps import last_cap
from podrt.model import runtimespec as oci
from podrt.model.container import Security
from podrt.spec import security

_NAMESPACES = ("pid", "network", "ipc", "uts", "mount")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def template(*, rootless: bool) -> oci.Spec:
    """The document; `rootless`: for a user, who becomes root inside. Raises: OSError."""
    spec = oci.Spec(
        process=_process(),
        root=oci.Root(path="rootfs", readonly=True),
        hostname="podrt",
        mounts=_mounts(),
        linux=oci.Linux(
            namespaces=tuple(oci.Namespace(type=name) for name in _namespaces()),
            resources=oci.Resources(devices=(oci.DeviceRule(allow=False, access="rwm"),)),
            masked_paths=security.MASKED_PATHS,
            readonly_paths=security.READONLY_PATHS,
        ),
    )
    return _without_root(spec) if rootless else spec


def _namespaces() -> tuple[str, ...]:
    """On v1 with what the host has above the container in sight, as runc(8) writes it."""
    has_v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    return (*_NAMESPACES, "cgroup") if has_v2 else _NAMESPACES


def _process() -> oci.Process:
    bounding = security.bounding_set(Security(), last_cap())
    return oci.Process(
        terminal=True,
        args=("sh",),
        env=(f"PATH={_PATH}", "TERM=xterm"),
        cwd="/",
        capabilities=security.capabilities(bounding, Security(), is_root=True),
        rlimits=(oci.Rlimit(type="RLIMIT_NOFILE", hard=1024, soft=1024),),
        no_new_privileges=True,
    )


def _mounts() -> tuple[oci.Mount, ...]:
    safe = ("nosuid", "noexec", "nodev")
    return (
        _mount("/proc", "proc", *safe),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts",
            "devpts",
            *("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        _mount("/dev/shm", "tmpfs", *safe, "mode=1777", "size=65536k", source="shm"),
        _mount("/dev/mqueue", "mqueue", *safe),
        _mount("/sys", "sysfs", *safe, "ro"),
        _mount("/sys/fs/cgroup", "cgroup", *safe, "relatime", "ro"),
    )


def _mount(destination: str, kind: str, *options: str, source: str = "") -> oci.Mount:
    return oci.Mount(destination=destination, type=kind, source=source or kind, options=options)


def _without_root(spec: oci.Spec) -> oci.Spec:
    """One ID mapped, the host's network and no cgroup: what a user may have."""
    assert spec.linux is not None
    replace = msgspec.structs.replace
    kept = tuple(one for one in spec.linux.namespaces if one.type not in ("network", "cgroup"))
    mounts = tuple(
        replace(mount, options=tuple(word for word in mount.options if word != "gid=5"))
        for mount in spec.mounts
        if mount.destination != "/sys/fs/cgroup"
    )
    linux = replace(
        spec.linux,
        namespaces=(*kept, oci.Namespace(type="user")),
        uid_mappings=(oci.IdMapping(container_id=0, host_id=os.geteuid(), size=1),),
        gid_mappings=(oci.IdMapping(container_id=0, host_id=os.getegid(), size=1),),
        resources=None,
    )
    return replace(spec, mounts=mounts, linux=linux)
