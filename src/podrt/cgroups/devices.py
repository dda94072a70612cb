"""Device rules: what they come to, as v1 writes and as a v2 filter program.

The rules are the OCI runtime specification's; their meaning is cgroup v1's, whose kernel code keeps
a default and exceptions from it. The program decides as that code does.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable

import msgspec

from podrt.errors import InvalidConfig
from podrt.model.runtimespec import DeviceRule

_FIELD = "linux.resources.devices"
# Numbers of the BPF interface: BPF_DEVCG_ACC_* and BPF_DEVCG_DEV_*.
_ACCESS = {"m": 1, "r": 2, "w": 4}
_ALL_ACCESS = 7
_TYPES = {"b": 1, "c": 2}

# (type, major, minor); None stands for every number.
Device = tuple[str, int | None, int | None]


class Table(msgspec.Struct, frozen=True):
    """What is allowed: a default, and per device the accesses that are the other way round."""

    default_allow: bool
    exceptions: tuple[tuple[Device, int], ...]


def compile_rules(rules: Iterable[DeviceRule]) -> Table:
    """Follow the rules in their order from "nothing is allowed". Raises: InvalidConfig."""
    default_allow = False
    exceptions: dict[Device, int] = {}
    for rule in rules:
        access = _access(rule)
        if _is_everything(rule, access):
            default_allow = rule.allow
            exceptions.clear()
            continue
        for kind in _kinds(rule):
            device = (kind, _number(rule.major), _number(rule.minor))
            left = exceptions.get(device, 0)
            left = left & ~access if rule.allow == default_allow else left | access
            if left:
                exceptions[device] = left
            else:
                exceptions.pop(device, None)
    return Table(default_allow, tuple(exceptions.items()))


def _access(rule: DeviceRule) -> int:
    bits = 0
    for letter in rule.access or "rwm":
        if letter not in _ACCESS:
            raise InvalidConfig(f"{_FIELD}.access", f"{rule.access!r} is not made of r, w and m")
        bits |= _ACCESS[letter]
    return bits


def _is_everything(rule: DeviceRule, access: int) -> bool:
    """v1 would take any rule of type a for this one, and so open more than it says."""
    numbers = (_number(rule.major), _number(rule.minor))
    return rule.type == "a" and numbers == (None, None) and access == _ALL_ACCESS


def _kinds(rule: DeviceRule) -> str:
    # u is an unbuffered character device: the kernel knows no difference.
    if rule.type in ("c", "u"):
        return "c"
    if rule.type == "b":
        return "b"
    if rule.type == "a":
        return "bc"
    raise InvalidConfig(f"{_FIELD}.type", f"{rule.type!r} is not one of a, b, c, u")


def _number(value: int | None) -> int | None:
    if value is None or value == -1:
        return None
    if not 0 <= value < 1 << 32:
        raise InvalidConfig(_FIELD, f"{value} is no device number")
    return value


@functools.lru_cache(maxsize=256)
def v1_writes(table: Table) -> tuple[tuple[str, bytes], ...]:
    """(file, value) in order, the first of which sets the default and forgets all before."""
    first = ("devices.allow" if table.default_allow else "devices.deny", b"a")
    file = "devices.deny" if table.default_allow else "devices.allow"
    return (first, *((file, _v1_line(*item)) for item in table.exceptions))


def _v1_line(device: Device, access: int) -> bytes:
    kind, major, minor = device
    numbers = ":".join("*" if number is None else str(number) for number in (major, minor))
    letters = "".join(letter for letter in "rwm" if access & _ACCESS[letter])
    return f"{kind} {numbers} {letters}".encode()


# Instructions of eBPF: operation, registers, jump, value. Source: the kernel's
# Documentation/bpf/standardization/instruction-set.rst.
_LOAD_WORD = 0x61
_MOVE = 0xBF
_MOVE_VALUE = 0xB7
_AND_VALUE = 0x57
_SHIFT_RIGHT = 0x77
_JUMP_NOT_EQUAL = 0x56  # compares 32 bits: a major number may have its highest bit set
_JUMP_EQUAL = 0x16
_JUMP_IF_ANY = 0x46
_EXIT = 0x95
_INSTRUCTION_BYTES = 8
_CONTEXT, _KIND, _WANTED, _MAJOR, _MINOR, _SCRATCH = 1, 2, 3, 4, 5, 6


def _instruction(code: int, to: int = 0, source: int = 0, jump: int = 0, value: int = 0) -> bytes:
    # Two four-bit fields: their order in the byte follows the machine's, and both machines podrt
    # runs on are little-endian.
    return struct.pack("<BBhI", code, source << 4 | to, jump, value & 0xFFFFFFFF)


_PROLOGUE = b"".join(
    (
        _instruction(_LOAD_WORD, _KIND, _CONTEXT, 0),
        _instruction(_MOVE, _WANTED, _KIND),
        _instruction(_AND_VALUE, _KIND, value=0xFFFF),
        _instruction(_SHIFT_RIGHT, _WANTED, value=16),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
    )
)


def program(table: Table) -> bytes:
    """A BPF_PROG_TYPE_CGROUP_DEVICE program that decides as `table` says."""
    parts = [_PROLOGUE]
    parts += [_test(device, access, table.default_allow) for device, access in table.exceptions]
    parts.append(_answer(table.default_allow))
    return b"".join(parts)


def _answer(allow: bool) -> bytes:
    return _instruction(_MOVE_VALUE, 0, value=int(allow)) + _instruction(_EXIT)


def _test(device: Device, access: int, default_allow: bool) -> bytes:
    """The answer that differs from the default if the request meets this exception.

    As in v1's kernel code: an exception that allows must cover all accesses wanted, one that
    denies needs only one of them.
    """
    kind, major, minor = device
    wanted = [(_KIND, _TYPES[kind]), (_MAJOR, major), (_MINOR, minor)]
    tests = [(register, value) for register, value in wanted if value is not None]
    rest = _access_test(access, default_allow) + _answer(not default_allow)
    # Each test that fails jumps behind all that follows it here.
    end = len(tests) + len(rest) // _INSTRUCTION_BYTES
    jumps = [
        _instruction(_JUMP_NOT_EQUAL, register, jump=end - at - 1, value=value)
        for at, (register, value) in enumerate(tests)
    ]
    return b"".join((*jumps, rest))


def _access_test(access: int, default_allow: bool) -> bytes:
    """Jumps past the answer unless the accesses fit; nothing when every access does."""
    if access == _ALL_ACCESS:
        return b""
    behind = 2  # the answer's two instructions
    if default_allow:
        # Denied if any wanted access is in the exception: else jump.
        return (
            _instruction(_MOVE, _SCRATCH, _WANTED)
            + _instruction(_AND_VALUE, _SCRATCH, value=access)
            + _instruction(_JUMP_EQUAL, _SCRATCH, jump=behind, value=0)
        )
    # Allowed if no wanted access lies outside the exception: any that does jumps.
    return _instruction(_JUMP_IF_ANY, _WANTED, jump=behind, value=_ALL_ACCESS & ~access)
