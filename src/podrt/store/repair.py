"""Making a store that refuses to open usable again, without pretending that nothing is lost.

The damaged files are kept beside the new ones (`damaged.<time>/`). Everything that carries a
valid checksum is recovered, newest last; what was lost is listed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from podrt._fast import frames
from podrt.errors import PodrtError, StoreCorrupt, StoreFailed

from . import control as shared
from .compact import LOCK_NAME, nobody_goes_on, sweep
from .disk import REAL_DISK, Disk
from .records import KINDS, SCHEMA, TYPES
from .recover import load
from .segments import (
    END,
    HEADER_BYTES,
    TRANSACTION,
    create_segment,
    decode_header,
    list_segments,
    salt_of,
    segment_path,
)
from .snapshot import Entry, Snapshot, list_snapshots, open_snapshot, snapshot_path, write_snapshot
from .tables import Tables, WireOp, decode_ops
from .upgrade import check_schema


class Repair(NamedTuple):
    """What a repair did: where the damaged files are ("" when none were), and what is lost."""

    kept: str
    lost: tuple[str, ...]


def repair(state_dir: str, disk: Disk = REAL_DISK) -> Repair:
    """Recover all that is provable; does nothing to a store that opens.

    Whoever has the store open must open it again. Raises: StoreFailed, Unsupported.
    """
    try:
        with _locked(state_dir):
            control = shared.attach(f"{state_dir}/shared")
            try:
                durable = control.durable if control is not None else 0
                verify(load(state_dir, disk, readonly=True, durable=durable).tables)
            except StoreCorrupt:
                return _repair(state_dir, disk)
            return Repair("", ())
    except OSError as error:
        raise StoreFailed(state_dir, error.errno or errno.EIO, "repair") from error


def verify(tables: Tables) -> None:
    """Read every value, which opening does not. Raises: StoreCorrupt naming the first bad one."""
    for entry in tables.entries():
        try:
            _decode(entry)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            what = f"{KINDS[entry.table]} {entry.id}"
            raise StoreCorrupt(tables.path, 0, f"{what} is unreadable: {error}") from error


def _decode(entry: Entry) -> None:
    msgspec.msgpack.decode(entry.raw, type=TYPES[entry.table])


@contextlib.contextmanager
def _locked(state_dir: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in ("append.lock", "sync.lock", LOCK_NAME):
            fd = os.open(f"{state_dir}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield


def _repair(state_dir: str, disk: Disk) -> Repair:
    control = shared.attach(f"{state_dir}/shared") or shared.create(f"{state_dir}/shared", disk)
    kept = _keep_originals(state_dir, disk)
    salvage = _Salvage(state_dir, control.durable)
    salvage.read()
    # Behind everything ever numbered, so that no old frame is taken for a new one.
    seq = salvage.highest + 1
    store_id = os.urandom(16)
    previous = int.from_bytes(os.urandom(4), "little")
    with nobody_goes_on(control, snapshot_path(state_dir, seq)):
        write_snapshot(
            state_dir, salvage.entries(), disk, seq=seq, store_id=store_id, previous=previous
        )
    segment = create_segment(state_dir, seq + 1, disk, store_id=store_id, previous=previous)
    segment.sync(state_dir)
    sweep(state_dir, disk, seq)
    disk.sync_dir(state_dir)
    control.renew(seq, seq + 1)
    return Repair(kept, tuple(salvage.lost))


def _keep_originals(state_dir: str, disk: Disk) -> str:
    folder = f"{state_dir}/damaged.{time.time_ns()}"
    os.mkdir(folder, 0o700)
    paths = [segment_path(state_dir, first) for first in list_segments(state_dir)]
    paths += [snapshot_path(state_dir, seq) for seq in list_snapshots(state_dir)]
    for path in paths:
        os.link(path, f"{folder}/{os.path.basename(path)}")
    disk.sync_dir(folder)
    disk.sync_dir(state_dir)
    return folder


class _Salvage:
    """Reads what is valid, oldest first, and notes what is not.

    `durable` is the sequence up to which this boot's words say that everything was on disk.
    """

    def __init__(self, state_dir: str, durable: int) -> None:
        self.state_dir = state_dir
        self.lost: list[str] = []
        self.highest = 0
        self.tables = Tables(None, state_dir)
        self._store_ids: set[bytes] = set()
        self._read_up_to = 0
        self._durable = durable
        # By the sequence a segment begins with: what its header says of the one before.
        self._seals: dict[int, int] = {}

    def read(self) -> None:
        """Read the snapshots and segments."""
        snapshot = self._newest_snapshot()
        if snapshot is not None:
            self._store_ids.add(snapshot.header.store_id)
            self._take_snapshot(snapshot)
        firsts = list_segments(self.state_dir)
        contents = {first: self._content(first) for first in firsts}
        for first in firsts:
            self._take_segment(first, contents[first])
        if self._durable > self._read_up_to:
            self.lost.append(f"sequences {self._read_up_to + 1} to {self._durable}")

    def entries(self) -> Iterator[Entry]:
        """What was recovered and can be decoded."""
        for entry in self.tables.entries():
            try:
                _decode(entry)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.lost.append(f"{KINDS[entry.table]} {entry.id}: unreadable")
            else:
                yield entry

    def _newest_snapshot(self) -> Snapshot | None:
        for seq in reversed(list_snapshots(self.state_dir)):
            self.highest = max(self.highest, seq)
            try:
                return open_snapshot(self.state_dir, seq)
            except StoreCorrupt as error:
                self.lost.append(f"everything up to sequence {seq}, if nothing older holds it")
                self.lost.append(str(error))
        return None

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        self._read_up_to = snapshot.seq
        self._seals[snapshot.seq + 1] = snapshot.header.previous
        for row in range(snapshot.header.row_count):
            try:
                table, key, name, owner = snapshot.entry(row)
            except StoreCorrupt as error:
                self.lost.append(str(error))
                continue
            try:
                raw = snapshot.value(row)
            except StoreCorrupt:
                self.lost.append(f"{KINDS[table]} {key} ({name}) of the snapshot")
                continue
            op: WireOp = (table, key, msgspec.Raw(raw), name, owner)
            self._apply([op], snapshot.header.schema)

    def _content(self, first: int) -> bytes:
        path = segment_path(self.state_dir, first)
        with open(path, "rb") as file:
            data = file.read()
        try:
            header = decode_header(data[:HEADER_BYTES], path)
        except StoreCorrupt as error:
            self.lost.append(str(error))
        else:
            check_schema(header.schema, path)
            self._store_ids.add(header.store_id)
        return data

    def _take_segment(self, first: int, data: bytes) -> None:
        path = segment_path(self.state_dir, first)
        schema = SCHEMA
        with contextlib.suppress(StoreCorrupt):
            header = decode_header(data[:HEADER_BYTES], path)
            schema = header.schema
            if header.previous != self._seals.get(first, header.previous):
                self.lost.append(f"{path}: it does not follow what is there before it")
                return
        body = data[HEADER_BYTES:]
        found: list[tuple[int, int, int, int, int, int]] = []
        for store_id in self._store_ids:
            salt = salt_of(store_id, first)
            found += frames.salvage(body, salt=salt)
            self._durable = max(self._durable, frames.search(body, salt=salt)[1])
        for seq, kind, _at_ns, _durable, start, length in sorted(found):
            if not first <= seq < first + len(body):
                self.lost.append(f"{path}: a frame that says it is {seq}")
                continue
            self.highest = max(self.highest, seq)
            if kind == END:
                # Also of what the snapshot holds: it tells whether the next segment follows it.
                seal = frames.crc32(body[start - frames.HEAD_BYTES : start])
                self._seals.setdefault(seq + 1, seal)
            if seq <= self._read_up_to:
                continue
            if seq > self._read_up_to + 1:
                self.lost.append(f"sequences {self._read_up_to + 1} to {seq - 1}")
            self._read_up_to = seq
            if kind == TRANSACTION:
                self._take_frame(body[start : start + length], path, HEADER_BYTES + start, schema)
        end = max((start + length + 7 & ~7 for *_, start, length in found), default=0)
        if end < len(body):
            self.lost.append(f"{path}: {len(body) - end} bytes at its end")

    def _take_frame(self, payload: bytes, path: str, offset: int, schema: int) -> None:
        try:
            ops = decode_ops(payload, path, offset)
        except StoreCorrupt as error:
            self.lost.append(str(error))
        else:
            self._apply(ops, schema)

    def _apply(self, ops: list[WireOp], schema: int) -> None:
        try:
            self.tables.apply_wire(ops, schema)
        except PodrtError as error:
            self.lost.append(str(error))
