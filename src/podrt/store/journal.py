"""The monitors' journals: `<group>.<epoch>`, a header of 64 bytes and records of 96.

Python writes the header, one monitor the records, each with one write(2) and before it answers.
A record that is torn (a full disk) or damaged is skipped, also when what follows it no longer
lies at a multiple of 96: it must not hide what was acknowledged after it.

    header   "podrtjn1", u32 version, u32 bytes of a record, boot ID (16), group ID (32)
    record   u32 crc of what follows, u16 kind, u16 flags, u64 seq (from 1), u64 at_ns, ID (32),
             u32 run, i32 pid, u64 start_ticks, i32 code, i32 error, u64 a, u64 b
"""

from __future__ import annotations

import enum
import os
import struct
import zlib
from typing import NamedTuple

from podrt.errors import StoreCorrupt, StoreFailed, Unsupported

from .disk import read_from
from .records import GroupRecord

HEADER_BYTES = 64
RECORD_BYTES = 96
VERSION = 1
_MAGIC = b"podrtjn1"
_HEADER = struct.Struct("<8sII16s32s")
_RECORD = struct.Struct("<IHHQQ32sIiQiiQQ")


class Kind(enum.IntEnum):
    """What a record tells; the numbers are the monitor's."""

    MONITOR_UP = 1
    NS_UP = 2
    CREATED = 3
    STARTED = 4
    EXITED = 5
    STOPPING = 6
    START_FAILED = 7
    PAUSED = 8
    UNPAUSED = 9
    NS_DOWN = 10
    FORGOTTEN = 11
    RECEIPT = 12
    MONITOR_DOWN = 13


class Flag(enum.IntFlag):
    """What an EXITED record adds."""

    BY_USER = 1
    OOM_KILLED = 2
    CODE_UNKNOWN = 4


class JournalHeader(NamedTuple):
    """`boot_id` is 32 hex digits without dashes, `group_id` 64."""

    boot_id: str
    group_id: str


class JournalRecord(NamedTuple):
    """One record, with the boot of its journal; `id` is a container's ID or the group's.

    `kind` is a number that `Kind` need not know: a newer monitor may write more.
    """

    boot_id: str
    kind: int
    flags: int
    seq: int
    at_ns: int
    id: str
    run: int
    pid: int
    start_ticks: int
    code: int
    error: int
    a: int
    b: int


def encode_header(boot_id: str, group_id: str) -> bytes:
    """The 64 bytes at a journal's beginning; dashes in `boot_id` are ignored."""
    boot = bytes.fromhex(boot_id.replace("-", ""))
    return _HEADER.pack(_MAGIC, VERSION, RECORD_BYTES, boot, bytes.fromhex(group_id))


def encode_record(record: JournalRecord) -> bytes:
    """The 96 bytes of a record, as the monitor writes them."""
    _, kind, flags, seq, at_ns, key, *rest = record
    body = _RECORD.pack(0, kind, flags, seq, at_ns, bytes.fromhex(key), *rest)[4:]
    return zlib.crc32(body).to_bytes(4, "little") + body


def create_journal(path: str, boot_id: str, group_id: str) -> int:
    """Make a journal and give its descriptor, O_RDWR | O_APPEND.

    Raises: StoreFailed, with EEXIST when there is one of that epoch already.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    header = encode_header(boot_id, group_id)
    fd = -1
    try:
        fd = os.open(path, flags, 0o600)
        if os.write(fd, header) != len(header):
            raise OSError(28, os.strerror(28))  # ENOSPC: the rest did not fit
    except OSError as error:
        if fd >= 0:
            os.close(fd)
            os.unlink(path)
        raise StoreFailed(path, error.errno or 5, "create") from error
    return fd


def read_header(path: str) -> JournalHeader:
    """A journal's header. Raises: StoreFailed, StoreCorrupt, Unsupported."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read(HEADER_BYTES)
    except OSError as error:
        raise StoreFailed(path, error.errno or 5, "read") from error
    return _decode_header(data or b"", path)


def read_journal(path: str, after_seq: int = 0) -> list[JournalRecord]:
    """The records behind `after_seq`; a journal that does not exist has none.

    Raises: StoreFailed, StoreCorrupt (the header), Unsupported.
    """
    with JournalReader(path) as reader:
        return [record for record in reader.read() if record.seq > after_seq]


class JournalReader:
    """Reads a journal again and again, each time what is new."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.seq = 0
        self._at = HEADER_BYTES
        self._fd = -1
        self._boot_id = ""

    def read(self) -> list[JournalRecord]:
        """The records since the last call. Raises: as `read_journal`."""
        try:
            if self._fd < 0 and not self._open():
                return []
            size = os.fstat(self._fd).st_size
            if size <= self._at:
                return []
            found, used, has_gap = self._decode(read_from(self._fd, self._at, size))
            if has_gap:
                # It may only have been half visible while it was written: once more, and then
                # it is damage.
                found, used, _ = self._decode(read_from(self._fd, self._at, size))
        except OSError as error:
            raise StoreFailed(self.path, error.errno or 5, "read") from error
        self._at += used
        self.seq = found[-1].seq if found else self.seq
        return found

    def _open(self) -> bool:
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            self._boot_id = _decode_header(os.pread(self._fd, HEADER_BYTES, 0), self.path).boot_id
        except BaseException:
            self.close()
            raise
        return True

    def _decode(self, data: bytes) -> tuple[list[JournalRecord], int, bool]:
        """(records, bytes used up, whether something was skipped)."""
        found: list[JournalRecord] = []
        at, used, has_gap = 0, 0, False
        seq = self.seq
        while at + RECORD_BYTES <= len(data):
            crc, kind, flags, number, at_ns, key, *rest = _RECORD.unpack_from(data, at)
            # What was skipped cannot have been more records than would have fitted.
            is_next = seq < number <= seq + 1 + (at - used)
            if not is_next or zlib.crc32(data[at + 4 : at + RECORD_BYTES]) != crc:
                at += 1
                continue
            has_gap = has_gap or at != used
            seq = number
            found.append(JournalRecord(self._boot_id, kind, flags, seq, at_ns, key.hex(), *rest))
            at = used = at + RECORD_BYTES
        return found, used, has_gap

    def close(self) -> None:
        """Let the descriptor go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_unfolded(journal_dir: str, group: GroupRecord) -> list[tuple[int, JournalRecord]]:
    """What a group's monitors have journaled and nobody folded yet, as (epoch, record), in order.

    Raises: StoreFailed, StoreCorrupt, Unsupported.
    """
    found: list[tuple[int, JournalRecord]] = []
    for epoch in range(max(group.folded_epoch, 1), group.epoch + 1):
        after = group.folded_seq if epoch == group.folded_epoch else 0
        path = f"{journal_dir}/{group.id}.{epoch}"
        found += [(epoch, record) for record in read_journal(path, after)]
    return found


def _decode_header(data: bytes, path: str) -> JournalHeader:
    if len(data) < HEADER_BYTES:
        raise StoreCorrupt(path, len(data), "the journal's header is cut short")
    magic, version, record_bytes, boot, group = _HEADER.unpack(data)
    if magic != _MAGIC:
        raise StoreCorrupt(path, 0, "this is no journal")
    if version != VERSION or record_bytes != RECORD_BYTES:
        raise Unsupported(f"{path}: journal format {version}", "written by a newer podrt")
    return JournalHeader(boot.hex(), group.hex())
