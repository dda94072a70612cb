"""Every verb of the library cancelled at any step of its tasks: `trio.CancelScope`.

What the call had done holds, and the next call of the same verb finishes the rest; nothing is
left that `Runtime.check` could find.
"""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from doubles.agreement import check_kernel
from doubles.commands import BUSYBOX
from doubles.places import Place, open_place
from podrt.errors import AlreadyExists
from podrt.model.container import InitKind
from podrt.model.states import PodState

pytestmark = [
    pytest.mark.skipif(not BUSYBOX, reason="needs busybox"),
    pytest.mark.timeout(3600),
]

SAMPLE, FULL = 5, 150


class CancelAt(trio.abc.Instrument):
    """Cancels a scope before the `at`th step of any task; counts the steps in any case."""

    def __init__(self, scope: trio.CancelScope, at: int) -> None:
        self._scope = scope
        self._at = at
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == self._at:
            self._scope.cancel()


async def cancelled_at(at: int, call: Callable[[], Awaitable[object]]) -> tuple[int, bool]:
    """Make a call and cancel it at a step (0: never); its steps, and whether it was cut off."""
    with trio.CancelScope() as scope:
        instrument = CancelAt(scope, at)
        trio.lowlevel.add_instrument(instrument)
        try:
            await call()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return instrument.steps, scope.cancelled_caught


class Stage:
    """A pod with an init container, one that needs another, and the verbs on it."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def state(self) -> PodState | None:
        found = self.place.runtime.pods()
        return found[0].state() if found else None

    async def bring_to(self, wanted: PodState | None) -> None:
        """Make, start, stop, pause or remove the pod."""
        state = self.state()
        if state is wanted:
            return
        if state is None:
            await self.make_whole()
        pod = self.place.runtime.pod("shop")
        if wanted is None:
            await pod.remove(force=True, timeout_s=0)
            return
        if state is PodState.PAUSED:
            await pod.unpause()
        await pod.start()
        if wanted is PodState.EXITED:
            await pod.stop(timeout_s=0)
        elif wanted is PodState.PAUSED:
            await pod.pause()
        assert self.state() is wanted

    async def make_whole(self) -> None:
        pod = await self.place.empty_pod()
        await self.place.add(pod, "seed", "/bin/true", init=InitKind.ALWAYS)
        await self.place.add(pod, "a")
        await self.place.add(pod, "b", needs=("a",))

    async def act(self, name: str) -> None:
        """A verb as a caller calls it."""
        runtime = self.place.runtime
        if name == "create":
            await self.place.empty_pod()
        elif name == "create-container":
            await self.place.add(runtime.pod("shop"), "late")
        elif name == "start":
            await runtime.pod("shop").start()
        elif name == "stop":
            await runtime.pod("shop").stop(timeout_s=0)
        elif name == "restart":
            await runtime.pod("shop").restart(timeout_s=0)
        elif name == "kill":
            await runtime.pod("shop").kill(signal.SIGKILL)
        elif name == "pause":
            await runtime.pod("shop").pause()
        elif name == "unpause":
            await runtime.pod("shop").unpause()
        elif name == "rm" and runtime.pods():
            await runtime.pod("shop").remove(force=True, timeout_s=0)

    async def finish(self, verb: str) -> None:
        """The same verb again; what is there already is as good as made."""
        try:
            await self.act(verb)
        except AlreadyExists:
            assert verb in ("create", "create-container")
        if verb == "kill":
            # Killing does not wait for the end.
            for name in "ab":
                await self.place.runtime.container(name).wait()

    async def check(self, after: PodState | None) -> None:
        found = self.state()
        assert found is after or {found, after} == {PodState.STOPPED, PodState.EXITED}
        assert await self.place.runtime.check() == []
        check_kernel(self.place.runtime.settings, self.place.cgroup_parent)


CASES = {
    "create": (None, PodState.CREATED),
    "create-container": (PodState.RUNNING, PodState.DEGRADED),
    "start": (PodState.EXITED, PodState.RUNNING),
    "stop": (PodState.RUNNING, PodState.EXITED),
    "restart": (PodState.RUNNING, PodState.RUNNING),
    "kill": (PodState.RUNNING, PodState.EXITED),
    "pause": (PodState.RUNNING, PodState.PAUSED),
    "unpause": (PodState.PAUSED, PodState.RUNNING),
    "rm": (PodState.RUNNING, None),
}


@pytest.fixture
async def stage(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Stage]:
    async with open_place(tmp_path, cgroup_parent) as place:
        yield Stage(place)


async def undo(stage: Stage, name: str) -> None:
    """What the next round makes again goes."""
    if name == "create":
        await stage.bring_to(None)
    elif name == "create-container":
        await stage.place.runtime.container("late").remove(force=True)


@pytest.mark.parametrize("name", CASES)
async def test_verb_cancelled_at_any_step_is_finished_by_the_next_call(
    stage: Stage, name: str, rounds: Callable[[int, int], int]
) -> None:
    before, after = CASES[name]
    count = rounds(SAMPLE, FULL)
    await stage.bring_to(before)
    total, _ = await cancelled_at(0, lambda: stage.act(name))
    await stage.finish(name)
    await undo(stage, name)
    print(f"{name}: {total} steps")
    chance = random.Random(name)
    cut_off = 0
    for _ in range(count):
        at = chance.randint(1, total)
        await stage.bring_to(before)
        cut_off += (await cancelled_at(at, lambda: stage.act(name)))[1]
        try:
            await stage.finish(name)
            await stage.check(after)
            await undo(stage, name)
        except Exception as exc:
            raise AssertionError(f"{name} cancelled at step {at} of {total}") from exc
    assert cut_off > count / 5
