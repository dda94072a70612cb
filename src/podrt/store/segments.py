"""One file of the log: `log.<first sequence>`, a header of 64 bytes and frames behind it.

The last frame of a full segment is an END frame; the next segment's header carries the checksum
of that frame, so that a file left over from another course of events is never taken for it.
Frames are described in `podrt._fast.frames`.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import NamedTuple

from podrt._fast import frames
from podrt.errors import StoreCorrupt, Unsupported

from .disk import Disk, read_from, write_all
from .records import SCHEMA
from .upgrade import check_schema

HEADER_BYTES = 64
TRANSACTION = 1
END = 2
_HEADER = struct.Struct("<8sIIQI16s16xI")
_MAGIC = b"podrtlg1"
_VERSION = 1
_PREFIX = "log."
DIGITS = 20
"""Of the sequence in a file's name."""
MAX_SEQ = (1 << 63) - 1
"""No sequence comes near it; one behind it is still a number everywhere."""


class Transaction(NamedTuple):
    """A frame as read: its sequence, its time and its payload (msgpack)."""

    seq: int
    at_ns: int
    payload: bytes


class Header(NamedTuple):
    """`previous` is the CRC-32 of the END frame before, 0 for the very first segment."""

    schema: int
    first_seq: int
    previous: int
    store_id: bytes

    def encode(self) -> bytes:
        """The 64 bytes."""
        fields = (_MAGIC, _VERSION, self.schema, self.first_seq, self.previous, self.store_id)
        crc = zlib.crc32(_HEADER.pack(*fields, 0)[:-4])
        return _HEADER.pack(*fields, crc)


def segment_path(state_dir: str, first_seq: int) -> str:
    """Where the segment that begins with `first_seq` is."""
    return f"{state_dir}/{_PREFIX}{first_seq:0{DIGITS}d}"


def list_segments(state_dir: str) -> list[int]:
    """The first sequences of all segment files, ascending."""
    return list_numbered(state_dir, _PREFIX)


def list_numbered(state_dir: str, prefix: str) -> list[int]:
    """The sequences in the names of the files that are called `prefix` and one, ascending."""
    names = [name.removeprefix(prefix) for name in os.listdir(state_dir) if name.startswith(prefix)]
    numbers = [int(name) for name in names if len(name) == DIGITS and _is_number(name)]
    return sorted(number for number in numbers if number <= MAX_SEQ)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def salt_of(store_id: bytes, first_seq: int) -> int:
    """What seeds the checksums of a segment's heads; known even when its header is lost."""
    return zlib.crc32(store_id + first_seq.to_bytes(8, "little"))


def decode_header(data: bytes, path: str) -> Header:
    """Read a header.

    Raises: StoreCorrupt; Unsupported for a format or a schema of the future.
    """
    if len(data) < HEADER_BYTES:
        raise StoreCorrupt(path, len(data), "the header is cut short")
    magic, version, schema, first_seq, previous, store_id, crc = _HEADER.unpack(data)
    if magic != _MAGIC or zlib.crc32(data[: HEADER_BYTES - 4]) != crc:
        raise StoreCorrupt(path, 0, "the header's checksum does not fit")
    if version > _VERSION:
        raise Unsupported(f"{path}: log format {version}", "it was written by a newer podrt")
    check_schema(schema, path)
    if not 0 < first_seq <= MAX_SEQ:
        raise StoreCorrupt(path, 16, f"it begins with {first_seq}")
    return Header(schema, first_seq, previous, store_id)


class Segment:
    """An open segment and how far it has been read.

    `end` is the offset behind the last valid frame, `last_seq` that frame's sequence; `seal` is
    the CRC-32 of the END frame once it has been read, else None.
    """

    def __init__(self, path: str, fd: int, header: Header, disk: Disk) -> None:
        self.path = path
        self.fd = fd
        self.header = header
        self.salt = salt_of(header.store_id, header.first_seq)
        self.end = HEADER_BYTES
        self.last_seq = header.first_seq - 1
        self.seal: int | None = None
        self.is_linked = False
        self._disk = disk

    def __del__(self) -> None:
        self._disk.close(self.fd)

    @property
    def first_seq(self) -> int:
        """The sequence the segment begins with."""
        return self.header.first_seq

    @property
    def is_sealed(self) -> bool:
        """Whether the END frame has been read or written."""
        return self.seal is not None

    def size(self) -> int:
        """The file's size in bytes."""
        return os.fstat(self.fd).st_size

    def read(self) -> tuple[list[Transaction], int]:
        """What was appended since the last call, and whether anything else follows.

        Gives the transactions and CLEAN, SHORT or BAD of `podrt._fast.frames` for what lies
        behind them. Raises: StoreCorrupt when the file became shorter than what was read.
        """
        size = os.fstat(self.fd).st_size
        if size == self.end:
            return [], frames.CLEAN
        if size < self.end:
            raise StoreCorrupt(self.path, size, f"the file ended at {self.end} before")
        data = read_from(self.fd, self.end, size)
        found, used, state = frames.scan(data, self.last_seq + 1, salt=self.salt)
        transactions = []
        for seq, kind, at_ns, _durable, start, length in found:
            if self.seal is not None:
                raise StoreCorrupt(self.path, self.end + start, "a frame follows the end frame")
            if kind == END:
                self.seal = zlib.crc32(data[start - frames.HEAD_BYTES : start + length])
            elif kind == TRANSACTION:
                transactions.append(Transaction(seq, at_ns, data[start : start + length]))
            else:
                raise Unsupported(f"{self.path}: frame kind {kind}", "written by a newer podrt")
        self.end += used
        self.last_seq += len(found)
        return transactions, state

    def rest(self) -> bytes:
        """The bytes behind the last valid frame."""
        return read_from(self.fd, self.end, max(self.size(), self.end))

    def append(self, frame: bytes) -> None:
        """Write a frame at the end and count it in; what was half written is cut off again.

        Raises: OSError.
        """
        try:
            write_all(self._disk, self.fd, frame, self.end)
        except OSError:
            self._disk.truncate(self.fd, self.end)
            raise
        self.end += len(frame)
        self.last_seq += 1

    def cut(self) -> None:
        """Cut off what lies behind the last valid frame. Raises: OSError."""
        self._disk.truncate(self.fd, self.end)

    def sync(self, state_dir: str) -> None:
        """Make the frames, and at the first time the file's name, durable. Raises: OSError."""
        self._disk.sync(self.fd)
        if not self.is_linked:
            self._disk.sync_dir(state_dir)
            self.is_linked = True


def open_segment(state_dir: str, first_seq: int, disk: Disk, *, readonly: bool) -> Segment:
    """Open a segment by the sequence it begins with.

    Raises: OSError, StoreCorrupt, Unsupported.
    """
    path = segment_path(state_dir, first_seq)
    fd = disk.open(path, os.O_RDONLY if readonly else os.O_RDWR)
    try:
        header = decode_header(os.pread(fd, HEADER_BYTES, 0), path)
        if header.first_seq != first_seq:
            raise StoreCorrupt(path, 16, f"the header says it begins with {header.first_seq}")
    except BaseException:
        disk.close(fd)
        raise
    return Segment(path, fd, header, disk)


def create_segment(
    state_dir: str, first_seq: int, disk: Disk, *, store_id: bytes, previous: int
) -> Segment:
    """Make a new segment, in place of a stale file of that name; not durable yet.

    Raises: OSError.
    """
    path = segment_path(state_dir, first_seq)
    header = Header(SCHEMA, first_seq, previous, store_id)
    # Under another name first: a reader must never meet half a header.
    fresh = f"{state_dir}/new.segment"
    # And in a file of its own: one that was left over may hold frames that were never promised
    # to anybody, and power may go before the disk knows that they were cut off.
    disk.unlink(fresh)
    fd = disk.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        write_all(disk, fd, header.encode(), 0)
        disk.rename(fresh, path)
    except BaseException:
        disk.close(fd)
        disk.unlink(fresh)
        raise
    return Segment(path, fd, header, disk)
