"""Drives floor, the physical limit: folders as after a create, one run per measurement."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from .scene import build_floor, default_filter

FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf")


class Floor:
    """N containers started by floor, in one pod or several."""

    def __init__(self, folder: Path, rootfs: Path, *, count: int, per_pod: int = 0) -> None:
        self.folder, self.rootfs = folder, rootfs
        self.count, self.per_pod = count, per_pod or count
        self.program = build_floor()
        self.cgroup = f"podrt_test_floor_{folder.parent.name}_{folder.name}"
        self.rounds = 0

    def work_folder(self) -> Path:
        """Fresh overlay folders and files, which a create would have made."""
        work = self.folder / f"work{self.rounds}"
        self.rounds += 1
        for point in ("proc", "sys", "dev", "etc"):
            (work / "points" / point).mkdir(parents=True)
        for name in FILES:
            (work / "points" / name).touch()
        for name in ("hosts", "hostname", "resolv.conf"):
            (work / name).write_text("127.0.0.1 localhost\n" if name == "hosts" else "")
        (work / "merged").mkdir()
        for pod in range((self.count - 1) // self.per_pod + 1):
            (work / f"shm{pod}").mkdir()
        for index in range(self.count):
            (work / str(index) / "upper").mkdir(parents=True)
            (work / str(index) / "work").mkdir()
        return work

    def command(self, work: Path, *options: str) -> list[str]:
        words = ["--rootfs", self.rootfs, "--work", work, "--filter", default_filter()]
        size = ["--count", self.count, "--per-pod", self.per_pod, "--cgroup", self.cgroup]
        return [str(word) for word in [self.program, *words, *size, *options]]

    def measure(self, *options: str) -> float:
        """Milliseconds until every exec was confirmed."""
        work = self.work_folder()
        try:
            command = [*self.command(work, *options), "--", "/bin/sleep", "100000"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise RuntimeError(f"floor failed: {result.stderr.strip()}")
            return float(json.loads(result.stdout)["total_ms"])
        finally:
            shutil.rmtree(work)

    def measure_serial(self) -> float:
        """The same, each exec waited for before the next clone."""
        return self.measure("--serial")
