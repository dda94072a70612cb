"""New limits of pods and containers, as their cgroups hold them: now, and at a later start."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from doubles.commands import BUSYBOX, Podrt
from doubles.places import Place, open_place
from podrt.errors import InvalidConfig
from podrt.model.resources import DeviceRate, Resources

MIB = 1 << 20
READ_BPS_FILES = ("blkio.throttle.read_bps_device", "io.max")


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


def read(path: str) -> str:
    """A file's text; "" if there is none."""
    return Path(path).read_text() if Path(path).exists() else ""


def read_json(path: str) -> Any:
    return json.loads(read(path))


def disk() -> tuple[int, int] | None:
    """The numbers of a disk of this machine."""
    for entry in sorted(Path("/sys/block").iterdir()):
        if entry.name.startswith(("vd", "sd", "nvme")):
            major, _, minor = read(f"{entry}/dev").strip().partition(":")
            return int(major), int(minor)
    return None


def limits(place: Place, path: str) -> Resources:
    """What the kernel holds."""
    return place.ctx.cgroups.limits(path)


async def test_update_of_a_running_container_changes_its_cgroup_and_its_later_starts(
    place: Place,
) -> None:
    await place.pod("a")
    a = place.runtime.container("a")
    path = a.record().cgroup_path
    pid = place.pid("a")
    await a.update(Resources(memory_bytes=64 * MIB, cpu_quota_us=50_000))
    await a.update(Resources(pids_limit=100))
    for _ in range(2):
        found = limits(place, path)
        assert (found.memory_bytes, found.cpu_quota_us, found.pids_limit) == (
            64 * MIB, 50_000, 100,
        )  # fmt: skip
        if place.pid("a") != pid:
            break
        await a.restart()
    assert (
        read_json(place.ctx.layout.spec(a.id))["linux"]["resources"]["memory"]["limit"] == 64 * MIB
    )
    # Upwards past what memory and swap together were, and down again.
    for size in (512 * MIB, 32 * MIB):
        await a.update(Resources(memory_bytes=size))
        assert limits(place, path).memory_bytes == size


async def test_update_of_a_container_that_never_ran_holds_at_its_start(place: Place) -> None:
    pod = await place.empty_pod()
    a = await place.add(pod, "a")
    await a.update(Resources(cpu_shares=512))
    await a.start()
    assert limits(place, a.record().cgroup_path).cpu_shares == 512


async def test_update_of_a_pod_limits_all_members_together_now_and_later(place: Place) -> None:
    pod = await place.pod("a")
    path = pod.record().cgroup_path
    await pod.update(Resources(memory_bytes=128 * MIB, pids_limit=200))
    assert limits(place, path).memory_bytes == 128 * MIB
    await pod.stop(timeout_s=0)
    assert not place.ctx.cgroups.exists(path)
    await pod.start()
    assert (limits(place, path).memory_bytes, limits(place, path).pids_limit) == (128 * MIB, 200)


async def test_update_that_the_kernel_refuses_changes_nothing(place: Place) -> None:
    pod = await place.pod("a")
    a = place.runtime.container("a")
    before = limits(place, a.record().cgroup_path), a.record(), pod.record()
    # The first would be taken, the second is no processor of this machine.
    for verb in (a.update, pod.update):
        with pytest.raises(InvalidConfig, match="--cpuset-cpus"):
            await verb(Resources(cpu_shares=77, cpuset_cpus="4095"))
        with pytest.raises(InvalidConfig, match="--cpu-period"):
            await verb(Resources(cpu_period_us=1))
    assert (limits(place, a.record().cgroup_path), a.record(), pod.record()) == before


async def test_update_bounds_what_is_read_from_one_device(place: Place) -> None:
    numbers = disk()
    if numbers is None:
        pytest.skip("needs a disk")
    await place.pod("a")
    a = place.runtime.container("a")
    await a.update(Resources(device_read_bps=(DeviceRate(*numbers, MIB),)))
    dirs = place.ctx.cgroups.join_dirs(a.record().cgroup_path)
    texts = [read(f"{one}/{name}") for one in dirs for name in READ_BPS_FILES]
    assert any(f"{numbers[0]}:{numbers[1]}" in text and str(MIB) in text for text in texts), texts


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("update",), "accepts 1 arg(s), received 0"),
        (("update", "a", "b", "--cpus", "1"), "accepts 1 arg(s), received 2"),
        (("update", "a"), "nothing to update"),
        (("update", "none", "--cpus", "1"), "no such container: none"),
        (("update", "a", "--cpus", "many"), "--cpus: 'many'"),
        (("update", "a", "--memory", "1q"), "--memory: invalid size"),
        (("update", "a", "--memory-swap", "1g"), "--memory"),
        (("update", "a", "--device-read-bps", "/dev/null:1m"), "/dev/null is no block device"),
        (("update", "a", "--device-read-bps", "/dev/none:1m"), "/dev/none: No such file"),
        (("update", "a", "--device-write-iops", "vda"), "bad format"),
        (("pod", "update"), "accepts 1 arg(s), received 0"),
        (("pod", "update", "none", "--cpus", "1"), "no such pod: none"),
        (("pod", "update", "shop"), "nothing to update"),
    ],
)
async def test_update_with_a_wrong_command_line_says_so(
    place: Place, tmp_path: Path, words: tuple[str, ...], reason: str
) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "a")
    error = await trio.to_thread.run_sync(lambda: Podrt(tmp_path).fails(125, *words))
    assert reason in error
