"""From an OCI runtime specification to a plan: the flat list of operations the launcher executes.

What the native engine cannot honour is refused by the field's name, never dropped; the closed
list is `_REFUSED` and the places that raise `Unsupported`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from podrt.errors import InvalidConfig, Unsupported
from podrt.linux import caps
from podrt.linux.mounts import Mount as HostMount
from podrt.model import runtimespec as oci

from .mount_options import RDONLY, parse_options
from .plan_ops import Op, OpCode, encode_plan, unsigned_32

CLONE_FLAGS = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}
READ_ONLY_ROOT = 1
MAKE_DIRECTORY = 1
IN_PLACE = 1
BIND_RECURSIVE = 1
BIND_MAKE = 2 | 4
BIND_ATTRS_RECURSIVE = 8
DEFAULT_UMASK = 0o022
CGROUP_DIR = "/sys/fs/cgroup"

# Source: asm-generic/resource.h; the same on x86 and arm.
_RLIMITS = {
    name: number
    for number, name in enumerate(
        (
            "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE "
            "RTPRIO RTTIME"
        ).split()
    )
}
_DEVICE_KINDS = {"c": ord("c"), "u": ord("c"), "b": ord("b"), "p": ord("p")}
# Source: runtime-spec config-linux.md, "Default Devices" and "Dev symbolic links".
_DEVICE_NUMBERS = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
_SYMLINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
)
_SECCOMP_FLAGS = {
    # The container has one thread when its filter is loaded.
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
}
_PROPAGATIONS = {
    "slave": 1 << 19,
    "rslave": 1 << 19 | 1 << 14,
    "unbindable": 1 << 17,
    "runbindable": 1 << 17 | 1 << 14,
}


class OverlayRoot(msgspec.Struct, frozen=True, kw_only=True):
    """A root of layers: `lower` has the highest first; without `upper` it is read-only."""

    lower: tuple[str, ...]
    upper: str = ""
    work: str = ""
    options: tuple[str, ...] = ()


class BindRoot(msgspec.Struct, frozen=True):
    """A directory of the host as the root."""

    path: str


Root: TypeAlias = OverlayRoot | BindRoot


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What the group's monitor holds, as the specification names it: namespaces are paths below
    `ns_dir`, the shared memory is `shm`."""

    ns_dir: str = ""
    shm: str = ""


class Hierarchy(msgspec.Struct, frozen=True):
    """A cgroup v1 hierarchy: its directory below /sys/fs/cgroup, its mount options, and the names
    that lead there too (cpu and cpuacct to cpu,cpuacct)."""

    directory: str
    options: tuple[str, ...]
    links: tuple[str, ...] = ()


class CgroupView(msgspec.Struct, frozen=True):
    """What a container sees at /sys/fs/cgroup: version 2, the hierarchies of version 1, or 0."""

    version: int = 2
    hierarchies: tuple[Hierarchy, ...] = ()


def cgroup_view(mounts: Iterable[HostMount]) -> CgroupView:
    """The view that the host's mount table asks for; v1 counts where both kinds are mounted."""
    mounts = tuple(mounts)
    found = {
        mount.target: _hierarchy(mount.target, mount.options)
        for mount in mounts
        if mount.fstype == "cgroup" and mount.target.startswith(f"{CGROUP_DIR}/")
    }
    if found:
        return CgroupView(1, tuple(found.values()))
    return CgroupView(2 if any(mount.fstype == "cgroup2" for mount in mounts) else 0)


# What else is among a v1 mount's options in the mount table.
_NO_CONTROLLERS = frozenset({"rw", "ro", "nosuid", "nodev", "noexec", "relatime", "noatime"})


def _hierarchy(target: str, options: Sequence[str]) -> Hierarchy:
    directory = target.rpartition("/")[2]
    wanted = tuple(
        option
        for option in options
        if option not in _NO_CONTROLLERS
        and (option.startswith("name=") or "=" not in option)
        and option not in ("xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods")
    )
    if any(option.startswith("name=") for option in wanted):
        return Hierarchy(directory, ("none", *wanted))
    links = tuple(name for name in wanted if name != directory) if len(wanted) > 1 else ()
    return Hierarchy(directory, wanted, links)


# Each field the native engine does not honour, and whether a specification asks for it.
_REFUSED: tuple[tuple[str, Callable[[oci.Spec, oci.Process, oci.Linux], Any]], ...] = (
    ("process.terminal", lambda spec, process, linux: process.terminal),
    ("process.apparmorProfile", lambda spec, process, linux: process.apparmor_profile),
    ("process.selinuxLabel", lambda spec, process, linux: process.selinux_label),
    ("process.ioPriority", lambda spec, process, linux: process.io_priority),
    ("process.scheduler", lambda spec, process, linux: process.scheduler),
    ("process.execCPUAffinity", lambda spec, process, linux: process.exec_cpu_affinity),
    ("hooks", lambda spec, process, linux: spec.hooks not in (None, oci.Hooks())),
    ("linux.uidMappings", lambda spec, process, linux: linux.uid_mappings),
    ("linux.gidMappings", lambda spec, process, linux: linux.gid_mappings),
    ("linux.timeOffsets", lambda spec, process, linux: linux.time_offsets),
    ("linux.netDevices", lambda spec, process, linux: linux.net_devices),
    ("linux.mountLabel", lambda spec, process, linux: linux.mount_label),
    ("linux.intelRdt", lambda spec, process, linux: linux.intel_rdt),
    ("linux.personality", lambda spec, process, linux: linux.personality),
    ("linux.memoryPolicy", lambda spec, process, linux: linux.memory_policy),
)


def compile_plan(
    spec: oci.Spec,
    *,
    root: Root,
    log_path: str,
    log_max_bytes: int = 0,
    held: Held | None = None,
    cgroups: CgroupView | None = None,
    filter_path: str = "",
) -> bytes:
    """The plan file of a container.

    `filter_path` is the compiled seccomp filter of `spec.linux.seccomp`. Raises: Unsupported,
    InvalidConfig, LimitReached.
    """
    process, linux = spec.process, spec.linux
    if process is None or linux is None:
        raise InvalidConfig("process" if process is None else "linux", "is missing")
    for field, asks in _REFUSED:
        if asks(spec, process, linux):
            raise Unsupported(field)
    held = held or Held()
    clone_flags, joins = _namespaces(linux.namespaces, held)
    ops = [
        Op(OpCode.LOG, (log_path, log_max_bytes)),
        *joins,
        _root(root),
        *_mounts(spec.mounts, held, cgroups or CgroupView()),
        *_devices(spec.mounts, linux.devices),
        *_names(spec, clone_flags, joins),
        *(Op(OpCode.SYSCTL, item) for item in linux.sysctl.items()),
        *_hidden(linux.masked_paths, linux.readonly_paths),
        *_early_directory(spec.root, process.cwd),
        Op(OpCode.PIVOT, (), READ_ONLY_ROOT if spec.root is not None and spec.root.readonly else 0),
        *_propagation(linux.rootfs_propagation),
        *_limits(process),
        *_credentials(process, linux.seccomp, filter_path),
        _exec(process),
    ]
    return encode_plan(ops, clone_flags=clone_flags)


def _namespaces(wanted: Sequence[oci.Namespace], held: Held) -> tuple[int, tuple[Op, ...]]:
    """CLONE_NEW* of the fresh namespaces, and the joins of the others."""
    flags = 0
    joins = []
    seen = set()
    prefix = f"{held.ns_dir}/"
    for namespace in wanted:
        kind = namespace.type
        if kind not in CLONE_FLAGS:
            raise Unsupported("linux.namespaces", kind)
        if kind in seen:
            raise InvalidConfig("linux.namespaces", f"{kind} is listed twice")
        seen.add(kind)
        if not namespace.path:
            flags |= CLONE_FLAGS[kind]
        elif kind == "mount":
            raise Unsupported("linux.namespaces", "joining a mount namespace")
        else:
            is_held = bool(held.ns_dir) and namespace.path.startswith(prefix)
            path = "" if is_held else namespace.path
            joins.append(Op(OpCode.SETNS, (CLONE_FLAGS[kind], path)))
    if "mount" not in seen:
        # Without one, every mount would land in the caller's.
        raise Unsupported("linux.namespaces", "no mount namespace")
    return flags, tuple(joins)


def _root(root: Root) -> Op:
    if isinstance(root, BindRoot):
        return Op(OpCode.ROOT_BIND, (root.path,))
    return Op(OpCode.ROOT_OVERLAY, (root.lower, root.upper, root.work, root.options))


@functools.lru_cache(maxsize=256)
def _mounts(mounts: tuple[oci.Mount, ...], held: Held, cgroups: CgroupView) -> tuple[Op, ...]:
    found: list[Op] = []
    for index, mount in enumerate(mounts):
        field = f"mounts[{index}]"
        if mount.uid_mappings or mount.gid_mappings:
            raise Unsupported(f"{field}.uidMappings")
        if not mount.destination.startswith("/"):
            raise InvalidConfig(f"{field}.destination", "is not an absolute path")
        found += _mount(mount, field, held, cgroups)
    return tuple(found)


def _mount(mount: oci.Mount, field: str, held: Held, cgroups: CgroupView) -> Iterator[Op]:
    options = parse_options(mount.options, field)
    if mount.type == "bind" or options.is_bind:
        yield _bind(mount, field, held)
    elif mount.type in ("cgroup", "cgroup2"):
        yield from _cgroup_mounts(mount.destination, options.attr_set, cgroups)
    elif not mount.type:
        raise InvalidConfig(f"{field}.type", "is missing")
    else:
        if options.is_recursive:
            raise Unsupported(f"{field}.options", "recursive attributes of a new file system")
        fields = (mount.type, mount.source, mount.destination, options.attr_set, options.data)
        yield Op(OpCode.MOUNT, fields)


def _bind(mount: oci.Mount, field: str, held: Held) -> Op:
    options = parse_options(mount.options, field)
    if options.data:
        raise Unsupported(f"{field}.options", options.data[0])
    if held.shm and mount.source == held.shm:
        # The monitor mounted it with its attributes; it has no path outside the monitor.
        return Op(OpCode.POD_SHM, (mount.destination,))
    if not mount.source.startswith("/"):
        raise InvalidConfig(f"{field}.source", f"{mount.source!r} is not an absolute path")
    how = BIND_MAKE
    if options.is_rbind:
        how |= BIND_RECURSIVE
    if options.is_recursive:
        how |= BIND_ATTRS_RECURSIVE
    return Op(
        OpCode.BIND,
        (mount.source, mount.destination, options.attr_set, options.attr_clear, how),
    )


def _cgroup_mounts(destination: str, attributes: int, cgroups: CgroupView) -> Iterator[Op]:
    """One cgroup2 mount; or on v1 a tmpfs that holds a mount for each hierarchy."""
    if cgroups.version == 2:
        yield Op(OpCode.MOUNT, ("cgroup2", "cgroup2", destination, attributes, ()))
        return
    yield Op(OpCode.MOUNT, ("tmpfs", "tmpfs", destination, attributes & ~RDONLY, ("mode=755",)))
    for hierarchy in cgroups.hierarchies:
        path = f"{destination}/{hierarchy.directory}"
        yield Op(OpCode.MOUNT, ("cgroup", "cgroup", path, attributes, hierarchy.options))
        for link in hierarchy.links:
            yield Op(OpCode.SYMLINK, (hierarchy.directory, f"{destination}/{link}"))
    if attributes & RDONLY:
        # Only now: the directories had to be made first.
        yield Op(OpCode.READONLY, (destination,), IN_PLACE)


@functools.lru_cache(maxsize=256)
def _devices(mounts: tuple[oci.Mount, ...], devices: tuple[oci.Device, ...]) -> tuple[Op, ...]:
    """The default nodes and links and those asked for, unless /dev is the host's.

    What a mount covers is not made: the node would be the mount's file.
    """
    covered = {mount.destination for mount in mounts}
    if any(
        mount.destination == "/dev"
        and (mount.type == "bind" or {"bind", "rbind"} & set(mount.options))
        for mount in mounts
    ):
        return ()
    nodes = {
        path: Op(OpCode.DEVICE, (path, ord("c"), major, minor, 0o666, 0, 0))
        for path, major, minor in _DEVICE_NUMBERS
    }
    for index, device in enumerate(devices):
        nodes[device.path] = _device(device, f"linux.devices[{index}]")
    links = {path: Op(OpCode.SYMLINK, (target, path)) for target, path in _SYMLINKS}
    made = {**links, **nodes}
    return tuple(op for path, op in made.items() if path not in covered)


def _device(device: oci.Device, field: str) -> Op:
    if device.type not in _DEVICE_KINDS:
        raise InvalidConfig(f"{field}.type", f"{device.type!r} is no device type")
    if not device.path.startswith("/"):
        raise InvalidConfig(f"{field}.path", "is not an absolute path")
    return Op(
        OpCode.DEVICE,
        (
            device.path,
            _DEVICE_KINDS[device.type],
            device.major,
            device.minor,
            0o666 if device.file_mode is None else device.file_mode & 0o7777,
            device.uid or 0,
            device.gid or 0,
        ),
    )


def _names(spec: oci.Spec, clone_flags: int, joins: Sequence[Op]) -> Iterator[Op]:
    """Host and domain name, which belong to a uts namespace that is not the host's."""
    if not spec.hostname and not spec.domainname:
        return
    uts = CLONE_FLAGS["uts"]
    if not clone_flags & uts and all(op.fields[0] != uts for op in joins):
        raise InvalidConfig("hostname", "cannot be set in the host's uts namespace")
    if spec.hostname:
        yield Op(OpCode.HOSTNAME, (spec.hostname,))
    if spec.domainname:
        yield Op(OpCode.DOMAINNAME, (spec.domainname,))


@functools.lru_cache(maxsize=64)
def _hidden(masked: tuple[str, ...], read_only: tuple[str, ...]) -> tuple[Op, ...]:
    return (
        *(Op(OpCode.MASK, (path,)) for path in masked),
        *(Op(OpCode.READONLY, (path,)) for path in read_only),
    )


def _early_directory(root: oci.Root | None, cwd: str) -> Iterator[Op]:
    """A working directory that is missing can only be made while the root is writable."""
    if root is not None and root.readonly and cwd != "/":
        yield Op(OpCode.CWD, (cwd,), MAKE_DIRECTORY)


def _propagation(word: str) -> Iterator[Op]:
    if word in ("", "private", "rprivate"):
        return
    if word not in _PROPAGATIONS:
        raise Unsupported("linux.rootfsPropagation", word)
    yield Op(OpCode.PROPAGATION, (_PROPAGATIONS[word],))


def _limits(process: oci.Process) -> Iterator[Op]:
    for rlimit in process.rlimits:
        name = rlimit.type.removeprefix("RLIMIT_")
        if name not in _RLIMITS:
            raise InvalidConfig("process.rlimits", f"{rlimit.type!r} is no limit")
        yield Op(OpCode.RLIMIT, (_RLIMITS[name], rlimit.soft, rlimit.hard))
    if process.oom_score_adj is not None:
        yield Op(OpCode.OOM_SCORE, (unsigned_32(process.oom_score_adj),))
    yield Op(OpCode.KEYRING, ("",))
    umask = process.user.umask
    yield Op(OpCode.UMASK, (DEFAULT_UMASK if umask is None else umask,))
    yield Op(OpCode.CWD, (process.cwd,), MAKE_DIRECTORY if process.cwd != "/" else 0)


def _credentials(
    process: oci.Process, seccomp: oci.Seccomp | None, filter_path: str
) -> Iterator[Op]:
    """User, capabilities and filter.

    Loading a filter needs CAP_SYS_ADMIN or no_new_privs: without the latter it comes before the
    capabilities are dropped, with it as late as possible.
    """
    filters = list(_filter(seccomp, filter_path))
    if not process.no_new_privileges:
        yield from filters
    sets = process.capabilities or oci.Capabilities()
    yield Op(
        OpCode.CAPS,
        (
            _bits(sets.bounding),
            _bits(sets.effective),
            _bits(sets.permitted),
            _bits(sets.inheritable),
            _bits(sets.ambient),
        ),
    )
    user = process.user
    yield Op(OpCode.USER, (user.uid, user.gid, user.additional_gids))
    if process.no_new_privileges:
        yield Op(OpCode.NO_NEW_PRIVS)
        yield from filters


def _filter(seccomp: oci.Seccomp | None, path: str) -> Iterator[Op]:
    if seccomp is None:
        return
    if not path:
        raise InvalidConfig("linux.seccomp", "no compiled filter was given")
    flags = 0
    for word in seccomp.flags:
        if word not in _SECCOMP_FLAGS:
            raise Unsupported("linux.seccomp.flags", word)
        flags |= _SECCOMP_FLAGS[word]
    yield Op(OpCode.SECCOMP, (flags, path))


@functools.lru_cache(maxsize=64)
def _bits(names: tuple[str, ...]) -> int:
    """A set of capabilities as a mask. One that no kernel has cannot be granted: left out.

    Source: runtime-spec 1.1, "capabilities".
    """
    return caps.mask([name for name in names if name in caps.NUMBERS])


def _exec(process: oci.Process) -> Op:
    if not process.args:
        raise InvalidConfig("process.args", "is empty")
    return Op(OpCode.EXEC, (process.args, process.env))
