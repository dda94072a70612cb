"""podrt itself, as a library call and as a command, with a root of its own."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from podrt import ContainerConfig, PodConfig, Runtime, open_runtime
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
        self.call(lambda runtime: runtime.import_image(str(archive), IMAGE))

    def call(self, do: Callable[[Runtime], Awaitable[object]]) -> None:
        """Open a runtime and do something with it."""

        async def opened() -> None:
            async with open_runtime(self.settings()) as runtime:
                await do(runtime)

        trio.run(opened)

    def create_pod(self, name: str, containers: int, program: Sequence[str] = SLEEP) -> None:
        """A pod of containers that do not depend on each other, made through the library."""
        members = [
            ContainerConfig(image=IMAGE, name=f"{name}-{index}", command=tuple(program))
            for index in range(containers)
        ]
        config = PodConfig(name=name, cgroup_parent=self.parent)
        self.call(lambda runtime: runtime.create_pod(config, members))

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
        self.call(lambda runtime: runtime.pod(name).stop(timeout_s=0))

    def close(self) -> None:
        self.call(self._remove_pods)
        wait_gone(str(self.folder))
        remove_cgroups(self.parent)
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    async def _remove_pods(runtime: Runtime) -> None:
        await runtime.remove_pods(runtime.pods(), force=True, timeout_s=0)
