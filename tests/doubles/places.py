"""A runtime below a directory of a test's own, and what the kernel says of its containers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from doubles.commands import busybox_archive
from podrt.config import Settings
from podrt.model.container import ContainerConfig, Dependency, InitKind
from podrt.model.pod import PodConfig
from podrt.model.states import Facts
from podrt.runtime.container import Container
from podrt.runtime.context import Context
from podrt.runtime.pod import Pod
from podrt.runtime.runtime import Runtime, open_runtime

CGROUPS = Path("/sys/fs/cgroup")
SLEEP = ("/bin/sleep", "1000")


class Place:
    """A runtime with the image `base`, and short words for what tests ask it."""

    def __init__(self, runtime: Runtime, cgroup_parent: str) -> None:
        self.runtime = runtime
        self.ctx: Context = runtime._ctx
        self.cgroup_parent = cgroup_parent

    async def pod(self, *names: str, pod: str = "shop") -> Pod:
        """A running pod of sleeping containers."""
        found = await self.empty_pod(pod)
        for name in names:
            await self.add(found, name)
        if names:
            await found.start()
        return found

    async def empty_pod(self, name: str = "shop") -> Pod:
        """A pod with nothing but its infra container."""
        config = PodConfig(name=name, cgroup_parent=self.cgroup_parent)
        return await self.runtime.create_pod(config)

    async def add(
        self,
        pod: Pod | None,
        name: str,
        *command: str,
        needs: tuple[str, ...] = (),
        init: InitKind | None = None,
        stop_timeout_s: int = 0,
    ) -> Container:
        """A container, in a pod or alone; it sleeps unless `command` says otherwise."""
        return await self.runtime.create_container(
            ContainerConfig(
                name=name,
                image="base",
                pod=pod.id if pod is not None else "",
                command=command or SLEEP,
                requires=tuple(Dependency(need) for need in needs),
                init=init,
                stop_timeout_s=stop_timeout_s,
                cgroup_parent="" if pod is not None else self.cgroup_parent,
            )
        )

    def states(self) -> dict[str, str]:
        """Name -> state of every container; infra containers are called "infra"."""
        self.ctx.view.refresh()
        return {
            "infra" if one.config.is_infra else one.config.name: str(self.ctx.view.state(one))
            for one in self.ctx.view.containers()
        }

    def facts(self, name: str) -> Facts:
        """What is known of a container."""
        return self.runtime.container(name).facts()

    def pid(self, name: str) -> int:
        """A container's process."""
        return self.facts(name).pid

    def freezer(self, name: str) -> Path:
        """The cgroup directory in which a container is frozen."""
        return freezer_of(self.pid(name))


@asynccontextmanager
async def open_place(
    folder: Path, cgroup_parent: str, *, cgroup_manager: str = "cgroupfs"
) -> AsyncIterator[Place]:
    """A place that must be left clean: nothing that `system check` could find, no file."""
    settings = Settings(
        root=str(folder / "root"), runroot=str(folder / "run"), cgroup_manager=cgroup_manager
    )
    async with open_runtime(settings) as runtime:
        await runtime.import_image(str(busybox_archive(folder / "busybox.tar")), "base")
        try:
            yield Place(runtime, cgroup_parent)
            assert await runtime.check() == []
        finally:
            with trio.CancelScope(shield=True):
                await runtime.remove_pods(runtime.pods(), force=True, timeout_s=0)
                for container in runtime.containers():
                    await container.remove(force=True, timeout_s=0)
                await runtime.check(repair=True)
        assert os.listdir(settings.layout.run_dir) == []
        assert os.listdir(settings.layout.journal_dir) == []


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until `is_so`, for 20 s at most."""
    with trio.fail_after(20):
        while not is_so():
            await trio.sleep(0.002)


def freezer_of(pid: int) -> Path:
    """The cgroup directory in which a process is frozen: the v1 freezer's, or the only one."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if controllers == "freezer":
            return CGROUPS / "freezer" / path[1:]
    return CGROUPS / next(path for _, controllers, path in lines if not controllers)[1:]


def is_frozen(folder: Path) -> bool:
    """Whether everything in a cgroup stands still, wherever that was asked for."""
    if (folder / "freezer.state").exists():
        return (folder / "freezer.state").read_text().strip() == "FROZEN"
    return "frozen 1" in (folder / "cgroup.events").read_text()


def is_frozen_itself(folder: Path) -> bool:
    """Whether the freeze was asked for here, not above."""
    if (folder / "freezer.state").exists():
        return (folder / "freezer.self_freezing").read_text().strip() == "1"
    return (folder / "cgroup.freeze").read_text().strip() == "1"


def is_gone(pid: int) -> bool:
    """Whether a process has ended; nobody may have reaped it yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def cpu_ticks(pid: int) -> int:
    """The CPU time a process has used, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
