"""The store: a write-ahead log that any number of processes read and append to at once.

Reading takes no lock: `catch_up` and look at `tables`. A transaction takes the append lock (a
flock) for as long as it takes to catch up, decide and write one frame, never while a disk is
waited for. What has to survive a power cut is waited for afterwards (`flush_blocking`, or
`commit.wait_durable` under Trio): one fdatasync serves everybody who is queued, in all processes.

After a write or a sync that failed, no process acknowledges anything until somebody opens the
store. Mostly it is in doubt what the disk then holds: the store is poisoned, whoever opens it
writes everything into new files, and all who had it open must open it again. Want of space that
is noticed while appending leaves no doubt, because the frame is cut off again: opening the store
looks at its end and lifts the ban for everybody, which takes no space, so each command on a full
disk has its own try, and who stays open can ask for the same (`retry_full`). One that removes
something must not be locked out: when such a transaction finds no space, it gives up a file that
is kept for that (see `store.reserve`), and writes. For the same reason a segment is sealed only
when the next one exists, and the words of an earlier boot are used again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from podrt._fast import frames
from podrt.errors import InvalidConfig, RuntimeClosed, StoreFailed

from . import control as shared
from .compact import LOCK_NAME, compact_quietly, rewrite
from .control import Control
from .disk import REAL_DISK, Disk
from .notes import warn
from .records import SCHEMA, Op
from .recover import Behind, Chain, Listener, load, read_to_end
from .reserve import give_up, is_freeing, keep
from .segments import END, TRANSACTION, Segment
from .tables import Tables, encode_ops
from .turns import HURRIED, Turns

SEGMENT_BYTES = 512 << 10
"""A segment that has grown past this is sealed and a snapshot taken, unless the snapshot is so
large that writing it again this often would cost more than reading a longer tail."""

_SNAPSHOT_SHARE = 8
"""Of a large snapshot the tail may be this part: what is written is then written again as often."""
_FOLLOWED_SEGMENTS = 4
"""After that many segments the tables start again from the newest snapshot, to give memory back."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Want of something that says nothing of the disk."""


class Store:
    """An open store. Not for several threads, except `flush_blocking`.

    Everything but `tables` raises RuntimeClosed after `close`.
    """

    def __init__(
        self, chain: Chain, *, disk: Disk, control: Control | None, readonly: bool
    ) -> None:
        self._chain = chain
        self._disk = disk
        self._control = control
        self._readonly = readonly
        # The one that may be written to, and the one that is read.
        self._generation = control.generation if control is not None else 0
        self._read_generation = self._generation
        self._append_fd = -1
        self._sync_fd = -1
        self._is_open = True
        self._in_transaction = False
        self._flushing = threading.Lock()
        self._compactor: threading.Thread | None = None
        self._turns = HURRIED
        self._segment_bytes = SEGMENT_BYTES
        self._in_background = True

    @classmethod
    def open(
        cls,
        state_dir: str,
        *,
        readonly: bool = False,
        disk: Disk = REAL_DISK,
        segment_bytes: int = SEGMENT_BYTES,
        compact_in_background: bool = True,
    ) -> Store:
        """Open the store in `state_dir`; make one where there is none, unless `readonly`.

        A read-only store of a directory that does not exist is empty. It takes no lock and
        writes nothing. Raises: StoreFailed, StoreCorrupt, Unsupported.
        """
        state_dir = os.path.abspath(state_dir)
        try:
            if readonly:
                return cls._open_readonly(state_dir, disk)
            os.makedirs(state_dir, mode=0o700, exist_ok=True)
            store = cls._open_writable(state_dir, disk)
        except OSError as error:
            raise StoreFailed(state_dir, error.errno or errno.EIO, "open") from error
        store._segment_bytes = segment_bytes
        store._in_background = compact_in_background
        if any(segment.seal is not None for segment in store._chain.segments):
            store._start_compaction()
        return store

    @classmethod
    def _open_readonly(cls, state_dir: str, disk: Disk) -> Store:
        control = shared.attach(f"{state_dir}/shared")
        if os.path.isdir(state_dir):
            durable = control.durable if control is not None else 0
            chain = load(state_dir, disk, readonly=True, durable=durable)
        else:
            chain = Chain(state_dir, disk, readonly=True, base=None)
        return cls(chain, disk=disk, control=control, readonly=True)

    @classmethod
    def _open_writable(cls, state_dir: str, disk: Disk) -> Store:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        append_fd = os.open(f"{state_dir}/append.lock", flags, 0o600)
        sync_fd = -1
        try:
            sync_fd = os.open(f"{state_dir}/sync.lock", flags, 0o600)
            fcntl.flock(append_fd, fcntl.LOCK_EX)
            try:
                chain, control = _settle_somehow(state_dir, disk, sync_fd)
            finally:
                fcntl.flock(append_fd, fcntl.LOCK_UN)
        except BaseException:
            os.close(append_fd)
            if sync_fd >= 0:
                os.close(sync_fd)
            raise
        store = cls(chain, disk=disk, control=control, readonly=False)
        store._append_fd = append_fd
        store._sync_fd = sync_fd
        return store

    # -- reading ---------------------------------------------------------------------------

    @property
    def tables(self) -> Tables:
        """The state as of `seq`; the same object all the time."""
        return self._chain.tables

    @property
    def seq(self) -> int:
        """The sequence of the last transaction in `tables`."""
        return self._chain.seq

    @property
    def durable(self) -> int:
        """The highest sequence known to be on disk."""
        return self._control.durable if self._control is not None else 0

    @property
    def readonly(self) -> bool:
        """Whether this store can only look."""
        return self._readonly

    @property
    def state_dir(self) -> str:
        """The directory."""
        return self._chain.state_dir

    @property
    def listeners(self) -> list[Listener]:
        """Called with every transaction that `catch_up` reads (not with those of this store)."""
        return self._chain.listeners

    def catch_up(self) -> int:
        """Bring `tables` up to the log's end; gives `seq`.

        Half a frame at the end means "not yet". Raises: StoreCorrupt, StoreFailed.
        """
        if not self._is_open:
            raise RuntimeClosed
        try:
            self._advance()
        except OSError as error:
            raise StoreFailed(self.state_dir, error.errno or errno.EIO, "read") from error
        return self._chain.seq

    def _advance(self) -> None:
        chain = self._chain
        if self._control is None:
            self._control = shared.attach(f"{self.state_dir}/shared")
        elif self._control.generation != self._read_generation:
            self._reload()
            return
        if self._readonly and chain.current is None and not os.path.isdir(self.state_dir):
            return
        durable = self.durable
        if chain.current is not None and chain.current.last_seq != chain.seq:
            # Ctrl-C came between writing a frame and taking it over.
            self._reload()
            return
        try:
            if chain.advance() == frames.BAD:
                # Far more often a dead writer's torn tail than damage; the marks tell.
                read_to_end(chain, durable)
        except Behind:
            self._reload()
            return
        if chain.followed > _FOLLOWED_SEGMENTS and not self._in_transaction:
            self._reload()

    def _reload(self) -> None:
        """Start again from the newest snapshot, in the same `Tables`."""
        old = self._chain
        if self._control is not None:
            self._read_generation = self._control.generation
        fresh = load(old.state_dir, self._disk, readonly=self._readonly, durable=self.durable)
        old.tables.become(fresh.tables)
        fresh.tables = old.tables
        fresh.listeners = old.listeners
        # A flush may still need the segments that the old chain wrote to.
        kept = [segment for segment in old.segments if segment.last_seq > self.durable]
        fresh.segments = (*_older(kept, fresh.segments), *fresh.segments)
        self._chain = fresh

    # -- writing ---------------------------------------------------------------------------

    def transact(self, fn: Callable[[Tables], Iterable[Op]]) -> int:
        """Let `fn` look at the newest tables and write the operations it gives as one frame.

        Gives the sequence that the tables have afterwards: the frame's, or the last one's if
        there was nothing to write. What `fn` raises passes through and nothing is written. The
        frame is in the kernel's hands, not yet on disk.
        Raises: AlreadyExists for a name or ID that is taken; StoreFailed; StoreCorrupt.
        """
        self._check_writable()
        if self._in_transaction:
            raise AssertionError("a transaction inside a transaction")
        self._in_transaction = True
        try:
            # Inside the try: Ctrl-C right behind it must give the lock back, too.
            fcntl.flock(self._append_fd, fcntl.LOCK_EX)
            self._check_writable()
            segment = self._chain.current
            if segment is None or not self._is_at_end(segment):
                segment = self._settle()
            ops = list(fn(self._chain.tables))
            if ops:
                self._chain.tables.check(ops)
                self._append(segment, encode_ops(ops), is_freeing=any(map(is_freeing, ops)))
                self._chain.tables.apply(ops)
                self._chain.seq = segment.last_seq
            return self._chain.seq
        finally:
            self._in_transaction = False
            fcntl.flock(self._append_fd, fcntl.LOCK_UN)

    def retry_full(self) -> None:
        """After want of space, do what opening anew would: lift the ban if the end is whole.

        For who stays open: each of its transactions is to have its own try. Raises: StoreFailed.
        """
        control = self._control
        if control is None or self._readonly or not control.full or control.poison:
            return
        fcntl.flock(self._append_fd, fcntl.LOCK_EX)
        try:
            if control.full and control.generation == self._generation:
                self._settle()
                keep(self.state_dir, self._disk)
                control.clear_full()
        finally:
            fcntl.flock(self._append_fd, fcntl.LOCK_UN)

    def _is_at_end(self, segment: Segment) -> bool:
        return (
            segment.seal is None
            and segment.last_seq == self._chain.seq
            and segment.size() == segment.end
        )

    def _settle(self) -> Segment:
        control = self._control
        assert control is not None
        try:
            self._advance()
        except OSError as error:
            raise StoreFailed(self.state_dir, error.errno or errno.EIO, "read") from error
        try:
            return self._chain.settle(control.durable)
        except OSError as error:
            number = error.errno or errno.EIO
            if number in _FULL:
                control.set_full(number)
            elif number not in _OURS:
                control.set_poison(number)
            raise StoreFailed(self.state_dir, number) from error

    def _append(self, segment: Segment, payload: bytes, *, is_freeing: bool) -> None:
        control = self._control
        assert control is not None
        try:
            frame = frames.encode_frame(
                payload,
                segment.last_seq + 1,
                salt=segment.salt,
                durable=control.durable,
                at_ns=time.time_ns(),
                kind=TRANSACTION,
            )
        except ValueError as error:
            raise InvalidConfig("", f"this is too large to keep: {error}") from error
        self._write(segment, frame, is_freeing=is_freeing)
        control.set_appended(segment.last_seq, segment.first_seq)
        if segment.end >= self._bound():
            self._rotate(segment)

    def _write(self, segment: Segment, frame: bytes, *, is_freeing: bool) -> None:
        control = self._control
        assert control is not None
        try:
            segment.append(frame)
        except OSError as error:
            number = error.errno or errno.EIO
            # `append` has cut the frame off again, and then a full disk leaves no doubt.
            is_full = number in _FULL and segment.size() == segment.end
            if is_full and is_freeing and give_up(self.state_dir, self._disk):
                self._write(segment, frame, is_freeing=False)
                return
            if is_full:
                control.set_full(number)
            else:
                control.set_poison(number)
            raise StoreFailed(segment.path, number) from error

    def _bound(self) -> int:
        base = self._chain.base
        # Every command reads what no snapshot holds yet, and a snapshot writes all there is.
        return max(self._segment_bytes, base.size // _SNAPSHOT_SHARE if base is not None else 0)

    def _rotate(self, segment: Segment) -> None:
        """Seal the segment. Failing at that is no failure of the transaction before it."""
        control = self._control
        assert control is not None
        end = frames.encode_frame(
            b"",
            segment.last_seq + 1,
            salt=segment.salt,
            durable=control.durable,
            at_ns=time.time_ns(),
            kind=END,
        )
        try:
            self._chain.rotate(end)
        except OSError as error:
            # The next transaction tries again.
            warn("%s: cannot begin a segment: %s", self.state_dir, str(error))
            if segment.size() != segment.end:
                control.set_poison(error.errno or errno.EIO)
            return
        control.set_appended(segment.last_seq, segment.first_seq)
        self._chain.forget(control.durable)
        self._start_compaction()

    def _start_compaction(self) -> None:
        if not self._in_background:
            compact_quietly(self.state_dir, self._disk, self._control, HURRIED)
        elif self._compactor is None or not self._compactor.is_alive():
            self._turns = Turns()
            arguments = (self.state_dir, self._disk, self._control, self._turns)
            # Not a daemon: a short command that passed the bound pays once, else nobody would.
            self._compactor = threading.Thread(
                target=compact_quietly, args=arguments, name="podrt snapshot"
            )
            self._compactor.start()

    # -- durability ------------------------------------------------------------------------

    def flush_blocking(self, seq: int) -> None:
        """Wait until everything up to `seq` is on disk; any thread may call this.

        Raises: StoreFailed, also when another process met the failure.
        """
        control = self._control
        if control is None or self._readonly:
            raise RuntimeClosed
        if control.durable >= seq:
            return
        with self._flushing:
            if control.durable >= seq:
                return
            self._check_writable()
            try:
                fcntl.flock(self._sync_fd, fcntl.LOCK_EX)
                self._check_writable()
                if control.durable < seq:
                    self._flush(control)
            finally:
                fcntl.flock(self._sync_fd, fcntl.LOCK_UN)

    def _flush(self, control: Control) -> None:
        # In this order: whatever is appended meanwhile is left to the next flush.
        appended = control.appended
        segment = control.segment
        chain = self._chain
        known = chain.seq
        segments = chain.segments
        target = known
        if segments[-1].first_seq == segment:
            target = max(known, appended)
        try:
            for each in segments:
                if not each.is_sealed or each.last_seq > control.durable:
                    each.sync(chain.state_dir)
        except OSError as error:
            number = error.errno or errno.EIO
            control.set_poison(number)
            raise StoreFailed(segments[-1].path, number, "sync") from error
        control.set_durable(target)

    def check(self) -> None:
        """Raise StoreFailed if the store was poisoned, RuntimeClosed if it was closed."""
        self._check_writable()

    def _check_writable(self) -> None:
        control = self._control
        if not self._is_open:
            raise RuntimeClosed
        if control is None or self._readonly:
            raise StoreFailed(self.state_dir, errno.EROFS)
        number = control.poison or control.full
        if number:
            raise StoreFailed(self.state_dir, number)
        if control.generation != self._generation:
            raise StoreFailed(self.state_dir, errno.ESTALE)

    # -- the end ---------------------------------------------------------------------------

    def wait_compacted(self) -> None:
        """Wait for a snapshot that is being written."""
        if self._compactor is not None:
            self._turns.is_hurried = True
            self._compactor.join()

    def close(self) -> None:
        """Wait for a snapshot that is being written and let all descriptors go."""
        if not self._is_open:
            return
        self.wait_compacted()
        self._is_open = False
        with self._flushing:
            self._chain.segments = ()
            self._control = None
            for fd in (self._append_fd, self._sync_fd):
                if fd >= 0:
                    os.close(fd)
            self._append_fd = self._sync_fd = -1

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _older(kept: Iterable[Segment], fresh: Iterable[Segment]) -> list[Segment]:
    known = {segment.first_seq for segment in fresh}
    return [segment for segment in kept if segment.first_seq not in known]


def _settle_somehow(state_dir: str, disk: Disk, sync_fd: int) -> tuple[Chain, Control]:
    """As `_settle`; for want of space with that of the reserve. The append lock is held."""
    try:
        return _settle(state_dir, disk, sync_fd)
    except OSError as error:
        if error.errno == errno.EIO:
            # Perhaps of a sync, and then only we have been told what the disk lost of others.
            control = shared.attach(f"{state_dir}/shared")
            if control is not None:
                control.set_poison(errno.EIO)
        if error.errno not in _FULL or not give_up(state_dir, disk):
            raise
    return _settle(state_dir, disk, sync_fd)


def _settle(state_dir: str, disk: Disk, sync_fd: int) -> tuple[Chain, Control]:
    """Load, repair a torn tail, and heal a poisoned store; the append lock is held."""
    control = shared.attach(f"{state_dir}/shared")
    durable = control.durable if control is not None else 0
    chain = load(state_dir, disk, readonly=False, durable=durable)
    if control is None:
        control = shared.create(f"{state_dir}/shared", disk)
        if chain.base is not None:
            control.set_durable(chain.base.seq)
    is_new = chain.current is None and chain.base is None
    if control.poison or chain.schemas - {SCHEMA}:
        return _rewrite(chain, disk, control, sync_fd), control
    segment = chain.settle(durable)
    if is_new:
        # Whatever is missing later, the first header is there to tell how to look for it.
        segment.sync(state_dir)
    control.set_appended(chain.seq, segment.first_seq)
    keep(state_dir, disk)
    control.clear_full()
    return chain, control


def _rewrite(chain: Chain, disk: Disk, control: Control, sync_fd: int) -> Chain:
    lock_fd = os.open(
        f"{chain.state_dir}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(sync_fd, fcntl.LOCK_EX)
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        return rewrite(chain, disk, control)
    finally:
        fcntl.flock(sync_fd, fcntl.LOCK_UN)
        os.close(lock_fd)
