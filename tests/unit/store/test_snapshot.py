from __future__ import annotations

from pathlib import Path

import pytest

from doubles.states import container, pod
from podrt.errors import NotFound, StoreCorrupt
from podrt.store.disk import REAL_DISK
from podrt.store.records import GroupRecord, PodRecord, Table, put
from podrt.store.segments import list_segments
from podrt.store.snapshot import (
    Entry,
    Snapshot,
    list_snapshots,
    open_snapshot,
    snapshot_path,
    write_snapshot,
)
from podrt.store.tables import Tables
from podrt.store.upgrade import raise_value
from podrt.store.wal import Store

STRANGE = ("²" * 20, "9" * 20, "٣" * 20, "1", "+" + "1" * 19, "1" * 21)


def make(folder: Path, entries: list[Entry]) -> Snapshot:
    write_snapshot(str(folder), entries, REAL_DISK, seq=5, store_id=bytes(16), previous=0)
    return open_snapshot(str(folder), 5)


def tables_of(folder: Path) -> Tables:
    fresh = Tables()
    fresh.apply([put(pod(1)), put(container(1, 1))])
    return Tables(make(folder, list(fresh.entries())))


def test_find_of_what_is_no_text_finds_nothing(tmp_path: Path) -> None:
    """An argument of the command line may hold bytes that are no UTF-8."""
    tables = tables_of(tmp_path)
    assert tables.id_of_name("pod\udcff") is None
    assert tables.members("\udcff") == []
    with pytest.raises(NotFound):
        tables.find(PodRecord, "pod\udcff")


def test_row_that_is_no_text_is_refused(tmp_path: Path) -> None:
    made = make(tmp_path, [Entry(int(Table.POD), "abcd", "", "", b"\x80")])
    data = bytearray(Path(made.path).read_bytes())
    data[data.rindex(b"abcd")] = 0xFF
    forged = Snapshot(made.path, made.header, memoryview(data))
    with pytest.raises(StoreCorrupt, match="no text"):
        forged.entry(0)


def test_row_of_an_unknown_table_is_refused(tmp_path: Path) -> None:
    made = make(tmp_path, [Entry(99, "abcd", "", "", b"\x80")])
    with pytest.raises(StoreCorrupt, match="row 0"):
        made.entry(0)


def test_records_that_are_listed_and_not_to_be_found_are_refused(tmp_path: Path) -> None:
    """The index is out of order, as no podrt writes it."""
    keys = ["d", "a", "b", "c"]
    table = int(Table.GROUP)
    tables = Tables(make(tmp_path, [Entry(table, key, "", "", b"\x80") for key in keys]))
    with pytest.raises(StoreCorrupt, match="listed"):
        list(tables.all(GroupRecord))


def test_value_of_an_older_schema_that_is_unreadable_is_refused() -> None:
    with pytest.raises(StoreCorrupt, match="schema 0"):
        raise_value(int(Table.POD), b"\x81", 0, "log.1")


def test_files_of_strange_names_are_left_alone(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    with Store.open(folder) as store:
        store.transact(lambda _: [put(pod(1))])
    for name in STRANGE:
        (tmp_path / "state" / f"log.{name}").write_bytes(b"x")
        Path(snapshot_path(folder, 0)).with_name(f"snap.{name}").write_bytes(b"x")
    assert list_segments(folder) == [1]
    assert list_snapshots(folder) == []
    with Store.open(folder) as store:
        assert store.tables.get(PodRecord, pod(1).id) == pod(1)
