"""Corrupted files under AddressSanitizer and UndefinedBehaviorSanitizer, one target at a time.

python -m fuzz --seconds 60        what `make fuzz` does; for all targets together
python -m fuzz --replay NAME:SEED  one input again, as a finding says
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz import sanitized
from fuzz.loop import SEED_FILE, TARGETS

WORK = sanitized.PROJECT / ".work/fuzz"
# One input takes milliseconds; a whole second only when the machine is busy.
HANG_CPU_S = 30.0
HANG_S = 300.0
LOOK_S = 0.25
ROUND_S = 300.0
MAX_FINDINGS = 20
ENDLESS = 1 << 62
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """What a process has used; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def read_seed(folder: Path, first: int) -> int:
    """The seed of the input that is, or was, in work."""
    try:
        return int((folder / SEED_FILE).read_text())
    except (OSError, ValueError):
        return first


def watch(
    child: subprocess.Popen[str], folder: Path, first: int, patience_s: float = HANG_CPU_S
) -> str:
    """Wait for the child's end; one that stands still is made to say where, and killed."""
    seed, cpu, at = -1, 0.0, 0.0
    while child.poll() is None:
        time.sleep(LOOK_S)
        now = read_seed(folder, first)
        if now != seed:
            seed, cpu, at = now, cpu_seconds(child.pid), time.monotonic()
        elif cpu_seconds(child.pid) - cpu > patience_s or time.monotonic() - at > HANG_S:
            child.send_signal(signal.SIGABRT)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            return "it hangs"
    return ""


class Run:
    """The inputs of one target."""

    def __init__(self, name: str, modules: Path) -> None:
        self.name = name
        self.inputs = 0
        self.seconds = 0.0
        self.slowest_ms = 0
        self.outcomes: Counter[str] = Counter()
        self.findings: list[str] = []
        self._modules = modules

    def go(self, first: int, count: int, seconds: float) -> None:
        """Use inputs from seed `first` on; behind a finding, go on with the next seed."""
        until = time.monotonic() + seconds
        last = first + count
        while first < last and time.monotonic() < until and len(self.findings) < MAX_FINDINGS:
            first = self._stretch(first, last - first, until - time.monotonic())

    def _stretch(self, first: int, count: int, seconds: float) -> int:
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = Path(tempfile.mkdtemp(prefix=f"podrt_fuzz_{self.name}_", dir=base))
        command = [sys.executable, "-m", "fuzz.loop", self.name, str(folder), str(self._modules)]
        began = time.monotonic()
        try:
            with tempfile.TemporaryFile("w+") as said:
                child = subprocess.Popen(
                    [*command, str(first), str(count), str(seconds)],
                    env=sanitized.preload(),
                    stdout=subprocess.PIPE,
                    stderr=said,
                    text=True,
                )
                try:
                    hang = watch(child, folder, first)
                finally:
                    child.kill()
                    printed = child.communicate()[0]
                said.seek(0)
                report = f"{said.read()}{hang}"
            self.seconds += time.monotonic() - began
            seed = read_seed(folder, first)
            if child.returncode == 0:
                return self._count(printed, first)
            self.inputs += seed - first + 1
            self._keep(folder, seed, f"{report}\nstatus {child.returncode}\n")
            return seed + 1
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _count(self, printed: str, first: int) -> int:
        figures: dict[str, Any] = json.loads(printed)
        done = sum(figures["outcomes"].values())
        self.inputs += done
        self.outcomes.update(figures["outcomes"])
        self.slowest_ms = max(self.slowest_ms, round(figures["slowest_ms"]))
        return first + done

    def _keep(self, folder: Path, seed: int, report: str) -> None:
        kept = WORK / "findings" / f"{self.name}-{seed}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept, symlinks=True)
        (kept / "report.txt").write_text(report)
        self.findings.append(str(seed))
        print(report.strip(), flush=True)
        print(f"FINDING {self.name}, seed {seed}; kept in {kept}", flush=True)
        print(f"again: make fuzz REPLAY={self.name}:{seed}", flush=True)

    def __str__(self) -> str:
        came = ", ".join(f"{count} {what}" for what, count in sorted(self.outcomes.items()))
        rate = self.inputs / self.seconds if self.seconds else 0
        return (
            f"{self.name}: {self.inputs} inputs in {self.seconds:.0f} s ({rate:.0f}/s; {came}), "
            f"the slowest {self.slowest_ms} ms, {len(self.findings)} findings"
        )


def fuzz_all(modules: Path, names: list[str], seconds: float, seed: int) -> list[Run]:
    """Divide the time over the targets, in rounds, so that a long run shows figures early."""
    runs = [Run(name, modules) for name in names]
    rounds = max(1, round(seconds / ROUND_S))
    for number in range(rounds):
        for run in runs:
            run.go(seed + (number << 40), ENDLESS, seconds / rounds / len(runs))
        if number + 1 < rounds:
            for run in runs:
                print(f"{time.strftime('%H:%M:%S')} so far {run}", flush=True)
    return runs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--targets", default=",".join(TARGETS), help="some of them")
    parser.add_argument("--seed", type=int, help="the first one (default: another each time)")
    parser.add_argument("--replay", metavar="TARGET:SEED", help="use one input again")
    return parser.parse_args()


def main() -> int:
    wanted = arguments()
    try:
        modules = sanitized.build(WORK)
    except sanitized.NoSanitizers as error:
        print(f"podrt: {error}", file=sys.stderr)
        return 2
    if wanted.replay:
        name, _, seed = wanted.replay.partition(":")
        runs = [Run(name, modules)]
        runs[0].go(int(seed), 1, HANG_S)
    else:
        first = random.SystemRandom().randrange(1 << 32) if wanted.seed is None else wanted.seed
        print(f"{time.strftime('%F %T')} fuzzing from seed {first}", flush=True)
        runs = fuzz_all(modules, wanted.targets.split(","), wanted.seconds, first)
    for run in runs:
        print(run, flush=True)
    return 1 if any(run.findings for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
