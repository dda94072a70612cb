"""Programs that tests run as processes of their own, to be killed while they use the store.

python -m doubles.store_child killed            reads "FOLDER SEED AT WHEN" lines
python -m doubles.store_child counter FOLDER ID COUNT ACKS
"""

from __future__ import annotations

import os
import random
import sys

from doubles.disks import KillingDisk
from doubles.states import random_ops
from podrt.store.disk import REAL_DISK, Disk
from podrt.store.records import GroupRecord, Op, put
from podrt.store.tables import Tables
from podrt.store.wal import Store

TRANSACTIONS = 30
SEGMENT_BYTES = 900


def transactions(seed: int) -> list[tuple[list[Op], bool]]:
    """What the workload of `seed` writes, and whether it waits for the disk."""
    rng = random.Random(seed)
    return [(random_ops(rng), rng.random() < 0.4) for _ in range(TRANSACTIONS)]


def work(folder: str, seed: int, disk: Disk) -> None:
    """Write; "w N" and "d N" lines in FOLDER.acks say what was written and what is durable."""
    acks = os.open(f"{folder}.acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with Store.open(
        folder, disk=disk, segment_bytes=SEGMENT_BYTES, compact_in_background=False
    ) as store:
        for number, (ops, is_flushed) in enumerate(transactions(seed), 1):
            seq = store.transact(lambda _, ops=ops: ops)
            os.write(acks, f"w {number}\n".encode())
            if is_flushed:
                store.flush_blocking(seq)
                os.write(acks, f"d {number}\n".encode())
    os.write(acks, b"end\n")


def serve_killed() -> None:
    for line in sys.stdin:
        folder, seed, at, when = line.split()
        child = os.fork()
        if child == 0:
            disk = KillingDisk(int(at), when) if int(at) else REAL_DISK
            work(folder, int(seed), disk)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def count_up(folder: str, key: str, count: int, acks_path: str) -> None:
    """Count a group's epoch up, one transaction each; acknowledge to a file."""
    acks = os.open(acks_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def step(tables: Tables) -> list[Op]:
        own = tables.get(GroupRecord, key) or GroupRecord(id=key)
        total = tables.get(GroupRecord, "total") or GroupRecord(id="total")
        return [
            put(GroupRecord(id=key, epoch=own.epoch + 1)),
            put(GroupRecord(id="total", epoch=total.epoch + 1)),
        ]

    with Store.open(folder, segment_bytes=20_000) as store:
        for number in range(count):
            seq = store.transact(step)
            own = store.tables.get(GroupRecord, key)
            assert own is not None
            if number % 3 == 0:
                store.flush_blocking(seq)
            os.write(acks, f"{own.epoch}\n".encode())


if __name__ == "__main__":
    if sys.argv[1] == "killed":
        serve_killed()
    else:
        count_up(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
