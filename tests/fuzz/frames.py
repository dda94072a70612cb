"""The frame scanner, alone: against its slow twin, on buffers that end where they end."""

from __future__ import annotations

import contextlib
import random
import zlib
from pathlib import Path

import doubles.frames as twin
from fuzz.damage import exactly, junk, shuffle_pieces, spoil
from podrt._fast import frames

Frame = tuple[int, int, int, int, int, int]


class Frames:
    """`scan`, `search`, `salvage`, `find_rows`, `crc32` and `encode_frame`."""

    def __init__(self, folder: Path) -> None:
        self._input = folder / "input"

    def run(self, seed: int) -> str:
        """See `fuzz.target`."""
        rng = random.Random(seed)
        if rng.random() < 0.2:
            return self._find_rows(rng)
        salt = rng.getrandbits(32)
        first = rng.choice((1, 7, rng.getrandbits(63), (1 << 64) - 2))
        parts = [rng.randbytes(rng.choice((0, 1, 7, 8, 40, 300))) for _ in range(rng.randrange(12))]
        pieces = [encode(part, (first + n) % (1 << 64), salt, rng) for n, part in enumerate(parts)]
        written = b"".join(pieces)
        is_forged = bool(pieces) and rng.random() < 0.4
        if is_forged:
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(pieces))
                pieces[at] = forge(pieces[at], salt, rng)
        data = b"".join(shuffle_pieces(pieces, rng))
        if rng.random() < 0.7:
            data = spoil(data, rng)
        if rng.random() < 0.1:
            data = junk(rng) + data
        self._input.write_bytes(data)
        return self._compare(data, first, salt, b"" if is_forged else written)

    def _compare(self, data: bytes, first: int, salt: int, written: bytes) -> str:
        buffer = exactly(data)
        found, end, state = frames.scan(buffer, first, salt=salt)
        assert (found, end, state) == twin.scan(data, first, salt=salt)
        assert frames.search(buffer, salt=salt) == twin.search(data, salt=salt)
        salvaged = frames.salvage(buffer, salt=salt)
        assert salvaged == twin.salvage(data, salt=salt)
        assert salvaged[: len(found)] == found
        assert frames.crc32(buffer, salt) == zlib.crc32(data, salt)
        if written:
            assert data[:end] == written[:end], "frames that nobody wrote"
        return ("clean", "short", "bad")[state] if found else "none"

    def _find_rows(self, rng: random.Random) -> str:
        data = rng.randbytes(rng.randrange(1, 300))
        if rng.random() < 0.5:
            data = bytes(each & 3 for each in data)
        self._input.write_bytes(data)
        edge = (1 << 64) - 1
        layout = tuple(
            rng.choice(
                (0, rng.randrange(len(data) + 1), rng.randrange(400), edge - rng.randrange(64))
            )
            for _ in range(3)
        )
        count = rng.choice((0, 1, 5, len(data) // 32, edge, edge // 4, rng.getrandbits(64)))
        first = last = 0
        with contextlib.suppress(ValueError):
            first, last = frames.find_rows(
                exactly(data),
                (layout[0], layout[1], layout[2]),
                field=rng.randrange(3),
                count=count,
                wanted=rng.randbytes(rng.choice((0, 1, 2, 70))),
                table=rng.randrange(4),
            )
            assert 0 <= first <= last <= count
            return "rows"
        return "no rows"


def encode(part: bytes, seq: int, salt: int, rng: random.Random) -> bytes:
    """A frame, made by both and the same."""
    durable, at_ns, kind = rng.randrange(seq + 1), rng.getrandbits(64), rng.randrange(1, 3)
    made = frames.encode_frame(part, seq, salt=salt, durable=durable, at_ns=at_ns, kind=kind)
    slow = twin.encode_frame(part, seq, salt=salt, durable=durable, at_ns=at_ns, kind=kind)
    assert made == slow
    return made


LENGTHS = (0, 1, 7, 40, 4096, twin.MAX_PAYLOAD_BYTES, twin.MAX_PAYLOAD_BYTES + 1, (1 << 32) - 1)
EDGES = (0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def forge(frame: bytes, salt: int, rng: random.Random) -> bytes:
    """The frame with another head, or another payload, and the checksums that fit."""
    _, payload_crc, length, kind, flags, seq, durable, at_ns = twin.HEAD.unpack_from(frame)
    payload = frame[twin.HEAD.size :]
    choice = rng.randrange(6)
    if choice == 0:
        length = rng.choice((*LENGTHS, (length + rng.randrange(-9, 9)) % (1 << 32)))
    elif choice == 1:
        seq = rng.choice((*EDGES, (seq + rng.randrange(-3, 4)) % (1 << 64)))
    elif choice == 2:
        durable = rng.choice((*EDGES, seq))
    elif choice == 3:
        kind, flags = rng.randrange(1 << 16), rng.choice((0, rng.randrange(1 << 16)))
    elif choice == 4:
        payload = spoil(payload, rng) if payload else payload
        payload = payload.ljust(twin.padded(len(payload)), b"\0")
        length, payload_crc = len(payload), zlib.crc32(payload)
    else:
        at_ns = rng.choice(EDGES)
    head = twin.HEAD.pack(0, payload_crc, length, kind, flags, seq, durable, at_ns)[4:]
    return zlib.crc32(head, salt).to_bytes(4, "little") + head + payload
