"""Infra containers with a process: shared pid and cgroup namespaces, a command, an image."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from doubles.commands import BUSYBOX, Podrt
from doubles.places import Place, is_frozen, is_gone, open_place, until
from podrt.engines.liveness import has_monitor
from podrt.errors import WalkFailed
from podrt.model.pod import DEFAULT_SHARE, PodConfig
from podrt.model.states import PodState
from podrt.model.userns import UserNamespace
from podrt.runtime.pod import Pod

WITH_PID = DEFAULT_SHARE | {"pid"}


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


async def pod_of(place: Place, *names: str, **config: object) -> Pod:
    """A running pod that shares pid, unless `config` says otherwise."""
    wanted = {"share": WITH_PID, "infra_name": "lead", **config}
    pod = await place.runtime.create_pod(
        PodConfig(name="shop", cgroup_parent=place.cgroup_parent, **wanted)  # type: ignore[arg-type]
    )
    for name in names:
        await place.add(pod, name)
    await pod.start()
    return pod


def space(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def read(path: str) -> str:
    """What is in a file; "" if there is none."""
    try:
        return Path(path).read_text().strip()
    except FileNotFoundError:
        return ""


def status(pid: int, field: str) -> str:
    return read(f"/proc/{pid}/status").partition(f"{field}:")[2].split("\n")[0].strip()


def inner_pid(pid: int) -> int:
    return int(status(pid, "NSpid").split()[-1])


@contextlib.contextmanager
def held(pid: int) -> Iterator[None]:
    """While its number cannot be given again, a new pid namespace is known by it."""
    fd = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
    try:
        yield
    finally:
        os.close(fd)


async def test_members_are_in_the_pid_namespace_of_a_pause_process(place: Place) -> None:
    await pod_of(place, "a", "b")
    lead, a, b = (place.pid(name) for name in ("lead", "a", "b"))
    assert read(f"/proc/{lead}/comm") == "pause"
    assert inner_pid(lead) == 1
    assert inner_pid(a) > 1
    for kind in ("pid", "net", "ipc", "uts"):
        assert len({space(pid, kind) for pid in (lead, a, b)}) == 1
        assert space(lead, kind) != space(os.getpid(), kind)
    assert len({space(pid, "mnt") for pid in (lead, a, b)}) == 3
    # Each sees the other in its own /proc.
    assert read(f"/proc/{a}/root/proc/{inner_pid(b)}/comm") == "sleep"
    assert read(f"/proc/{a}/root/proc/1/comm") == "pause"
    assert place.states() == {"infra": "running", "a": "running", "b": "running"}


async def test_the_pause_process_reaps_what_members_leave_behind(place: Place) -> None:
    pod = await pod_of(place)
    script = "(sh -c 'echo $$ > /tmp/pid; exec sleep 0.05' &) ; sleep 1000"
    await place.add(pod, "a", "/bin/sh", "-c", f"mkdir -p /tmp; {script}")
    await pod.start()
    lead = place.pid("lead")
    root = f"/proc/{place.pid('a')}/root"
    await until(lambda: read(f"{root}/tmp/pid") != "")
    inner = read(f"{root}/tmp/pid")
    # Neither alive nor a zombie: PID 1 took it.
    await until(lambda: not read(f"{root}/proc/{inner}/stat"))
    assert not is_gone(lead)


async def test_the_infra_container_can_change_nothing(place: Place) -> None:
    await pod_of(place)
    root = Path(f"/proc/{place.pid('lead')}/root")
    assert set(os.listdir(root)) == {"dev", "etc", "pause", "proc", "run", "sys", "tmp", "var"}
    with pytest.raises(OSError, match="Read-only file system"):
        (root / "new").touch()


async def test_stop_ends_the_infra_last_and_start_makes_new_namespaces(place: Place) -> None:
    pod = await pod_of(place, "a")
    before = {name: place.pid(name) for name in ("lead", "a")}
    old = space(before["lead"], "pid")
    with held(before["lead"]):
        await pod.stop()
        assert all(map(is_gone, before.values()))
        assert place.facts("a").finished_at_ns <= place.facts("lead").finished_at_ns
        assert place.facts("lead").exit_code == 0
        assert place.states() == {"infra": "exited", "a": "exited"}
        await until(lambda: not has_monitor(place.ctx.layout, pod.id))
        await pod.start()
        new = space(place.pid("lead"), "pid")
        assert new != old
    assert space(place.pid("a"), "pid") == new
    assert place.states() == {"infra": "running", "a": "running"}


async def test_restart_gives_all_of_them_one_new_namespace(place: Place) -> None:
    pod = await pod_of(place, "a", "b")
    lead = place.pid("lead")
    old = space(lead, "pid")
    with held(lead):
        await pod.restart()
        assert is_gone(lead)
        spaces = {space(place.pid(name), "pid") for name in ("lead", "a", "b")}
        assert len(spaces) == 1
        assert spaces != {old}


async def test_with_its_first_process_the_whole_pod_ends_and_starts_again(place: Place) -> None:
    pod = await pod_of(place, "a", "b")
    os.kill(place.pid("lead"), signal.SIGKILL)
    await until(lambda: set(place.states().values()) == {"stopped"})
    assert {place.facts(name).exit_code for name in ("lead", "a", "b")} == {137}
    assert pod.state() is PodState.EXITED
    # Nothing of the dead namespace is offered to who comes next.
    assert "pid" not in os.listdir(f"{place.ctx.layout.group_run(pod.id)}/ns")
    await pod.start()
    assert len({space(place.pid(name), "pid") for name in ("lead", "a", "b")}) == 1
    assert pod.state() is PodState.RUNNING


async def test_starting_one_member_of_a_dead_pod_brings_its_infra_back(place: Place) -> None:
    await pod_of(place, "a", "b")
    os.kill(place.pid("lead"), signal.SIGKILL)
    await until(lambda: set(place.states().values()) == {"stopped"})
    await place.runtime.container("a").start()
    assert place.states() == {"infra": "running", "a": "running", "b": "stopped"}
    assert space(place.pid("a"), "pid") == space(place.pid("lead"), "pid")


@pytest.mark.parametrize("has_members", [True, False])
async def test_a_dead_monitor_s_pod_is_taken_over_with_its_pid_namespace(
    place: Place, has_members: bool
) -> None:
    pod = await pod_of(place, *(["a"] if has_members else []))
    lead = place.pid("lead")
    monitor = int(status(lead, "PPid"))
    os.kill(monitor, signal.SIGKILL)
    await until(lambda: is_gone(monitor))
    assert place.states()["infra"] == "running"
    await place.add(pod, "late")
    await pod.start()
    assert place.pid("lead") == lead
    assert space(place.pid("late"), "pid") == space(lead, "pid")
    assert space(place.pid("late"), "net") == space(lead, "net")
    await pod.stop()
    assert set(place.states().values()) == {"exited"}


async def test_pause_and_unpause_concern_the_infra_too(place: Place) -> None:
    pod = await pod_of(place, "a", "b")
    folders = [place.freezer(name) for name in ("lead", "a", "b")]
    await pod.pause()
    assert all(map(is_frozen, folders))
    assert pod.state() is PodState.PAUSED
    await place.runtime.container("a").unpause()
    assert [is_frozen(folder) for folder in folders] == [False, False, True]
    assert place.states() == {"infra": "running", "a": "running", "b": "paused"}
    await pod.unpause()
    assert pod.state() is PodState.RUNNING
    assert not any(map(is_frozen, folders))


async def test_without_a_pod_cgroup_each_is_paused_and_started_by_itself(place: Place) -> None:
    pod = await pod_of(place, "a", use_pod_cgroup=False)
    await pod.pause()
    assert pod.state() is PodState.PAUSED
    late = await place.add(pod, "late")
    await late.start()
    assert place.states() == {"infra": "running", "a": "paused", "late": "running"}


async def test_the_infra_stays_with_a_paused_member(place: Place) -> None:
    pod = await pod_of(place, "a", "b")
    await place.runtime.container("a").pause()
    lead = place.pid("lead")
    await pod.stop()
    assert place.states() == {"infra": "running", "a": "paused", "b": "exited"}
    with pytest.raises(WalkFailed):
        await pod.start()
    assert place.pid("lead") == lead
    await pod.unpause()
    await pod.stop()
    assert set(place.states().values()) == {"exited"}


async def test_kill_reaches_the_infra_and_the_pod_exits(place: Place) -> None:
    pod = await pod_of(place, "a")
    await pod.kill(signal.SIGKILL)
    await until(lambda: pod.state() is PodState.EXITED)
    assert place.facts("lead").by_user


async def test_a_pod_of_nothing_but_its_infra_is_removed_without_asking(place: Place) -> None:
    pod = await pod_of(place)
    lead = place.pid("lead")
    await pod.remove()
    assert is_gone(lead)


async def test_share_cgroup_shows_members_the_infra_s_root(place: Place) -> None:
    await pod_of(place, "a", share=frozenset({"net", "cgroup"}))
    lead, a = place.pid("lead"), place.pid("a")
    assert space(a, "cgroup") == space(lead, "cgroup") != space(os.getpid(), "cgroup")
    assert space(a, "pid") != space(lead, "pid")


@pytest.mark.parametrize("share", [frozenset({"pid"}), WITH_PID], ids=sorted)
async def test_share_pid_in_a_user_namespace(place: Place, share: frozenset[str]) -> None:
    maps = ("0:100000:65536",)
    userns = UserNamespace(mode="", uid_maps=maps, gid_maps=maps)
    await pod_of(place, "a", share=share, userns=userns)
    lead, a = place.pid("lead"), place.pid("a")
    assert space(a, "pid") == space(lead, "pid")
    assert space(a, "user") == space(lead, "user") != space(os.getpid(), "user")
    assert read(f"/proc/{lead}/uid_map").split() == ["0", "100000", "65536"]


async def test_a_command_runs_in_an_image(place: Place) -> None:
    pod = await pod_of(
        place,
        "a",
        share=None,
        infra_image="base",
        infra_command=("/bin/sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.02; done"),
        hostname="desk",
    )
    lead, a = place.pid("lead"), place.pid("a")
    assert read(f"/proc/{lead}/comm") == "sh"
    assert space(a, "pid") != space(lead, "pid")
    assert space(a, "net") == space(lead, "net")
    await until(lambda: int(status(lead, "SigCgt"), 16) & 1 << signal.SIGTERM - 1 != 0)
    await place.runtime.container("a").stop()
    await pod.stop(timeout_s=20)
    assert place.facts("lead").exit_code == 3


async def test_an_infra_that_shares_nothing_runs_from_start_to_stop(place: Place) -> None:
    pod = await pod_of(place, share=frozenset(), infra=True)
    assert pod.state() is PodState.RUNNING
    await place.add(pod, "a")
    await pod.start()
    monitor = int(status(place.pid("a"), "PPid"))
    for kind in ("net", "ipc", "uts", "pid"):
        assert space(place.pid("a"), kind) != space(monitor, kind)
    await pod.stop()
    assert pod.state() is PodState.EXITED


async def test_the_infra_without_uts_is_named_as_its_pod(place: Place) -> None:
    await pod_of(place, "a", share=frozenset({"pid"}))
    lead = place.pid("lead")
    found = await trio.run_process(
        ["nsenter", "-t", str(lead), "-u", "hostname"], capture_stdout=True
    )
    assert found.stdout == b"shop\n"
    assert space(place.pid("a"), "uts") != space(lead, "uts")


async def test_a_member_may_keep_out_of_the_shared_pid_namespace(podrt: Podrt) -> None:
    podrt("pod", "create", "--share", "+pid,+cgroup", "--infra-name", "lead", "shop")
    podrt("create", "--pod", "shop", "--name", "in", "base", "sleep", "1000")
    podrt("create", "--pod", "shop", "--name", "own", "--pid", "private", "base", "sleep", "1000")
    podrt("pod", "start", "shop")
    pids = {
        name: int(podrt("inspect", "--format", "{{.State.Pid}}", name))
        for name in ("lead", "in", "own")
    }
    for kind in ("pid", "cgroup"):
        assert space(pids["in"], kind) == space(pids["lead"], kind)
    assert space(pids["own"], "cgroup") == space(pids["lead"], "cgroup")
    assert inner_pid(pids["own"]) == 1
    assert podrt("pod", "ps", "--format", "{{.Status}}").split() == ["Running"]


REFUSED = (
    (("--infra=false", "--share", "pid"), "Pods must have an infra container"),
    (("--infra=false", "--share", "+pid"), "Pods must have an infra container"),
    (("--share", "time"), "invalid kernel namespace to share"),
    (("--infra-command", "/bin/sh"), "only holds /pause"),
    (("--infra=false", "--infra-command", "/pause"), "the pod has no infra container"),
    (("--infra-image", "nowhere"), "nowhere"),
)


def test_what_cannot_be_is_refused_before_anything_is_made(podrt: Podrt) -> None:
    for flags, error in REFUSED:
        assert error in podrt.fails(125, "pod", "create", *flags, "shop")
    assert podrt("pod", "ps", "-q") == ""


def test_a_command_that_the_image_lacks_fails_the_start_in_one_line(podrt: Podrt) -> None:
    podrt("pod", "create", "--infra-image", "base", "--infra-command", "/no/such", "shop")
    assert "/no/such" in podrt.fails(125, "pod", "start", "shop")
    podrt("pod", "rm", "shop")


async def test_many_members_join_at_once(place: Place) -> None:
    names = [f"m{number}" for number in range(12)]
    with trio.fail_after(60):
        pod = await pod_of(place, *names)
    assert len({space(place.pid(name), "pid") for name in ("lead", *names)}) == 1
    assert pod.state() is PodState.RUNNING
