"""A state of another schema: an older one is raised step by step, a newer one is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from doubles.states import check_indexes, container, content, pod
from doubles.store_work import schema_with
from podrt.errors import Unsupported
from podrt.store import records
from podrt.store.records import MetaRecord, put
from podrt.store.segments import Header, list_segments, segment_path
from podrt.store.snapshot import list_snapshots
from podrt.store.wal import Store


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def write(store: Store, key: str, value: str) -> None:
    store.transact(lambda _: [put(MetaRecord(id=key, value=value))])


def value(store: Store, key: str) -> str:
    found = store.tables.get(MetaRecord, key)
    assert found is not None
    return found.value


def test_open_of_an_older_schema_raises_every_value_by_every_step_in_order(folder: str) -> None:
    with Store.open(folder, segment_bytes=300, compact_in_background=False) as store:
        write(store, "snapshot", "a")
        for number in range(9):
            store.transact(lambda _, number=number: [put(pod(number)), put(container(number, 1))])
        write(store, "log", "b")
        old = content(store.tables)
    assert list_snapshots(folder)
    with schema_with("+", "-", "*"):
        with Store.open(folder, readonly=True) as reader:
            assert (value(reader, "snapshot"), value(reader, "log")) == ("a+-*", "b+-*")
        with Store.open(folder) as store:
            assert (value(store, "snapshot"), value(store, "log")) == ("a+-*", "b+-*")
            write(store, "new", "c")
            check_indexes(store.tables)
            found = content(store.tables)
            assert {key for key in found if key not in old} == {(MetaRecord, "new")}
        with Store.open(folder) as store:
            assert content(store.tables) == found
            assert value(store, "new") == "c"


def test_open_of_a_state_between_two_schemas_takes_only_the_steps_that_are_left(
    folder: str,
) -> None:
    with Store.open(folder) as store:
        write(store, "a", "a")
    with schema_with("+"), Store.open(folder) as store:
        write(store, "b", "b")
    with schema_with("+", "-"), Store.open(folder) as store:
        assert (value(store, "a"), value(store, "b")) == ("a+-", "b-")


def test_open_of_an_older_schema_shuts_out_who_had_it_open(folder: str) -> None:
    with Store.open(folder) as older, Store.open(folder, readonly=True) as reader:
        write(older, "a", "a")
        with schema_with("+"):
            Store.open(folder).close()
        for each in (older, reader):
            with pytest.raises(Unsupported):
                each.catch_up()


def test_open_of_a_newer_schema_in_the_log_is_refused_and_changes_nothing(folder: str) -> None:
    os.mkdir(folder)
    header = Header(records.SCHEMA + 1, 1, 0, bytes(16))
    path = Path(segment_path(folder, 1))
    path.write_bytes(header.encode())
    for readonly in (False, True):
        with pytest.raises(Unsupported) as caught:
            Store.open(folder, readonly=readonly)
        message = str(caught.value)
        assert str(path) in message and "newer podrt" in message
    assert path.read_bytes() == header.encode()


def test_open_of_a_newer_schema_in_a_snapshot_is_refused_and_changes_nothing(folder: str) -> None:
    with Store.open(folder) as store:
        write(store, "a", "a")
    with schema_with("+"), Store.open(folder) as store:
        pass
    assert len(list_snapshots(folder)) == 1
    before = {name: Path(folder, name).read_bytes() for name in os.listdir(folder)}
    for first in list_segments(folder):
        os.rename(segment_path(folder, first), f"{folder}/aside")
    with pytest.raises(Unsupported):
        Store.open(folder)
    os.rename(f"{folder}/aside", segment_path(folder, first))
    assert {name: Path(folder, name).read_bytes() for name in os.listdir(folder)} == before
    with schema_with("+"), Store.open(folder) as store:
        assert value(store, "a") == "a+"
