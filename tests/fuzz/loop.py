"""Runs one target for a while, inside a Python that has the sanitizers.

python -m fuzz.loop TARGET FOLDER MODULES FIRST_SEED COUNT SECONDS
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import logging
import os
import sys
import time
from collections import Counter
from pathlib import Path

from fuzz import sanitized
from fuzz.target import Target

TARGETS = {
    "frames": "Frames",
    "journal": "Journals",
    "snapshots": "Snapshots",
    "segments": "Segments",
    "locks": "Locks",
}
SEED_FILE = "seed"
# Of processor time, for what takes milliseconds: a loop that depends on the input.
SLOW_S = 5.0
LOOK_AT_DESCRIPTORS = 64


def make_target(name: str, folder: Path) -> Target:
    """The target called `name`, with its module."""
    made: Target = getattr(importlib.import_module(f"fuzz.{name}"), TARGETS[name])(folder)
    return made


def run_one(target: Target, seed: int) -> tuple[str, float]:
    """(what came of it, seconds of processor time). Raises: whatever is a finding."""
    before = time.process_time()
    came = target.run(seed)
    took = time.process_time() - before
    assert took < SLOW_S, f"the input took {took:.1f} s of processor time"
    return came, took


def open_descriptors() -> list[str]:
    """What the open descriptors lead to; the one that looks is gone again."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(found)


def run_all(target: Target, seeds: range, seconds: float, progress: int) -> dict[str, object]:
    """Until the seeds or the time end; the figures as far as it came."""
    until = time.monotonic() + seconds
    outcomes: Counter[str] = Counter()
    figures: dict[str, object] = {"outcomes": outcomes, "slowest_ms": 0.0}
    slowest = 0.0
    before: list[str] | None = None
    for number, seed in enumerate(seeds):
        if time.monotonic() > until:
            break
        os.pwrite(progress, b"%020d" % seed, 0)
        came, took = run_one(target, seed)
        outcomes[came] += 1
        slowest = max(slowest, took)
        figures["slowest_ms"] = round(slowest * 1000)
        if number % LOOK_AT_DESCRIPTORS == LOOK_AT_DESCRIPTORS // 2:
            gc.collect()
            now = open_descriptors()
            if now != before:
                # The sanitizer's own thread looks at the memory in use ten times a second.
                time.sleep(0.02)
                now = open_descriptors()
            left = f"descriptors left open: {now}, before: {before}; since {number} ago"
            assert before in (None, now), left
            before = now
    return figures


def main(arguments: list[str]) -> None:
    name, where, modules, first, count, seconds = arguments
    faulthandler.enable()
    sanitized.take_over(Path(modules))
    logging.disable(logging.CRITICAL)
    folder = Path(where)
    progress = os.open(folder / SEED_FILE, os.O_RDWR | os.O_CREAT)
    target = make_target(name, folder)
    seeds = range(int(first), int(first) + int(count))
    print(json.dumps(run_all(target, seeds, float(seconds), progress)))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(sys.argv[1:])
