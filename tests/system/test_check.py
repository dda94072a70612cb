"""`system check`: objects against the kernel and their parts, what it finds and what it mends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from doubles.commands import BUSYBOX, Podrt, monitors_of
from doubles.places import Place, freezer_of, is_frozen, is_gone, open_place, until
from podrt.engines.liveness import has_monitor
from podrt.errors import StoreCorrupt
from podrt.model.states import PodState
from podrt.runtime.pod import Pod
from podrt.runtime.view import open_view
from podrt.store.records import GroupRecord


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


async def found(place: Place, *, repair: bool = False) -> list[tuple[str, str, bool]]:
    """(kind, what, whether it was mended) of everything found."""
    findings = await place.runtime.check(repair=repair)
    return [(one.kind, one.what, one.is_repaired) for one in findings]


async def mended(place: Place, kind: str, what: str) -> None:
    """That only this is found, that looking changes nothing, and that repair mends it."""
    assert await found(place) == [(kind, what, False)]
    assert await found(place) == [(kind, what, False)]
    assert await found(place, repair=True) == [(kind, what, True)]
    assert await found(place) == []


def journal_of(place: Place, pod: Pod) -> Path:
    group = place.ctx.store.tables.get(GroupRecord, pod.id)
    assert group is not None
    return Path(place.ctx.layout.journal(pod.id, group.epoch))


def set_frozen(folder: Path, on: bool) -> None:
    """Freeze or thaw a cgroup behind podrt's back."""
    if (folder / "freezer.state").exists():
        (folder / "freezer.state").write_text("FROZEN" if on else "THAWED")
    else:
        (folder / "cgroup.freeze").write_text("1" if on else "0")


@contextlib.contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def moved_away(path: str) -> Iterator[None]:
    os.rename(path, f"{path}.away")
    try:
        yield
    finally:
        os.rename(f"{path}.away", path)


async def test_a_damaged_journal_header_is_renewed_and_nothing_is_lost(place: Place) -> None:
    pod = await place.pod("a", "b")
    await place.pod("c", pod="other")
    pid = place.pid("a")
    await place.runtime.container("b").stop()
    journal = journal_of(place, pod)
    with journal.open("r+b") as file:
        file.seek(20)
        file.write(b"\xff\xff")
    place.ctx.view.close()
    with pytest.raises(StoreCorrupt):
        await pod.stop()
    # The others are not concerned, and a listing says what it can.
    with open_view(place.runtime.settings) as view:
        shown = {one.config.name: str(view.state(one)) for one in view.containers()}
    assert {name: shown[name] for name in "abc"} == {"a": "unknown", "b": "unknown", "c": "running"}
    assert place.runtime.pod("other").state() is PodState.RUNNING
    await mended(place, "journal", str(journal))
    assert place.states()["a"] == "running"
    assert place.states()["b"] == "exited"
    await place.runtime.container("b").start()
    assert place.pid("a") == pid
    await pod.stop()
    assert is_gone(pid)


async def test_paused_in_the_state_but_not_in_the_kernel(place: Place) -> None:
    await place.pod("a")
    freezer = place.freezer("a")
    await place.runtime.container("a").pause()
    set_frozen(freezer, False)
    await until(lambda: not is_frozen(freezer))
    await mended(place, "container", "a")
    assert place.states()["a"] == "running"


async def test_frozen_in_the_kernel_but_not_in_the_state(place: Place) -> None:
    await place.pod("a")
    freezer = place.freezer("a")
    set_frozen(freezer, True)
    await until(lambda: is_frozen(freezer))
    await mended(place, "container", "a")
    assert not is_frozen(freezer)
    assert place.states()["a"] == "running"


async def test_a_paused_container_without_its_monitor_is_watched_again(place: Place) -> None:
    pod = await place.pod("a", "b")
    pid, freezer = place.pid("a"), freezer_of(place.pid("a"))
    await place.runtime.container("a").pause()
    for monitor in monitors_of(place.ctx.layout.group_run(pod.id)):
        os.kill(monitor, signal.SIGKILL)
    await until(lambda: not has_monitor(place.ctx.layout, pod.id))
    await mended(place, "monitor", pod.id)
    assert has_monitor(place.ctx.layout, pod.id)
    assert place.states() == {"infra": "running", "a": "paused", "b": "running"}
    assert is_frozen(freezer)
    os.kill(place.pid("b"), signal.SIGKILL)
    await until(lambda: place.states()["b"] == "stopped")
    await pod.unpause()
    assert place.pid("a") == pid
    assert place.states()["a"] == "running"


async def test_links_into_a_dead_monitor_are_removed(place: Place) -> None:
    pod = await place.pod("a")
    folder = f"{place.ctx.layout.group_run(pod.id)}/ns"
    [monitor] = monitors_of(place.ctx.layout.group_run(pod.id))
    os.kill(monitor, signal.SIGKILL)
    os.kill(place.pid("a"), signal.SIGKILL)
    await until(lambda: place.states()["a"] == "stopped")
    kinds = ("ipc", "net", "uts")
    assert await found(place) == [("namespace", f"{folder}/{kind}", False) for kind in kinds]
    assert all(one[2] for one in await found(place, repair=True))
    assert await found(place) == []
    await pod.start()
    assert place.states()["a"] == "running"


async def test_a_cgroup_that_was_left_is_removed_with_what_lives_in_it(place: Place) -> None:
    pod = await place.pod("a")
    path = place.runtime.container("a").record().cgroup_path
    await pod.stop()
    place.ctx.cgroups.create(path)
    with sleeping() as stray:
        place.ctx.cgroups.join(path, stray.pid)
        whole = pod.record().cgroup_path
        assert await found(place) == [("cgroup", path, False), ("cgroup", whole, False)]
        assert all(one[2] for one in await found(place, repair=True))
        assert stray.wait() == -signal.SIGKILL
    assert await found(place) == []


async def test_a_journal_of_an_earlier_monitor_is_removed(place: Place) -> None:
    pod = await place.pod("a")
    await pod.stop()
    await until(lambda: not has_monitor(place.ctx.layout, pod.id))
    await pod.start()
    newest = journal_of(place, pod)
    former = newest.with_suffix(".1")
    assert newest != former
    shutil.copy(newest, former)
    await mended(place, "journal", str(former))
    assert newest.exists()


async def test_what_an_object_lacks_is_named_and_not_mended(place: Place) -> None:
    pod = await place.empty_pod()
    container = await place.add(pod, "a")
    layout = place.ctx.layout
    [layer] = os.listdir(f"{layout.images_dir}/layers")
    for path in (
        layout.plan(container.id),
        layout.container(container.id),
        f"{layout.images_dir}/layers/{layer}",
    ):
        with moved_away(path):
            [one] = [one for one in await place.runtime.check() if one.kind == "container"]
            assert (one.what, one.is_repaired) == ("a", False)
            assert path in one.problem
            assert ("container", "a", False) in await found(place)
    assert await found(place) == []


def test_a_mount_that_the_host_sees_is_named(podrt: Podrt) -> None:
    podrt.pod("shop")
    podrt("create", "--pod", "shop", "--name", "a", "base", "true")
    [directory] = os.listdir(podrt.root / "containers")
    place = podrt.root / "containers" / directory / "upper"
    words = ["mount", "-t", "tmpfs", "none", str(place), "&&", *podrt.words("system", "check")]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", " ".join(words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert str(place) in done.stdout
    podrt("pod", "rm", "shop")
