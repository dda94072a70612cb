"""P13: cgroup files: making, limiting and reading many cgroups, batches against plain Python."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path

from podrt.cgroups import create, read, remove
from podrt.cgroups.base import NewCgroup
from podrt.cgroups.hierarchies import detect
from podrt.cgroups.tree import Result, Step, Tree
from podrt.model.resources import Resources

from .harness import Contender, Row, Target
from .stage import Stage

CGROUPS = 1_000
QUICK_CGROUPS = 200
LIMITS = Resources(
    memory_bytes=64 << 20,
    pids_limit=100,
    cpu_quota_us=50_000,
    cpu_period_us=100_000,
    cpu_shares=512,
)
# As Step has them.
MKDIR, WRITE, READ, RMDIR, OPTIONAL = 1, 2, 3, 4, 0x100


class PlainTree(Tree):
    """The same steps as one would write them in Python: a path, an open file, a call each."""

    def run(self, steps: Iterable[Step]) -> tuple[int, int, list[Result]]:
        tops = {self.fd(one): Path(one.mount) for one in self.hierarchies.all}
        todo = list(steps)
        results: list[Result] = [None] * len(todo)
        for at, (operation, top_fd, name, data) in enumerate(todo):
            try:
                results[at] = plain_step(operation & 0xFF, tops[top_fd] / os.fsdecode(name), data)
            except OSError as exc:
                number = exc.errno or 0
                results[at] = -number
                exists = operation == MKDIR and number == errno.EEXIST
                if not exists and not operation & OPTIONAL:
                    return at, number, results
        return -1, 0, results


def plain_step(kind: int, path: Path, data: bytes) -> Result:
    if kind == MKDIR:
        path.mkdir(mode=0o755)
    elif kind == WRITE:
        path.write_bytes(data)
    elif kind == READ:
        return path.read_bytes()
    else:
        path.rmdir()
    return 0


class Subject:
    """One side: a tree and the cgroups it makes."""

    def __init__(self, tree: Tree, parent: str, count: int) -> None:
        self.tree = tree
        self.parent = parent.encode()
        self.wanted = [NewCgroup(f"/{parent}/{number}", LIMITS) for number in range(count)]
        self.paths = [f"{parent}/{number}".encode() for number in range(count)]
        self.files = read.wanted_stats(tree.hierarchies)

    def make_and_read_ms(self) -> float:
        start = time.perf_counter()
        create.create_many(self.tree, self.wanted)
        found = read.stats_many(self.tree, self.files, self.paths)
        spent = time.perf_counter() - start
        assert all(one is not None and one.pids_limit == LIMITS.pids_limit for one in found)
        return spent * 1_000

    def read_ms(self) -> float:
        create.create_many(self.tree, self.wanted)
        start = time.perf_counter()
        read.stats_many(self.tree, self.files, self.paths)
        return (time.perf_counter() - start) * 1_000

    def settle(self) -> None:
        remove.remove_many(self.tree, self.paths)
        remove.remove_many(self.tree, [self.parent])

    def close(self) -> None:
        self.settle()
        self.tree.close()


def rows(stage: Stage, wanted: set[str]) -> list[Row]:
    """The wanted rows of this file."""
    if "P13" not in wanted:
        return []
    count = QUICK_CGROUPS if stage.is_quick else CGROUPS
    hierarchies = detect()
    name = f"podrt_test_bench_{os.getpid():x}"
    fast = stage.keep(Subject(Tree(hierarchies), f"{name}_fast", count))
    plain = stage.keep(Subject(PlainTree(hierarchies), f"{name}_plain", count))
    kind = "v2" if hierarchies.is_unified else f"v1, {len(hierarchies.all)} hierarchies"
    return [
        Row(
            key="P13" if whole else "P13 read",
            work=work.format(count=count),
            isolation=f"none: cgroup files only ({kind})",
            contenders=[
                Contender("podrt", fast.make_and_read_ms if whole else fast.read_ms, fast.settle),
                Contender(
                    "plain Python", plain.make_and_read_ms if whole else plain.read_ms, plain.settle
                ),
            ],
            targets=[Target("podrt", "plain Python", 1 / 3, "at least 3 times faster")],
            divide_by=count,
        )
        for whole, work in (
            (True, "make {count} cgroups with 5 limits each and read their figures"),
            (False, "read the figures of {count} cgroups"),
        )
    ]
