"""A classic BPF machine for seccomp filters: the verdict of a program on one system call."""

from __future__ import annotations

import struct
from collections.abc import Sequence

MASK = 0xFFFFFFFF
Program = list[tuple[int, int, int, int]]


def load(data: bytes) -> Program:
    """Decode struct sock_filter[]."""
    return list(struct.iter_unpack("=HBBI", data))


def run(program: Program, arch: int, number: int, args: Sequence[int] = ()) -> int:
    """What the kernel would do with a call: the program's return value."""
    padded = [*args, *([0] * (6 - len(args)))]
    words = struct.unpack("<16I", struct.pack("<IIQ6Q", number & MASK, arch, 0, *padded))
    accumulator = 0
    at = 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code == 0x06:
            return k
        if code == 0x20:
            assert k % 4 == 0
            accumulator = words[k // 4]
        elif code == 0x54:
            accumulator &= k
        elif code == 0x05:
            at += k
        else:
            holds = {
                0x15: accumulator == k,
                0x25: accumulator > k,
                0x35: accumulator >= k,
                0x45: bool(accumulator & k),
            }[code]
            at += jt if holds else jf
