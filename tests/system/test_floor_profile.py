"""The benchmark's physical limit does all of podrt's work: their containers see the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from podrt import ContainerConfig, PodConfig, open_runtime
from podrt.config import Settings

PROJECT = Path(__file__).resolve().parents[2]
SLEEP = ("/bin/sleep", "100000")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
STATUS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Umask")
# Where a mount comes from and how full it may get differ; what it allows must not.
COUNTED_OPTIONS = {"ro", "rw", "nosuid", "nodev", "noexec", "relatime", "noatime"}


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmarks' floor driver, which is no part of the installed package."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    monkeypatch.syspath_prepend(str(PROJECT))
    from benchmarks import limit

    return limit


@pytest.fixture
def rootfs(benchmarks: ModuleType, tmp_path: Path) -> Path:
    from benchmarks.scene import make_rootfs

    return make_rootfs(tmp_path / "rootfs")


@pytest.fixture
def floor_pid(benchmarks: ModuleType, tmp_path: Path, rootfs: Path) -> Iterator[int]:
    """A container of floor; with it go its cgroups."""
    floor = benchmarks.Floor(tmp_path / "floor", rootfs, count=2)
    command = [*floor.command(floor.work_folder(), "--hold"), "--", *SLEEP]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["pids"][0]


@asynccontextmanager
async def podrt_pid(tmp_path: Path, rootfs: Path, parent: str) -> AsyncIterator[int]:
    """A container of podrt's in a pod of two."""
    from benchmarks.scene import pack_rootfs

    archive = pack_rootfs(rootfs, tmp_path / "rootfs.tar")
    settings = Settings(root=str(tmp_path / "root"), runroot=str(tmp_path / "run"))
    async with open_runtime(settings) as runtime:
        await runtime.import_image(str(archive), "bench")
        members = [ContainerConfig(image="bench", name=name, command=SLEEP) for name in "ab"]
        pod = await runtime.create_pod(PodConfig(name="p", cgroup_parent=parent), members)
        try:
            await pod.start()
            yield runtime.container("a").facts().pid
        finally:
            await pod.remove(force=True, timeout_s=0)


def namespaces(pid: int) -> dict[str, bool]:
    """Which namespaces are not the host's."""
    return {
        kind: os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
        for kind in NAMESPACES
    }


def mounts(pid: int) -> dict[str, tuple[str, list[str]]]:
    """Each mount point's file system type and what its mount forbids."""
    found = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        # A bound device or file has the type of whatever disk it lies on.
        shown = "bound" if kind in ("ext4", "xfs", "btrfs", "devtmpfs") else kind
        allowed = sorted(set(fields[5].split(",")) & COUNTED_OPTIONS)
        found[fields[4]] = (shown, allowed)
    return found


def devices(pid: int) -> dict[str, tuple[int, ...] | str]:
    """What lies in /dev: numbers and mode of nodes, targets of links."""
    found: dict[str, tuple[int, ...] | str] = {}
    for entry in os.scandir(f"/proc/{pid}/root/dev"):
        status = entry.stat(follow_symlinks=False)
        if entry.is_symlink():
            found[entry.name] = os.readlink(entry.path)
        else:
            found[entry.name] = (status.st_mode, os.major(status.st_rdev), os.minor(status.st_rdev))
    return found


def cgroup_depths(pid: int) -> dict[str, int]:
    """The hierarchies a process has a group of its own in, and how deep that lies."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    fields = [line.split(":", 2) for line in lines]
    return {controllers: path.rstrip("/").count("/") for _, controllers, path in fields}


def limits(pid: int) -> dict[str, list[str]]:
    """The pids limit and, on v1, the device rules of a process's cgroup."""
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for name in ("pids.max", "devices.list"):
            file = Path(f"/sys/fs/cgroup/{controllers}{path}/{name}")
            if file.exists():
                found[name] = sorted(file.read_text().splitlines())
    return found


def view(pid: int) -> dict[str, Any]:
    """All that is compared of one container."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return {
        "namespaces": namespaces(pid),
        "mounts": mounts(pid),
        "devices": devices(pid),
        "cgroups": cgroup_depths(pid),
        "limits": limits(pid),
        "descriptors": sorted(os.listdir(f"/proc/{pid}/fd")),
        "status": {name: status[name].strip() for name in STATUS},
    }


async def test_start_container_gives_floors_the_view_of_podrts(
    floor_pid: int, tmp_path: Path, rootfs: Path, cgroup_parent: str
) -> None:
    async with podrt_pid(tmp_path, rootfs, cgroup_parent) as pid:
        ours, floors = view(pid), view(floor_pid)
    assert ours == floors
    assert ours["limits"]["pids.max"] == ["2048"]
