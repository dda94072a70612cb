"""The plan file: what the launcher executes, as bytes and as values.

Shape: a 32-byte header, then operations of a multiple of 8 bytes each, in native byte order; the
Python twin of _native/wire.h and _native/plan.c. A plan is only ever read on the host it was
written on.
"""

from __future__ import annotations

import enum
import functools
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from podrt.errors import InvalidConfig, LimitReached

MAGIC = b"podrtpl1"
PLAN_VERSION = 2
MAX_BYTES = 4 << 20
HEADER = struct.Struct("=8s6I")
_HEAD = struct.Struct("=HHI")
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_ALIGN = 8


class OpCode(enum.IntEnum):
    """What an operation does."""

    SETNS = 1
    ROOT_OVERLAY = 2
    ROOT_BIND = 3
    MOUNT = 4
    BIND = 5
    POD_SHM = 6
    DEVICE = 7
    SYMLINK = 8
    MASK = 9
    READONLY = 10
    PIVOT = 11
    HOSTNAME = 12
    DOMAINNAME = 13
    SYSCTL = 14
    RLIMIT = 15
    OOM_SCORE = 16
    UMASK = 17
    USER = 18
    CAPS = 19
    NO_NEW_PRIVS = 20
    SECCOMP = 21
    KEYRING = 22
    CWD = 23
    EXEC = 24
    LOG = 25
    PROPAGATION = 26
    TERMINAL = 27
    APPARMOR = 28
    SELINUX = 29
    IOPRIO = 30
    SCHED = 31
    AFFINITY = 32
    PERSONALITY = 33
    TIMENS = 34
    IDMAP_BIND = 35
    HOOKS = 36
    NOTIFY = 37
    STDIO = 39
    IDMAP = 40
    MOUNT_ATTR = 41


# The fields of each operation: u32 u, u64 q, string s, list of strings l, list of u32 g, bytes b.
LAYOUTS: dict[OpCode, str] = {
    OpCode.SETNS: "us",
    OpCode.ROOT_OVERLAY: "lssl",
    OpCode.ROOT_BIND: "s",
    OpCode.MOUNT: "sssql",
    OpCode.BIND: "ssqqu",
    OpCode.POD_SHM: "s",
    OpCode.DEVICE: "suuuuuu",
    OpCode.SYMLINK: "ss",
    OpCode.MASK: "s",
    OpCode.READONLY: "s",
    OpCode.PIVOT: "",
    OpCode.HOSTNAME: "s",
    OpCode.DOMAINNAME: "s",
    OpCode.SYSCTL: "ss",
    OpCode.RLIMIT: "uqq",
    OpCode.OOM_SCORE: "u",
    OpCode.UMASK: "u",
    OpCode.USER: "uug",
    OpCode.CAPS: "qqqqq",
    OpCode.NO_NEW_PRIVS: "",
    OpCode.SECCOMP: "us",
    OpCode.KEYRING: "s",
    OpCode.CWD: "s",
    OpCode.EXEC: "ll",
    OpCode.LOG: "sq",
    OpCode.PROPAGATION: "q",
    OpCode.TERMINAL: "uus",
    OpCode.APPARMOR: "s",
    OpCode.SELINUX: "s",
    OpCode.IOPRIO: "uu",
    OpCode.SCHED: "uuuqqqq",
    OpCode.AFFINITY: "b",
    OpCode.PERSONALITY: "q",
    OpCode.TIMENS: "uqu",
    OpCode.IDMAP_BIND: "ssqquss",
    OpCode.HOOKS: "usllus",
    OpCode.NOTIFY: "ss",
    OpCode.STDIO: "uu",
    OpCode.IDMAP: "ssu",
    OpCode.MOUNT_ATTR: "sqqu",
}
# What a failure is called; operations by their code, then the steps that are none.
_STAGES = {
    OpCode.SETNS: "join namespace",
    OpCode.ROOT_OVERLAY: "mount root",
    OpCode.ROOT_BIND: "mount root",
    OpCode.MOUNT: "mount",
    OpCode.BIND: "bind mount",
    OpCode.POD_SHM: "mount",
    OpCode.DEVICE: "make device",
    OpCode.SYMLINK: "make symlink",
    OpCode.MASK: "mask",
    OpCode.READONLY: "make read-only",
    OpCode.PIVOT: "switch root",
    OpCode.HOSTNAME: "set hostname",
    OpCode.DOMAINNAME: "set domainname",
    OpCode.SYSCTL: "set sysctl",
    OpCode.RLIMIT: "set limit",
    OpCode.OOM_SCORE: "set oom_score_adj",
    OpCode.UMASK: "set umask",
    OpCode.USER: "set user",
    OpCode.CAPS: "set capabilities",
    OpCode.NO_NEW_PRIVS: "set no_new_privs",
    OpCode.SECCOMP: "load seccomp filter",
    OpCode.KEYRING: "join session keyring",
    OpCode.CWD: "change to working directory",
    OpCode.EXEC: "exec",
    OpCode.LOG: "open log",
    OpCode.PROPAGATION: "set mount propagation",
    OpCode.TERMINAL: "set up terminal",
    OpCode.APPARMOR: "set AppArmor profile",
    OpCode.SELINUX: "set SELinux label",
    OpCode.IOPRIO: "set I/O priority",
    OpCode.SCHED: "set scheduler",
    OpCode.AFFINITY: "set CPU affinity",
    OpCode.PERSONALITY: "set personality",
    OpCode.TIMENS: "set clock offset",
    OpCode.IDMAP_BIND: "bind mount",
    OpCode.HOOKS: "run hook",
    OpCode.NOTIFY: "send seccomp listener",
    OpCode.STDIO: "set up standard streams",
    OpCode.IDMAP: "map IDs",
    OpCode.MOUNT_ATTR: "set mount attributes",
    100: "read plan",
    101: "make pipes",
    102: "clone",
    103: "join cgroup",
    104: "write journal",
    105: "prepare",
    106: "start cancelled",
}

Field: TypeAlias = "int | str | bytes | tuple[str, ...] | tuple[int, ...]"


class Op(NamedTuple):
    """One operation; `fields` in the order and of the kinds of its layout."""

    code: OpCode
    fields: tuple[Field, ...] = ()
    flags: int = 0


class Plan(NamedTuple):
    """A decoded plan."""

    clone_flags: int
    ops: tuple[Op, ...]
    flags: int = 0


def stage_name(code: int) -> str:
    """What the step `code` of a failed start is called in an error."""
    return _STAGES.get(code, f"stage {code}")


def encode_plan(ops: Iterable[Op], *, clone_flags: int, flags: int = 0) -> bytes:
    """The plan file of `ops`. Raises: LimitReached, InvalidConfig (a NUL in a string)."""
    parts = [encode_op(op) for op in ops]
    total = HEADER.size + sum(map(len, parts))
    if total > MAX_BYTES:
        raise LimitReached("the plan", f"{MAX_BYTES} bytes")
    header = HEADER.pack(MAGIC, PLAN_VERSION, total, len(parts), clone_flags, flags, 0)
    return b"".join((header, *parts))


@functools.lru_cache(maxsize=4096)
def encode_op(op: Op) -> bytes:
    """One operation. Most of a host's containers share most of theirs: hence the cache."""
    code, fields, flags = op
    parts = [b""]
    for kind, value in zip(LAYOUTS[code], fields, strict=True):
        _encode_field(parts, kind, value)
    length = _HEAD.size + sum(map(len, parts))
    padding = -length % _ALIGN
    parts[0] = _HEAD.pack(code, flags, length + padding)
    parts.append(bytes(padding))
    return b"".join(parts)


def _encode_field(parts: list[bytes], kind: str, value: Field) -> None:
    if kind == "u" and isinstance(value, int):
        parts.append(_U32.pack(value))
    elif kind == "q" and isinstance(value, int):
        parts.append(_U64.pack(value))
    elif kind == "s" and isinstance(value, str):
        _encode_text(parts, value)
    elif kind in "lg" and isinstance(value, tuple):
        parts.append(_U32.pack(len(value)))
        for item in value:
            if isinstance(item, int):
                parts.append(_U32.pack(item))
            else:
                _encode_text(parts, item)
    elif kind == "b" and isinstance(value, bytes):
        parts.append(_U32.pack(len(value)))
        parts.append(value)
    else:
        raise TypeError(f"a field of kind {kind!r} cannot be {value!r}")


def _encode_text(parts: list[bytes], text: str) -> None:
    data = os.fsencode(text)
    if b"\0" in data:
        raise InvalidConfig("plan", f"{text!r} holds a NUL character")
    parts.append(_U32.pack(len(data)))
    parts.append(data)
    parts.append(b"\0")


def decode_plan(data: bytes) -> Plan:
    """The plan in `data`, read as strictly as the launcher reads it. Raises: InvalidConfig."""
    if not HEADER.size <= len(data) <= MAX_BYTES:
        raise _bad(0, f"{len(data)} bytes cannot be a plan")
    magic, version, total, count, clone_flags, flags, reserved = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _bad(0, "no plan")
    # Every later version only added to the first.
    if not 1 <= version <= PLAN_VERSION:
        raise _bad(8, f"version {version} is newer than {PLAN_VERSION}")
    if total != len(data) or reserved != 0:
        raise _bad(12, "its header does not fit its size")
    ops = []
    at = HEADER.size
    for _ in range(count):
        op, at = _decode_op(data, at)
        ops.append(op)
        if op.code is OpCode.EXEC:
            break
    if len(ops) != count or at != total or not ops or ops[-1].code is not OpCode.EXEC:
        raise _bad(at, "exec is not the last operation")
    if not ops[-1].fields[0]:
        raise _bad(at, "exec has no arguments")
    return Plan(clone_flags, tuple(ops), flags)


def _bad(offset: int, reason: str) -> InvalidConfig:
    return InvalidConfig("plan", f"{reason} (at offset {offset})")


def _decode_op(data: bytes, start: int) -> tuple[Op, int]:
    if len(data) - start < _HEAD.size:
        raise _bad(start, "an operation is cut off")
    code, flags, length = _HEAD.unpack_from(data, start)
    end = start + length
    if length < _HEAD.size or length % _ALIGN or end > len(data):
        raise _bad(start, f"an operation cannot have {length} bytes")
    if code not in LAYOUTS:
        raise _bad(start, f"there is no operation {code}")
    reader = _Reader(data, start + _HEAD.size, end)
    fields = tuple(reader.field(kind) for kind in LAYOUTS[OpCode(code)])
    if end - reader.at >= _ALIGN or any(data[reader.at : end]):
        raise _bad(reader.at, "bytes are left over")
    return Op(OpCode(code), fields, flags), end


class _Reader:
    """Fields one after the other, never past the end of their operation."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self._data = data
        self._end = end
        self.at = at

    def _take(self, count: int) -> bytes:
        if count > self._end - self.at:
            raise _bad(self.at, "a field is cut off")
        self.at += count
        return self._data[self.at - count : self.at]

    def _u32(self) -> int:
        return int(_U32.unpack(self._take(4))[0])

    def _text(self) -> str:
        data = self._take(self._u32() + 1)
        if data.find(b"\0") != len(data) - 1:
            raise _bad(self.at, "a string does not end with its only NUL")
        return os.fsdecode(data[:-1])

    def _count(self, least_bytes: int) -> int:
        """How many items follow, each of at least `least_bytes`."""
        count = self._u32()
        if count * least_bytes > self._end - self.at:
            raise _bad(self.at, "a list is cut off")
        return count

    def field(self, kind: str) -> Field:
        """The next field."""
        if kind == "u":
            return self._u32()
        if kind == "q":
            return int(_U64.unpack(self._take(8))[0])
        if kind == "s":
            return self._text()
        if kind == "l":
            return tuple(self._text() for _ in range(self._count(5)))
        if kind == "b":
            return self._take(self._u32())
        return tuple(self._u32() for _ in range(self._count(4)))


_CLONE_NAMES = {
    0x00000080: "time",
    0x00020000: "mount",
    0x02000000: "cgroup",
    0x04000000: "uts",
    0x08000000: "ipc",
    0x10000000: "user",
    0x20000000: "pid",
    0x40000000: "net",
}
# Which fields of an operation are numbers that people read in base 16, or base 8.
_HEX_FIELDS = {
    OpCode.MOUNT,
    OpCode.BIND,
    OpCode.IDMAP_BIND,
    OpCode.MOUNT_ATTR,
    OpCode.CAPS,
    OpCode.PROPAGATION,
    OpCode.PERSONALITY,
}
_MODE_FIELD = {OpCode.UMASK: 0, OpCode.DEVICE: 4}


def describe(data: bytes) -> list[str]:
    """A plan as lines for people: the new namespaces, then an operation a line.

    Raises: InvalidConfig.
    """
    plan = decode_plan(data)
    return [f"clone {_flag_names(plan.clone_flags)}", *map(_describe_op, plan.ops)]


def _flag_names(flags: int) -> str:
    known = [name for flag, name in _CLONE_NAMES.items() if flags & flag]
    rest = flags & ~sum(_CLONE_NAMES)
    return ",".join([*known, *([f"{rest:#x}"] if rest else [])]) or "-"


def _describe_op(op: Op) -> str:
    words = [op.code.name.lower()]
    for index, value in enumerate(op.fields):
        words.append(_describe_field(op.code, index, value))
    if op.flags:
        words.append(f"flags={op.flags:#x}")
    return " ".join(words)


def _describe_field(code: OpCode, index: int, value: Field) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bytes):
        return value.hex() or "-"
    if isinstance(value, tuple):
        return f"[{' '.join(_quoted(str(item)) for item in value)}]"
    if code is OpCode.SETNS:
        return _flag_names(value)
    if code is OpCode.OOM_SCORE or (code is OpCode.SCHED and index == 1):
        return str(signed_32(value))
    if code is OpCode.TIMENS and index == 1:
        return str(signed_64(value))
    if code is OpCode.DEVICE and index == 1:
        return chr(value) if 32 < value < 127 else str(value)
    if _MODE_FIELD.get(code) == index:
        return f"{value:04o}"
    return f"{value:#x}" if code in _HEX_FIELDS else str(value)


def _quoted(text: str) -> str:
    """`text`, in quotes if a reader could not tell where it ends."""
    if text and text.isprintable() and not set(text) & set(" '\"[]"):
        return text
    return ascii(text)


def signed_32(value: int) -> int:
    """The number whose 32-bit two's complement `value` is."""
    return value - (1 << 32) if value >> 31 else value


def signed_64(value: int) -> int:
    """The number whose 64-bit two's complement `value` is."""
    return value - (1 << 64) if value >> 63 else value


def unsigned_32(value: int) -> int:
    """The 32-bit two's complement of `value`."""
    return value & 0xFFFFFFFF


def unsigned_64(value: int) -> int:
    """The 64-bit two's complement of `value`."""
    return value & 0xFFFFFFFFFFFFFFFF
