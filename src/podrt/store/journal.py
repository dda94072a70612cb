"""The monitors' journals: `<group>.<epoch>`, a header of 64 bytes and records of 96.

Python writes the header, one monitor the records, each with one write(2) and before it answers.
A record that is torn (a full disk) or damaged is skipped, also when what follows it no longer
lies at a multiple of 96: it must not hide what was acknowledged after it. A journal without a
whole header has no records yet: who makes one writes the header before its monitor starts.

    header   "podrtjn1", u32 version, u32 crc of the other 60 bytes, boot ID (16), group ID (32)
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

HEADER_BYTES = 64
RECORD_BYTES = 96
VERSION = 2
_MAGIC = b"podrtjn1"
_HEADER = struct.Struct("<8sII16s32s")
_HEADER_CRC_AT = 12
_SEQ_AT = 8
_CHECKED = struct.Struct("<I4xQ")
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
    header = _HEADER.pack(_MAGIC, VERSION, 0, boot, bytes.fromhex(group_id))
    return _HEADER.pack(_MAGIC, VERSION, _header_crc(header), boot, bytes.fromhex(group_id))


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


def renew_header(path: str, boot_id: str, group_id: str) -> None:
    """Write a journal's header anew, whose records say what they are without it.

    Records of another boot are then taken for ones of `boot_id`: the processes they name are not
    there, so they count as ended. Raises: StoreFailed.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, encode_header(boot_id, group_id), 0)
        finally:
            os.close(fd)
    except OSError as error:
        raise StoreFailed(path, error.errno or 5, "write") from error


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


def read_first(path: str) -> JournalRecord | None:
    """The first record, in which a monitor names itself; None if it is not whole.

    Raises: StoreFailed, StoreCorrupt (the header), Unsupported.
    """
    with JournalReader(path) as reader:
        found = reader.read(most_bytes=RECORD_BYTES)
    return found[0] if found and found[0].seq == 1 else None


class JournalReader:
    """Reads a journal again and again, each time what is new.

    `seq` is the last record's, `bytes_read` where it ends: a reader may begin there again.
    """

    def __init__(self, path: str, *, seq: int = 0, bytes_read: int = 0) -> None:
        self.path = path
        self.seq = seq
        self._at = max(bytes_read, HEADER_BYTES)
        self._fd = -1
        self._boot_id = ""

    @property
    def bytes_read(self) -> int:
        """Where the last record that was read ends."""
        return self._at

    def read(self, most_bytes: int | None = None) -> list[JournalRecord]:
        """The records since the last call, or those of the next bytes.

        Raises: as `read_journal`.
        """
        try:
            if self._fd < 0 and not self._open():
                return []
            size = os.fstat(self._fd).st_size
            if most_bytes is not None:
                size = min(size, self._at + most_bytes)
            if size <= self._at:
                return []
            start = max(HEADER_BYTES, self._at - RECORD_BYTES + 1)
            found, end, has_gap = self._decode(read_from(self._fd, start, size), self._at - start)
            if has_gap:
                # It may only have been half visible while it was written: once more, and then
                # it is damage.
                found, end, _ = self._decode(read_from(self._fd, start, size), self._at - start)
        except OSError as error:
            raise StoreFailed(self.path, error.errno or 5, "read") from error
        self._at = start + end
        self.seq = found[-1].seq if found else self.seq
        return found

    def _open(self) -> bool:
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            data = os.pread(self._fd, HEADER_BYTES, 0)
            has_header = len(data) == HEADER_BYTES and any(data)
            if has_header:
                self._boot_id = _decode_header(data, self.path).boot_id
        except BaseException:
            self.close()
            raise
        if not has_header:
            # Its maker was met, or killed, before it wrote that; zeros are what a power cut
            # leaves, and whatever they were about ended with it.
            self.close()
        return has_header

    def _decode(self, data: bytes, end: int) -> tuple[list[JournalRecord], int, bool]:
        """(records, where the last one ends, whether something was skipped).

        `end` is where the last one ended before. The next one may begin inside it: torn by a
        byte or two, it was made whole by those it lacked, as they are its follower's first.
        """
        found: list[JournalRecord] = []
        at, seq, has_gap, has_looked_back = end, self.seq, False, False
        while at + RECORD_BYTES <= len(data) or len(data) > at == end:
            # What was skipped cannot have been more records than would have fitted.
            if _is_record(data, at, range(seq + 1, seq + 2 + max(0, at - end))):
                _, kind, flags, seq, at_ns, key, *rest = _RECORD.unpack_from(data, at)
                found.append(
                    JournalRecord(self._boot_id, kind, flags, seq, at_ns, key.hex(), *rest)
                )
                has_gap = has_gap or at != end
                at = end = at + RECORD_BYTES
                has_looked_back = False
            elif at == end and not has_looked_back:
                has_looked_back = True
                at = _next_candidate(data, max(0, end - RECORD_BYTES + 1))
            else:
                at = _next_candidate(data, at + 1)
        return found, end, has_gap

    def close(self) -> None:
        """Let the descriptor go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_record(data: bytes, at: int, seqs: range) -> bool:
    """Whether a whole record with one of the sequences is there."""
    if at + RECORD_BYTES > len(data):
        return False
    crc, seq = _CHECKED.unpack_from(data, at)
    return seq in seqs and zlib.crc32(data[at + 4 : at + RECORD_BYTES]) == crc


def _next_candidate(data: bytes, at: int) -> int:
    """The next place from `at` on where a record's sequence could be one (1 to 2**32 - 1).

    Much damage is looked through at the speed of a search.
    """
    import re  # only damage needs it

    found = re.compile(rb"(?s)(?!\0{4}).{4}\0{4}").search(data, at + _SEQ_AT)
    return len(data) if found is None else found.start() - _SEQ_AT


def _header_crc(header: bytes) -> int:
    return zlib.crc32(header[_HEADER_CRC_AT + 4 :], zlib.crc32(header[:_HEADER_CRC_AT]))


def _decode_header(data: bytes, path: str) -> JournalHeader:
    if len(data) < HEADER_BYTES:
        raise StoreCorrupt(path, len(data), "the journal's header is cut short")
    magic, version, crc, boot, group = _HEADER.unpack(data)
    if magic != _MAGIC:
        raise StoreCorrupt(path, 0, "this is no journal")
    if not 1 <= version <= VERSION:
        raise Unsupported(f"{path}: journal format {version}", "written by a newer podrt")
    # A monitor of format 1 may still be at work; its header had the bytes of a record there.
    if crc != (RECORD_BYTES if version == 1 else _header_crc(data)):
        raise StoreCorrupt(path, _HEADER_CRC_AT, "the header's checksum does not fit")
    return JournalHeader(boot.hex(), group.hex())
