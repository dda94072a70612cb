"""From the rules of a specification to a verdict for every system call number.

Rules on one system call are settled as libseccomp settles them: one without conditions beats
those with. Where the conditions of two rules overlap the strictest action wins.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from podrt.errors import InvalidConfig
from podrt.model import runtimespec as oci
from podrt.model.runtimespec import Seccomp, SeccompArg, SeccompRule
from podrt.model.unsupported import unsupported

from . import seccomp_bpf as bpf
from . import seccomp_tables as tables

KILL_PROCESS = 0x80000000
KILL_THREAD = 0x00000000
TRAP = 0x00030000
ERRNO = 0x00050000
NOTIFY = 0x7FC00000
TRACE = 0x7FF00000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000
ACTION_MASK = 0xFFFF0000
DATA_MASK = 0x0000FFFF
EPERM = 1
FULL = 0xFFFFFFFF
ARGUMENTS = 6

_ACTIONS: Mapping[str, int] = {
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_TRACE": TRACE,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_ALLOW": ALLOW,
    oci.NOTIFY: NOTIFY,
}
# The highest number a verdict's data may be. Source: linux/err.h (MAX_ERRNO), seccomp(2).
_MOST_DATA = {ERRNO: 4095, TRACE: 0xFFFF}
# With these the launcher hands the listener over: they cannot wait for one who has it.
_OF_LAUNCHER = frozenset({"sendmsg", "write"})
# More conditional rules than could ever fit into a program.
MAX_RULES = 1 << 14
# Strictest first. Source: seccomp(2), the order in which several filters' values count.
_STRICTNESS = (KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, NOTIFY, TRACE, LOG, ALLOW)

# A rule on a number: conditions by argument, and the action.
NumberRule: TypeAlias = tuple[tuple[bpf.Condition, ...], int]


def action_value(action: str, errno_ret: int | None, field: str, errno_field: str) -> int:
    """What a filter returns for an action. Raises: InvalidConfig."""
    if action not in _ACTIONS:
        raise InvalidConfig(field, f"unknown action {action!r}")
    value = _ACTIONS[action]
    most = _MOST_DATA.get(value, -1)
    if errno_ret is not None and not 0 <= errno_ret <= most:
        reason = f"{action} has none" if most < 0 else f"{errno_ret} is not 0 to {most}"
        raise InvalidConfig(errno_field, reason)
    if most < 0:
        return value
    return value | (EPERM if errno_ret is None else errno_ret)


def _check_listener(seccomp: Seccomp) -> None:
    if seccomp.listener_metadata and not seccomp.listener_path:
        raise InvalidConfig("linux.seccomp.listenerMetadata", "is given without listenerPath")
    if seccomp.default_action == oci.NOTIFY:
        raise unsupported("linux.seccomp.defaultAction", oci.NOTIFY)
    if not seccomp.notifies:
        return
    if not seccomp.listener_path:
        raise InvalidConfig("linux.seccomp.listenerPath", "is missing: a rule notifies")
    for index, rule in enumerate(seccomp.syscalls):
        if rule.action == oci.NOTIFY and not _OF_LAUNCHER.isdisjoint(rule.names):
            name = sorted(_OF_LAUNCHER.intersection(rule.names))[0]
            field = f"linux.seccomp.syscalls[{index}].action"
            raise unsupported(field, f"{oci.NOTIFY} for {name}")


@functools.lru_cache(maxsize=64)
def compile_filter(seccomp: Seccomp, machine: str) -> bytes:
    """Compile a specification's `linux.seccomp` to struct sock_filter[].

    Raises: InvalidConfig, Unsupported.
    """
    _check_listener(seccomp)
    native = tables.native(machine)
    tokens = [native if token == "SCMP_ARCH_NATIVE" else token for token in seccomp.architectures]
    arches = [
        tables.arch_of(token)
        for token in dict.fromkeys((native, *tokens))
        if token not in tables.FOREIGN
    ]
    default = action_value(
        seccomp.default_action,
        seccomp.default_errno_ret,
        "linux.seccomp.defaultAction",
        "linux.seccomp.defaultErrnoRet",
    )
    found: dict[int, dict[int, bpf.Verdict]] = {}
    for arch in arches:
        verdicts = number_verdicts(seccomp.syscalls, arch, default)
        found.setdefault(arch.audit, {}).update(verdicts)
    has_x32 = any(arch.base for arch in arches)
    programs = []
    for audit, verdicts in found.items():
        is_barred = audit == tables.ARCHES["SCMP_ARCH_X86_64"].audit and not has_x32
        programs.append((audit, ranges_of(verdicts, default, bars_x32=is_barred)))
    return bpf.write_program(programs, KILL_THREAD)


def ranges_of(
    verdicts: Mapping[int, bpf.Verdict], default: int, *, bars_x32: bool
) -> list[bpf.Range]:
    """The verdicts as ranges over all numbers, neighbours of one verdict merged.

    `bars_x32`: x32 is not among the architectures, so its numbers kill the caller as those of any
    other foreign architecture do.
    """
    found: list[bpf.Range] = []

    def add(first: int, verdict: bpf.Verdict) -> None:
        if not found or found[-1][1] != verdict:
            found.append((first, verdict))

    expected = 0
    for number in sorted(verdicts):
        if number > expected:
            add(expected, default)
        add(number, verdicts[number])
        expected = number + 1
    add(expected, default)
    if bars_x32:
        add(tables.X32_BIT, KILL_THREAD)
    return found


def number_verdicts(
    rules: Sequence[SeccompRule], arch: tables.Arch, default: int
) -> dict[int, bpf.Verdict]:
    """The verdict of each number that a rule names. Raises: InvalidConfig, Unsupported."""
    by_number: dict[int, list[NumberRule]] = {}
    # Rules without conditions: they beat those with, even those whose conditions always hold.
    plain: dict[int, bpf.Verdict] = {}
    count = 0
    for index, rule in enumerate(rules):
        field = f"linux.seccomp.syscalls[{index}]"
        if not rule.names:
            raise InvalidConfig(f"{field}.names", "is empty")
        action = action_value(rule.action, rule.errno_ret, f"{field}.action", f"{field}.errnoRet")
        variants = list(_variants(rule.args, arch, f"{field}.args"))
        if action == default:
            continue
        count += len(variants) * len(rule.names) if rule.args else 0
        if count > MAX_RULES:
            raise unsupported("linux.seccomp", f"more than {MAX_RULES} conditions")
        for name in rule.names:
            for number, conditions in _numbers(name, variants, arch):
                if conditions or rule.args:
                    by_number.setdefault(number, []).append((conditions, action))
                else:
                    plain.setdefault(number, action)
    return {number: _settle(found, default) for number, found in by_number.items()} | plain


def _settle(rules: Sequence[NumberRule], default: int) -> bpf.Verdict:
    """One verdict from all rules on a number that each have conditions."""
    ordered = sorted(rules, key=lambda rule: _STRICTNESS.index(rule[1] & ACTION_MASK))
    return tuple(dict.fromkeys(ordered)), default


ByIndex: TypeAlias = tuple[tuple[int, bpf.Condition], ...]


def _variants(args: Sequence[SeccompArg], arch: tables.Arch, field: str) -> Iterator[ByIndex]:
    """The conditions of a rule by argument.

    Two conditions on one argument make a rule each, any of which will do: so the other runtimes
    read them, because libseccomp cannot join them.
    """
    found = tuple((arg.index, condition(arg, arch, field)) for arg in args)
    if len({index for index, _ in found}) == len(found):
        yield found
    else:
        yield from ((one,) for one in found)


def _numbers(
    name: str, variants: Sequence[ByIndex], arch: tables.Arch
) -> Iterator[tuple[int, tuple[bpf.Condition, ...]]]:
    """The numbers a name has on `arch`, with the conditions under which each is that call.

    Names that no architecture knows, or this one lacks, have none: profiles name calls of many
    kernels and architectures.
    """
    table = tables.numbers(arch.name)
    direct = table.get(name)
    if direct is not None:
        for variant in variants:
            yield arch.base + direct, _simplify(variant)
    if arch.name != "x86":
        return
    for door, operations in (("socketcall", tables.SOCKETCALLS), ("ipc", tables.IPC_CALLS)):
        if name not in operations:
            continue
        is_operation = (0, _equal(0, operations[name], is_wide=False))
        for variant in variants:
            others = tuple(one for one in variant if one[0] != 0)
            yield table[door], _simplify((is_operation, *others))


def _simplify(variant: ByIndex) -> tuple[bpf.Condition, ...]:
    """The conditions in the order of arguments, without those that always hold."""
    return tuple(one for _, one in sorted(variant, key=lambda pair: pair[0]) if () not in one)


def _equal(index: int, value: int, *, is_wide: bool) -> bpf.Condition:
    low, high = _offsets(index)
    if not is_wide:
        return (((low, FULL, bpf.EQ, value & FULL),),)
    return (((high, FULL, bpf.EQ, value >> 32), (low, FULL, bpf.EQ, value & FULL)),)


def _offsets(index: int) -> tuple[int, int]:
    """Where the low and the high half of an argument are (little endian)."""
    low = bpf.ARGS_OFFSET + 8 * index
    return low, low + 4


# The jump that decides the high half, and the one that decides the low half if those are equal.
_ORDER = {
    "SCMP_CMP_LT": (bpf.LT, bpf.LT),
    "SCMP_CMP_LE": (bpf.LT, bpf.LE),
    "SCMP_CMP_GE": (bpf.GT, bpf.GE),
    "SCMP_CMP_GT": (bpf.GT, bpf.GT),
}
OPERATOR_NAMES = frozenset({"SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_MASKED_EQ", *_ORDER})


def condition(arg: SeccompArg, arch: tables.Arch, field: str) -> bpf.Condition:
    """A condition on an argument as tests on its halves; 32-bit architectures have only the low.

    Raises: InvalidConfig.
    """
    if not 0 <= arg.index < ARGUMENTS:
        raise InvalidConfig(field, f"there is no argument {arg.index}")
    if not (0 <= arg.value < 1 << 64 and 0 <= arg.value_two < 1 << 64):
        raise InvalidConfig(field, "a value is not an unsigned 64-bit number")
    low, high = _offsets(arg.index)
    top, bottom = arg.value >> 32, arg.value & FULL
    if arg.op == "SCMP_CMP_EQ":
        return _equal(arg.index, arg.value, is_wide=arch.is_wide)
    if arg.op == "SCMP_CMP_MASKED_EQ":
        wanted = arg.value_two & arg.value
        halves = ((high, top, wanted >> 32), (low, bottom, wanted & FULL))
        used = halves if arch.is_wide else halves[1:]
        return (tuple((at, mask, bpf.EQ, value) for at, mask, value in used if mask),)
    if arg.op == "SCMP_CMP_NE":
        differs = (((high, FULL, bpf.NE, top),), ((low, FULL, bpf.NE, bottom),))
        return differs if arch.is_wide else differs[1:]
    if arg.op not in _ORDER:
        raise InvalidConfig(field, f"unknown operator {arg.op!r}")
    first, second = _ORDER[arg.op]
    if not arch.is_wide:
        return (((low, FULL, second, bottom),),)
    return (
        ((high, FULL, first, top),),
        ((high, FULL, bpf.EQ, top), (low, FULL, second, bottom)),
    )
