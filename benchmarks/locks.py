"""P12: the lock table against podman's kind of lock and against filelock.

    python -m benchmarks.locks [--rounds N] [--quick]

A pair is an uncontended acquire and release, both called from Python. Podman's lock is a robust,
process-shared pthread mutex; here it is called through the C API, without Go between. Milliseconds
for a million pairs are nanoseconds for one; filelock does fewer and is scaled.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from podrt._fast.locktable import LockTable

from .harness import QUICK_ROUNDS, ROUNDS, Contender, Row, Target, keep, run_row, table

HERE = Path(__file__).parent
PAIRS = 1_000_000
FILELOCK_PAIRS = 10_000
HELD = 100_000
PROMISE_NS = 250.0
AIM_NS = 120.0


def build_robust_mutex(folder: str) -> ModuleType:
    """The peer's lock as a module."""
    path = f"{folder}/robust_mutex.so"
    include = f"-I{sysconfig.get_path('include')}"
    source = str(HERE / "robust_mutex.c")
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", include, source, "-o", path], check=True)
    spec = importlib.util.spec_from_file_location("robust_mutex", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def time_pairs(
    acquire: Callable[[int], object], release: Callable[[int], object], index: int
) -> float:
    """Milliseconds for a million pairs, with the Python loop around them.

    CPU time: nothing here waits, and other load on the machine would count otherwise.
    """
    began = time.thread_time()
    for _ in range(PAIRS):
        acquire(index)
        release(index)
    return (time.thread_time() - began) * 1000


def time_filelock(path: str) -> float:
    from filelock import FileLock

    lock = FileLock(path)
    began = time.thread_time()
    for _ in range(FILELOCK_PAIRS):
        lock.acquire()
        lock.release()
    return (time.thread_time() - began) * 1000 * (PAIRS / FILELOCK_PAIRS)


@contextlib.contextmanager
def contenders() -> Iterator[list[Contender]]:
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="podrt_bench_locks_", dir=base)
    few, many = LockTable.open(f"{folder}/few"), LockTable.open(f"{folder}/many")
    few.allocate(b"a" * 32)
    last = 0
    for _ in range(HELD):
        last = many.allocate(b"a" * 32)
        many.acquire_nowait(last)
    last = many.allocate(b"a" * 32)
    robust = build_robust_mutex(folder)
    robust.make(f"{folder}/robust", HELD + 1)
    for index in range(HELD):
        robust.acquire_nowait(index)
    try:
        yield [
            Contender("podrt", lambda: time_pairs(few.acquire_nowait, few.release, 1)),
            Contender(
                f"podrt, {HELD} held", lambda: time_pairs(many.acquire_nowait, many.release, last)
            ),
            Contender(
                f"robust mutex, {HELD} held",
                lambda: time_pairs(robust.acquire_nowait, robust.release, HELD),
            ),
            Contender("filelock", lambda: time_filelock(f"{folder}/filelock")),
            Contender("what was promised", lambda: PROMISE_NS),
            Contender("what was aimed at", lambda: AIM_NS),
        ]
    finally:
        for index in range(HELD):
            robust.release(index)
        few.close()
        many.close()
        shutil.rmtree(folder)


def row(sides: list[Contender]) -> Row:
    full = f"podrt, {HELD} held"
    return Row(
        "P12",
        "one million uncontended acquire + release pairs from Python (ms = ns a pair)",
        "none: no process is started",
        sides,
        [
            Target("podrt", "what was promised", 1.0, "at most 250 ns a pair"),
            Target("podrt", "what was aimed at", 1.0, "at most 120 ns a pair"),
            Target(full, "what was promised", 1.0, f"the same with {HELD} locks held"),
            Target(full, f"robust mutex, {HELD} held", 1.0, "no slower than podman's lock"),
            Target(full, "filelock", 1.0, "no slower than filelock"),
        ],
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.locks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="few rounds, nothing kept")
    given = parser.parse_args()
    with contenders() as sides:
        rounds = QUICK_ROUNDS if given.quick else given.rounds
        outcome = run_row(row(sides), rounds, lambda words: print(words, file=sys.stderr))
    print(table(outcome))
    if not given.quick:
        keep([outcome], rounds)
    return 0 if all(target["reached"] for target in outcome.targets) else 1


if __name__ == "__main__":
    sys.exit(main())
