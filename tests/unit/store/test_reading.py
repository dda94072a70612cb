"""Looking again costs a look at the file's size and what is new, also across segments."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from doubles.states import content, pod
from doubles.store_work import without_snapshots
from podrt._fast.frames import HEAD_BYTES
from podrt.store.records import put
from podrt.store.segments import HEADER_BYTES, list_segments, segment_path
from podrt.store.wal import Store


def bytes_read_by(look: Callable[[], object]) -> int:
    """What this process read meanwhile, as the kernel counts it."""

    def counter() -> int:
        fd = os.open("/proc/self/io", os.O_RDONLY)
        try:
            return int(os.read(fd, 4096).split()[1])
        finally:
            os.close(fd)

    first = counter()
    own = counter() - first
    before = counter()
    look()
    return counter() - before - own


def test_catch_up_reads_nothing_when_there_is_nothing_new(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    with Store.open(folder) as store, Store.open(folder, readonly=True) as reader:
        store.transact(lambda _: [put(pod(number)) for number in range(100)])
        reader.catch_up()
        assert bytes_read_by(reader.catch_up) == 0


def test_catch_up_reads_only_what_is_new(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    path = segment_path(folder, 1)
    with Store.open(folder) as store, Store.open(folder, readonly=True) as reader:
        store.transact(lambda _: [put(pod(number)) for number in range(100)])
        reader.catch_up()
        before = os.path.getsize(path)
        store.transact(lambda _: [put(pod(200))])
        assert bytes_read_by(reader.catch_up) == os.path.getsize(path) - before
        assert content(reader.tables) == content(store.tables)


def test_catch_up_across_segments_reads_only_what_is_new(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    with (
        without_snapshots(folder),
        Store.open(folder, segment_bytes=4000, compact_in_background=False) as store,
        Store.open(folder, readonly=True) as reader,
    ):
        store.transact(lambda _: [put(pod(number)) for number in range(10)])
        reader.catch_up()
        tables = reader.tables
        before = sum(os.path.getsize(segment_path(folder, n)) for n in list_segments(folder))
        for number in range(10, 40):
            store.transact(lambda _, number=number: [put(pod(number))])
        segments = list_segments(folder)
        assert len(segments) == 3
        after = sum(os.path.getsize(segment_path(folder, n)) for n in segments)
        assert bytes_read_by(reader.catch_up) == after - before
        assert content(tables) == content(store.tables)
        assert bytes_read_by(reader.catch_up) == 0


def test_catch_up_over_a_snapshot_that_replaced_segments_reads_only_behind_it(
    tmp_path: Path,
) -> None:
    folder = str(tmp_path / "state")
    with (
        Store.open(folder, segment_bytes=4000, compact_in_background=False) as store,
        Store.open(folder, readonly=True) as reader,
    ):
        store.transact(lambda _: [put(pod(number)) for number in range(10)])
        reader.catch_up()
        for number in range(10, 60):
            store.transact(lambda _, number=number: [put(pod(number))])
        [segment] = list_segments(folder)
        size = os.path.getsize(segment_path(folder, segment))
        assert size > HEADER_BYTES + HEAD_BYTES
        # Some more to look at the directory: a snapshot is mapped, not read.
        assert size <= bytes_read_by(reader.catch_up) <= size + 2 * HEADER_BYTES + 8000
        assert content(reader.tables) == content(store.tables)
