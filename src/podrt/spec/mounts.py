"""A container's mounts: podman's default set, and what the caller adds or puts in its place."""

from __future__ import annotations

import functools
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from podrt.errors import InvalidConfig, NotFound, Unsupported
from podrt.model.container import Mount as WantedMount
from podrt.model.container import MountKind, NamespaceMode
from podrt.model.runtimespec import Mount

from .process import check_text

_PROPAGATIONS = frozenset(
    f"{recursive}{kind}"
    for recursive in ("", "r")
    for kind in ("private", "shared", "slave", "unbindable")
)
# SELinux labels mean nothing where SELinux is off, as it is on every host podrt knows so far.
_LABELS = frozenset({"z", "Z"})
_VOLUME_WORDS = frozenset({"copy", "nocopy"})
_UNSUPPORTED = frozenset({"U", "O"})
_WRITABLE_WHEN_READ_ONLY = ("/run", "/tmp", "/var/tmp")
_TMPFS_OPTIONS = ("nosuid", "nodev", "rw", "rprivate")


class SharedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Host paths of the files a group's containers see below /etc; "" leaves the image's."""

    hosts: str = ""
    hostname: str = ""
    resolv_conf: str = ""
    localtime: str = ""


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What the default set of mounts depends on.

    `binds_sys` and `binds_proc`: the host's is shown, for the kernel makes none of namespaces
    that another user namespace owns.
    """

    ipc: NamespaceMode
    pod_shm: str
    shm_bytes: int
    is_privileged: bool
    is_read_only: bool
    has_tmpfs: bool
    files: SharedFiles
    binds_sys: bool = False
    binds_proc: bool = False


@functools.lru_cache(maxsize=256)
def default_mounts(wanted: Defaults) -> Mapping[str, Mount]:
    """podman's default mounts, by destination."""
    access = "rw" if wanted.is_privileged else "ro"
    found = [
        _kernel_files("/proc", "proc", "nosuid,noexec,nodev", is_bind=wanted.binds_proc),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid,noexec,strictatime,mode=755,size=65536k"),
        _kernel_files("/sys", "sysfs", f"nosuid,noexec,nodev,{access}", is_bind=wanted.binds_sys),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        *_ipc_mounts(wanted),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", f"nosuid,noexec,nodev,relatime,{access}"),
        *_file_mounts(wanted),
    ]
    if wanted.is_read_only and wanted.has_tmpfs:
        found += (tmpfs_mount(path, ()) for path in _WRITABLE_WHEN_READ_ONLY)
    return {mount.destination: mount for mount in found}


def _mount(destination: str, kind: str, source: str, options: str) -> Mount:
    return Mount(
        destination=destination, type=kind, source=source, options=tuple(options.split(","))
    )


def _kernel_files(destination: str, kind: str, options: str, *, is_bind: bool) -> Mount:
    if is_bind:
        # All that is mounted below comes along, so it is read-only as well.
        words = ["rro" if word == "ro" else word for word in options.split(",")]
        return _mount(destination, "bind", destination, f"rbind,{','.join(words)},rprivate")
    return _mount(destination, kind, kind, options)


def _ipc_mounts(wanted: Defaults) -> Iterator[Mount]:
    """POSIX message queues and shared memory, in the same hands as the ipc namespace."""
    if wanted.ipc is NamespaceMode.HOST:
        for path in ("/dev/mqueue", "/dev/shm"):
            if os.path.isdir(path):
                yield _mount(path, "bind", path, "bind,nosuid,noexec,nodev,rprivate")
        return
    yield _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev")
    if wanted.ipc is NamespaceMode.POD:
        yield _mount("/dev/shm", "bind", wanted.pod_shm, "bind,nosuid,noexec,nodev,rprivate")
    else:
        options = f"nosuid,noexec,nodev,mode=1777,size={wanted.shm_bytes}"
        yield _mount("/dev/shm", "tmpfs", "shm", options)


def _file_mounts(wanted: Defaults) -> Iterator[Mount]:
    """Writable by whoever may, like the root they lie in."""
    files = wanted.files
    access = "ro,nosuid,noexec,nodev" if wanted.is_read_only else "rw"
    for destination, source in (
        ("/etc/hosts", files.hosts),
        ("/etc/hostname", files.hostname),
        ("/etc/resolv.conf", files.resolv_conf),
        ("/etc/localtime", files.localtime),
    ):
        if source:
            yield _mount(destination, "bind", source, f"bind,{access},rprivate")


def tmpfs_mount(destination: str, options: Sequence[str]) -> Mount:
    """A tmpfs the caller asked for; "ro" and the like in `options` win over the defaults.

    As podman's, it starts with what the image has there, unless "notmpcopyup" is asked for.
    """
    copies_up = () if "notmpcopyup" in options else ("tmpcopyup",)
    wanted = _clean(options, f"--tmpfs {destination}")
    return Mount(
        destination=destination,
        type="tmpfs",
        source="tmpfs",
        options=tuple(dict.fromkeys((*_TMPFS_OPTIONS, *copies_up, *wanted))),
    )


def all_mounts(
    defaults: Mapping[str, Mount], wanted: Iterable[WantedMount], volumes: Mapping[str, str]
) -> tuple[Mount, ...]:
    """Defaults and the caller's mounts, parents before what lies in them.

    The caller's take the place of a default with the same destination; `volumes` maps names to
    directories. Raises: InvalidConfig, NotFound, Unsupported.
    """
    if not wanted:
        return _by_depth(tuple(defaults.values()))
    found = dict(defaults)
    given: set[str] = set()
    for mount in wanted:
        made = _wanted_mount(mount, volumes)
        if made.destination in given:
            raise InvalidConfig("--volume", f"{made.destination}: duplicate mount destination")
        given.add(made.destination)
        found[made.destination] = made
    return _by_depth(tuple(found.values()))


@functools.lru_cache(maxsize=256)
def _by_depth(mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
    return tuple(sorted(mounts, key=lambda mount: mount.destination.count("/")))


def _wanted_mount(mount: WantedMount, volumes: Mapping[str, str]) -> Mount:
    field = f"--volume {mount.source}:{mount.destination}"
    destination = _destination(mount.destination, field)
    if mount.kind is MountKind.TMPFS:
        return tmpfs_mount(destination, mount.options)
    if mount.kind in (MountKind.DEVPTS, MountKind.RAMFS):
        kind = str(mount.kind)
        options = _clean(mount.options, f"--mount type={kind}")
        return Mount(destination=destination, type=kind, source=kind, options=options)
    options = _clean(mount.options, field)
    if mount.kind is MountKind.VOLUME:
        if mount.source not in volumes:
            raise NotFound("volume", mount.source)
        source = volumes[mount.source]
        options = ("nosuid", "nodev", *options)
    else:
        source = _bind_source(mount.source, field)
    return Mount(
        destination=destination, type="bind", source=source, options=_bind_options(options)
    )


def _destination(path: str, field: str) -> str:
    if not path.startswith("/"):
        raise InvalidConfig(field, f"{path!r} is not an absolute path")
    # normpath keeps a second leading slash, which POSIX lets mean something.
    clean = "/" + posixpath.normpath(check_text(field, path)).lstrip("/")
    if clean == "/":
        raise InvalidConfig(field, "the root directory cannot be a mount's destination")
    return clean


def _bind_source(path: str, field: str) -> str:
    if not path.startswith("/"):
        raise InvalidConfig(field, f"{path!r} is not an absolute path")
    if not os.path.exists(check_text(field, path)):
        raise InvalidConfig(field, f"statfs {path}: no such file or directory")
    return path


def _clean(options: Sequence[str], field: str) -> tuple[str, ...]:
    """Options without those that mean nothing here. Raises: InvalidConfig, Unsupported."""
    for option in options:
        if option.partition("=")[0] in _UNSUPPORTED:
            raise Unsupported(f"{field}:{option}")
        if not option or "\0" in option or "," in option:
            raise InvalidConfig(field, f"invalid option {option!r}")
    dropped = _LABELS | _VOLUME_WORDS | {"notmpcopyup"}
    return tuple(option for option in options if option not in dropped)


def _bind_options(options: tuple[str, ...]) -> tuple[str, ...]:
    """podman's defaults for a bind where the caller says nothing: rbind, rprivate, rw."""
    found = list(options)
    if not {"bind", "rbind"} & set(options):
        found.append("rbind")
    if not _PROPAGATIONS & set(options):
        found.append("rprivate")
    if not {"ro", "rw", "rro"} & set(options):
        found.append("rw")
    return tuple(found)


def root_propagation(mounts: Iterable[Mount]) -> str:
    """`linux.rootfsPropagation`: shared or slave if a mount asks for that, else "" (private)."""
    words = {option.removeprefix("r") for mount in mounts for option in mount.options}
    if "shared" in words:
        return "shared"
    return "rslave" if "slave" in words else ""
