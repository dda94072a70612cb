from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podrt.errors import StoreCorrupt, StoreFailed, Unsupported
from podrt.store.journal import (
    HEADER_BYTES,
    RECORD_BYTES,
    JournalReader,
    JournalRecord,
    Kind,
    create_journal,
    encode_header,
    encode_record,
    read_header,
    read_journal,
)

BOOT = "0123456789abcdef0123456789abcdef"
GROUP = "ab" * 32
CONTAINER = "cd" * 32


def record(seq: int, kind: Kind = Kind.STARTED, **fields: int) -> JournalRecord:
    values = {"flags": 0, "at_ns": seq * 1000, "run": 1, "pid": 10, "start_ticks": 99}
    values |= {"code": 0, "error": 0, "a": 0, "b": 0} | fields
    return JournalRecord(boot_id=BOOT, kind=int(kind), seq=seq, id=CONTAINER, **values)


def write(path: Path, records: list[JournalRecord], extra: bytes = b"") -> None:
    body = b"".join(encode_record(each) for each in records)
    path.write_bytes(encode_header(BOOT, GROUP) + body + extra)


def flip(path: Path, bit: int) -> None:
    with path.open("r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, bit // 8)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)


def test_create_journal_writes_a_private_header_and_appends(tmp_path: Path) -> None:
    path = tmp_path / "j"
    fd = create_journal(str(path), "01234567-89ab-cdef-0123-456789abcdef", GROUP)
    try:
        os.write(fd, encode_record(record(1)))
    finally:
        os.close(fd)
    assert path.stat().st_size == HEADER_BYTES + RECORD_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_header(str(path)) == (BOOT, GROUP)
    assert read_journal(str(path)) == [record(1)]


def test_create_journal_over_another_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "j")
    os.close(create_journal(path, BOOT, GROUP))
    with pytest.raises(StoreFailed):
        create_journal(path, BOOT, GROUP)


@given(
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**32 - 1),
)
def test_records_survive_encoding(flags: int, a: int, code: int, run: int) -> None:
    each = record(1, Kind.EXITED, flags=flags, a=a, b=a, code=code, run=run, error=-code - 1)
    assert len(encode_record(each)) == RECORD_BYTES
    path = Path(f"/dev/shm/podrt-test-{os.getpid()}")
    try:
        write(path, [each])
        assert read_journal(str(path)) == [each]
    finally:
        path.unlink()


def test_read_of_a_missing_journal_is_empty(tmp_path: Path) -> None:
    assert read_journal(str(tmp_path / "none")) == []
    with pytest.raises(StoreFailed):
        read_header(str(tmp_path / "none"))


def test_read_after_a_sequence_gives_the_rest(tmp_path: Path) -> None:
    write(tmp_path / "j", [record(1), record(2), record(3)])
    assert read_journal(str(tmp_path / "j"), 1) == [record(2), record(3)]


def test_read_of_every_torn_end_gives_what_is_whole(tmp_path: Path) -> None:
    records = [record(1), record(2, Kind.EXITED)]
    path = tmp_path / "j"
    write(path, records)
    data = path.read_bytes()
    for count in reversed(range(len(data))):
        os.truncate(path, count)
        whole = max(0, count - HEADER_BYTES) // RECORD_BYTES
        assert read_journal(str(path)) == records[:whole]


def test_read_behind_a_torn_record_finds_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "j"
    torn = encode_record(record(2))[:37]
    write(path, [record(1)], torn + encode_record(record(2)) + encode_record(record(3)))
    assert read_journal(str(path)) == [record(1), record(2), record(3)]


def test_read_with_any_flipped_bit_loses_at_most_that_record(tmp_path: Path) -> None:
    records = [record(n, Kind(1 + n % 13)) for n in range(1, 6)]
    path = tmp_path / "j"
    write(path, records)
    data = path.read_bytes()
    for bit in range(HEADER_BYTES * 8, len(data) * 8):
        flip(path, bit)
        hit = (bit // 8 - HEADER_BYTES) // RECORD_BYTES
        assert read_journal(str(path)) == records[:hit] + records[hit + 1 :]
        flip(path, bit)


def test_read_of_random_bytes_gives_nothing(tmp_path: Path) -> None:
    rng = random.Random(8)
    path = tmp_path / "j"
    for _ in range(50):
        write(path, [], rng.randbytes(rng.randrange(2000)))
        assert read_journal(str(path)) == []


@pytest.mark.parametrize("data", [b"x" * 64, b"x" * 200, bytes(63) + b"x"])
def test_read_with_a_bad_header_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "j").write_bytes(data)
    with pytest.raises(StoreCorrupt):
        read_journal(str(tmp_path / "j"))


@pytest.mark.parametrize("data", [b"", b"podrtjn1", bytes(64), bytes(4096)])
def test_read_before_the_header_is_written_waits_for_it(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt):
        read_header(str(path))
    with JournalReader(str(path)) as reader:
        assert reader.read() == []
        write(path, [record(1)])
        assert reader.read() == [record(1)]


def test_read_with_any_flipped_bit_of_the_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path, [record(1)])
    for bit in range(HEADER_BYTES * 8):
        flip(path, bit)
        with pytest.raises((StoreCorrupt, Unsupported)):
            read_journal(str(path))
        with pytest.raises((StoreCorrupt, Unsupported)):
            read_header(str(path))
        flip(path, bit)
    assert read_journal(str(path)) == [record(1)]


def test_read_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    header = bytearray(encode_header(BOOT, GROUP))
    header[8] = 3
    (tmp_path / "j").write_bytes(header)
    with pytest.raises(Unsupported):
        read_journal(str(tmp_path / "j"))


def test_read_of_the_first_version_gives_its_records(tmp_path: Path) -> None:
    header = bytearray(encode_header(BOOT, GROUP))
    header[8:16] = struct.pack("<II", 1, RECORD_BYTES)
    (tmp_path / "j").write_bytes(header + encode_record(record(1)))
    assert read_journal(str(tmp_path / "j")) == [record(1)]


def test_reader_reads_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with JournalReader(str(path)) as reader:
        assert reader.read() == []
        write(path, [record(1)])
        assert reader.read() == [record(1)]
        assert reader.read() == []
        half = encode_record(record(2))
        with path.open("ab") as file:
            file.write(half[:50])
        assert reader.read() == []
        with path.open("ab") as file:
            file.write(half[50:])
        assert reader.read() == [record(2)]


def test_read_of_a_torn_record_that_its_follower_completes_finds_both(tmp_path: Path) -> None:
    follower = encode_record(record(2))
    torn = encode_record(record(1, b=follower[0] << 56))[:-1]
    path = tmp_path / "j"
    write(path, [], torn + follower + encode_record(record(3)))
    assert [each.seq for each in read_journal(str(path))] == [1, 2, 3]
    whole = path.read_bytes()
    for count in range(HEADER_BYTES, len(whole)):
        path.write_bytes(whole[:count])
        with JournalReader(str(path)) as reader:
            seqs = [each.seq for each in reader.read()]
            path.write_bytes(whole)
            seqs += [each.seq for each in reader.read()]
        assert seqs == [1, 2, 3]
