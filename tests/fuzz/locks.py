"""The lock table: attaching to a damaged one is refused, or using it does no harm."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from podrt._fast.lockfile import CHUNK_BYTES, CHUNKS_AT, PAGE
from podrt._fast.locktable import MAX_LOCKS, LockTable
from podrt.errors import PodrtError, StoreCorrupt

OWNER, OTHER = b"a" * 32, b"b" * 32
# Offsets of the header that its checksum covers, and of the number of locks behind it.
CHECKED_BYTES, CAPACITY_AT = 52, 64


class Locks:
    """`LockTable.open` and every call of the table, with good and bad arguments."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "input"
        self._images = [living_image(str(self._path), count) for count in (70, 4200)]

    def run(self, seed: int) -> str:
        """See `fuzz.target`."""
        rng = random.Random(seed)
        data = damaged(self._images[rng.random() < 0.1], seed)
        self._path.write_bytes(data)
        before = os.stat(self._path).st_ino
        try:
            use_everything(str(self._path), seed)
        except StoreCorrupt:
            assert self._path.read_bytes() == data, "what is damaged is left as it was"
            return "refused"
        assert os.stat(self._path).st_ino == before, "a table of this boot was replaced"
        assert data[:CHECKED_BYTES] == self._images[0][:CHECKED_BYTES]
        return "attached"


def living_image(path: str, count: int = 70) -> bytes:
    """A table with some life in it, as bytes; its file is gone again."""
    table = LockTable.open(path)
    for _ in range(count):
        index = table.allocate(OWNER)
        table.acquire_nowait(index)
        table.claim(index, 3)
    table.close()
    data = Path(path).read_bytes()
    os.unlink(path)
    return data


def damaged(image: bytes, seed: int) -> bytes:
    """The image with something wrong with it; the same for the same seed."""
    rng = random.Random(seed)
    data = bytearray(image)
    areas = ((0, 64), (64, 256), (PAGE, 20_000), (CHUNKS_AT, 275_000), (0, len(data)))
    some = areas if rng.random() < 0.1 else areas[1:]
    for _ in range(rng.choice((1, 8, 200))):
        at = rng.randrange(*rng.choice(some))
        word = rng.choice((rng.randbytes(8), b"\xff" * 8, bytes(8), rng.randbytes(1) + bytes(7)))
        data[at : at + 8] = word[: len(data) - at]
    if rng.random() < 0.1:
        data[CAPACITY_AT : CAPACITY_AT + 4] = (4096 * rng.randrange(3000)).to_bytes(4, "little")
    if rng.random() < 0.1:
        del data[rng.randrange(len(data)) :]
    elif rng.random() < 0.05:
        data += rng.randbytes(rng.choice((1, CHUNK_BYTES)))
    return bytes(data)


def use_everything(path: str, seed: int) -> None:
    """Every call of the table, with good and bad arguments.

    Raises: StoreCorrupt when the table cannot be attached to; nothing else.
    """
    rng = random.Random(seed)
    table = LockTable.open(path)
    try:
        calls: list[Callable[[], object]] = [
            lambda: list(table.entries()),
            lambda: table.allocate(OWNER),
            lambda: table.wait_any([1, 2], [1, 2], table.mail(), 100),
            lambda: look_at(path),
        ]
        for index in (1, 2, 64, 65, 4095, 4096, -1, *(rng.randrange(1, 9000) for _ in range(40))):
            calls += calls_on(table, index, rng)
        for call in calls:
            with contextlib.suppress(PodrtError):
                call()
        keeps_its_promises(table)
    finally:
        table.close()


def look_at(path: str) -> None:
    """The listing that only reads."""
    looking = LockTable.look(path)
    assert looking is not None
    try:
        for entry in looking.entries():
            looking.waiters(entry.lock)
            looking.claim_waiters(entry.lock)
    finally:
        looking.close()


def calls_on(table: Any, index: int, rng: random.Random) -> list[Callable[[], object]]:
    token = rng.getrandbits(64)
    return [
        lambda: table.acquire_nowait(index) and table.claim(index, 4),
        lambda: table.acquire_waited(index, True),
        lambda: table.wait(index, 0),
        lambda: table.read_claim(index),
        lambda: table.holder(index),
        lambda: table.entry(index),
        lambda: table.waiters(index),
        lambda: table.preempt(index, token, 3),
        lambda: table.drop_claim(index, token),
        lambda: table.claim_waiters(index),
        lambda: table.claim_stands(index, token),
        lambda: table.free(index, OWNER),
        lambda: table.release(index),
    ]


def keeps_its_promises(table: LockTable) -> None:
    """Whatever the words say: a lock is given out once, and who has taken one holds it."""
    try:
        table.repair()
        capacity = table.capacity
    except PodrtError:
        return
    assert table.repair() == 0, "nobody else changes the table"
    entries = list(table.entries())
    assert all(0 < entry.lock < capacity for entry in entries)
    taken = {entry.lock for entry in entries if entry.state != "free"}
    given: set[int] = set()
    for _ in range(3):
        try:
            index = table.allocate(OTHER)
        except PodrtError:
            break
        assert 0 < index < MAX_LOCKS and index not in taken | given
        given.add(index)
        made = table.entry(index)
        assert made is not None and (made.state, made.owner_id) == ("allocated", OTHER)
    for index in given:
        if table.acquire_nowait(index):
            holder = table.holder(index)
            assert holder is not None and holder.pid == os.getpid() and holder.alive
            assert table.holds(index)
            table.release(index)
            assert not table.holds(index)
        assert table.free(index, OTHER)
        assert not table.free(index, OTHER)
