from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys

import pytest

from doubles.archives import RecordingSource
from podrt.errors import InvalidConfig, LimitReached, Unsupported
from podrt.images import streams

DATA = b"some text, and again some text, " * 5000
PACKERS = {streams.GZIP: gzip.compress, streams.BZIP2: bz2.compress, streams.XZ: lzma.compress}


def unpacked(data: bytes, piece: int = 1 << 30) -> bytes:
    kind = streams.compression_of(data[: streams.MAGIC_BYTES])
    source = streams.decompressed(RecordingSource(data, piece), kind, "a.tar")
    found = bytearray()
    while part := source.read(1000):
        assert len(part) <= 1000
        found += part
    return bytes(found)


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_read_compressed_data_gives_it_back(kind: str, piece: int) -> None:
    packed = PACKERS[kind](DATA)
    assert streams.compression_of(packed) == kind
    assert unpacked(packed, piece) == DATA


@pytest.mark.parametrize("kind", PACKERS)
def test_read_several_compressed_streams_gives_all_of_them(kind: str) -> None:
    packed = PACKERS[kind](DATA) + PACKERS[kind](b"tail") + b"\0" * 1000
    assert unpacked(packed) == DATA + b"tail"


@pytest.mark.parametrize("kind", PACKERS)
def test_read_truncated_compressed_data_names_the_archive(kind: str) -> None:
    with pytest.raises(InvalidConfig, match=r"a\.tar: unexpected end"):
        unpacked(PACKERS[kind](DATA)[:-20])


@pytest.mark.parametrize("kind", PACKERS)
def test_read_damaged_compressed_data_names_the_archive(kind: str) -> None:
    packed = bytearray(PACKERS[kind](DATA))
    packed[len(packed) // 2] ^= 0xFF
    packed[-6] ^= 0xFF
    with pytest.raises(InvalidConfig, match=r"a\.tar: "):
        unpacked(bytes(packed))


def test_read_trailing_garbage_names_the_archive() -> None:
    with pytest.raises(InvalidConfig, match="damaged"):
        unpacked(gzip.compress(DATA) + b"garbage")


def test_read_xz_that_needs_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 28}]
    packer = lzma.LZMACompressor(filters=filters)
    packed = packer.compress(b"x") + packer.flush()
    with pytest.raises(InvalidConfig, match="80 MiB of memory"):
        unpacked(packed)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python reads zstd")
def test_read_zstd_without_support_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="zstd"):
        streams.decompressed(RecordingSource(b""), streams.ZSTD, "a.tar")


def test_tap_past_its_limit_is_refused() -> None:
    sink = io.BytesIO()
    tap = streams.Tap(RecordingSource(b"x" * 100), sink, name="a.tar", limit_bytes=60)
    assert tap.read(60) == sink.getvalue()
    with pytest.raises(LimitReached, match="60 bytes"):
        tap.read(1)


def test_tap_a_compressed_bomb_keeps_memory_small() -> None:
    bomb = gzip.compress(b"\0" * (50 << 20))
    source = streams.decompressed(RecordingSource(bomb), streams.GZIP, "a.tar")
    tap = streams.Tap(source, streams.Hasher(), name="a.tar", limit_bytes=10 << 20)
    with pytest.raises(LimitReached):
        tap.drain()
