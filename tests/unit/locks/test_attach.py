from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from fuzz.locks import living_image
from podrt._fast import lockfile
from podrt._fast.locktable import LockTable
from podrt.errors import StoreCorrupt, StoreFailed


@pytest.fixture
def image(table_path: str) -> bytes:
    return living_image(table_path)


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
