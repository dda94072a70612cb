"""P12: the lock table against podman's kind of lock and against filelock.

A pair is an uncontended acquire and release, both called from Python. Podman's lock is a robust,
process-shared pthread mutex; here it is called through the C API, without Go between. Milliseconds
for a million pairs are nanoseconds for one; filelock does fewer and is scaled.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from podrt._fast.locktable import LockTable

from .harness import Contender, Row, Target
from .stage import Stage

HERE = Path(__file__).parent
PAIRS, QUICK_PAIRS = 1_000_000, 100_000
FILELOCK_PAIRS = 10_000
HELD = 100_000
GROWTH = (1, 1_000, 100_000, 1_000_000)
QUICK_GROWTH = (1, 1_000)
PROMISE_NS = 250.0
AIM_NS = 120.0
OWNER = b"a" * 32


def build_robust_mutex(folder: Path) -> Path:
    """The peer's lock as a module's file."""
    path = folder / "robust_mutex.so"
    include = f"-I{sysconfig.get_path('include')}"
    source = HERE / "robust_mutex.c"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", include, source, "-o", path], check=True)
    return path


def load_module(path: Path) -> ModuleType:
    """A module of its own, with mutexes of its own, however often the file was copied."""
    spec = importlib.util.spec_from_file_location("robust_mutex", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Bench:
    """Lock tables and mutexes of which many are held, in memory."""

    def __init__(self, pairs: int) -> None:
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="podrt_bench_locks_", dir=base))
        self.pairs = pairs
        self._robust = build_robust_mutex(self.folder)
        self._tables: list[LockTable] = []
        self._mutexes: list[tuple[ModuleType, int]] = []

    def close(self) -> None:
        for table in self._tables:
            table.close()
        for module, held in self._mutexes:
            for index in range(held):
                module.release(index)
        shutil.rmtree(self.folder)

    def podrt(self, held: int) -> Callable[[], float]:
        """Milliseconds a million pairs of podrt's with `held` other locks held."""
        table = LockTable.open(str(self.folder / f"table{len(self._tables)}"))
        self._tables.append(table)
        for _ in range(held):
            table.acquire_nowait(table.allocate(OWNER))
        last = table.allocate(OWNER)
        return lambda: self._pairs_ms(table.acquire_nowait, table.release, last)

    def robust_mutex(self, held: int) -> Callable[[], float]:
        """The same of the peer's."""
        number = len(self._mutexes)
        path = self.folder / f"mutexes{number}.so"
        shutil.copy(self._robust, path)
        module = load_module(path)
        module.make(str(self.folder / f"mutexes{number}"), held + 1)
        self._mutexes.append((module, held))
        for index in range(held):
            module.acquire_nowait(index)
        return lambda: self._pairs_ms(module.acquire_nowait, module.release, held)

    def _pairs_ms(
        self, acquire: Callable[[int], object], release: Callable[[int], object], index: int
    ) -> float:
        """With the Python loop around them.

        CPU time: nothing here waits, and other load on the machine would count otherwise.
        """
        began = time.thread_time()
        for _ in range(self.pairs):
            acquire(index)
            release(index)
        return (time.thread_time() - began) * 1e9 / self.pairs

    def filelock_ms(self) -> float:
        from filelock import FileLock

        lock = FileLock(self.folder / "filelock")
        began = time.thread_time()
        for _ in range(FILELOCK_PAIRS):
            lock.acquire()
            lock.release()
        return (time.thread_time() - began) * 1e9 / FILELOCK_PAIRS


def rows(stage: Stage, wanted: set[str]) -> list[Row]:
    """The wanted rows of this file, with their contenders prepared."""
    if "P12" not in wanted:
        return []
    bench = stage.keep(Bench(QUICK_PAIRS if stage.is_quick else PAIRS))
    return [against_peers(bench), growing(bench, QUICK_GROWTH if stage.is_quick else GROWTH)]


def against_peers(bench: Bench) -> Row:
    many = f"podrt, {HELD} held"
    robust = f"robust mutex, {HELD} held"
    return Row(
        key="P12",
        work="one million uncontended acquire + release pairs from Python (ms = ns a pair)",
        isolation="none: no process is started",
        contenders=[
            Contender("podrt", bench.podrt(0)),
            Contender(many, bench.podrt(HELD)),
            Contender(robust, bench.robust_mutex(HELD)),
            Contender("filelock", bench.filelock_ms),
            Contender("what was promised", lambda: PROMISE_NS),
            Contender("what was aimed at", lambda: AIM_NS),
        ],
        targets=[
            Target("podrt", "what was promised", 1.0, "at most 250 ns a pair"),
            Target("podrt", "what was aimed at", 1.0, "aim: at most 120 ns a pair"),
            Target(many, "what was promised", 1.0, f"the same with {HELD} locks held"),
            Target(many, robust, 1.0, "no slower than podman's lock"),
            Target(many, "filelock", 1.0, "no slower than filelock"),
        ],
    )


def growing(bench: Bench, counts: tuple[int, ...]) -> Row:
    kinds = {"podrt": bench.podrt, "robust mutex": bench.robust_mutex}
    return Row(
        key="P12 growth",
        work="the same pairs with ever more locks held",
        isolation="none: no process is started",
        contenders=[
            Contender(f"{series}, {held} held", kind(held), series=series, at=held)
            for series, kind in kinds.items()
            for held in counts
        ],
        targets=[Target(f"podrt, {counts[-1]} held", f"podrt, {counts[0]} held", 1.3, "no growth")],
        grows_by="locks held",
    )
