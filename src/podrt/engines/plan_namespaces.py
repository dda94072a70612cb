"""Namespaces of a plan: made, held by the monitor or joined; mapped IDs; moved clocks; sysctls."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from podrt.errors import InvalidConfig
from podrt.linux.sysctls import namespace_of
from podrt.model import runtimespec as oci
from podrt.model.unsupported import unsupported

from .plan_ops import Op, OpCode

CLONE_FLAGS: Mapping[str, int] = {
    "time": 0x00000080,
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}
# In which order namespaces are joined. Once in another user namespace, one may not join what
# belongs to the host's: so that comes last.
_JOIN_ORDER = ("network", "ipc", "uts", "cgroup", "time", "pid", "mount", "user")
# Source: user_namespaces(7): the kernel takes 340 lines, and a page.
MAX_RANGES = 340
IDS_END = 1 << 32
MAX_SYSCTL = 255
_CLOCKS = {"monotonic": 1, "boottime": 7}
_NANOSECONDS = 1_000_000_000
_PART = re.compile(r"[^./\0\s][^.\0\s]*")


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What the group's monitor holds, as the specification names it: namespaces are paths below
    `ns_dir`, the shared memory is `shm`."""

    ns_dir: str = ""
    shm: str = ""


class Namespaces(msgspec.Struct, frozen=True):
    """The CLONE_NEW* of the fresh namespaces, the joins of the others, and the types of both."""

    fresh: int
    joins: tuple[Op, ...]
    kinds: frozenset[str]

    def makes(self, kind: str) -> bool:
        """Whether the container gets a fresh one."""
        return bool(self.fresh & CLONE_FLAGS[kind])

    def joins_one(self, kind: str) -> bool:
        """Whether the container joins one."""
        return kind in self.kinds and not self.makes(kind)


def find_namespaces(
    wanted: Sequence[oci.Namespace], held: Held, callers_mounts: str = ""
) -> Namespaces:
    """Sort what a specification asks for; without a mount namespace it joins `callers_mounts`.

    Raises: Unsupported, InvalidConfig.
    """
    kinds_wanted = {one.type for one in wanted}
    if "mount" not in kinds_wanted:
        if not callers_mounts or "user" in kinds_wanted:
            raise unsupported("linux.namespaces", "no mount namespace")
        wanted = (*wanted, oci.Namespace(type="mount", path=callers_mounts))
    # A path below the monitor's own directory is the container's alone; what it means is not.
    prefix = f"{held.ns_dir}/"
    if held.ns_dir and any(one.path.startswith(prefix) for one in wanted):
        kinds = frozenset({one.type for one in wanted if one.path.startswith(prefix)})
        return _find_namespaces(
            tuple([(one.type, "/" if one.type in kinds else one.path) for one in wanted]), kinds
        )
    return _find_namespaces(tuple([(one.type, one.path) for one in wanted]))


@functools.lru_cache(maxsize=64)
def _find_namespaces(
    wanted: tuple[tuple[str, str], ...], held: frozenset[str] = frozenset()
) -> Namespaces:
    flags = 0
    joins: dict[str, Op] = {}
    for index, (kind, path) in enumerate(wanted):
        if kind not in CLONE_FLAGS:
            raise InvalidConfig(f"linux.namespaces[{index}].type", f"{kind!r} is no namespace")
        if kind in joins or flags & CLONE_FLAGS[kind]:
            raise InvalidConfig("linux.namespaces", f"{kind} is listed twice")
        if not path:
            flags |= CLONE_FLAGS[kind]
            continue
        if not path.startswith("/"):
            raise InvalidConfig(
                f"linux.namespaces[{index}].path", f"{path!r} is not an absolute path"
            )
        joins[kind] = Op(OpCode.SETNS, (CLONE_FLAGS[kind], "" if kind in held else path))
    kinds = {kind for kind, flag in CLONE_FLAGS.items() if flags & flag} | joins.keys()
    ordered = tuple(joins[kind] for kind in _JOIN_ORDER if kind in joins)
    return Namespaces(flags, ordered, frozenset(kinds))


def map_ids(linux: oci.Linux, found: Namespaces, *, is_layered: bool = False) -> Iterator[Op]:
    """The IDs of a fresh user namespace, or of a joined one through which layers are seen.

    Raises: InvalidConfig.
    """
    if not linux.uid_mappings and not linux.gid_mappings and "user" not in found.kinds:
        return
    for field, ranges in _mappings(linux):
        if ranges:
            check_ranges(ranges, field)
            if "user" not in found.kinds:
                raise InvalidConfig(field, "there is no user namespace to map IDs for")
        elif found.makes("user"):
            raise InvalidConfig(field, "a new user namespace needs a mapping")
    if found.makes("user") or (is_layered and maps_layers(linux, found)):
        yield Op(OpCode.IDMAP, (map_text(linux.uid_mappings), map_text(linux.gid_mappings)))


def maps_layers(linux: oci.Linux, found: Namespaces) -> bool:
    """Whether a root of layers, which belong to the host's users, is shown as the container's."""
    both = bool(linux.uid_mappings and linux.gid_mappings)
    return found.makes("user") or (found.joins_one("user") and both)


def _mappings(linux: oci.Linux) -> tuple[tuple[str, tuple[oci.IdMapping, ...]], ...]:
    return (
        ("linux.uidMappings", linux.uid_mappings),
        ("linux.gidMappings", linux.gid_mappings),
    )


def check_ranges(ranges: Sequence[oci.IdMapping], field: str) -> None:
    """Refuse what the kernel would not take as a map of IDs. Raises: InvalidConfig."""
    if len(ranges) > MAX_RANGES:
        raise InvalidConfig(field, f"{len(ranges)} ranges are more than the kernel's {MAX_RANGES}")
    for index, one in enumerate(ranges):
        if one.size < 1:
            raise InvalidConfig(f"{field}[{index}].size", f"{one.size} is not above zero")
        for name, first in (("containerID", one.container_id), ("hostID", one.host_id)):
            if first < 0 or first + one.size > IDS_END:
                raise InvalidConfig(f"{field}[{index}].{name}", "the range leaves the 32-bit IDs")
    for name, starts in (
        ("containerID", [(one.container_id, one.size) for one in ranges]),
        ("hostID", [(one.host_id, one.size) for one in ranges]),
    ):
        end = 0
        for first, size in sorted(starts):
            if first < end:
                raise InvalidConfig(field, f"two ranges have the {name} {first}")
            end = first + size


def map_text(ranges: Sequence[oci.IdMapping]) -> str:
    """Ranges as /proc/PID/uid_map takes them."""
    return "".join(f"{one.container_id} {one.host_id} {one.size}\n" for one in ranges)


def to_host(ranges: Sequence[oci.IdMapping], number: int) -> int:
    """The host's number of an ID of the container; one that is not mapped stays."""
    for one in ranges:
        if one.container_id <= number < one.container_id + one.size:
            return one.host_id + number - one.container_id
    return number


def has_id(ranges: Sequence[oci.IdMapping], number: int) -> bool:
    """Whether a range has an ID of the container."""
    return any(one.container_id <= number < one.container_id + one.size for one in ranges)


def clocks(linux: oci.Linux, found: Namespaces) -> Iterator[Op]:
    """The offsets of a fresh time namespace's clocks. Raises: InvalidConfig."""
    if not linux.time_offsets:
        return
    if not found.makes("time"):
        raise InvalidConfig("linux.timeOffsets", "there is no new time namespace")
    for name, offset in linux.time_offsets.items():
        field = f"linux.timeOffsets.{name}"
        if name not in _CLOCKS:
            raise InvalidConfig(field, "is not boottime or monotonic")
        if not 0 <= offset.nanosecs < _NANOSECONDS:
            raise InvalidConfig(f"{field}.nanosecs", f"{offset.nanosecs} is not below a second")
        yield Op(OpCode.TIMENS, (f"{_CLOCKS[name]} {offset.secs} {offset.nanosecs}\n",))


def names(spec: oci.Spec, found: Namespaces) -> Iterator[Op]:
    """Host and domain name, which belong to a uts namespace that is not the host's."""
    for field, code, name in (
        ("hostname", OpCode.HOSTNAME, spec.hostname),
        ("domainname", OpCode.DOMAINNAME, spec.domainname),
    ):
        if not name:
            continue
        if "uts" not in found.kinds:
            raise InvalidConfig(field, "cannot be set in the host's uts namespace")
        yield Op(code, (name,))


def sysctls(settings: Mapping[str, str], found: Namespaces) -> tuple[Op, ...]:
    """Kernel parameters, each of a namespace that is not the host's. Raises: InvalidConfig."""
    return _sysctls(tuple(settings.items()), found.kinds)


@functools.lru_cache(maxsize=64)
def _sysctls(settings: tuple[tuple[str, str], ...], kinds: frozenset[str]) -> tuple[Op, ...]:
    made = []
    for key, value in settings:
        name = _sysctl_name(key)
        kind = namespace_of(name).replace("net", "network")
        field = f"linux.sysctl[{key}]"
        if not kind:
            raise InvalidConfig(field, "is not separate for each container")
        if kind not in kinds:
            raise InvalidConfig(field, f"is not allowed in the host's {kind} namespace")
        path = name.translate({ord("."): "/", ord("/"): "."})
        made.append(Op(OpCode.SYSCTL, (name, path, value)))
    return tuple(made)


def _sysctl_name(key: str) -> str:
    """`key` with dots between its parts; a dot inside a part is a slash. Source: sysctl(8)."""
    if len(key) > MAX_SYSCTL:
        raise InvalidConfig("linux.sysctl", f"a key of {len(key)} characters is too long")
    dot, slash = key.find("."), key.find("/")
    is_path = slash >= 0 and (dot < 0 or slash < dot)
    name = key.translate({ord("."): "/", ord("/"): "."}) if is_path else key
    if not all(_PART.fullmatch(part) for part in name.split(".")):
        raise InvalidConfig(f"linux.sysctl[{key}]", "is no kernel parameter")
    return name
