"""`snap.<sequence>`: the whole state at one sequence, indexed, so that opening it reads no value.

    header     128 bytes
    values     msgpack, one behind the other
    rows       32 bytes each, sorted by (table, id): where id, name, owner and value are
    names      u32 row numbers, sorted by name, of the rows whose names are unique together
    owners     u32 row numbers, sorted by owner, of the rows that have one
    pool       the ids, names and owners

The header carries a checksum of itself and of everything from `rows` on; each row carries one of
its value, checked when that value is first read.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from podrt._fast.frames import BY_ID, BY_NAME, BY_OWNER, Mapping, crc32, find_rows
from podrt.errors import StoreCorrupt, Unsupported

from .disk import Disk, write_all
from .records import NAMED, SCHEMA, TYPES
from .segments import DIGITS, MAX_SEQ, list_numbered
from .turns import HURRIED, Turns, in_order
from .upgrade import check_schema

_HEADER = struct.Struct("<8sIIQ16sIIIIQQI")
_HEADER_BYTES = 128
_ROW = struct.Struct("<HHHHIIQI4x")
_NUMBER = struct.Struct("<I")
_MAGIC = b"podrtsn1"
_VERSION = 1
_PREFIX = "snap."
_CHUNK_BYTES = 1 << 20
_NAMED = frozenset(int(table) for table in NAMED)


class Entry(NamedTuple):
    """A row to be written: `raw` is the encoded value."""

    table: int
    id: str
    name: str
    owner: str
    raw: bytes | memoryview


class SnapshotHeader(NamedTuple):
    """What a snapshot says of itself; `previous` ties the segment that follows it to it."""

    schema: int
    seq: int
    store_id: bytes
    previous: int
    row_count: int
    name_count: int
    owner_count: int
    rows_at: int
    file_bytes: int
    index_crc: int

    def encode(self) -> bytes:
        """The 128 bytes."""
        head = _HEADER.pack(_MAGIC, _VERSION, *self).ljust(_HEADER_BYTES - 4, b"\0")
        return head + _NUMBER.pack(zlib.crc32(head))


def snapshot_path(state_dir: str, seq: int) -> str:
    """Where the snapshot of `seq` is."""
    return f"{state_dir}/{_PREFIX}{seq:0{DIGITS}d}"


def list_snapshots(state_dir: str) -> list[int]:
    """The sequences of all snapshot files, ascending."""
    return list_numbered(state_dir, _PREFIX)


class Snapshot:
    """A mapped snapshot. Its file may be removed while it is used."""

    def __init__(self, path: str, header: SnapshotHeader, data: memoryview) -> None:
        self.path = path
        self.header = header
        self._data = data
        self._names_at = header.rows_at + header.row_count * _ROW.size
        self._owners_at = self._names_at + header.name_count * 4
        self._pool_at = self._owners_at + header.owner_count * 4

    @property
    def seq(self) -> int:
        """The sequence of the last transaction in it."""
        return self.header.seq

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return self.header.file_bytes

    def _row(self, row: int) -> tuple[int, int, int, int, int, int, int, int]:
        return _ROW.unpack_from(self._data, self.header.rows_at + row * _ROW.size)

    def _key(self, row: int) -> tuple[int, bytes]:
        table, id_bytes, _, _, pool, *_ = self._row(row)
        start = self._pool_at + pool
        return table, self._data[start : start + id_bytes].tobytes()

    def _number(self, at: int, place: int) -> int:
        number: int = _NUMBER.unpack_from(self._data, at + 4 * place)[0]
        if number >= self.header.row_count:
            raise StoreCorrupt(self.path, at + 4 * place, f"the index names row {number}")
        return number

    def _find(self, field: int, key: str, table: int = 0) -> range:
        """The places that equal `key` in the order by `field`. Raises: StoreCorrupt."""
        header = self.header
        counts = (header.row_count, header.name_count, header.owner_count)
        places = (0, self._names_at, self._owners_at)
        try:
            found = find_rows(
                self._data,
                (header.rows_at, self._pool_at, places[field]),
                field=field,
                count=counts[field],
                wanted=_encode(key),
                table=table,
            )
        except ValueError as error:
            raise StoreCorrupt(self.path, header.rows_at, str(error)) from error
        return range(*found)

    def find(self, table: int, key: str) -> int:
        """The row of ID `key`, or -1. Raises: StoreCorrupt."""
        rows = self._find(BY_ID, key, table)
        return rows[0] if rows else -1

    def find_name(self, name: str) -> list[int]:
        """The rows that have `name` in the common space of names."""
        return [self._number(self._names_at, place) for place in self._find(BY_NAME, name)]

    def owned(self, owner: str) -> list[int]:
        """The rows that belong to `owner`."""
        return [self._number(self._owners_at, place) for place in self._find(BY_OWNER, owner)]

    def rows_of(self, table: int, prefix: str = "") -> range:
        """The rows of a table, or those whose IDs begin with `prefix`."""
        wanted = _encode(prefix)
        rows = range(self.header.row_count)
        first = bisect_left(rows, (table, wanted), key=self._key)
        last = bisect_left(rows, (table, wanted + b"\xff"), lo=first, key=self._key)
        return range(first, last)

    def entry(self, row: int) -> tuple[int, str, str, str]:
        """(table, id, name, owner) of a row. Raises: StoreCorrupt."""
        table, id_bytes, name_bytes, owner_bytes, pool, *_ = self._row(row)
        start = self._pool_at + pool
        middle = start + id_bytes
        end = middle + name_bytes
        data = self._data
        if table not in TYPES or end + owner_bytes > len(data):
            raise StoreCorrupt(self.path, start, f"row {row} of the index makes no sense")
        try:
            return (
                table,
                str(data[start:middle], "utf-8"),
                str(data[middle:end], "utf-8"),
                str(data[end : end + owner_bytes], "utf-8"),
            )
        except UnicodeDecodeError as error:
            raise StoreCorrupt(self.path, start, f"a name is no text: {error}") from error

    def value(self, row: int) -> bytes:
        """A row's encoded value. Raises: StoreCorrupt."""
        _, _, _, _, _, crc, start, count = self._row(row)
        raw = self._data[start : start + count].tobytes()
        if zlib.crc32(raw) != crc:
            raise StoreCorrupt(self.path, start, "a value's checksum does not fit")
        return raw

    def entries(self) -> Iterator[Entry]:
        """Every row with its value, in order. Raises: StoreCorrupt."""
        for row in range(self.header.row_count):
            yield Entry(*self.entry(row), self.value(row))


def _encode(key: str) -> bytes:
    """As the pool would hold it: what can be no UTF-8, as in an argument, is in none."""
    return key.encode("utf-8", "surrogatepass")


def open_snapshot(state_dir: str, seq: int) -> Snapshot:
    """Map a snapshot and check its header and its index.

    Raises: OSError, StoreCorrupt, Unsupported.
    """
    path = snapshot_path(state_dir, seq)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size < _HEADER_BYTES:
            raise StoreCorrupt(path, size, "the header is cut short")
        data = Mapping(fd, size).view()
    finally:
        os.close(fd)
    header = _check(path, data, size)
    if header.seq != seq:
        raise StoreCorrupt(path, 16, f"the header says it is of {header.seq}")
    return Snapshot(path, header, data)


def _check(path: str, data: memoryview, size: int) -> SnapshotHeader:
    head = data[: _HEADER_BYTES - 4]
    if _NUMBER.unpack_from(data, _HEADER_BYTES - 4)[0] != zlib.crc32(head):
        raise StoreCorrupt(path, 0, "the header's checksum does not fit")
    magic, version, *fields = _HEADER.unpack_from(data, 0)
    if magic != _MAGIC:
        raise StoreCorrupt(path, 0, "this is no snapshot")
    if version > _VERSION:
        raise Unsupported(f"{path}: snapshot format {version}", "written by a newer podrt")
    header = SnapshotHeader(*fields)
    check_schema(header.schema, path)
    index_bytes = header.row_count * _ROW.size + 4 * (header.name_count + header.owner_count)
    if header.file_bytes != size or header.rows_at + index_bytes > size:
        raise StoreCorrupt(path, size, f"it should hold {header.file_bytes} bytes")
    if header.rows_at < _HEADER_BYTES or header.seq > MAX_SEQ:
        raise StoreCorrupt(path, 0, "the header's numbers make no sense")
    if crc32(data[header.rows_at :]) != header.index_crc:
        raise StoreCorrupt(path, header.rows_at, "the index's checksum does not fit")
    return header


class _Index:
    """The index of a snapshot in the making."""

    def __init__(self) -> None:
        self.rows = bytearray()
        self.pool = bytearray()
        self.names: list[tuple[bytes, int]] = []
        self.owners: list[tuple[bytes, int]] = []
        self.count = 0

    def add(self, entry: Entry, at: int) -> None:
        key, name, owner = entry.id.encode(), entry.name.encode(), entry.owner.encode()
        self.rows += _ROW.pack(
            entry.table,
            len(key),
            len(name),
            len(owner),
            len(self.pool),
            zlib.crc32(entry.raw),
            at,
            len(entry.raw),
        )
        self.pool += key + name + owner
        if name and entry.table in _NAMED:
            self.names.append((name, self.count))
        if owner:
            self.owners.append((owner, self.count))
        self.count += 1

    def parts(self, turns: Turns) -> tuple[bytearray, bytearray, bytearray]:
        """Everything behind the values; empties `names` and `owners`."""
        numbers = bytearray()
        for found in (self.names, self.owners):
            for _, row in in_order(found, turns):
                numbers += _NUMBER.pack(row)
                turns.give()
        return self.rows, numbers, self.pool


def write_snapshot(
    state_dir: str,
    entries: Iterable[Entry],
    disk: Disk,
    *,
    seq: int,
    store_id: bytes,
    previous: int,
    turns: Turns = HURRIED,
) -> None:
    """Write `entries`, sorted by (table, id), as the snapshot of `seq`; durable on return.

    Raises: OSError.
    """
    fresh = f"{state_dir}/new.snapshot.{os.getpid()}"
    fd = disk.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        index, body, crc = _Index(), _Body(disk, fd), 0
        for entry in entries:
            index.add(entry, body.end)
            body.add(entry.raw)
            turns.give()
        rows_at = body.end
        counts = len(index.names), len(index.owners)
        for part in index.parts(turns):
            body.add_long(part)
            crc = zlib.crc32(part, crc)
        body.flush()
        header = SnapshotHeader(
            schema=SCHEMA,
            seq=seq,
            store_id=store_id,
            previous=previous,
            row_count=index.count,
            name_count=counts[0],
            owner_count=counts[1],
            rows_at=rows_at,
            file_bytes=body.end,
            index_crc=crc,
        )
        write_all(disk, fd, header.encode(), 0)
        disk.sync(fd)
        disk.rename(fresh, snapshot_path(state_dir, seq))
        disk.sync_dir(state_dir)
    except BaseException:
        disk.unlink(fresh)
        raise
    finally:
        disk.close(fd)


class _Body:
    """What is behind the header, written and synced a piece at a time.

    A journal puts what was written before on the disk together with what is synced now: a log's
    few bytes would wait for all of a snapshot.
    """

    def __init__(self, disk: Disk, fd: int) -> None:
        self._disk = disk
        self._fd = fd
        self._written = _HEADER_BYTES
        self._piece = bytearray()

    @property
    def end(self) -> int:
        return self._written + len(self._piece)

    def add(self, data: bytes | memoryview) -> None:
        self._piece += data
        if len(self._piece) >= _CHUNK_BYTES:
            self.flush()
            self._disk.sync(self._fd)

    def add_long(self, data: bytearray) -> None:
        with memoryview(data) as view:
            for start in range(0, len(data), _CHUNK_BYTES):
                self.add(view[start : start + _CHUNK_BYTES])

    def flush(self) -> None:
        write_all(self._disk, self._fd, self._piece, self._written)
        self._written = self.end
        self._piece = bytearray()
