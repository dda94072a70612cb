"""What verbs do to each other at the awkward moments: cut off, overtaken, left by the dead."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from doubles.commands import BUSYBOX, Podrt, busybox_archive, command_environment, monitors_of
from podrt.config import Settings
from podrt.engines.liveness import has_monitor
from podrt.engines.monitor import open_monitor
from podrt.errors import Busy, NotFound, Removed
from podrt.model.container import ContainerConfig, Dependency, InitKind
from podrt.model.ids import new_id
from podrt.model.pod import PodConfig
from podrt.model.resources import Resources
from podrt.model.states import ContainerState, PodState
from podrt.model.verbs import Verb
from podrt.runtime import create
from podrt.runtime.check import _Checker
from podrt.runtime.claims import claim
from podrt.runtime.container import Container
from podrt.runtime.context import Context
from podrt.runtime.group import _begin_epoch, open_group
from podrt.runtime.pod import Pod
from podrt.runtime.runtime import Runtime, open_runtime
from podrt.runtime.teardown import remove_container
from podrt.store.records import Delete, GroupRecord, ImageRecord, IntentRecord, Put

SLEEP = ("/bin/sleep", "1000")


class Place:
    """A runtime over a root of the test's own, with its rooms."""

    def __init__(self, runtime: Runtime, cgroup_parent: str) -> None:
        self.runtime = runtime
        self.ctx: Context = runtime._ctx
        self.cgroup_parent = cgroup_parent

    def pod_config(self, resources: Resources | None = None) -> PodConfig:
        return PodConfig(
            name="shop", cgroup_parent=self.cgroup_parent, resources=resources or Resources()
        )

    def config(self, name: str, *command: str, needs: tuple[str, ...] = ()) -> ContainerConfig:
        return ContainerConfig(
            name=name,
            image="base",
            command=command or SLEEP,
            stop_timeout_s=0,
            requires=tuple(Dependency(need) for need in needs),
        )

    async def alone(self, name: str) -> Container:
        config = self.config(name)
        return await self.runtime.create_container(
            ContainerConfig(
                name=name,
                image="base",
                command=config.command,
                stop_timeout_s=0,
                cgroup_parent=self.cgroup_parent,
            )
        )

    def states(self, pod: Pod) -> set[ContainerState]:
        self.ctx.view.refresh()
        members = [one for one in self.ctx.view.members(pod.id) if not one.config.is_infra]
        return {self.ctx.view.state(member) for member in members}


@asynccontextmanager
async def place_at(folder: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    settings = Settings(root=str(folder / "root"), runroot=str(folder / "run"))
    async with open_runtime(settings) as runtime:
        await runtime.import_image(str(busybox_archive(folder / "busybox.tar")), "base")
        place = Place(runtime, cgroup_parent)
        try:
            yield place
            assert await runtime.check() == []
        finally:
            with trio.CancelScope(shield=True):
                await runtime.remove_pods(runtime.pods(), force=True, timeout_s=0)
                for container in runtime.containers():
                    await container.remove(force=True, timeout_s=0)
                await runtime.check(repair=True)
        assert os.listdir(settings.layout.run_dir) == []
        assert os.listdir(settings.layout.journal_dir) == []


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with place_at(tmp_path, cgroup_parent) as found:
        yield found


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not is_so():
            await trio.sleep(0.002)


async def test_create_cancelled_while_its_last_commit_is_flushed_is_whole(place: Place) -> None:
    tables = place.ctx.store.tables
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                while tables.id_of_name("shop") is None or tables.count(IntentRecord):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            nursery.start_soon(cancel)
            await place.runtime.create_pod(place.pod_config(), [place.config("a")])
    pod = place.runtime.pod("shop")
    assert pod.id in os.listdir(place.ctx.layout.pods_dir)
    assert (pod.record().lock, pod.id) in set(place.ctx.locks.owners())
    await pod.start()
    await pod.remove(force=True)


async def test_create_with_the_name_of_a_dead_intent_succeeds(place: Place) -> None:
    dead = IntentRecord(id=new_id(), kind="pod", name="shop", pid=1, start_ticks=1)
    place.ctx.record(lambda _: [Put(dead)])
    pod = await place.runtime.create_pod(place.pod_config())
    assert place.ctx.store.tables.id_of_name("shop") == pod.id


async def test_create_from_an_image_removed_meanwhile_leaves_nothing(place: Place) -> None:
    creation = create._Creation(place.ctx, None, is_new_pod=False)
    creation.add(place.config("a"))
    image = place.runtime.image("base")
    place.ctx.record(lambda _: [Delete(ImageRecord, image.id)])
    with pytest.raises(NotFound, match="no such image"):
        await creation.run()
    assert place.runtime.containers() == []


async def test_check_beside_a_creation_finds_nothing(place: Place) -> None:
    checker = _Checker(place.ctx)
    pod = await place.runtime.create_pod(place.pod_config(), [place.config("a")])
    await pod.start()
    assert [finding for finding, _ in checker.problems()] == []
    checker = _Checker(place.ctx)
    await pod.remove(force=True)
    assert [finding for finding, _ in checker.problems()] == []


async def test_start_that_waited_for_a_removal_says_removed_and_leaves_nothing(
    place: Place,
) -> None:
    container = await place.alone("a")
    errors: list[Exception] = []

    async def start() -> None:
        try:
            await container.start()
        except Removed as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        async with claim(place.ctx, container.id, Verb.REMOVE):
            nursery.start_soon(start)
            await trio.testing.wait_all_tasks_blocked()
            await remove_container(place.ctx, container.record())
    assert len(errors) == 1


async def test_opening_a_removed_group_leaves_nothing(place: Place) -> None:
    with pytest.raises(Removed):
        async with open_group(place.ctx, new_id(), place.cgroup_parent):
            pass


async def test_start_of_one_member_puts_the_limits_on_the_pod(place: Place) -> None:
    limits = Resources(memory_bytes=128 << 20)
    pod = await place.runtime.create_pod(place.pod_config(limits), [place.config("a")])
    await place.runtime.container("a").start()
    found = place.ctx.cgroups.limits(pod.record().cgroup_path)
    assert found.memory_bytes == 128 << 20


async def test_start_cut_off_in_an_init_container_is_resumed_by_the_next(place: Place) -> None:
    init = ContainerConfig(
        name="first", image="base", command=("/bin/sleep", "0.6"), init=InitKind.ALWAYS
    )
    pod = await place.runtime.create_pod(place.pod_config(), [init, place.config("a")])
    first, member = place.runtime.container("first"), place.runtime.container("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pod.start)
        await until(lambda: first.state() is ContainerState.RUNNING)
        nursery.cancel_scope.cancel()
    await pod.start()
    assert first.facts().run == 1
    assert 0 < first.facts().finished_at_ns <= member.facts().started_at_ns


async def test_stop_that_ends_a_start_leaves_nothing_running(place: Place) -> None:
    names = [f"c{number}" for number in range(8)]
    pod = await place.runtime.create_pod(place.pod_config(), [place.config(name) for name in names])

    async def start() -> None:
        with contextlib.suppress(Busy):
            await pod.start()

    for wanted in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            for _ in range(wanted * 4 + 3):
                await trio.lowlevel.checkpoint()
            await until(lambda: has_monitor(place.ctx.layout, pod.id))
            await pod.stop(timeout_s=0)
        await until(lambda: ContainerState.RUNNING not in place.states(pod))
        await trio.sleep(0.05)
        assert place.states(pod) <= {ContainerState.EXITED, ContainerState.CONFIGURED}


async def test_stop_reaches_what_a_dead_monitor_left_to_one_that_was_never_told(
    place: Place,
) -> None:
    pod = await place.runtime.create_pod(place.pod_config(), [place.config("a")])
    await pod.start()
    pid = place.runtime.container("a").facts().pid
    for monitor in monitors_of(place.ctx.layout.group_run(pod.id)):
        os.kill(monitor, signal.SIGKILL)
    await until(lambda: not has_monitor(place.ctx.layout, pod.id))
    # As if who started the new monitor had been killed before it told it of anything.
    opened = open_monitor(
        place.ctx.layout, pod.id, new_journal=lambda: _begin_epoch(place.ctx, pod.id)
    )
    async with opened:
        assert place.runtime.container("a").state() is ContainerState.RUNNING
        await pod.stop(timeout_s=0)
        await until(lambda: not os.path.exists(f"/proc/{pid}"))
        assert pod.state() is PodState.EXITED


async def test_removal_takes_the_journals_of_all_epochs(place: Place) -> None:
    pod = await place.runtime.create_pod(place.pod_config(), [place.config("a")])
    await pod.start()
    await pod.stop(timeout_s=0)
    await until(lambda: not has_monitor(place.ctx.layout, pod.id))
    await pod.start()
    group = place.ctx.store.tables.get(GroupRecord, pod.id)
    assert group is not None and group.epoch > 1
    left = os.open(place.ctx.layout.journal(pod.id, group.epoch - 1), os.O_CREAT | os.O_WRONLY)
    os.close(left)
    await pod.remove(force=True, timeout_s=0)
    assert os.listdir(place.ctx.layout.journal_dir) == []


async def test_new_monitor_takes_away_the_journals_that_the_killed_have_left(
    place: Place,
) -> None:
    pod = await place.runtime.create_pod(place.pod_config(), [place.config("a")])
    for _ in range(5):
        await pod.start()
        await pod.stop(timeout_s=0)
        await until(lambda: not has_monitor(place.ctx.layout, pod.id))
    group = place.ctx.store.tables.get(GroupRecord, pod.id)
    assert group is not None and group.epoch == 5
    # As those left them who were killed before they removed one, or before they created one.
    os.unlink(place.ctx.layout.journal(pod.id, 5))
    for epoch in (2, 4):
        os.close(os.open(place.ctx.layout.journal(pod.id, epoch), os.O_CREAT | os.O_WRONLY))
    await pod.start()
    assert os.listdir(place.ctx.layout.journal_dir) == [f"{pod.id}.6"]


def test_two_forced_removals_at_once_both_succeed(podrt: Podrt) -> None:
    podrt.pod("shop")
    podrt("run", "-d", "--pod", "shop", "--name", "a", "--stop-timeout", "1", "base", *SLEEP)
    both = [
        subprocess.Popen(
            podrt.words("pod", "rm", "--force", "shop"),
            stdout=subprocess.DEVNULL,
            env=command_environment(),
        )
        for _ in range(2)
    ]
    assert [process.wait(60) for process in both] == [0, 0]


def test_rm_of_all_containers_takes_dependents_first(podrt: Podrt) -> None:
    podrt.pod("shop")
    podrt("create", "--pod", "shop", "--name", "a", "base", *SLEEP)
    podrt("create", "--pod", "shop", "--name", "b", "--requires", "a", "base", *SLEEP)
    podrt("rm", "--all")
    assert len(podrt.listed("ps", "-a")) == 1
