"""What can happen to a file's bytes without anybody meaning it."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Sequence

BLOCK_BYTES = 512


def shuffle_pieces(pieces: Sequence[bytes], rng: random.Random) -> list[bytes]:
    """The pieces of a file with some doubled, lost, or in another's place."""
    after = list(pieces)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        if not after:
            break
        at, other = rng.randrange(len(after)), rng.randrange(len(after))
        choice = rng.random()
        if choice < 0.3:
            after.insert(at, after[other])
        elif choice < 0.5:
            after[at], after[other] = after[other], after[at]
        elif choice < 0.7:
            del after[at]
        elif choice < 0.85:
            after.insert(at, after[other][: rng.randrange(len(after[other]) + 1)])
        else:
            after.insert(at, junk(rng))
    return after


def junk(rng: random.Random) -> bytes:
    """Bytes that mean nothing, of any length; most often not a multiple of anything."""
    count = rng.choice((1, 7, 8, 63, 96, 512, rng.randrange(1, 4096)))
    return rng.choice((rng.randbytes(count), bytes(count), b"\xff" * count))


def spoil(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to a few things wrong with it."""
    after = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if after:
            rng.choice(_WAYS)(after, rng)
    return bytes(after)


def _flip_bit(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    word = rng.choice((rng.randbytes(8), b"\xff" * 8, bytes(8), rng.randbytes(1)))
    data[at : at + len(word)] = word[: len(data) - at]


def _clear_block(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data)) // BLOCK_BYTES * BLOCK_BYTES
    count = min(BLOCK_BYTES, len(data) - at)
    data[at : at + count] = bytes(count)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _extend(data: bytearray, rng: random.Random) -> None:
    data += junk(rng)


def _insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = junk(rng)


def _remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 8, 40, 96, rng.randrange(1, 600)))]


def _copy(data: bytearray, rng: random.Random) -> None:
    at, to = rng.randrange(len(data)), rng.randrange(len(data))
    part = data[at : at + rng.randrange(1, 400)]
    data[to : to + len(part)] = part


_WAYS: Sequence[Callable[[bytearray, random.Random], None]] = (
    _flip_bit,
    _flip_bit,
    _overwrite,
    _clear_block,
    _cut,
    _extend,
    _insert,
    _remove,
    _copy,
)


def exactly(data: bytes) -> memoryview:
    """`data` in an allocation that ends where it ends: a byte read too far is seen."""
    return memoryview((ctypes.c_ubyte * len(data)).from_buffer_copy(data)).cast("B")
