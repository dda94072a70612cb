"""Snapshots: a damaged one is refused, or everything it still says is true."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Callable
from pathlib import Path

from fuzz.damage import exactly, spoil
from podrt.errors import PodrtError, StoreCorrupt, Unsupported
from podrt.store.disk import REAL_DISK
from podrt.store.records import NAMED, SCHEMA, TYPES, ContainerRecord
from podrt.store.snapshot import Entry, Snapshot, open_snapshot, snapshot_path, write_snapshot
from podrt.store.tables import Tables

SEQ = 77
HEADER_BYTES, ROW_BYTES = 128, 32
# Offsets and sizes of what a forger changes: the header's numbers and a row's.
HEADER_FIELDS = ((8, 4), (12, 4), (16, 8), (44, 4), (48, 4), (52, 4), (56, 8), (56, 8), (64, 8))
ROW_FIELDS = ((0, 2), (2, 2), (4, 2), (6, 2), (8, 4), (12, 4), (16, 8), (24, 4), (28, 4))
ALPHABET = "abcdef0123456789-é\U0001f40b"


class Snapshots:
    """`open_snapshot`, every look-up in it, and the tables above it."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._path = Path(snapshot_path(self._folder, SEQ))

    def run(self, seed: int) -> str:
        """See `fuzz.target`."""
        rng = random.Random(seed)
        entries = random_entries(rng)
        write_snapshot(
            self._folder, entries, REAL_DISK, seq=SEQ, store_id=bytes(16), previous=seed & 0xFFFF
        )
        data = self._path.read_bytes()
        choice = rng.random()
        is_forged = choice < 0.5
        if is_forged:
            damaged = forge(data, rng)
        else:
            damaged = spoil(data, rng) if choice < 0.95 else data
        self._path.write_bytes(damaged)
        try:
            snapshot = open_snapshot(self._folder, SEQ)
        except (StoreCorrupt, Unsupported):
            assert damaged != data
            return "refused"
        if rng.random() < 0.7:
            # Behind a mapping's end lie zeros; here reading too far is seen.
            snapshot = Snapshot(snapshot.path, snapshot.header, exactly(damaged))
        if is_forged:
            use_everything(snapshot, entries)
            return "forged"
        is_whole = compare(snapshot, entries)
        assert is_whole or damaged != data
        return "whole" if is_whole else "a value lost"


def random_text(rng: random.Random, longest: int = 9) -> str:
    return "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(longest)))


def random_entries(rng: random.Random) -> list[Entry]:
    """Rows as they are written, sorted; few names and owners, so that they are shared."""
    found = {}
    for _ in range(rng.randrange(12)):
        table, key = rng.choice(list(TYPES)), random_text(rng)
        raw = rng.randbytes(rng.choice((0, 1, 30)))
        found[table, key.encode()] = Entry(
            table, key, random_text(rng, 4), random_text(rng, 3), raw
        )
    return [found[key] for key in sorted(found)]


def forge(data: bytes, rng: random.Random) -> bytes:
    """Other numbers where the header and the rows have some, with checksums that fit."""
    after = bytearray(data)
    rows_at = int.from_bytes(data[56:64], "little")
    count = int.from_bytes(data[44:48], "little")
    for _ in range(rng.choice((1, 1, 2, 5))):
        start, fields = 0, HEADER_FIELDS
        if count and rng.random() < 0.6:
            start, fields = rows_at + rng.randrange(count) * ROW_BYTES, ROW_FIELDS
        elif rows_at < len(after) and rng.random() < 0.4:
            start, fields = rng.randrange(rows_at, len(after)), ((0, 4), (0, 1))
        at, size = rng.choice(fields)
        change_number(after, start + at, size, rng)
    if rng.random() < 0.2:
        del after[rng.randrange(HEADER_BYTES, len(after) + 1) :]
        after[64:72] = len(after).to_bytes(8, "little")
    rows_at = int.from_bytes(after[56:64], "little")
    after[72:76] = zlib.crc32(after[rows_at:]).to_bytes(4, "little")
    after[124:128] = zlib.crc32(after[:124]).to_bytes(4, "little")
    return bytes(after)


def change_number(data: bytearray, at: int, size: int, rng: random.Random) -> None:
    size = len(data[at : at + size])
    old = int.from_bytes(data[at : at + size], "little")
    values = (0, 1, old + 1, old - 1, old * 2, len(data), -1, 1 << 63, rng.getrandbits(64))
    data[at : at + size] = (rng.choice(values) % (1 << 8 * size)).to_bytes(size, "little")


def compare(snapshot: Snapshot, entries: list[Entry]) -> bool:
    """Look everything up; whether all values are there."""
    assert snapshot.seq == SEQ and snapshot.header.schema == SCHEMA
    assert snapshot.header.row_count == len(entries)
    is_whole = True
    for row, entry in enumerate(entries):
        assert snapshot.find(entry.table, entry.id) == row
        assert snapshot.entry(row) == entry[:4]
        assert snapshot.find(entry.table, entry.id + "x") == -1
        try:
            assert snapshot.value(row) == entry.raw
        except StoreCorrupt:
            is_whole = False
    for word in ("", "absent", *{text for entry in entries for text in entry[1:4]}):
        named = [
            row for row, each in enumerate(entries) if each.name == word and each.table in NAMED
        ]
        owned = [row for row, each in enumerate(entries) if each.owner == word]
        assert sorted(snapshot.find_name(word)) == (named if word else [])
        assert sorted(snapshot.owned(word)) == (owned if word else [])
        for table in (*TYPES, 0, 99):
            expected = [
                row
                for row, each in enumerate(entries)
                if each.table == table and each.id.startswith(word)
            ]
            assert list(snapshot.rows_of(table, word)) == expected
    return is_whole


def use_everything(snapshot: Snapshot, entries: list[Entry]) -> None:
    """Call all there is on a snapshot that lies: only our own errors may come of it."""
    tables = Tables(snapshot, snapshot.path)
    count = min(snapshot.header.row_count, 64)
    calls: list[Callable[[], object]] = [
        lambda: list(snapshot.entries()),
        lambda: list(tables.entries()),
    ]
    calls += [lambda row=row: (snapshot.entry(row), snapshot.value(row)) for row in range(count)]
    for word in {"", "b\udcff", *(text for entry in entries for text in entry[1:4])}:
        calls += [
            lambda word=word: [snapshot.entry(row) for row in snapshot.find_name(word)],
            lambda word=word: [snapshot.entry(row) for row in snapshot.owned(word)],
            lambda word=word: tables.id_of_name(word),
            lambda word=word: tables.members(word),
            lambda word=word: tables.find(ContainerRecord, word),
            lambda word=word: tables.find_either(word),
        ]
        for table, kind in TYPES.items():
            calls += [
                lambda word=word, table=table: snapshot.find(table, word),
                lambda word=word, table=table: len(snapshot.rows_of(table, word)),
                lambda word=word, kind=kind: tables.get(kind, word),
                lambda word=word, kind=kind: tables.ids(kind, word),
                lambda kind=kind: list(tables.all(kind)),
            ]
    for call in calls:
        with contextlib.suppress(PodrtError):
            call()
