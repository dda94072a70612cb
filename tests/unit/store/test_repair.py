from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from doubles.states import check_indexes, content, pod
from podrt._fast import frames
from podrt.errors import PodrtError, StoreCorrupt, StoreFailed
from podrt.store.disk import REAL_DISK
from podrt.store.records import PodRecord, put
from podrt.store.repair import repair
from podrt.store.segments import (
    END,
    HEADER_BYTES,
    TRANSACTION,
    create_segment,
    list_segments,
    open_segment,
    segment_path,
)
from podrt.store.snapshot import list_snapshots, snapshot_path
from podrt.store.tables import encode_ops
from podrt.store.wal import Store


def fill(folder: str, count: int, segment_bytes: int = 1 << 20) -> None:
    with Store.open(folder, segment_bytes=segment_bytes, compact_in_background=False) as store:
        for number in range(1, count + 1):
            store.flush_blocking(store.transact(lambda _, number=number: [put(pod(number))]))


def flip(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def pods(store: Store) -> set[str]:
    return {record.config.name for record in store.tables.all(PodRecord)}


def test_repair_of_a_healthy_store_changes_nothing(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    fill(folder, 3)
    before = sorted(os.listdir(folder))
    assert repair(folder) == ("", ())
    assert [name for name in sorted(os.listdir(folder)) if name != "snapshot.lock"] == before


def test_repair_of_a_lost_frame_recovers_the_rest_and_says_what_is_lost(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    fill(folder, 3)
    path = segment_path(folder, 1)
    frame = (os.path.getsize(path) - HEADER_BYTES) // 3
    flip(path, HEADER_BYTES + frame + 60)
    damaged = Path(path).read_bytes()
    with pytest.raises(StoreCorrupt):
        Store.open(folder)
    done = repair(folder)
    assert "sequences 2 to 2" in done.lost
    assert (Path(done.kept) / os.path.basename(path)).read_bytes() == damaged
    with Store.open(folder) as store:
        assert pods(store) == {"pod1", "pod3"}
        assert store.seq > 3
        store.flush_blocking(store.transact(lambda _: [put(pod(4))]))
    with Store.open(folder) as store:
        assert pods(store) == {"pod1", "pod3", "pod4"}


def test_repair_of_a_log_cut_after_a_sync_says_what_is_lost(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    fill(folder, 3)
    path = segment_path(folder, 1)
    frame = (os.path.getsize(path) - HEADER_BYTES) // 3
    os.truncate(path, HEADER_BYTES + frame)
    assert repair(folder).lost == ("sequences 2 to 3",)
    with Store.open(folder) as store:
        assert pods(store) == {"pod1"}


def test_repair_leaves_out_a_segment_that_follows_something_else(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    fill(folder, 3)
    sealed = open_segment(folder, 1, REAL_DISK, readonly=False)
    sealed.read()
    sealed.append(frames.encode_frame(b"", 4, salt=sealed.salt, durable=3, at_ns=0, kind=END))
    store_id = sealed.header.store_id
    stale = create_segment(folder, 5, REAL_DISK, store_id=store_id, previous=77)
    payload = encode_ops([put(pod(9))])
    for seq in (5, 6):
        stale.append(
            frames.encode_frame(
                payload, seq, salt=stale.salt, durable=seq - 1, at_ns=0, kind=TRANSACTION
            )
        )
    with pytest.raises(StoreCorrupt):
        Store.open(folder)
    done = repair(folder)
    assert done.lost == (f"{stale.path}: it does not follow what is there before it",)
    with Store.open(folder) as store:
        assert pods(store) == {"pod1", "pod2", "pod3"}


def test_repair_stops_those_who_have_the_store_open(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    fill(folder, 3)
    with Store.open(folder) as store, Store.open(folder, readonly=True) as reader:
        flip(segment_path(folder, 1), HEADER_BYTES + 60)
        repair(folder)
        with pytest.raises(StoreFailed):
            store.transact(lambda _: [put(pod(9))])
        for opened in (reader, store):
            opened.catch_up()
            assert pods(opened) == {"pod2", "pod3"}
        with pytest.raises(StoreFailed):
            store.transact(lambda _: [put(pod(9))])


def test_repair_of_a_snapshots_lost_value_recovers_the_rest(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    fill(folder, 40, segment_bytes=2000)
    (seq,) = list_snapshots(folder)
    flip(snapshot_path(folder, seq), 130)
    with Store.open(folder, readonly=True) as reader, pytest.raises(StoreCorrupt):
        pods(reader)
    done = repair(folder)
    assert done.lost == (f"pod {pod(1).id} (pod1) of the snapshot",)
    with Store.open(folder) as store:
        assert pods(store) == {f"pod{number}" for number in range(2, 41)}


def test_repair_after_any_damage_opens_with_true_values(
    tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    rng = random.Random(6)
    for number in range(rounds(40, 1000)):
        folder = str(tmp_path / f"state{number}")
        fill(folder, 12, segment_bytes=rng.choice([900, 1 << 20]))
        paths = [segment_path(folder, first) for first in list_segments(folder)]
        paths += [snapshot_path(folder, seq) for seq in list_snapshots(folder)]
        for _ in range(rng.randrange(1, 4)):
            path = rng.choice(paths)
            flip(path, rng.randrange(os.path.getsize(path)))
        try:
            repair(folder)
            with Store.open(folder) as store:
                found = content(store.tables)
                check_indexes(store.tables)
        except PodrtError:
            continue
        assert all(
            found[PodRecord, pod(n).id] == pod(n)
            for n in range(1, 13)
            if (PodRecord, pod(n).id) in found
        )
