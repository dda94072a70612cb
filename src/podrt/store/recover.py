"""From the files to the tables: the newest snapshot, the segments behind it, and damage.

The rule for damage: every frame carries the highest sequence that was durable when it was
written. If anything behind the last good frame testifies that a later one was durable, something
acknowledged is missing: the store refuses to open. Otherwise nobody was promised what lies
behind, and the next writer cuts it off.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from podrt._fast import frames
from podrt.errors import StoreCorrupt

from .disk import Disk
from .notes import inform
from .segments import (
    HEADER_BYTES,
    Segment,
    Transaction,
    create_segment,
    list_segments,
    open_segment,
    salt_of,
    segment_path,
)
from .snapshot import Snapshot, list_snapshots, open_snapshot
from .tables import Tables, WireOp, decode_ops

_LOAD_TRIES = 16

Listener = Callable[[int, int, list[WireOp]], None]
"""Called with (sequence, time in ns, operations) of every transaction as it is read."""


class Behind(Exception):
    """The segment to go on with was removed: load again from the newer snapshot."""


class Chain:
    """The snapshot and the segments behind it, read as far as `seq`.

    `segments` are the open ones, the last of them the current; older ones stay open only until
    everything in them is durable.
    """

    def __init__(
        self, state_dir: str, disk: Disk, *, readonly: bool, base: Snapshot | None
    ) -> None:
        self.state_dir = state_dir
        self.base = base
        self.tables = Tables(base, state_dir)
        self.segments: tuple[Segment, ...] = ()
        self.seq = base.seq if base is not None else 0
        self.followed = 0
        self.listeners: list[Listener] = []
        self._disk = disk
        self._readonly = readonly
        self._previous = base.header.previous if base is not None else 0
        self._store_id = base.header.store_id if base is not None else b""

    @property
    def current(self) -> Segment | None:
        """The segment that is read or written next."""
        return self.segments[-1] if self.segments else None

    @property
    def store_id(self) -> bytes:
        """16 random bytes chosen when the state was first made; empty before that."""
        return self._store_id

    @property
    def schemas(self) -> set[int]:
        """The schemas of the files in use."""
        found = {segment.header.schema for segment in self.segments}
        return found | ({self.base.header.schema} if self.base is not None else set())

    def advance(self) -> int:
        """Read what is new; gives CLEAN, SHORT or BAD for what lies behind it.

        Raises: StoreCorrupt, Unsupported, Behind.
        """
        while True:
            current = self.current
            if current is None or current.is_sealed:
                if not self._follow(current):
                    return frames.CLEAN
                continue
            offset = current.end
            transactions, state = current.read()
            for transaction in transactions:
                self._take(transaction, current, offset)
            self.seq = current.last_seq
            seal = current.seal
            if seal is None:
                return state
            self._previous = seal

    def _take(self, transaction: Transaction, segment: Segment, offset: int) -> None:
        ops = decode_ops(transaction.payload, segment.path, offset)
        self.tables.apply_wire(ops, segment.header.schema)
        for listener in self.listeners:
            listener(transaction.seq, transaction.at_ns, ops)

    def _follow(self, current: Segment | None) -> bool:
        try:
            following = open_segment(
                self.state_dir, self.seq + 1, self._disk, readonly=self._readonly
            )
        except FileNotFoundError:
            if any(seq > self.seq for seq in list_snapshots(self.state_dir)):
                raise Behind from None
            return False
        except StoreCorrupt:
            # Its header never reached the disk, or is damaged: `check` decides.
            return False
        header = following.header
        if header.previous != self._previous or header.store_id != (
            self._store_id or header.store_id
        ):
            return False
        self._store_id = header.store_id
        self.segments = (*self.segments, following)
        self.followed += current is not None
        return True

    def forget(self, durable: int) -> None:
        """Close the segments that nobody needs to sync or read any more."""
        if len(self.segments) > 1:
            keep = [segment for segment in self.segments[:-1] if segment.last_seq > durable]
            self.segments = (*keep, self.segments[-1])

    # -- damage ----------------------------------------------------------------------------

    def later_segments(self) -> list[int]:
        """The first sequences of segment files that do not belong to the chain (yet)."""
        current = self.current
        newest = current.first_seq if current is not None else self.seq
        return [first for first in list_segments(self.state_dir) if first > newest]

    def check(self, durable: int) -> None:
        """Refuse if anything says that more than `seq` was durable. Raises: StoreCorrupt."""
        path, offset = self._where()
        if durable > self.seq:
            raise StoreCorrupt(path, offset, _missing(self.seq, durable))
        claimed = self._testimony()
        if claimed > self.seq:
            raise StoreCorrupt(path, offset, _missing(self.seq, claimed))
        # The very first header is durable before the first frame is written behind it, and
        # other segments follow frames.
        later = self.later_segments()
        if not self._store_id and any(first > 1 or self._has_frames(first) for first in later):
            raise StoreCorrupt(path, 0, "the header is damaged and there is no snapshot")

    def _has_frames(self, first: int) -> bool:
        try:
            return os.path.getsize(segment_path(self.state_dir, first)) > HEADER_BYTES
        except FileNotFoundError:
            return False

    def _where(self) -> tuple[str, int]:
        current = self.current
        if current is not None and not current.is_sealed:
            return current.path, current.end
        return segment_path(self.state_dir, self.seq + 1), 0

    def _testimony(self) -> int:
        """The highest durable sequence that a head behind the last good frame claims."""
        claimed = 0
        current = self.current
        if current is not None:
            _, claimed = frames.search(current.rest(), salt=current.salt)
        for first in self.later_segments():
            try:
                with open(segment_path(self.state_dir, first), "rb") as file:
                    data = file.read()
            except FileNotFoundError:
                continue
            salt = salt_of(self._store_id, first)
            _, durable = frames.search(data[HEADER_BYTES:], salt=salt)
            claimed = max(claimed, durable)
        return claimed

    def settle(self, durable: int) -> Segment:
        """Make the chain ready for the next frame; the caller holds the append lock.

        Cuts a torn tail, removes what followed it and creates the segment that is missing.
        Raises: StoreCorrupt, OSError.
        """
        current = self.current
        later = self.later_segments()
        is_torn = current is not None and current.size() > current.end
        if is_torn or later:
            self.check(durable)
            self._cut(current if is_torn else None, later)
        if current is None or current.is_sealed:
            current = self.start_segment()
        return current

    def _cut(self, torn: Segment | None, later: list[int]) -> None:
        # From the back: what comes after a gap must never be met without the gap.
        for first in reversed(later):
            inform("%s: removed, what it follows was lost", segment_path(self.state_dir, first))
            self._disk.unlink(segment_path(self.state_dir, first))
        if later:
            self._disk.sync_dir(self.state_dir)
        if torn is not None:
            lost = torn.size() - torn.end
            inform("%s: cut a torn tail of %d bytes at %d", torn.path, lost, torn.end)
            torn.cut()
            # Before anything is written in its place: behind a new frame of the same length the
            # old ones would count again, should power go before the disk knows of the cut.
            torn.sync(self.state_dir)

    def start_segment(self) -> Segment:
        """Create the next segment and make it the current one. Raises: OSError."""
        if not self._store_id:
            self._store_id = os.urandom(16)
        following = self._create(self.seq + 1, self._previous)
        self.followed += bool(self.segments)
        self.segments = (*self.segments, following)
        return following

    def rotate(self, end: bytes) -> None:
        """Seal the current segment with the END frame `end` and go on in a new one.

        The new file comes first: a disk too full for it must not leave a log that ends with a
        seal, which nobody could open to remove something. Raises: OSError.
        """
        current = self.current
        assert current is not None
        seal = frames.crc32(end)
        following = self._create(current.last_seq + 2, seal)
        try:
            current.append(end)
        except OSError:
            self._disk.unlink(following.path)
            raise
        current.seal = self._previous = seal
        self.seq = current.last_seq
        self.followed += 1
        self.segments = (*self.segments, following)

    def _create(self, first_seq: int, previous: int) -> Segment:
        return create_segment(
            self.state_dir, first_seq, self._disk, store_id=self._store_id, previous=previous
        )


def _missing(seq: int, durable: int) -> str:
    return f"what follows sequence {seq} is damaged, but {durable} was on disk"


def _newest_base(state_dir: str) -> Snapshot | None:
    damage: StoreCorrupt | None = None
    for seq in reversed(list_snapshots(state_dir)):
        try:
            return open_snapshot(state_dir, seq)
        except StoreCorrupt as error:
            damage = damage or error
    if damage is not None and 1 not in list_segments(state_dir):
        raise damage
    return None


def load(state_dir: str, disk: Disk, *, readonly: bool, durable: int = 0) -> Chain:
    """Read the whole state: fast, because a snapshot is only mapped.

    `durable` is what this boot's shared words promise. Raises: OSError, StoreCorrupt, Unsupported.
    """
    for _ in range(_LOAD_TRIES):
        try:
            chain = Chain(state_dir, disk, readonly=readonly, base=_newest_base(state_dir))
            read_to_end(chain, durable)
        except (Behind, FileNotFoundError):
            # Somebody's snapshot removed a file between our looking and our opening.
            continue
        return chain
    raise StoreCorrupt(state_dir, 0, "files vanish while they are read")


def read_to_end(chain: Chain, durable: int) -> None:
    """Read all there is, and make sure that what cannot be read was promised to nobody.

    `durable` was looked up before. Raises: StoreCorrupt, Unsupported, Behind.
    """
    state = chain.advance()
    while True:
        seen = chain.seq, chain.current
        if state == frames.CLEAN and durable <= chain.seq and not chain.later_segments():
            return
        try:
            chain.check(durable)
            return
        except StoreCorrupt:
            # Without the append lock others go on writing while we look: only what stands
            # still can contradict itself.
            state = chain.advance()
            if (chain.seq, chain.current) == seen:
                raise
