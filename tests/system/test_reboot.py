"""The state after a reboot: a forged boot ID, every process gone, the run directory empty."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from doubles.commands import BUSYBOX, busybox_archive
from doubles.places import SLEEP, Place, is_gone, until
from doubles.reboots import end_everything, next_boot
from podrt.cli.shapes import status_text
from podrt.config import Settings
from podrt.linux import features
from podrt.model.container import ContainerConfig, InitKind
from podrt.model.pod import DEFAULT_SHARE, PodConfig
from podrt.model.states import PodState
from podrt.runtime.runtime import open_runtime
from podrt.runtime.view import open_view
from podrt.store.records import ContainerRecord, IntentRecord, MetaRecord, Op, PodRecord, Put
from podrt.store.tables import Tables


class Host:
    """A place over several boots."""

    def __init__(self, folder: Path, parent: str, patch: pytest.MonkeyPatch) -> None:
        self.settings = Settings(root=str(folder / "root"), runroot=str(folder / "run"))
        self.folder, self.parent, self.patch = folder, parent, patch
        self._pids: list[int] = []

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Place]:
        """A runtime of this boot."""
        async with open_runtime(self.settings) as runtime:
            place = Place(runtime, self.parent)
            yield place
            self._pids += [one.facts().pid for one in runtime.containers() if one.facts().pid]

    def reboot(self) -> None:
        """Everything ends at once; nothing is told to anybody."""
        end_everything(Path(self.settings.runroot), self.parent, self._pids)
        next_boot(self.patch)

    def shown(self) -> dict[str, str]:
        """Name -> state, as who only looks sees it."""
        with open_view(self.settings) as view:
            return {one.config.name: str(view.state(one)) for one in view.containers()}


@pytest.fixture
async def host(
    tmp_path: Path, cgroup_parent: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Host]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    found = Host(tmp_path, cgroup_parent, monkeypatch)
    async with found.up() as place:
        await place.runtime.import_image(str(busybox_archive(tmp_path / "busybox.tar")), "base")
    yield found
    async with found.up() as place:
        await place.runtime.remove_pods(place.runtime.pods(), force=True, timeout_s=0)
        for container in place.runtime.containers():
            await container.remove(force=True, timeout_s=0)
        assert await place.runtime.check() == []


async def pod_of_every_state(place: Place) -> None:
    pod = await place.empty_pod()
    for name in ("running", "paused", "stopped", "exited"):
        await place.add(pod, name, *(("/bin/true",) if name == "stopped" else SLEEP))
    await pod.start()
    await place.runtime.container("paused").pause()
    await place.runtime.container("exited").stop()
    await until(lambda: place.states()["stopped"] == "stopped")
    await place.add(pod, "configured")


async def test_every_state_becomes_exited_or_configured(host: Host) -> None:
    async with host.up() as place:
        await pod_of_every_state(place)
        code = place.facts("stopped").exit_code
        infra = place.runtime.pod("shop").record().infra_id
    host.reboot()
    wanted = dict.fromkeys(("running", "paused", "stopped", "exited"), "exited")
    wanted |= {"configured": "configured", f"{host_pod_prefix(host)}-infra": "exited"}
    assert host.shown() == wanted
    async with host.up() as place:
        assert await place.runtime.check() == []
        assert place.facts("running").code_unknown
        stopped = place.facts("stopped")
        assert (stopped.exit_code, stopped.code_unknown) == (code, False)
        assert place.runtime.container(infra).facts().pid == 0
        assert place.runtime.pod("shop").state() is PodState.STOPPED
        assert host.shown() == wanted
        running = place.runtime.container("running")
        assert status_text(running.state(), running.facts()) == "Exited (unknown)"
        await place.runtime.pod("shop").start()
        names = ("running", "paused", "exited", "configured")
        assert {place.states()[name] for name in names} == {"running"}
        assert not any(is_gone(place.pid(name)) for name in names)


def host_pod_prefix(host: Host) -> str:
    with open_view(host.settings) as view:
        return view.pod("shop").id[:12]


async def test_refresh_is_done_once_per_boot(host: Host) -> None:
    async with host.up() as place:
        await place.pod("a")
    host.reboot()
    async with host.up() as place:
        value = place.ctx.store.tables.get(MetaRecord, "boot")
        assert value is not None and value.value == features.boot_id()
        await place.runtime.pod("shop").start()
        pid = place.pid("a")
        seq = place.ctx.store.tables.get(ContainerRecord, place.runtime.container("a").id)
        async with host.up() as other:
            assert other.pid("a") == pid
            assert other.states()["a"] == "running"
        assert seq == place.ctx.store.tables.get(ContainerRecord, place.runtime.container("a").id)


async def test_a_lost_run_directory_in_the_same_boot_is_no_reboot(host: Host) -> None:
    async with host.up() as place:
        await place.pod("a")
        pid = place.pid("a")
    shutil.rmtree(host.settings.runroot)
    async with host.up() as place:
        assert place.states()["a"] == "running"
        assert place.pid("a") == pid
        # Its monitor serves where nobody can find it: a new one takes the process over.
        await place.runtime.pod("shop").stop()
        assert is_gone(pid)
        assert place.states() == {"infra": "exited", "a": "exited"}


async def test_what_was_being_removed_is_gone(host: Host) -> None:
    async with host.up() as place:
        pod = await place.pod("a")
        other = await place.pod("b", pod="other")
        lone = await place.add(None, "lone")
        gone = {pod.id, lone.id}

        def mark(tables: Tables) -> list[Op]:
            records = [tables.get(PodRecord, pod.id), tables.get(ContainerRecord, lone.id)]
            return [Put(msgspec.structs.replace(one, removing=True)) for one in records if one]

        await place.ctx.commit(mark)
    host.reboot()
    async with host.up() as place:
        assert [one.id for one in place.runtime.pods()] == [other.id]
        assert not gone & {one.id for one in place.runtime.containers()}
        assert not gone & set(os.listdir(place.ctx.layout.containers_dir))
        assert await place.runtime.check() == []


async def test_those_that_go_with_their_end_are_gone_and_only_those(host: Host) -> None:
    async with host.up() as place:
        for name in ("ran", "made"):
            config = ContainerConfig(
                name=name, image="base", command=SLEEP, auto_remove=True, cgroup_parent=host.parent
            )
            container = await place.runtime.create_container(config)
            if name == "ran":
                await container.start()
        await (await place.add(None, "stays")).start()
    host.reboot()
    async with host.up() as place:
        assert place.states() == {"made": "configured", "stays": "exited"}
        assert await place.runtime.check() == []


async def test_a_killed_refresh_is_finished_by_the_next_command(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host.up() as place:
        await place.pod("a")
    host.reboot()
    from podrt.runtime import reboot

    async def die(_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(reboot, "_finish_removals", die)
        with pytest.raises(SystemExit):
            async with host.up():
                pass
    async with host.up() as place:
        assert place.states() == {"infra": "exited", "a": "exited"}
        assert await place.runtime.check() == []


async def test_left_cgroups_and_half_made_objects_of_the_former_boot_are_forgotten(
    host: Host,
) -> None:
    async with host.up() as place:
        left = IntentRecord(id="a" * 64, kind="pod", verb="remove", made=("/gone",))
        begun = IntentRecord(
            id="b" * 64, kind="pod", name="half", pid=1, start_ticks=0, boot_id=features.boot_id()
        )
        await place.ctx.commit(lambda _: [Put(left), Put(begun)])
    host.reboot()
    async with host.up() as place:
        assert list(place.ctx.store.tables.all(IntentRecord)) == []
        await place.empty_pod("half")
        assert await place.runtime.check() == []


async def test_an_infra_with_a_process_and_init_containers_start_again(host: Host) -> None:
    async with host.up() as place:
        pod = await place.runtime.create_pod(
            PodConfig(
                name="shop", infra_name="lead", share=DEFAULT_SHARE | {"pid"},
                cgroup_parent=host.parent,
            )
        )  # fmt: skip
        await place.add(pod, "seed", "/bin/true", init=InitKind.ALWAYS)
        await place.add(pod, "a")
        await pod.start()
        old = place.pid("lead")
    host.reboot()
    assert host.shown() == {"lead": "exited", "seed": "exited", "a": "exited"}
    async with host.up() as place:
        await place.runtime.pod("shop").start()
        lead, a = place.pid("lead"), place.pid("a")
        assert lead != old
        assert os.readlink(f"/proc/{a}/ns/pid") == os.readlink(f"/proc/{lead}/ns/pid")
        assert place.facts("seed").run == 2
