"""An extended BPF machine for device filters: the verdict of a program on one request."""

from __future__ import annotations

import struct

FULL = (1 << 64) - 1
HALF = (1 << 32) - 1


def run(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """What the kernel would get as the answer: 1 allows."""
    context = struct.pack("<III", access << 16 | kind, major, minor)
    registers: list[int | None] = [None] * 11
    registers[1] = 0
    code = list(struct.iter_unpack("<BBhi", program))
    at = 0
    while True:
        operation, pair, jump, value = code[at]
        to, source = pair & 15, pair >> 4
        at += 1
        if operation == 0x95:
            return held(registers, 0)
        if operation == 0x61:
            start = held(registers, source) + jump
            registers[to] = int.from_bytes(context[start : start + 4], "little")
        elif operation == 0xBF:
            registers[to] = held(registers, source)
        elif operation == 0xB7:
            registers[to] = value & FULL
        elif operation == 0x57:
            registers[to] = held(registers, to) & value & FULL
        elif operation == 0x77:
            registers[to] = held(registers, to) >> value
        else:
            low, wanted = held(registers, to) & HALF, value & HALF
            taken = {0x56: low != wanted, 0x16: low == wanted, 0x46: bool(low & wanted)}
            at += jump if taken[operation] else 0


def held(registers: list[int | None], number: int) -> int:
    value = registers[number]
    assert value is not None, f"register {number} is read before it is written"
    return value
