"""A whole state directory: opened, gone on with, followed and repaired after damage.

Nobody may be shown what was never written, nobody may lose what some byte still says was on
disk, reader and writer agree, and what was recovered is true.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import doubles.frames as twin
from doubles.states import Model, apply, check_indexes, content, random_ops
from fuzz.damage import shuffle_pieces, spoil
from fuzz.frames import forge
from podrt._fast import frames
from podrt.errors import PodrtError, StoreCorrupt
from podrt.store import control as shared
from podrt.store.disk import REAL_DISK
from podrt.store.records import SCHEMA, GroupRecord, MetaRecord, Op, put
from podrt.store.repair import repair
from podrt.store.segments import END, HEADER_BYTES, TRANSACTION, Header, salt_of, segment_path
from podrt.store.snapshot import snapshot_path, write_snapshot
from podrt.store.tables import Tables, encode_ops
from podrt.store.wal import Store

REFUSED = -1
SHARED_WORDS = 16
NEW = GroupRecord(id="new")
EDGES = (0, 1, 2, (1 << 63) - 2, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


class State(NamedTuple):
    """A state directory as podrt writes it, in the pieces that it is made of.

    `models` are the contents after each sequence, `base` is the newest snapshot's (0: none),
    `durable` what this boot's words promise (-1: there are none).
    """

    store_id: bytes
    segments: dict[int, list[bytes]]
    snapshot: bytes
    base: int
    models: list[Model]
    ops: list[list[Op]]
    durable: int

    def piece(self, seq: int) -> bytes:
        """The frame of a sequence; none if it never was, or the snapshot replaced its file."""
        first = max((first for first in self.segments if first <= seq), default=seq)
        pieces = self.segments.get(first, [])
        at = 1 + seq - first
        return pieces[at] if at < len(pieces) else b""

    def files(self) -> dict[str, list[bytes]]:
        """Names and contents."""
        found = {os.path.basename(segment_path("", n)): p for n, p in self.segments.items()}
        if self.snapshot:
            found[os.path.basename(snapshot_path("", self.base))] = [self.snapshot]
        return found


def make_state(rng: random.Random, folder: Path) -> State:
    """Write some transactions over a few segments; perhaps a snapshot took the first of them."""
    store_id = rng.randbytes(16)
    segments: dict[int, list[bytes]] = {}
    models: list[Model] = [{}]
    ops: list[list[Op]] = [[]]
    tables, previous, durable = Tables(), 0, 0
    snapshot, base, kept = b"", 0, 0
    count = rng.randrange(1, 5)
    for number in range(count):
        first = len(models)
        pieces = [Header(SCHEMA, first, previous, store_id).encode()]
        segments[first] = pieces
        for _ in range(rng.randrange(6)):
            ops.append(random_ops(rng))
            models.append(apply(models[-1], ops[-1]))
            tables.apply(ops[-1])
            pieces.append(
                frame(encode_ops(ops[-1]), len(models) - 1, salt_of(store_id, first), durable, rng)
            )
            if rng.random() < 0.5:
                durable = rng.randrange(durable, len(models))
        if number == count - 1:
            break
        ops.append([])
        models.append(models[-1])
        pieces.append(frame(b"", len(models) - 1, salt_of(store_id, first), durable, rng, kind=END))
        previous = frames.crc32(pieces[-1])
        if rng.random() < 0.4:
            base = durable = len(models) - 1
            kept = len(segments) if rng.random() < 0.7 else kept
            write_snapshot(
                str(folder),
                tables.entries(),
                REAL_DISK,
                seq=base,
                store_id=store_id,
                previous=previous,
            )
            path = Path(snapshot_path(str(folder), base))
            snapshot = path.read_bytes()
            path.unlink()
    for first in list(segments)[:kept]:
        del segments[first]
    promised = rng.randrange(durable, len(models)) if rng.random() < 0.5 else -1
    return State(store_id, segments, snapshot, base, models, ops, promised)


def frame(
    payload: bytes, seq: int, salt: int, durable: int, rng: random.Random, kind: int = TRANSACTION
) -> bytes:
    return frames.encode_frame(
        payload, seq, salt=salt, durable=durable, at_ns=rng.getrandbits(60), kind=kind
    )


class Damaged(NamedTuple):
    """What is on the disk after damage; `stale` is the segment of another course (0: none).

    `is_forged` when checksums were made to fit, or when `words` (place and value), which have
    none, are other ones than the store wrote.
    """

    files: dict[str, bytes]
    touched: frozenset[str]
    is_forged: bool
    words: tuple[tuple[int, int], ...]
    stale: int


def damage(state: State, rng: random.Random) -> Damaged:
    """Damage, or forge, one file or a few."""
    files = state.files()
    is_forged = rng.random() < 0.25
    touched = set()
    if rng.random() < 0.95:
        for name in rng.sample(sorted(files), min(len(files), rng.choice((1, 1, 1, 2, 3)))):
            touched.add(name)
            if is_forged and name.startswith("log."):
                files[name] = forge_segment(files[name], int(name[4:]), state.store_id, rng)
            if not is_forged or rng.random() < 0.3:
                files[name] = [spoil(b"".join(shuffle_pieces(files[name], rng)), rng)]
    after = {name: b"".join(pieces) for name, pieces in files.items()}
    stale = rng.choice(sorted(state.segments)) if rng.random() < 0.05 else 0
    if stale:
        name = os.path.basename(segment_path("", stale))
        touched.add(name)
        after[name] = stale_segment(state, stale, rng)
    if rng.random() < 0.05:
        name = rng.choice(sorted(after))
        touched.add(name)
        del after[name]
    if rng.random() < 0.05:
        after[rng.choice(STRANGE_NAMES)] = rng.choice((b"", rng.randbytes(300)))
    words: tuple[tuple[int, int], ...] = ()
    if state.durable >= 0 and rng.random() < 0.05:
        words = ((rng.randrange(SHARED_WORDS), rng.choice((*EDGES, 5, 28, 140))),)
    return Damaged(after, frozenset(touched), is_forged or bool(words), words, stale)


def stale_segment(state: State, first: int, rng: random.Random) -> bytes:
    """The file as it would be if something else had been written before it: nobody's truth."""
    previous = rng.getrandbits(32)
    salt = salt_of(state.store_id, first)
    pieces = [Header(SCHEMA, first, previous, state.store_id).encode()]
    for seq in range(first, first + rng.randrange(5)):
        pieces.append(frame(encode_ops([put(NEW)]), seq, salt, 0, rng))
    return b"".join(pieces)


STRANGE_NAMES = (
    "log." + "9" * 20,
    "snap." + "9" * 20,
    "log." + "\u0663" * 20,
    "snap." + "\u00b2" * 20,
    "log.1",
    "new.segment",
    "new.snapshot.1",
    "shared.new",
)


def forge_segment(
    pieces: list[bytes], first: int, store_id: bytes, rng: random.Random
) -> list[bytes]:
    after = list(pieces)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(after))
        if at:
            after[at] = forge(after[at], salt_of(store_id, first), rng)
            continue
        fields = [SCHEMA, first, 0, store_id]
        place = rng.randrange(4)
        fields[place] = (
            rng.choice((rng.randrange(SCHEMA + 2), first + 1)) if place < 3 else bytes(16)
        )
        if place in (1, 2) and rng.random() < 0.5:
            fields[place] = rng.choice(EDGES) % (1 << (64 if place == 1 else 32))
        after[0] = Header(*fields).encode()  # type: ignore[arg-type]
    return after


def as_long_as(piece: bytes) -> MetaRecord:
    """A record whose frame has, if that can be, the length of `piece`: it may take its place."""
    record = MetaRecord(id="new")
    for count in range(max(0, len(piece) - 100), len(piece)):
        longer = MetaRecord(id="new", value="x" * count)
        if twin.HEAD.size + len(encode_ops([put(longer)])) > len(piece):
            break
        record = longer
    return record


class Segments:
    """`Store.open` for reading and writing, `catch_up`, `transact`, compaction and `repair`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._dir = folder / "state"
        self._input = folder / "input"

    def run(self, seed: int) -> str:
        """See `fuzz.target`."""
        rng = random.Random(seed)
        state = make_state(rng, self._folder)
        damaged = damage(state, rng)
        self._write(self._input, damaged, state)
        if not damaged.stale and rng.random() < 0.15:
            self._write(self._dir, damaged, state)
            return self._follow(state, damaged, rng)
        self._write(self._dir, damaged, state)
        read = self._look(state, damaged)
        written = self._go_on(state, rng)
        assert read == written, "reader and writer disagree"
        if not damaged.is_forged:
            check_bounds(state, damaged, read)
        if read != REFUSED:
            return "forged, opened" if damaged.is_forged else "opened"
        self._write(self._dir, damaged, state)
        self._repair(state, damaged)
        return "forged, refused" if damaged.is_forged else "refused"

    def _write(self, folder: Path, damaged: Damaged, state: State) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, data in damaged.files.items():
            (folder / name).write_bytes(data)
        if state.durable >= 0:
            words = shared.create(str(folder / "shared"), REAL_DISK)
            words.set_durable(state.durable)
            words.set_appended(len(state.models) - 1, max(state.segments, default=1))
            with (folder / "shared").open("r+b") as file:
                for place, value in damaged.words:
                    file.seek(8 * place)
                    file.write(value.to_bytes(8, "little"))

    def _look(self, state: State, damaged: Damaged) -> int:
        """Open for reading and read all; how far it came."""
        try:
            with Store.open(str(self._dir), readonly=True) as store:
                found = content(store.tables)
                if not damaged.is_forged:
                    assert found == state.models[store.seq], "what nobody wrote"
                    check_indexes(store.tables)
                return store.seq
        except PodrtError as error:
            assert damaged.is_forged or isinstance(error, StoreCorrupt), repr(error)
            return REFUSED

    def _go_on(self, state: State, rng: random.Random) -> int:
        """Open for writing, and write: that and all before must be there afterwards."""
        size = rng.choice((300, 1 << 20))
        try:
            with Store.open(
                str(self._dir), segment_bytes=size, compact_in_background=False
            ) as store:
                seq, before = store.seq, content(store.tables)
                new = as_long_as(state.piece(seq + 1))
                store.flush_blocking(store.transact(lambda _: [put(new)]))
        except PodrtError:
            return REFUSED
        after = dict(before)
        after[MetaRecord, new.id] = new
        for readonly in (True, False):
            with Store.open(str(self._dir), readonly=readonly) as store:
                assert content(store.tables) == after, "a wish was lost"
        return seq

    def _follow(self, state: State, damaged: Damaged, rng: random.Random) -> str:
        """A reader that has the store open while the last segment becomes what it is now."""
        last = max(state.segments)
        name = os.path.basename(segment_path("", last))
        path = self._dir / name
        after = damaged.files.get(name, b"")
        for other, pieces in state.files().items():
            (self._dir / other).write_bytes(b"".join(pieces))
        pieces = state.segments[last]
        path.write_bytes(b"".join(pieces[: rng.randrange(1, len(pieces) + 1)]))
        (self._dir / "shared").unlink(missing_ok=True)
        try:
            store = Store.open(str(self._dir), readonly=True)
        except StoreCorrupt:
            return "cut too short"  # what it promised in other places is not there
        with store:
            seen = store.seq
            for cut in (rng.randrange(len(after) + 1), len(after)):
                path.write_bytes(after[:cut])
                try:
                    now = store.catch_up()
                except PodrtError as error:
                    assert damaged.is_forged or isinstance(error, StoreCorrupt), repr(error)
                    return "followed, refused"
                assert now >= seen
                seen = now
                if not damaged.is_forged:
                    assert content(store.tables) == state.models[now]
        return "followed"

    def _repair(self, state: State, damaged: Damaged) -> None:
        try:
            done = repair(str(self._dir))
        except PodrtError:
            assert damaged.is_forged
            return
        with Store.open(str(self._dir)) as store:
            found = content(store.tables)
            store.flush_blocking(store.transact(lambda _: [put(NEW)]))
        if damaged.is_forged:
            return
        assert done.kept, "refused, and nothing to repair"
        for name, data in damaged.files.items():
            if name in state.files():
                assert (Path(done.kept) / name).read_bytes() == data
        check_repaired(state, damaged, found, bool(done.lost))


def check_bounds(state: State, damaged: Damaged, came: int) -> None:
    """Nothing that was promised is lost, and nothing is refused without a reason."""
    promised = promised_by(state, damaged)
    assert came == REFUSED or came >= promised, f"{promised} was promised, {came} is there"
    last = max(state.segments)
    name = os.path.basename(segment_path("", last))
    if damaged.touched - {name}:
        return
    data = damaged.files.get(name, b"")
    expected = last - 1
    if data[:HEADER_BYTES] == state.segments[last][0]:
        found, _, _ = twin.scan(data[HEADER_BYTES:], last, salt=salt_of(state.store_id, last))
        expected += len(found)
    elif last == 1 and len(data) > HEADER_BYTES:
        expected = REFUSED
    if promised > expected:
        expected = REFUSED
    assert came == expected, f"{expected} could be read, {came} was"


def promised_by(state: State, damaged: Damaged) -> int:
    """The highest sequence of which anything still says that it was on disk."""
    promised = max(state.durable, 0)
    snapshot = os.path.basename(snapshot_path("", state.base))
    if state.snapshot and damaged.files.get(snapshot) == state.snapshot:
        promised = max(promised, state.base)
    for first in state.segments:
        data = damaged.files.get(os.path.basename(segment_path("", first)), b"")
        _, durable = twin.search(data[HEADER_BYTES:], salt=salt_of(state.store_id, first))
        promised = max(promised, durable)
    return promised


def knows_end_before(state: State, damaged: Damaged) -> bool:
    """Whether what stands before the stale segment is whole, so that it can be told."""
    before = [first for first in state.segments if first < damaged.stale]
    if state.snapshot and state.base == damaged.stale - 1:
        return os.path.basename(snapshot_path("", state.base)) not in damaged.touched
    return bool(before) and os.path.basename(segment_path("", before[-1])) not in damaged.touched


def check_repaired(state: State, damaged: Damaged, found: Model, says_lost: bool) -> None:
    """What was recovered was true once; with a way to know the salts, nothing is missing."""
    if damaged.stale and not knows_end_before(state, damaged):
        return
    for key, record in found.items():
        assert any(model.get(key) == record for model in state.models), "what nobody wrote"
    snapshot = damaged.files.get(os.path.basename(snapshot_path("", state.base)), b"")
    if state.snapshot and snapshot != state.snapshot:
        return
    contents = {
        first: damaged.files.get(os.path.basename(segment_path("", first)), b"")
        for first in state.segments
    }
    heads = [contents[first][:HEADER_BYTES] == state.segments[first][0] for first in contents]
    if not state.snapshot and not any(heads):
        return
    expected = state.models[state.base]
    promised = promised_by(state, damaged)
    seqs = {
        seq
        for first, data in contents.items()
        if first != damaged.stale
        for seq, *_ in twin.salvage(data[HEADER_BYTES:], salt=salt_of(state.store_id, first))
    }
    missing = set(range(state.base + 1, promised + 1)) - seqs
    assert says_lost or not missing, f"{missing} lost without a word"
    for seq in sorted(seqs):
        if seq > state.base:
            expected = apply(expected, state.ops[seq])
    assert found == expected, "provable records are missing"
