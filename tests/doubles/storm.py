"""A storm: many processes work on one root at once and are killed at random.

python -m doubles.storm CONFIG    begins, and ends when every worker is gone

Workers are forked from this process, which has everything imported, so that one that was killed
is replaced within milliseconds. Who seems stuck is spared, so that a deadlock is not killed away.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import msgspec

from doubles.storm_ledger import Kill, Ledger
from doubles.storm_worker import BOUND_S, Config, work

_STEP_S = 0.01
# Who has written nothing for so long may be stuck.
_SUSPECT_S = 5.0
_STACKS_S = 1.0


class Storm:
    """The processes that work now."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._chance = random.Random(config.seed)
        self._folder = Path(config.folder)
        self._kills = Ledger(self._folder / "kills")
        self._until_s = time.monotonic() + config.seconds
        self._last_number = 0
        self.workers: dict[int, int] = {}
        self.failed: list[str] = []

    def rage(self) -> None:
        """Keep all workers at work and kill at random, until the time is over."""
        while time.monotonic() < self._until_s:
            self._reap()
            while len(self.workers) < self._config.workers:
                self._fork()
            if self._chance.random() < self._config.worker_kills_s * _STEP_S:
                self._kill_worker()
            if self._chance.random() < self._config.monitor_kills_s * _STEP_S:
                self._kill_monitor()
            time.sleep(_STEP_S)

    def calm(self) -> None:
        """Half of the workers are killed where they are, the others finish what they do."""
        for pid in list(self.workers)[::2]:
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + BOUND_S + 10
        for pid in self.workers:
            os.kill(pid, signal.SIGTERM)
        while self.workers and time.monotonic() < deadline:
            self._reap()
            time.sleep(_STEP_S)
        for pid in self.workers:
            self.failed.append(f"worker {self.workers[pid]} does not end")
            os.kill(pid, signal.SIGUSR1)
        if self.workers:
            time.sleep(_STACKS_S)
        for pid in self.workers:
            os.kill(pid, signal.SIGKILL)
        while self.workers:
            self._reap()
            time.sleep(_STEP_S)

    def _fork(self) -> None:
        self._last_number += 1
        pid = os.fork()
        if pid == 0:
            work(self._config, self._last_number, self._until_s)
        self.workers[pid] = self._last_number

    def _reap(self) -> None:
        while self.workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            number = self.workers.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            # SIGTERM ends one that had not yet begun.
            if code not in (0, -signal.SIGKILL, -signal.SIGTERM):
                self.failed.append(f"worker {number} ended with {code}")

    def _is_suspect(self, number: int) -> bool:
        now = time.time()
        ledgers = self._folder.glob(f"{number:05d}-*.ledger")
        return any(now - path.stat().st_mtime > _SUSPECT_S for path in ledgers)

    def _kill_worker(self) -> None:
        pid = self._chance.choice(list(self.workers))
        if not self._is_suspect(self.workers[pid]):
            os.kill(pid, signal.SIGKILL)
            self._kills.write(Kill(time.monotonic()))

    def _kill_monitor(self) -> None:
        groups = os.listdir(f"{self._config.runroot}/pods")
        found = monitors(set(groups))
        if found:
            pid, group = self._chance.choice(sorted(found.items()))
            self._kills.write(Kill(time.monotonic(), group))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return


def monitors(groups: set[str]) -> dict[int, str]:
    """The monitors of these groups: pid and group."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                if words[0] == b"podrt-monitor" and is_no_child(Path(f"/proc/{entry}/status")):
                    found[int(entry)] = words[1].decode()
            except OSError:
                continue
    return {pid: group for pid, group in found.items() if group in groups}


def is_no_child(status: Path) -> bool:
    """A container's process before it executes its program looks like its monitor."""
    lines = status.read_text().splitlines()
    return any(line.startswith("NSpid:") and len(line.split()) == 2 for line in lines)


def main() -> int:
    storm = Storm(msgspec.json.decode(sys.argv[1], type=Config))
    storm.rage()
    storm.calm()
    print("\n".join(storm.failed))
    return bool(storm.failed)


if __name__ == "__main__":
    sys.exit(main())
