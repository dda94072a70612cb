from __future__ import annotations

import os
import random
from collections.abc import Callable
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
    read_unfolded,
)
from podrt.store.records import GroupRecord

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
    for count in range(HEADER_BYTES, len(data)):
        path.write_bytes(data[:count])
        whole = (count - HEADER_BYTES) // RECORD_BYTES
        assert read_journal(str(path)) == records[:whole]


def test_read_behind_a_torn_record_finds_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "j"
    torn = encode_record(record(2))[:37]
    write(path, [record(1)], torn + encode_record(record(2)) + encode_record(record(3)))
    assert read_journal(str(path)) == [record(1), record(2), record(3)]


def test_read_with_any_flipped_bit_loses_at_most_that_record(
    tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    records = [record(n, Kind(1 + n % 13)) for n in range(1, 6)]
    path = tmp_path / "j"
    write(path, records)
    data = path.read_bytes()
    bits = range(HEADER_BYTES * 8, len(data) * 8)
    for bit in random.Random(4).sample(bits, rounds(150, len(bits))):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        hit = (bit // 8 - HEADER_BYTES) // RECORD_BYTES
        assert read_journal(str(path)) == records[:hit] + records[hit + 1 :]


def test_read_of_random_bytes_gives_nothing(tmp_path: Path) -> None:
    rng = random.Random(8)
    path = tmp_path / "j"
    for _ in range(50):
        write(path, [], rng.randbytes(rng.randrange(2000)))
        assert read_journal(str(path)) == []


@pytest.mark.parametrize("data", [b"", b"podrtjn1", b"x" * 64, bytes(200)])
def test_read_with_a_bad_header_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "j").write_bytes(data)
    with pytest.raises(StoreCorrupt):
        read_journal(str(tmp_path / "j"))


def test_read_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    header = bytearray(encode_header(BOOT, GROUP))
    header[8] = 2
    (tmp_path / "j").write_bytes(header)
    with pytest.raises(Unsupported):
        read_journal(str(tmp_path / "j"))


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


def test_read_unfolded_goes_over_every_epoch_since_the_fold(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        write(tmp_path / f"{GROUP}.{epoch}", [record(1), record(2)])
    group = GroupRecord(id=GROUP, epoch=3, folded_epoch=2, folded_seq=1)
    found = read_unfolded(str(tmp_path), group)
    assert [(epoch, each.seq) for epoch, each in found] == [(2, 2), (3, 1), (3, 2)]
