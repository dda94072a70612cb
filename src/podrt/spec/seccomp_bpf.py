"""A seccomp filter as a classic BPF program: one search tree over system call numbers.

Loading a filter costs what its length and its depth cost: the kernel checks and translates every
instruction, and runs the program once per system call number to learn which are always allowed.
So verdicts are merged into ranges and searched, heaviest range nearest to the root.

The program is written from its end to its beginning, because a BPF jump only goes forward: every
target is known when the jump to it is written, and instructions that return are shared.

Source: seccomp(2), linux/filter.h, linux/bpf_common.h, kernel/seccomp.c.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from podrt.model.unsupported import unsupported

LD_ABS = 0x20  # BPF_LD | BPF_W | BPF_ABS
JA = 0x05
JEQ = 0x15
JGT = 0x25
JGE = 0x35
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
RET = 0x06

NR_OFFSET = 0
ARCH_OFFSET = 4
ARGS_OFFSET = 16

MAX_INSTRUCTIONS = 4096
MAX_JUMP = 255
# A conditional jump may be preceded (in writing) by two more instructions that bring its targets
# near, so a target counts as near only if it still is after those.
NEAR = MAX_JUMP - 2
NUMBERS_END = 1 << 32
# Numbers above this are no system calls: the kernel never asks for their verdict in advance.
COMMON_NUMBERS = 512
RARE_WEIGHT = 0.01

_INSTRUCTION = struct.Struct("=HBBI")

# (offset of the half word, mask, operator, value); see `condition` in seccomp_rules.py.
Test: TypeAlias = tuple[int, int, int, int]
# Alternatives of tests that must all hold: a condition on a 64-bit argument in 32-bit steps.
Condition: TypeAlias = tuple[tuple[Test, ...], ...]
# All conditions must hold for the action.
Rule: TypeAlias = tuple[tuple[Condition, ...], int]
# A return value, or rules tried in order with a return value for none of them.
Verdict: TypeAlias = "int | tuple[tuple[Rule, ...], int]"
Range: TypeAlias = tuple[int, Verdict]
Target: TypeAlias = "int | Return"

# Each test's operator: the jump, and whether it is turned round.
EQ = 0
NE = 1
GT = 2
GE = 3
LT = 4
LE = 5
_JUMPS = {
    EQ: (JEQ, False),
    NE: (JEQ, True),
    GT: (JGT, False),
    GE: (JGE, False),
    LT: (JGE, True),
    LE: (JGT, True),
}


class Return:
    """A jump target that ends the program with `value`."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


class Writer:
    """Instructions from last to first; a position counts from the end of the program."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._returns: dict[int, int] = {}

    def emit(self, code: int, k: int, jt: int = 0, jf: int = 0) -> int:
        """Put an instruction before all others; its position."""
        self._code.append((code, jt, jf, k))
        return len(self._code) - 1

    def ret(self, value: int) -> int:
        """Put a return before all others."""
        self._returns[value] = self.emit(RET, value)
        return self._returns[value]

    def _near(self, target: Target) -> int:
        """The position of `target`, or of something just written that leads there."""
        if isinstance(target, Return):
            known = self._returns.get(target.value)
            if known is not None and len(self._code) - known <= NEAR:
                return known
            return self.ret(target.value)
        if len(self._code) - target <= NEAR:
            return target
        return self.emit(JA, len(self._code) - target - 1)

    def jump(self, code: int, k: int, then: Target, otherwise: Target) -> int:
        """Put a conditional jump before all others."""
        yes = self._near(then)
        no = self._near(otherwise)
        here = len(self._code)
        return self.emit(code, k, here - yes - 1, here - no - 1)

    def follow(self, target: Target) -> int:
        """Make `target` what the next instruction written falls through to."""
        if isinstance(target, Return):
            return self.ret(target.value)
        if target == len(self._code) - 1:
            return target
        return self.emit(JA, len(self._code) - target - 1)

    def program(self) -> bytes:
        """The program in order, as an array of struct sock_filter."""
        if len(self._code) > MAX_INSTRUCTIONS:
            raise unsupported("linux.seccomp", f"{len(self._code)} instructions are too many")
        pack = _INSTRUCTION.pack
        return b"".join(pack(*instruction) for instruction in reversed(self._code))


def write_program(arches: Sequence[tuple[int, Sequence[Range]]], bad_arch: int) -> bytes:
    """A filter that picks the tree of seccomp_data.arch.

    `arches` are (audit number, ranges), `ranges` the first number of each and its verdict, from 0
    on; another architecture returns `bad_arch`.
    """
    writer = Writer()
    target: Target = Return(bad_arch)
    # The architecture written last is looked at first: the first given is the native one.
    for audit, ranges in reversed(arches):
        tree = write_tree(writer, ranges)
        entry = writer.follow(tree)
        entry = writer.emit(LD_ABS, NR_OFFSET)
        target = writer.jump(JEQ, audit, entry, target)
    writer.follow(target)
    writer.emit(LD_ABS, ARCH_OFFSET)
    return writer.program()


def write_tree(writer: Writer, ranges: Sequence[Range]) -> Target:
    """Write the search of the number (in the accumulator) over `ranges`; its entry."""
    blocks: dict[Verdict, Target] = {}
    splits = best_splits([_weight(ranges, index) for index in range(len(ranges))])

    def verdict_target(verdict: Verdict) -> Target:
        if isinstance(verdict, int):
            return Return(verdict)
        if verdict not in blocks:
            blocks[verdict] = write_rules(writer, *verdict)
        return blocks[verdict]

    def subtree(low: int, high: int) -> Target:
        if low == high:
            return verdict_target(ranges[low][1])
        lone = _lone_number(ranges, low, high)
        if lone is not None:
            special = verdict_target(ranges[low + 1][1])
            return writer.jump(JEQ, lone, special, verdict_target(ranges[low][1]))
        middle = splits[low, high]
        right = subtree(middle + 1, high)
        left = subtree(low, middle)
        return writer.jump(JGE, ranges[middle + 1][0], right, left)

    return subtree(0, len(ranges) - 1)


def _lone_number(ranges: Sequence[Range], low: int, high: int) -> int | None:
    """The number in the middle of three ranges that is alone in differing from its neighbours."""
    if high - low != 2 or ranges[low][1] != ranges[high][1]:
        return None
    first = ranges[low + 1][0]
    return first if ranges[high][0] == first + 1 else None


def _weight(ranges: Sequence[Range], index: int) -> float:
    """How many system calls are in a range, counted as the kernel's look ahead does."""
    first = ranges[index][0]
    end = ranges[index + 1][0] if index + 1 < len(ranges) else NUMBERS_END
    return max(0, min(end, COMMON_NUMBERS) - min(first, COMMON_NUMBERS)) + RARE_WEIGHT


def best_splits(weights: Sequence[float]) -> Mapping[tuple[int, int], int]:
    """Where to split each run of leaves so that the weighted depth is least.

    The value at (low, high) is the last leaf of the left half. Knuth's bound on where the best
    split can be makes this quadratic. Source: Knuth, Optimum Binary Search Trees (1971).
    """
    count = len(weights)
    sums = [0.0]
    for weight in weights:
        sums.append(sums[-1] + weight)
    cost = [[0.0] * count for _ in range(count)]
    splits: dict[tuple[int, int], int] = {}
    for width in range(1, count):
        for low in range(count - width):
            high = low + width
            first = splits[low, high - 1] if width > 1 else low
            last = min(splits[low + 1, high] if width > 1 else low, high - 1)
            best = min(range(first, last + 1), key=lambda at: cost[low][at] + cost[at + 1][high])
            splits[low, high] = best
            cost[low][high] = cost[low][best] + cost[best + 1][high] + sums[high + 1] - sums[low]
    return splits


def write_rules(writer: Writer, rules: Sequence[Rule], default: int) -> Target:
    """Write rules tried in order, each an action if all its conditions hold; the entry."""
    otherwise: Target = Return(default)
    for conditions, action in reversed(rules):
        then: Target = Return(action)
        for condition in reversed(conditions):
            then = _write_condition(writer, condition, then, otherwise)
        otherwise = then
    return otherwise


def _write_condition(
    writer: Writer, condition: Condition, then: Target, otherwise: Target
) -> Target:
    """Write alternatives of tests that must all hold."""
    fallback = otherwise
    for alternative in reversed(condition):
        hit = then
        for offset, mask, operator, value in reversed(alternative):
            code, is_negated = _JUMPS[operator]
            yes, no = (fallback, hit) if is_negated else (hit, fallback)
            hit = writer.jump(code, value, yes, no)
            if mask != 0xFFFFFFFF:
                hit = writer.emit(AND, mask)
            hit = writer.emit(LD_ABS, offset)
        fallback = hit
    return fallback
