"""podrt itself, as a library call and as a command, with a root of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import trio

from podrt import ContainerConfig, PodConfig, open_runtime
from podrt.config import Settings

from .peers import remove_cgroups, timed_ms, wait_gone

IMAGE = "bench"
SLEEP = ("/bin/sleep", "100000")


def command() -> list[str]:
    """The installed program if there is one, so that no compile time is measured."""
    installed = Path(sys.executable).parent / "podrt"
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "podrt"]


class Podrt:
    """A runtime below one folder, with a cgroup parent that is removed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parent = f"/podrt_test_bench_{folder.parent.name}"
        self.root, self.runroot = str(folder / "root"), str(folder / "runroot")
        folder.mkdir()
        self.program = [*command(), "--root", self.root, "--runroot", self.runroot]

    def settings(self) -> Settings:
        return Settings(root=self.root, runroot=self.runroot)

    def run(self, *words: str) -> float:
        """Run one command; milliseconds for the whole process."""
        return timed_ms([*self.program, *words])

    def import_image(self, archive: Path) -> None:
        self.run("image", "import", str(archive), IMAGE)

    def create_pod(self, name: str, containers: int) -> None:
        """A pod of containers that do not depend on each other, made through the library."""
        trio.run(self._create_pod, name, containers)

    async def _create_pod(self, name: str, containers: int) -> None:
        members = [
            ContainerConfig(image=IMAGE, name=f"{name}-{index}", command=SLEEP)
            for index in range(containers)
        ]
        async with open_runtime(self.settings()) as runtime:
            config = PodConfig(name=name, cgroup_parent=self.parent)
            await runtime.create_pod(config, members)

    def start_by_call(self, name: str) -> float:
        """Milliseconds of `await pod.start()`: from the call until all are running."""
        return trio.run(self._start, name)

    async def _start(self, name: str) -> float:
        async with open_runtime(self.settings()) as runtime:
            pod = runtime.pod(name)
            before = time.perf_counter()
            await pod.start()
            return (time.perf_counter() - before) * 1e3

    def start_by_command(self, name: str) -> float:
        return self.run("pod", "start", name)

    def settle(self, name: str) -> None:
        """End the pod's containers, so that the next start finds none and no monitor."""
        self.run("pod", "kill", name)
        self.run("pod", "stop", "--time", "0", name)

    def close(self) -> None:
        for name in self._pods():
            self.run("pod", "rm", "--force", name)
        wait_gone(str(self.folder))
        remove_cgroups(self.parent)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pods(self) -> list[str]:
        listed = subprocess.run(
            [*self.program, "pod", "ps", "--format", "json"], capture_output=True, check=False
        )
        rows = json.loads(listed.stdout or b"[]")
        return [row.get("Name") or row["name"] for row in rows]
