from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from podrt._fast import lockfile
from podrt._fast.locktable import LockTable
from podrt.errors import PodrtError, StoreCorrupt, StoreFailed

OWNER = b"a" * 32


@pytest.fixture
def image(table_path: str) -> bytes:
    """A table with some life in it, as bytes; its file is gone."""
    table = LockTable.open(table_path)
    for _ in range(70):
        index = table.allocate(OWNER)
        table.acquire_nowait(index)
        table.claim(index, 3)
    table.close()
    data = Path(table_path).read_bytes()
    os.unlink(table_path)
    return data


def use_everything(path: str) -> None:
    """Every call once; only our own errors may come out."""
    table = LockTable.open(path)
    rng = random.Random(5)
    indexes = [1, 2, 64, 65, 4095, *(rng.randrange(1, 4096) for _ in range(40))]
    calls: list[Callable[[], object]] = [
        lambda: list(table.entries()),
        lambda: table.allocate(OWNER),
        lambda: table.capacity,
        lambda: table.wait_any([1, 2], [1, 2], table.mail(), 1),
    ]
    for index in indexes:
        calls += [
            lambda index=index: table.acquire_nowait(index) and table.claim(index, 4),
            lambda index=index: table.wait(index, 0),
            lambda index=index: table.read_claim(index),
            lambda index=index: table.holder(index),
            lambda index=index: table.waiters(index),
            lambda index=index: table.preempt(index, rng.getrandbits(64), 3),
            lambda index=index: table.wait_claim_change(index, rng.getrandbits(64), 0),
            lambda index=index: table.free(index, OWNER),
            lambda index=index: table.release(index),
        ]
    calls.append(table.repair)
    for call in calls:
        try:
            call()
        except PodrtError:
            continue
    table.close()


@pytest.mark.parametrize("offset", [*range(52), 64, 66, 67])
def test_open_with_a_damaged_header_refuses_naming_the_place(
    table_path: str, image: bytes, offset: int
) -> None:
    data = bytearray(image)
    data[offset] ^= 0x5A
    Path(table_path).write_bytes(data)
    with pytest.raises(StoreCorrupt) as caught:
        LockTable.open(table_path)
    assert caught.value.path == table_path
    assert caught.value.offset <= offset
    assert Path(table_path).read_bytes() == data, "what is damaged is left as it was"


def test_open_of_any_truncation_refuses(table_path: str, image: bytes) -> None:
    for length in (0, 1, 51, 52, 63, 64, 128, 4096, 300_000, len(image) - 1):
        Path(table_path).write_bytes(image[:length])
        with pytest.raises(StoreCorrupt):
            LockTable.open(table_path)


def test_open_of_a_newer_version_says_both(table_path: str, image: bytes) -> None:
    head = bytearray(image[:48])
    head[8:12] = struct.pack("<I", 9)
    checksum = struct.pack("<I", lockfile.zlib.crc32(head))
    Path(table_path).write_bytes(bytes(head) + checksum + image[52:])
    with pytest.raises(StoreCorrupt, match="version 9, this podrt knows 1"):
        LockTable.open(table_path)


def test_open_of_what_is_no_file_refuses(table_path: str) -> None:
    os.mkfifo(table_path)
    with pytest.raises(StoreCorrupt, match="regular"):
        LockTable.open(table_path)
    os.unlink(table_path)
    os.symlink("/etc/passwd", table_path)
    with pytest.raises(StoreFailed):
        LockTable.open(table_path)
    os.unlink(table_path)
    os.mkdir(table_path)
    with pytest.raises(StoreFailed):
        LockTable.open(table_path)


def test_random_damage_behind_the_header_raises_only_our_errors(
    table_path: str, image: bytes, rounds: Callable[[int, int], int]
) -> None:
    for seed in range(rounds(40, 4000)):
        rng = random.Random(seed)
        data = bytearray(image)
        for _ in range(rng.choice((1, 8, 200))):
            area = rng.choice(((64, 256), (4096, 20_000), (266_240, 275_000), (64, len(data))))
            at = rng.randrange(*area)
            data[at : at + 8] = rng.choice((rng.randbytes(8), b"\xff" * 8, bytes(8)))
        Path(table_path).write_bytes(data)
        try:
            use_everything(table_path)
        except StoreCorrupt:
            continue
        except BaseException:
            print(f"seed {seed}")
            raise
