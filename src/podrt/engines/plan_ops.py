"""The plan file: what the launcher executes, as bytes and as values.

Shape: a 32-byte header, then operations of a multiple of 8 bytes each, in native byte order. An
operation has a head, 8 bytes for each field (a number, or how much of it follows; two for a list of
numbers), and then its strings and lists behind each other. The Python twin of _native/wire.h and
_native/plan.c. A plan is only ever read on the host it was written on.
"""

from __future__ import annotations

import enum
import functools
import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from podrt.errors import InvalidConfig, LimitReached

MAGIC = b"podrtpl1"
PLAN_VERSION = 3
MAX_BYTES = 4 << 20
HEADER = struct.Struct("=8s6I")
_HEAD = struct.Struct("=HHIQ")
_SLOT = 8


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
    SEAL = 17
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
    FIRST_AFFINITY = 35
    HOOKS = 36
    NOTIFY = 37
    STDIO = 39
    IDMAP = 40
    MOUNT_ATTR = 41
    HOLD = 42
    ENGINE = 43


# The fields of each operation: u32 u, u64 q, string s, list of strings l, list of u32 g, bytes b.
LAYOUTS: dict[OpCode, str] = {
    OpCode.SETNS: "us",
    OpCode.ROOT_OVERLAY: "slsl",
    OpCode.ROOT_BIND: "s",
    OpCode.MOUNT: "sssql",
    OpCode.BIND: "ssqquss",
    OpCode.POD_SHM: "s",
    OpCode.DEVICE: "suuuuuu",
    OpCode.SYMLINK: "ss",
    OpCode.MASK: "s",
    OpCode.READONLY: "s",
    OpCode.PIVOT: "",
    OpCode.HOSTNAME: "s",
    OpCode.DOMAINNAME: "s",
    OpCode.SYSCTL: "sss",
    OpCode.RLIMIT: "suqq",
    OpCode.OOM_SCORE: "s",
    OpCode.SEAL: "u",
    OpCode.USER: "uug",
    OpCode.CAPS: "qqqqq",
    OpCode.NO_NEW_PRIVS: "",
    OpCode.SECCOMP: "us",
    OpCode.KEYRING: "",
    OpCode.CWD: "s",
    OpCode.EXEC: "lll",
    OpCode.LOG: "squ",
    OpCode.PROPAGATION: "q",
    OpCode.TERMINAL: "uus",
    OpCode.APPARMOR: "sls",
    OpCode.SELINUX: "sls",
    OpCode.IOPRIO: "uu",
    OpCode.SCHED: "uuuqqqq",
    OpCode.AFFINITY: "b",
    OpCode.PERSONALITY: "q",
    OpCode.TIMENS: "s",
    OpCode.FIRST_AFFINITY: "b",
    OpCode.HOOKS: "sllul",
    OpCode.NOTIFY: "sl",
    OpCode.STDIO: "uu",
    OpCode.IDMAP: "ss",
    OpCode.MOUNT_ATTR: "sqqu",
    OpCode.HOLD: "",
    OpCode.ENGINE: "ssslll",
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
    OpCode.SEAL: "close descriptors",
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
    OpCode.FIRST_AFFINITY: "set CPU affinity",
    OpCode.HOOKS: "run hook",
    OpCode.NOTIFY: "send seccomp listener",
    OpCode.STDIO: "set up standard streams",
    OpCode.IDMAP: "map IDs",
    OpCode.MOUNT_ATTR: "set mount attributes",
    OpCode.HOLD: "wait for the start",
    OpCode.ENGINE: "run OCI runtime",
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
    wanted = list(ops)
    parts = [encode_op(op) for op in wanted]
    total = HEADER.size + sum(map(len, parts))
    if total > MAX_BYTES:
        raise LimitReached("the plan", f"{MAX_BYTES} bytes")
    room = sum(map(_list_room, wanted))
    header = HEADER.pack(MAGIC, PLAN_VERSION, total, len(parts), clone_flags, flags, room)
    return b"".join((header, *parts))


def _list_room(op: Op) -> int:
    """The strings of its lists; the launcher ends each list with a NULL."""
    kinds = LAYOUTS[op.code]
    lists = [op.fields[index] for index, kind in enumerate(kinds) if kind == "l"]
    return sum(len(texts) + 1 for texts in lists if isinstance(texts, tuple))


@functools.lru_cache(maxsize=4096)
def encode_op(op: Op) -> bytes:
    """One operation. Most of a host's containers share most of theirs: hence the cache."""
    code, fields, flags = op
    slots: list[int] = []
    parts: list[bytes] = []
    for kind, value in zip(LAYOUTS[code], fields, strict=True):
        _encode_field(slots, parts, kind, value)
    length = _HEAD.size + _SLOT * len(slots) + sum(map(len, parts))
    padding = -length % _SLOT
    head = _HEAD.pack(code, flags, length + padding, 0)
    return b"".join((head, struct.pack(f"={len(slots)}Q", *slots), *parts, bytes(padding)))


def _encode_field(slots: list[int], parts: list[bytes], kind: str, value: Field) -> None:
    if kind in "uq" and isinstance(value, int):
        if not 0 <= value < 1 << (32 if kind == "u" else 64):
            raise TypeError(f"a field of kind {kind!r} cannot be {value!r}")
        slots.append(value)
    elif kind == "s" and isinstance(value, str):
        slots.append(0)
        parts.append(_text(value))
    elif kind == "l" and isinstance(value, tuple):
        slots.append(len(value))
        parts += map(_text, value)
    elif kind == "g" and isinstance(value, tuple):
        slots += (len(value), 0)
        parts.append(struct.pack(f"={len(value)}I", *value))
    elif kind == "b" and isinstance(value, bytes):
        slots += (len(value), 0)
        parts.append(value)
    else:
        raise TypeError(f"a field of kind {kind!r} cannot be {value!r}")


def _text(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no string")
    data = os.fsencode(text)
    if b"\0" in data:
        raise InvalidConfig("plan", f"{text!r} holds a NUL character")
    return data + b"\0"


def decode_plan(data: bytes) -> Plan:
    """The plan in `data`, read as strictly as the launcher reads it. Raises: InvalidConfig."""
    if not HEADER.size <= len(data) <= MAX_BYTES:
        raise _bad(0, f"{len(data)} bytes cannot be a plan")
    magic, version, total, count, clone_flags, flags, room = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _bad(0, "no plan")
    if version != PLAN_VERSION:
        raise _bad(8, f"version {version} is not {PLAN_VERSION}")
    if total != len(data):
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
    if not {OpCode.SEAL, OpCode.HOLD} <= {op.code for op in ops}:
        raise _bad(at, "what guards the start is missing")
    if room != sum(map(_list_room, ops)):
        raise _bad(28, "its header does not fit its lists")
    return Plan(clone_flags, tuple(ops), flags)


def is_of_this_version(header: bytes) -> bool:
    """Whether a plan file, of which `header` is the start, is one that today's launcher takes."""
    return header[:12] == MAGIC + struct.pack("=I", PLAN_VERSION)


def _bad(offset: int, reason: str) -> InvalidConfig:
    return InvalidConfig("plan", f"{reason} (at offset {offset})")


def _decode_op(data: bytes, start: int) -> tuple[Op, int]:
    if len(data) - start < _HEAD.size:
        raise _bad(start, "an operation is cut off")
    code, flags, length, reserved = _HEAD.unpack_from(data, start)
    end = start + length
    if length < _HEAD.size or length % _SLOT or end > len(data) or reserved:
        raise _bad(start, f"an operation cannot have {length} bytes")
    if code not in LAYOUTS:
        raise _bad(start, f"there is no operation {code}")
    layout = LAYOUTS[OpCode(code)]
    count = len(layout) + ("g" in layout or "b" in layout)
    at = start + _HEAD.size
    if count * _SLOT > end - at:
        raise _bad(at, "a field is cut off")
    slots = iter(struct.unpack_from(f"={count}Q", data, at))
    reader = _Reader(data, at + count * _SLOT, end)
    fields = tuple(reader.field(kind, slots) for kind in layout)
    if end - reader.at >= _SLOT or any(data[reader.at : end]):
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

    def _text(self) -> str:
        found = self._data.find(b"\0", self.at, self._end)
        if found < 0:
            raise _bad(self.at, "a string does not end")
        return os.fsdecode(self._take(found + 1 - self.at)[:-1])

    def field(self, kind: str, slots: Iterator[int]) -> Field:
        """The next field."""
        number = next(slots)
        if kind == "q" or (kind == "u" and number < 1 << 32):
            return number
        if kind == "s" and number == 0:
            return self._text()
        if kind == "l" and number <= self._end - self.at:
            return tuple(self._text() for _ in range(number))
        if kind in "gb" and next(slots) == 0:
            data = self._take(number * 4 if kind == "g" else number)
            return data if kind == "b" else struct.unpack(f"={number}I", data)
        raise _bad(self.at, f"{number} is no field of kind {kind!r}")


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
    OpCode.MOUNT_ATTR,
    OpCode.CAPS,
    OpCode.PROPAGATION,
    OpCode.PERSONALITY,
}
_MODE_FIELD = {OpCode.SEAL: 0, OpCode.DEVICE: 4}


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
    if code is OpCode.SCHED and index == 1:
        return str(signed_32(value))
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


def unsigned_32(value: int) -> int:
    """The 32-bit two's complement of `value`."""
    return value & 0xFFFFFFFF
