"""New limits of pods and containers, as their cgroups hold them, and restart policies on real
processes: now, and at a later start."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from doubles.commands import BUSYBOX, Podrt, monitors_of
from doubles.places import SLEEP, Place, is_gone, open_place, until
from podrt.errors import InvalidConfig
from podrt.model.container import ContainerConfig, InitKind
from podrt.model.resources import DeviceRate, Resources
from podrt.model.states import ContainerState
from podrt.runtime.container import Container

MIB = 1 << 20
FAILING = ("/bin/sh", "-c", "exit 3")
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


# --- restart policies ---------------------------------------------------------------------------


async def command(tmp_path: Path, *words: str) -> None:
    """Run podrt, as another process than the one that made the containers."""
    await trio.to_thread.run_sync(lambda: Podrt(tmp_path)(*words))


async def member(
    place: Place,
    pod: str,
    name: str,
    *words: str,
    restart: str = "",
    auto_remove: bool = False,
) -> Container:
    """A container in a pod, or alone, with a restart policy of its own."""
    return await place.runtime.create_container(
        ContainerConfig(
            name=name,
            image="base",
            pod=pod,
            command=words or SLEEP,
            restart_policy=restart,
            auto_remove=auto_remove,
            stop_timeout_s=0,
            cgroup_parent="" if pod else place.cgroup_parent,
        )
    )


async def killed_and_back(place: Place, name: str) -> None:
    """Kill a container's process from outside; its monitor puts another in its cgroup."""
    pid, path = place.pid(name), place.runtime.container(name).record().cgroup_path
    os.kill(pid, signal.SIGKILL)
    await until(lambda: is_gone(pid) and place.pid(name) != pid and not is_gone(place.pid(name)))
    await until(lambda: place.states()[name] == "running")
    assert in_cgroup(place, path) == [place.pid(name)]


async def killed_for_good(place: Place, name: str) -> None:
    """Kill a container's process from outside; nothing follows it."""
    pid, path = place.pid(name), place.runtime.container(name).record().cgroup_path
    run = place.facts(name).run
    os.kill(pid, signal.SIGKILL)
    await until(lambda: place.states()[name] == "stopped")
    assert is_gone(pid) and in_cgroup(place, path) == []
    assert (place.facts(name).run, place.facts(name).due_at_ns) == (run, 0)


def in_cgroup(place: Place, path: str) -> list[int]:
    found = {
        int(word)
        for one in place.ctx.cgroups.join_dirs(path)
        for word in read(f"{one}/cgroup.procs").split()
    }
    return sorted(found)


def kill_monitor(place: Place, group_id: str) -> None:
    (pid,) = monitors_of(place.ctx.layout.group_run(group_id))
    os.kill(pid, signal.SIGKILL)


async def until_waiting(place: Place, name: str) -> None:
    """Wait until it is in a back-off that lasts some time."""
    await until(lambda: place.facts(name).restarts >= 3 and place.states()[name] == "restarting")


async def test_update_of_a_running_container_s_policy_is_kept_by_its_monitor(
    place: Place, tmp_path: Path
) -> None:
    one = await member(place, "", "a")
    await one.start()
    pid = place.pid("a")
    await command(tmp_path, "update", "--restart", "always", "a")
    assert place.pid("a") == pid
    await killed_and_back(place, "a")
    await command(tmp_path, "update", "--restart", "no", "a")
    await killed_for_good(place, "a")
    # Later starts have it as well, with a number and beside limits.
    await command(tmp_path, "update", "--restart", "on-failure:1", "--memory", "64m", "a")
    await one.start()
    assert limits(place, one.record().cgroup_path).memory_bytes == 64 * MIB
    await killed_and_back(place, "a")
    await killed_for_good(place, "a")


async def test_update_of_a_pod_s_policy_is_for_members_without_their_own(
    place: Place, tmp_path: Path
) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "seed", "/bin/true", init=InitKind.ALWAYS)
    await place.add(pod, "a")
    own = await member(place, pod.id, "own", restart="no")
    await pod.start()
    await command(tmp_path, "pod", "update", "--restart", "always", "shop")
    await killed_and_back(place, "a")
    await killed_for_good(place, "own")
    assert place.facts("seed").run == 1
    await own.start()
    await command(tmp_path, "update", "--restart", "", "own")
    await killed_and_back(place, "own")
    await command(tmp_path, "pod", "update", "--restart", "no", "shop")
    for name in ("a", "own"):
        await killed_for_good(place, name)


@pytest.mark.parametrize("is_in_pod", [False, True])
@pytest.mark.parametrize("has_monitor", [True, False])
async def test_update_to_no_ends_a_back_off_and_who_waits_for_its_end(
    place: Place, tmp_path: Path, is_in_pod: bool, has_monitor: bool
) -> None:
    pod = await place.empty_pod() if is_in_pod else None
    one = await member(place, pod.id if pod else "", "a", *FAILING)
    target = ("pod", "update", "shop") if pod else ("update", "a")
    await command(tmp_path, *target, "--restart", "always")
    await one.start()
    await until_waiting(place, "a")
    codes = []

    async def wait() -> None:
        codes.append(await one.wait())

    async with trio.open_nursery() as nursery:
        if has_monitor:
            nursery.start_soon(wait)
        else:
            kill_monitor(place, one.record().group_id)
        await command(tmp_path, *target, "--restart", "no")
        await until(lambda: one.state() is ContainerState.STOPPED)
        if not has_monitor:
            nursery.start_soon(wait)
    assert codes == [3]
    assert one.facts().due_at_ns == 0


async def test_update_tells_the_next_monitor_when_the_last_one_died(
    place: Place, tmp_path: Path
) -> None:
    one = await member(place, "", "a")
    await one.start()
    kill_monitor(place, one.id)
    await until(lambda: not monitors_of(place.ctx.layout.group_run(one.id)))
    await command(tmp_path, "update", "--restart", "always", "a")
    await killed_and_back(place, "a")


# --- the command line ---------------------------------------------------------------------------


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
        (("update", "a", "--restart", "sometimes"), "'sometimes' is not a valid restart policy"),
        (("update", "a", "--restart", "on-failure:x"), "restart policy retry count: 'x'"),
        (("update", "a", "--restart", "on-failure:-1"), "restart policy retry count: '-1'"),
        (("update", "a", "--restart", "always:3"), "can only be specified with on-failure"),
        (("update", "once", "--restart", "always"), "--restart with --init-ctr"),
        (("update", "gone", "--restart", "always"), "--rm option conflicts with --restart"),
        (("update", "a", "--restart", "always", "--memory-swap", "1g"), "--memory"),
        (("pod", "update", "shop", "--restart", "sometimes"), "not a valid restart policy"),
        (("pod", "update", "shop", "--restart", "on-failure:x"), "restart policy retry count"),
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
    await place.add(pod, "once", "/bin/true", init=InitKind.ALWAYS)
    await member(place, pod.id, "gone", auto_remove=True)
    before = pod.record(), [one.record() for one in pod.containers()]
    error = await trio.to_thread.run_sync(lambda: Podrt(tmp_path).fails(125, *words))
    assert reason in error
    assert (pod.record(), [one.record() for one in pod.containers()]) == before
