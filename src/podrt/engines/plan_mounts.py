"""The mounts of a plan: new file systems, binds with their attributes and maps, cgroups.

Source: runtime-spec config.md ("Mounts"), mount_setattr(2).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import msgspec

from podrt.errors import InvalidConfig
from podrt.model import runtimespec as oci
from podrt.model.unsupported import unsupported

from .cgroup_view import CGROUP_DIR, CgroupView
from .mount_options import (
    ALL_ATTRIBUTES,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    RDONLY,
    Options,
    parse_options,
)
from .plan_namespaces import check_ranges, map_text
from .plan_ops import Op, OpCode

IN_PLACE = 1
MAX_KNOWN = 1024
COPY_UP = 1
OWN_MODE = 2
BIND_RECURSIVE = 1
BIND_MAKE = 2 | 4
BIND_ATTRS_RECURSIVE = 8
BIND_MAP_RECURSIVE = 16
BIND_SHARED_WITH_HOST = 32
SHARED_ROOT = ("shared", "rshared")
ATTRS_RECURSIVE = 1
# Their files have labels of the kernel's own. Source: mount(8), "context".
_UNLABELLED = frozenset({"proc", "sysfs", "cgroup", "cgroup2", "mqueue"})


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What mounts depend on beside themselves.

    `bundle` is where relative sources start ("" refuses them); `uid_map` and `gid_map` are the
    user namespace's, `in_userns` says that there is one; `label` is the SELinux context of new file
    systems; `shows_own_cgroup` says that no cgroup namespace hides what is above the container's
    cgroup; `shares_binds` that shared binds are shared with the host: from a user namespace they
    are not, whose root must not make mounts there.
    """

    cgroups: CgroupView = CgroupView()
    bundle: str = ""
    uid_map: tuple[oci.IdMapping, ...] = ()
    gid_map: tuple[oci.IdMapping, ...] = ()
    label: str = ""
    in_userns: bool = False
    shows_own_cgroup: bool = False
    shares_binds: bool = False


def mount_ops(mounts: tuple[oci.Mount, ...], around: Around, shm: str = "") -> tuple[Op, ...]:
    """The mounts in their order; `shm` is the source that stands for what the monitor holds.

    Raises: Unsupported, InvalidConfig.
    """
    if shm and all(mount.source != shm for mount in mounts):
        # Each container's path is another: without it, what they have in common is known.
        shm = ""
    return _mount_ops(mounts, around, shm)


@functools.lru_cache(maxsize=256)
def _mount_ops(mounts: tuple[oci.Mount, ...], around: Around, shm: str) -> tuple[Op, ...]:
    found: list[Op] = []
    known = _known_mounts(around)
    for index, mount in enumerate(mounts):
        if mount.type == "bind":
            found += _bind_or_held(mount, f"mounts[{index}]", around, shm)
            continue
        ops = known.get((index, mount))
        if ops is None:
            field = f"mounts[{index}]"
            ops = tuple(_mount(mount, parse_options(mount.options, field), field, around))
            known[index, mount] = ops
        found += ops
    if len(known) > MAX_KNOWN:
        known.clear()
    return tuple(found)


@functools.lru_cache(maxsize=16)
def _known_mounts(around: Around) -> dict[tuple[int, oci.Mount], tuple[Op, ...]]:
    """What mounts have become before: all but binds are the same for most containers."""
    return {}


def _bind_or_held(mount: oci.Mount, field: str, around: Around, shm: str) -> Iterator[Op]:
    options = parse_options(mount.options, field)
    if shm and mount.source == shm and not options.data:
        # The monitor mounted it with its attributes; it has no path outside the monitor.
        yield Op(OpCode.POD_SHM, (inside(mount.destination, field),))
    else:
        yield from _mount(mount, options, field, around)


@functools.lru_cache(maxsize=64)
def late_read_only(mounts: tuple[oci.Mount, ...]) -> tuple[Op, ...]:
    """Each read-only tmpfs, once it has the places of other mounts and of devices in it."""
    last = {inside(mount.destination, ""): mount for mount in mounts if mount.destination}
    found = []
    for path, mount in last.items():
        if mount.type == "tmpfs":
            options = parse_options(mount.options, "mounts[]")
            if (options.attr_set | options.all_set) & RDONLY:
                found.append(Op(OpCode.READONLY, (path,), IN_PLACE))
    return tuple(found)


@functools.lru_cache(maxsize=64)
def hidden(masked: tuple[str, ...], read_only: tuple[str, ...]) -> tuple[Op, ...]:
    """Masks, then what may only be read. Raises: InvalidConfig."""
    for name, paths in (("maskedPaths", masked), ("readonlyPaths", read_only)):
        for index, path in enumerate(paths):
            if not path.startswith("/"):
                raise InvalidConfig(f"linux.{name}[{index}]", f"{path!r} is not an absolute path")
    return (
        *(Op(OpCode.MASK, (path,)) for path in masked),
        *(Op(OpCode.READONLY, (path,)) for path in read_only),
    )


def inside(path: str, field: str) -> str:
    """A path in the container; a relative one starts at its root, as the specification allows."""
    if not path:
        raise InvalidConfig(f"{field}.destination", "is empty")
    return path if path.startswith("/") else f"/{path}"


def _copying(options: Options) -> int:
    if not options.copies_up:
        return 0
    names_own = any(word.startswith(("mode=", "uid=", "gid=")) for word in options.data)
    return COPY_UP | OWN_MODE if names_own else COPY_UP


def _mount(mount: oci.Mount, options: Options, field: str, around: Around) -> Iterator[Op]:
    destination = inside(mount.destination, field)
    is_bind = mount.type == "bind" or options.is_bind
    if options.copies_up and (is_bind or mount.type != "tmpfs"):
        raise unsupported(f"{field}.options", "tmpcopyup on anything but a tmpfs")
    if options.is_remount:
        yield _remount(options, destination, field)
    elif is_bind:
        yield from _bind(mount, options, field, around)
    elif mount.uid_mappings or mount.gid_mappings or _maps(options):
        raise unsupported(f"{field}.options", "idmap on anything but a bind mount")
    elif mount.type in ("cgroup", "cgroup2"):
        yield from _cgroup_mounts(destination, options.attr_set | options.all_set, around)
    elif not mount.type:
        raise InvalidConfig(f"{field}.type", "is missing")
    else:
        data = options.data
        if around.label and mount.type not in _UNLABELLED:
            data = (*data, f"context={around.label}")
        # Nothing lies below it yet: attributes for all are its own.
        attributes = options.attr_set | options.all_set
        if mount.type == "tmpfs":
            attributes &= ~RDONLY  # not before all below it is made: see `late_read_only`
        fields = (mount.type, mount.source, destination, attributes, data)
        yield Op(OpCode.MOUNT, fields, _copying(options))
        propagation = _propagation(options)
        if propagation:
            yield Op(OpCode.MOUNT_ATTR, (destination, 0, 0, propagation))


def _maps(options: Options) -> bool:
    return options.is_idmapped or options.is_ridmapped


def _remount(options: Options, destination: str, field: str) -> Op:
    """Attributes anew: what is not asked for is taken away, as mount(2) does."""
    if options.data:
        raise unsupported(f"{field}.options", f"remount with {options.data[0]}")
    attributes = options.attr_set | options.all_set
    clear = ALL_ATTRIBUTES & ~attributes
    how = ATTRS_RECURSIVE if options.is_everywhere else 0
    return Op(OpCode.MOUNT_ATTR, (destination, attributes, clear, how | _propagation(options)))


def _bind(mount: oci.Mount, options: Options, field: str, around: Around) -> Iterator[Op]:
    if options.data and not around.bundle:
        # Of a bundle it is worth a warning, as other runtimes take them: see `ineffective`.
        raise unsupported(f"{field}.options", f"bind with {options.data[0]}")
    is_shared = bool(options.propagation & MS_SHARED)
    if is_shared and around.in_userns and not around.bundle:
        raise unsupported(f"{field}.options", "a shared bind in a user namespace")
    destination = inside(mount.destination, field)
    # The word "rw" is in most binds and lifts no protection of the host's; "rrw" does.
    clear = options.attr_clear & ~RDONLY
    how = BIND_MAKE | (BIND_RECURSIVE if options.is_rbind else 0) | _propagation(options)
    how |= BIND_SHARED_WITH_HOST if is_shared and around.shares_binds else 0
    fields: tuple[str | int, ...]
    if options.is_everywhere:
        how |= BIND_ATTRS_RECURSIVE
        fields = (_source(mount, field, around), destination, options.all_set, options.all_clear)
    else:
        fields = (_source(mount, field, around), destination, options.attr_set, clear)
    maps = _id_maps(mount, options, field, around)
    if maps[0] and options.is_ridmapped:
        how |= BIND_MAP_RECURSIVE
    yield Op(OpCode.BIND, (*fields, how, *maps))
    if options.is_everywhere and (options.attr_set or clear):
        # What is asked for the top mount alone comes after what is asked for all.
        yield Op(OpCode.MOUNT_ATTR, (destination, options.attr_set, clear, 0))


def _source(mount: oci.Mount, field: str, around: Around) -> str:
    if mount.source.startswith("/"):
        return mount.source
    if not mount.source or not around.bundle:
        raise InvalidConfig(f"{field}.source", f"{mount.source!r} is not an absolute path")
    return f"{around.bundle}/{mount.source}"


def _id_maps(mount: oci.Mount, options: Options, field: str, around: Around) -> tuple[str, str]:
    """The maps of an idmapped mount: its own, or those of the container's user namespace."""
    uids = mount.uid_mappings or options.uid_map
    gids = mount.gid_mappings or options.gid_map
    if not uids and not gids:
        if not _maps(options):
            return "", ""
        uids, gids = around.uid_map, around.gid_map
    for name, ranges in (("uidMappings", uids), ("gidMappings", gids)):
        if not ranges:
            raise InvalidConfig(f"{field}.{name}", "an idmapped mount needs both mappings")
        check_ranges(ranges, f"{field}.{name}")
    return map_text(uids), map_text(gids)


def _propagation(options: Options) -> int:
    """The last word about propagation. Mounts are private anyhow: that one says nothing new."""
    flags = options.propagation
    return 0 if flags & ~MS_REC == MS_PRIVATE else flags


def _cgroup_mounts(destination: str, attributes: int, around: Around) -> Iterator[Op]:
    """One cgroup2 mount; or on v1 a tmpfs that holds a mount for each hierarchy."""
    cgroups = around.cgroups
    own = cgroups.path if around.shows_own_cgroup else ""
    if cgroups.version == 2:
        # The host's own namespace was asked for, and the kernel shows what that has; but from
        # another user namespace it mounts none.
        if own and around.in_userns:
            yield _own_cgroup(f"{CGROUP_DIR}{own}", destination, attributes)
        else:
            yield Op(OpCode.MOUNT, ("cgroup2", "cgroup2", destination, attributes, ()))
        return
    yield Op(OpCode.MOUNT, ("tmpfs", "tmpfs", destination, attributes & ~RDONLY, ("mode=755",)))
    for hierarchy in cgroups.hierarchies:
        path = f"{destination}/{hierarchy.directory}"
        if own:
            source = f"{CGROUP_DIR}/{hierarchy.directory}{own}"
            yield _own_cgroup(source, path, attributes)
        else:
            yield Op(OpCode.MOUNT, ("cgroup", "cgroup", path, attributes, hierarchy.options))
        for link in hierarchy.links:
            yield Op(OpCode.SYMLINK, (hierarchy.directory, f"{destination}/{link}"))
    if attributes & RDONLY:
        # Only now: the directories had to be made first.
        yield Op(OpCode.READONLY, (destination,), IN_PLACE)


def _own_cgroup(source: str, destination: str, attributes: int) -> Op:
    return Op(OpCode.BIND, (source, destination, attributes, 0, BIND_MAKE, "", ""))


def ineffective(mounts: Sequence[oci.Mount], *, gives_none_back: bool) -> list[str]:
    """A warning for each option of a bundle's bind that has less effect than it may seem to have.

    Those of a file system it has from its source; a shared one in a user namespace gets the host's
    mounts and gives none back. Source: mount(2), "Creating a bind mount": the kernel ignores the
    former.
    """
    said = []
    for index, mount in enumerate(mounts):
        field = f"mounts[{index}].options"
        options = parse_options(mount.options, f"mounts[{index}]")
        if mount.type != "bind" and not options.is_bind:
            continue
        said += [f"{field}: {word!r} has no effect on a bind" for word in options.data]
        if options.propagation & MS_SHARED and gives_none_back:
            said.append(f"{field}: what the container mounts there does not reach the host")
    return said
