"""Every byte cut off and every bit flipped: a correct prefix, or our own refusal."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doubles.states import Model, check_indexes, container, content, pod
from podrt.errors import PodrtError, StoreCorrupt
from podrt.store.compact import compact
from podrt.store.disk import REAL_DISK
from podrt.store.records import GroupRecord, Op, PodRecord, delete, put
from podrt.store.segments import segment_path
from podrt.store.wal import Store

Prefixes = dict[int, Model]
Damage = Callable[[Path, int], None]
REFUSED = -1
# The full counts take minutes each.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory: these tests open a store ten thousand times, and no power is cut."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="podrt_test_damage_", dir=base))
    yield made
    shutil.rmtree(made)


def steps() -> list[list[Op]]:
    return [
        [put(pod(1)), put(container(1, 1))],
        [put(pod(2))],
        [put(GroupRecord(id="g", epoch=3)), delete(PodRecord, pod(2).id)],
        [put(container(1, 1, "renamed"))],
    ]


def build(folder: Path, *, flush_at: int, has_snapshot: bool) -> Prefixes:
    """A log of four steps, behind a snapshot or not; its content at each sequence."""
    with Store.open(str(folder), segment_bytes=1, compact_in_background=False) as store:
        if has_snapshot:
            store.transact(lambda _: [put(pod(7)), put(container(7, 7)), put(pod(8))])
            compact(str(folder), REAL_DISK, None)
    prefixes: Prefixes = {}
    with Store.open(str(folder)) as store:
        prefixes[store.seq] = content(store.tables)
        for number, ops in enumerate(steps(), 1):
            seq = store.transact(lambda _, ops=ops: ops)
            prefixes[seq] = content(store.tables)
            if number == flush_at:
                store.flush_blocking(seq)
    return prefixes


def open_damaged(folder: Path, prefixes: Prefixes) -> int:
    """Open for reading and for writing; gives how much was kept, or REFUSED."""
    kept = []
    for readonly in (True, False):
        try:
            with Store.open(str(folder), readonly=readonly) as store:
                found = content(store.tables)
                assert found == prefixes[store.seq]
                check_indexes(store.tables)
                kept.append(store.seq)
                if not readonly:
                    store.flush_blocking(store.transact(lambda _: [put(GroupRecord(id="new"))]))
        except PodrtError as error:
            assert isinstance(error, StoreCorrupt)
            kept.append(REFUSED)
    assert kept[0] == kept[1]
    if kept[0] != REFUSED:
        with Store.open(str(folder), readonly=True) as store:
            assert content(store.tables) == {
                **prefixes[kept[0]],
                (GroupRecord, "new"): GroupRecord(id="new"),
            }
    return kept[0]


def cut(path: Path, count: int) -> None:
    os.truncate(path, count)


def flip(path: Path, bit: int) -> None:
    with path.open("r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, bit // 8)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << bit % 8]), bit // 8)


def after_each(
    whole: Path, name: str, damage: Damage, places: list[int], prefixes: Prefixes
) -> set[int]:
    """Damage the file `name` at each of the places in turn; all that was kept."""
    damaged = whole.parent / "damaged"
    kept = set()
    for place in places:
        shutil.copytree(whole, damaged)
        damage(damaged / name, place)
        try:
            kept.add(open_damaged(damaged, prefixes))
        except BaseException:
            print(f"{name}, {damage.__name__} at {place}")
            raise
        shutil.rmtree(damaged)
    return kept


def names_of(folder: Path, prefix: str) -> list[str]:
    return [name for name in sorted(os.listdir(folder)) if name.startswith(prefix)]


@pytest.mark.parametrize("flush_at", [0, 2])
@pytest.mark.parametrize("has_snapshot", [False, True])
def test_open_after_every_truncation_keeps_a_correct_prefix(
    folder: Path, *, flush_at: int, has_snapshot: bool
) -> None:
    whole = folder / "whole"
    prefixes = build(whole, flush_at=flush_at, has_snapshot=has_snapshot)
    (whole / "shared").unlink()
    (name,) = names_of(whole, "log.")
    kept = after_each(whole, name, cut, list(range((whole / name).stat().st_size)), prefixes)
    assert kept == set(list(prefixes)[:-1])


@pytest.mark.parametrize("flush_at", [0, 3])
@pytest.mark.parametrize("same_boot", [True, False])
@pytest.mark.parametrize("has_snapshot", [False, True])
def test_open_after_any_flipped_bit_keeps_a_correct_prefix_or_refuses(
    folder: Path,
    rounds: Callable[[int, int], int],
    *,
    flush_at: int,
    same_boot: bool,
    has_snapshot: bool,
) -> None:
    whole = folder / "whole"
    prefixes = build(whole, flush_at=flush_at, has_snapshot=has_snapshot)
    if not same_boot:
        (whole / "shared").unlink()
    (name,) = names_of(whole, "log.")
    bits = range(8 * (whole / name).stat().st_size)
    chosen = random.Random(7).sample(bits, rounds(200, len(bits)))
    kept = after_each(whole, name, flip, chosen, prefixes)
    promised = list(prefixes)[flush_at]
    if same_boot and flush_at:
        assert all(seq == REFUSED or seq >= promised for seq in kept), "acknowledged and lost"
    if flush_at:
        assert REFUSED in kept
    assert promised in kept


@pytest.mark.parametrize("damage", [cut, flip])
def test_open_of_a_snapshot_with_any_damage_is_right_or_refused(
    folder: Path, rounds: Callable[[int, int], int], damage: Damage
) -> None:
    whole = folder / "whole"
    prefixes = build(whole, flush_at=2, has_snapshot=True)
    (name,) = names_of(whole, "snap.")
    size = (whole / name).stat().st_size
    places = range(size if damage is cut else 8 * size)
    chosen = random.Random(11).sample(places, rounds(200, len(places)))
    kept = after_each(whole, name, damage, chosen, prefixes)
    assert kept == {REFUSED}, "nothing in a snapshot is without a checksum"


def test_sync_after_damage_took_what_was_not_on_disk_promises_no_more(folder: Path) -> None:
    """The words of the boot outlive the frames they speak of."""
    state = folder / "state"
    build(state, flush_at=1, has_snapshot=False)
    path = segment_path(str(state), 1)
    os.truncate(path, os.path.getsize(path) - 1)
    with Store.open(str(state)) as store:
        assert store.seq == 3
    os.truncate(path, os.path.getsize(path) - 1)
    with Store.open(str(state)) as store:
        assert store.seq == 2
        seq = store.transact(lambda _: [put(pod(5))])
        store.flush_blocking(seq)
        assert store.durable == seq == 3
    with Store.open(str(state)) as store:
        assert store.tables.get(PodRecord, pod(5).id) == pod(5)


def test_open_of_a_first_header_lost_before_other_segments_refuses(folder: Path) -> None:
    state = folder / "state"
    with Store.open(str(state), segment_bytes=1, compact_in_background=False) as store:
        store.transact(lambda _: [put(pod(1))])
    (snapshot,) = names_of(state, "snap.")
    (state / snapshot).unlink()
    (state / "shared").unlink()
    for readonly in (True, False):
        with pytest.raises(StoreCorrupt, match="no snapshot"):
            Store.open(str(state), readonly=readonly)


def test_open_of_random_files_is_refused_or_empty(tmp_path: Path) -> None:
    rng = random.Random(2)
    for _ in range(60):
        folder = tmp_path / "state"
        folder.mkdir()
        for name in ("log.00000000000000000001", "snap.00000000000000000009", "shared", "log.x"):
            if rng.random() < 0.6:
                (folder / name).write_bytes(rng.randbytes(rng.choice([0, 3, 64, 200, 4096])))
        try:
            with Store.open(str(folder)) as store:
                assert content(store.tables) == {}
        except PodrtError:
            pass
        shutil.rmtree(folder)


def test_a_reader_that_meets_zeros_at_the_end_waits(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    with Store.open(folder) as store, Store.open(folder, readonly=True) as reader:
        store.transact(lambda _: [put(pod(1))])
        with open(segment_path(folder, 1), "ab") as file:
            file.write(bytes(4096))
        assert reader.catch_up() == 1
        store.transact(lambda _: [put(pod(2))])
        assert reader.catch_up() == 2
