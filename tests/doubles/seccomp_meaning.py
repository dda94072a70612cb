"""What the rules of a seccomp specification mean, evaluated one by one: the slow, plain twin."""

from __future__ import annotations

from collections.abc import Sequence

from podrt.model.runtimespec import Seccomp, SeccompArg

KINDS = {
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_TRAP": 0x30000,
    "SCMP_ACT_ERRNO": 0x50000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
STRICTEST_FIRST = list(KINDS)
HAVE_DATA = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")


def value(action: str, errno_ret: int | None) -> int:
    """A filter's return value."""
    data = (1 if errno_ret is None else errno_ret) if action in HAVE_DATA else 0
    return KINDS[action] | data


def holds(arg: SeccompArg, actual: int, bits: int) -> bool:
    """Whether a condition holds for an argument of `bits` bits."""
    mask = (1 << bits) - 1
    left, right, second = actual & mask, arg.value & mask, arg.value_two & mask
    return {
        "SCMP_CMP_NE": left != right,
        "SCMP_CMP_LT": left < right,
        "SCMP_CMP_LE": left <= right,
        "SCMP_CMP_EQ": left == right,
        "SCMP_CMP_GE": left >= right,
        "SCMP_CMP_GT": left > right,
        "SCMP_CMP_MASKED_EQ": left & right == second & right,
    }[arg.op]


def verdict(seccomp: Seccomp, name: str, args: Sequence[int], bits: int = 64) -> int:
    """What a call by `name` gets: rules without conditions first, then the strictest."""
    default = value(seccomp.default_action, seccomp.default_errno_ret)
    rules = [
        rule
        for rule in seccomp.syscalls
        if name in rule.names and value(rule.action, rule.errno_ret) != default
    ]
    for rule in rules:
        if not rule.args:
            return value(rule.action, rule.errno_ret)
    matching = [
        rule for rule in rules if all(holds(arg, args[arg.index], bits) for arg in rule.args)
    ]
    matching.sort(key=lambda rule: STRICTEST_FIRST.index(rule.action))
    return value(matching[0].action, matching[0].errno_ret) if matching else default
