"""Every byte cut off and every bit flipped: a correct prefix, or our own refusal."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from doubles.states import Model, check_indexes, container, content, pod
from podrt.errors import PodrtError, StoreCorrupt
from podrt.store.records import GroupRecord, PodRecord, delete, put
from podrt.store.segments import segment_path
from podrt.store.snapshot import list_snapshots, snapshot_path
from podrt.store.wal import Store

Prefixes = list[Model]


def build(folder: str, *, flush_at: int) -> Prefixes:
    steps = [
        [put(pod(1)), put(container(1, 1))],
        [put(pod(2))],
        [put(GroupRecord(id="g", epoch=3)), delete(PodRecord, pod(2).id)],
        [put(container(1, 1, "renamed"))],
    ]
    prefixes: Prefixes = [{}]
    with Store.open(folder) as store:
        for number, ops in enumerate(steps, 1):
            seq = store.transact(lambda _, ops=ops: ops)
            prefixes.append(content(store.tables))
            if number == flush_at:
                store.flush_blocking(seq)
    return prefixes


def open_damaged(folder: Path, prefixes: Prefixes, where: str) -> int:
    """Open for reading and for writing; gives how much was kept, -1 when it was refused."""
    kept = []
    for readonly in (True, False):
        try:
            with Store.open(str(folder), readonly=readonly) as store:
                found = content(store.tables)
                assert found == prefixes[store.seq], where
                check_indexes(store.tables)
                kept.append(store.seq)
                if not readonly:
                    store.transact(lambda _: [put(GroupRecord(id="new"))])
        except PodrtError as error:
            assert isinstance(error, StoreCorrupt), where
            kept.append(-1)
    assert kept[0] == kept[1], where
    return kept[0]


@pytest.mark.parametrize("flush_at", [0, 2])
def test_open_after_every_truncation_keeps_a_correct_prefix(tmp_path: Path, flush_at: int) -> None:
    whole = tmp_path / "whole"
    prefixes = build(str(whole), flush_at=flush_at)
    (whole / "shared").unlink()
    size = os.path.getsize(segment_path(str(whole), 1))
    kept = set()
    for count in range(size):
        folder = tmp_path / "cut"
        shutil.copytree(whole, folder)
        os.truncate(segment_path(str(folder), 1), count)
        kept.add(open_damaged(folder, prefixes, f"cut to {count}"))
        shutil.rmtree(folder)
    assert kept == {0, 1, 2, 3}


@pytest.mark.parametrize("flush_at", [0, 3])
@pytest.mark.parametrize("same_boot", [True, False])
def test_open_after_any_flipped_bit_keeps_a_correct_prefix_or_refuses(
    tmp_path: Path, rounds: Callable[[int, int], int], *, flush_at: int, same_boot: bool
) -> None:
    whole = tmp_path / "whole"
    prefixes = build(str(whole), flush_at=flush_at)
    if not same_boot:
        (whole / "shared").unlink()
    size = os.path.getsize(segment_path(str(whole), 1))
    bits = range(size * 8)
    chosen = random.Random(7).sample(bits, rounds(400, len(bits)))
    for bit in chosen:
        folder = tmp_path / "flipped"
        shutil.copytree(whole, folder)
        with open(segment_path(str(folder), 1), "r+b") as file:
            file.seek(bit // 8)
            byte = file.read(1)[0]
            file.seek(bit // 8)
            file.write(bytes([byte ^ (1 << bit % 8)]))
        kept = open_damaged(folder, prefixes, f"bit {bit}")
        if same_boot and flush_at:
            assert kept == -1 or kept >= flush_at, f"bit {bit}: acknowledged and lost"
        shutil.rmtree(folder)


def test_read_of_a_snapshot_with_any_flipped_bit_is_right_or_refused(
    tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    whole = tmp_path / "whole"
    with Store.open(str(whole), segment_bytes=1500, compact_in_background=False) as store:
        while not list_snapshots(str(whole)):
            store.transact(lambda _: [put(pod(store.seq + 1)), put(container(store.seq + 1, 1))])
        expected = content(store.tables)
    (seq,) = list_snapshots(str(whole))
    path = snapshot_path(str(whole), seq)
    data = Path(path).read_bytes()
    bits = range(len(data) * 8)
    refused = 0
    for bit in random.Random(11).sample(bits, rounds(400, len(bits))):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        Path(path).write_bytes(damaged)
        try:
            with Store.open(str(whole), readonly=True) as store:
                assert content(store.tables) == expected, f"bit {bit}"
        except PodrtError:
            refused += 1
    assert refused


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
