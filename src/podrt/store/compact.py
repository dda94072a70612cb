"""Writing a snapshot of the sealed segments and removing what it replaces.

It works from files alone, so it runs in any process and any thread while others go on writing;
they are held up at no time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from podrt.errors import PodrtError, StoreCorrupt

from .control import Control
from .disk import Disk
from .notes import warn
from .recover import Behind, Chain, load
from .segments import list_segments, open_segment, segment_path
from .snapshot import Snapshot, list_snapshots, open_snapshot, snapshot_path, write_snapshot
from .tables import Tables, decode_ops
from .turns import HURRIED, Turns

LOCK_NAME = "snapshot.lock"


def compact(state_dir: str, disk: Disk, control: Control | None, turns: Turns = HURRIED) -> int:
    """Write a snapshot of everything sealed, unless somebody is at it or nothing is.

    Gives the snapshot's sequence, or 0. Raises: OSError, StoreCorrupt.
    """
    fd = os.open(f"{state_dir}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        return _compact(state_dir, disk, control, turns)
    finally:
        os.close(fd)


def compact_quietly(state_dir: str, disk: Disk, control: Control | None, turns: Turns) -> None:
    """As `compact`, for a thread that nobody waits for: a failure is logged and tried later."""
    try:
        if compact(state_dir, disk, control, turns):
            # What was sealed meanwhile had nobody to begin a snapshot of it.
            compact(state_dir, disk, control, turns)
    except (OSError, PodrtError) as error:
        if control is not None and isinstance(error, OSError) and error.errno == errno.EIO:
            # Perhaps of a sync of the directory, which holds the names of others' files, too.
            control.set_poison(errno.EIO)
        warn("%s: cannot write a snapshot: %s", state_dir, str(error))


def _compact(state_dir: str, disk: Disk, control: Control | None, turns: Turns) -> int:
    base = _base(state_dir)
    seq = base.seq if base is not None else 0
    tables = Tables(base, state_dir)
    previous, store_id = (base.header.previous if base is not None else 0), b""
    while True:
        try:
            segment = open_segment(state_dir, seq + 1, disk, readonly=True)
        except FileNotFoundError:
            break
        if segment.header.previous != previous:
            break
        transactions, _ = segment.read()
        if segment.seal is None:
            break
        for transaction in transactions:
            tables.apply_wire(decode_ops(transaction.payload, segment.path), segment.header.schema)
            turns.give()
        seq, previous, store_id = segment.last_seq, segment.seal, segment.header.store_id
    if not store_id:
        return 0
    write_snapshot(
        state_dir,
        tables.entries(turns),
        disk,
        seq=seq,
        store_id=store_id,
        previous=previous,
        turns=turns,
    )
    if control is not None and not control.poison:
        control.set_durable(seq)
    sweep(state_dir, disk, seq)
    return seq


def _base(state_dir: str) -> Snapshot | None:
    found = list_snapshots(state_dir)
    return open_snapshot(state_dir, found[-1]) if found else None


def sweep(state_dir: str, disk: Disk, seq: int) -> None:
    """Remove what the durable snapshot of `seq` replaces. Raises: OSError."""
    for first in list_segments(state_dir):
        if first <= seq:
            disk.unlink(segment_path(state_dir, first))
    for older in list_snapshots(state_dir):
        if older < seq:
            disk.unlink(snapshot_path(state_dir, older))
    for name in os.listdir(state_dir):
        if name.startswith("new.snapshot."):
            disk.unlink(f"{state_dir}/{name}")


@contextlib.contextmanager
def nobody_goes_on(control: Control, path: str) -> Iterator[None]:
    """Poison the store while the snapshot `path` is written, after which old files are removed.

    Whoever has the store open would else go on with files that nobody reads any more, should we
    be killed on the way. The poison is left for `Control.renew` to take, or for the next one to
    open, who then begins anew; only if the snapshot never came to be, all is as it was before.
    """
    before = control.poison
    control.set_poison(before or errno.ESTALE)
    try:
        yield
    except BaseException:
        if not os.path.exists(path):
            control.set_poison(before)
        raise


def rewrite(chain: Chain, disk: Disk, control: Control) -> Chain:
    """Write the whole state into new files; the caller holds every lock of the store.

    After a failed sync the kernel may have dropped what it could not write while still showing
    it, so only files that were never written before can be trusted. Raises: OSError.
    """
    state_dir, seq = chain.state_dir, chain.seq
    previous = int.from_bytes(os.urandom(4), "little")
    store_id = chain.store_id or os.urandom(16)
    with nobody_goes_on(control, snapshot_path(state_dir, seq)):
        write_snapshot(
            state_dir, chain.tables.entries(), disk, seq=seq, store_id=store_id, previous=previous
        )
    for first in chain.later_segments():
        disk.unlink(segment_path(state_dir, first))
    try:
        fresh = load(state_dir, disk, readonly=False)
    except Behind as error:
        raise StoreCorrupt(state_dir, 0, "the new snapshot vanished") from error
    fresh.settle(0).sync(state_dir)
    sweep(state_dir, disk, seq)
    disk.sync_dir(state_dir)
    control.renew(seq, seq + 1)
    return fresh
