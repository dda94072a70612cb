"""`python -m benchmarks`: measure, print, keep, and publish into README.md."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys

from . import cgroups, ending, graphs, growth, inspecting, locks, pods, ps, reading, start, store
from .harness import QUICK_ROUNDS, ROUNDS, keep, publish, run_row, table
from .stage import open_stage

KEYS = tuple("P1 P2 P2b P3 P5 P6 P7 P8 P9 P10 P11 P12 P13 P14".split())
SOURCES = (
    start, pods, graphs, ending, growth, ps, reading, inspecting, store, locks, cgroups,
)  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(KEYS)}: all")
    parser.add_argument("--rounds", type=int, help=f"rounds after the warm-up (default {ROUNDS})")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, few containers, README.md left as it is"
    )
    given = parser.parse_args()
    unknown = set(given.rows) - set(KEYS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    return given


def missing() -> str | None:
    """Why nothing can be measured here, or None."""
    if os.geteuid() != 0:
        return "root is needed"
    for program in ("gcc", "podman", "crun", "busybox"):
        if not shutil.which(program):
            return f"{program} is needed (Debian has it)"
    return None


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main() -> int:
    # An end by signal must clean up like any other.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    given = arguments()
    reason = missing()
    if reason:
        say(f"benchmarks: {reason}")
        return 1
    rounds = given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS)
    wanted = set(given.rows or KEYS)
    outcomes = []
    with open_stage(is_quick=given.quick) as stage:
        for source in SOURCES:
            for row in source.rows(stage, wanted):
                say(f"{row.key}: {row.work}")
                outcomes.append(run_row(row, rounds, say))
    for outcome in outcomes:
        print(table(outcome))
    print(f"kept: {keep(outcomes, rounds)}")
    if not given.quick and wanted == set(KEYS):
        publish(outcomes, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
