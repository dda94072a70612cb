"""The library's door: a runtime over one root, and handles to its pods and containers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from podrt.cgroups.managers import open_manager
from podrt.config import Settings
from podrt.errors import (
    AlreadyExists,
    Ambiguous,
    NotFound,
    PodrtError,
    Removed,
    StoreFailed,
)
from podrt.images import blobs
from podrt.images.layers import make_skeleton
from podrt.linux import features
from podrt.locks.locks import Locks
from podrt.model.container import ContainerConfig
from podrt.model.image import Image
from podrt.model.pod import PodConfig
from podrt.model.resources import NO_LIMITS, Resources
from podrt.store.records import ContainerRecord, ImageRecord, PodRecord
from podrt.store.wal import Store

from . import check, clone, create, images, pause, prune, restart, settle, start, stop, teardown
from .container import Container
from .context import Context
from .draft import PodDraft
from .finding import Finding
from .image_names import image_named
from .pod import Pod
from .reboot import refresh
from .recovery import renew_locks, undo_dead_intents
from .resolve import resolve_pod
from .timeline import Timeline
from .view import View
from .walk import Outcomes

R = TypeVar("R", PodRecord, ContainerRecord)

Results = dict[str, Outcomes | PodrtError]
"""Shape: pod ID -> outcomes of its containers, or the error that came before any was touched."""


@contextlib.asynccontextmanager
async def open_runtime(settings: Settings | None = None) -> AsyncIterator[Runtime]:
    """Open the runtime over `settings.root`; several processes may have it open at once.

    Raises: Unsupported on a host or for a user podrt cannot work with, StoreCorrupt,
    StoreFailed, InvalidConfig.
    """
    settings = (settings or Settings()).resolve()
    features.require_root()
    features.require_host()
    layout = settings.layout
    try:
        layout.make()
        blobs.make_layout(layout.images_dir)
        make_skeleton(layout.images_dir)
    except OSError as exc:
        path = exc.filename if isinstance(exc.filename, str) else layout.root
        raise StoreFailed(path, exc.errno or 0, "create") from exc
    async with contextlib.AsyncExitStack() as stack:
        store = Store.open(layout.state_dir)
        stack.callback(store.close)
        locks = Locks.open(layout.locks)
        stack.callback(locks.close)
        cgroups = open_manager(settings.cgroup_manager)
        stack.callback(cgroups.close)
        ctx = Context(settings, store, locks, cgroups, features.boot_id())
        stack.callback(ctx.close)
        await undo_dead_intents(ctx)
        renew_locks(ctx)
        await refresh(ctx)
        yield Runtime(ctx)


class Runtime:
    """Everything podrt can do over one root. Close it by leaving `open_runtime`."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    @property
    def view(self) -> View:
        """The reading side, synchronous."""
        return self._ctx.view

    @property
    def settings(self) -> Settings:
        """What the runtime was opened with."""
        return self._ctx.settings

    async def create_pod(
        self,
        config: PodConfig,
        containers: Sequence[ContainerConfig] = (),
        *,
        replace: bool = False,
    ) -> Pod:
        """Create a pod with its infra container and `containers`, all or nothing.

        `replace` first removes (by force) a pod of that name.
        Raises: InvalidConfig, AlreadyExists, NotFound for an image, Unsupported, StoreFailed.
        """
        self._ctx.check_open()
        if replace and config.name:
            # What is wrong with the new one must show before the old one is gone.
            resolve_pod(config, self._ctx.settings)
            self._ctx.view.refresh()
            with contextlib.suppress(NotFound, Ambiguous, Removed):
                found = self._ctx.view.pod(config.name)
                if found.config.name == config.name:
                    await teardown.remove_pod(self._ctx, found.id, force=True)
        record = await self._retried(lambda: create.create_pod(self._ctx, config, containers))
        return Pod(self._ctx, record.id, record.config.name)

    def new_pod(self, config: PodConfig) -> PodDraft:
        """Begin a pod that is built piece by piece; `PodDraft.save` creates it.

        Raises: InvalidConfig, Unsupported.
        """
        return PodDraft(self._ctx, config)

    async def _retried(self, creation: Callable[[], Awaitable[R]]) -> R:
        """Create; once more if only what a dead command left unfinished had the name."""
        try:
            return await creation()
        except AlreadyExists:
            self._ctx.view.refresh()
            if not await undo_dead_intents(self._ctx):
                raise
        return await creation()

    async def clone_pod(self, pod: Pod, given: PodConfig) -> Pod:
        """A pod like `pod` with copies of its containers; `given` says what is otherwise.

        Raises as `create_pod`.
        """
        record = await self._retried(lambda: clone.clone_pod(self._ctx, pod.id, given))
        return Pod(self._ctx, record.id, record.config.name)

    async def clone_container(
        self,
        container: Container,
        *,
        name: str = "",
        image: str = "",
        pod: str | None = None,
        limits: Resources = NO_LIMITS,
    ) -> Container:
        """A container like `container`, in the same pod unless `pod` names one.

        Raises as `create_pod`.
        """
        record = await self._retried(
            lambda: clone.clone_container(
                self._ctx, container.id, name=name, image=image, pod=pod, limits=limits
            )
        )
        return Container(self._ctx, record.id, record.config.name)

    async def create_container(self, config: ContainerConfig) -> Container:
        """Create a container, in pod `config.pod` or outside of pods. Raises as `create_pod`."""
        record = await self._retried(lambda: create.create_container(self._ctx, config))
        return Container(self._ctx, record.id, record.config.name)

    def pod(self, name: str) -> Pod:
        """The pod with that name, ID or unique ID prefix. Raises: NotFound, Ambiguous."""
        self._ctx.check_open()
        self._ctx.view.refresh()
        record = self._ctx.view.pod(name)
        return Pod(self._ctx, record.id, record.config.name)

    def container(self, name: str) -> Container:
        """The container with that name, ID or unique ID prefix. Raises: NotFound, Ambiguous."""
        self._ctx.check_open()
        self._ctx.view.refresh()
        record = self._ctx.view.container(name)
        return Container(self._ctx, record.id, record.config.name)

    def pods(self) -> list[Pod]:
        """Every pod, oldest first."""
        self._ctx.check_open()
        self._ctx.view.refresh()
        return [Pod(self._ctx, pod.id, pod.config.name) for pod in self._ctx.view.pods()]

    def containers(self) -> list[Container]:
        """Every container, oldest first."""
        self._ctx.check_open()
        self._ctx.view.refresh()
        return [
            Container(self._ctx, record.id, record.config.name)
            for record in self._ctx.view.containers()
        ]

    async def start_pods(self, pods: Sequence[Pod], *, timeline: Timeline | None = None) -> Results:
        """Start many pods, all graphs at once; nothing is raised for a pod that failed.

        `timeline` is told when each container waited, was made and ran.
        """
        return await _for_all(
            pods, lambda pod: start.start_pod(self._ctx, pod.id, timeline=timeline)
        )

    async def stop_pods(self, pods: Sequence[Pod], *, timeout_s: int | None = None) -> Results:
        """Stop many pods at once."""
        return await _for_all(
            pods, lambda pod: stop.stop_pod(self._ctx, pod.id, timeout_s=timeout_s)
        )

    async def restart_pods(self, pods: Sequence[Pod], *, timeout_s: int | None = None) -> Results:
        """Stop and start many pods at once."""
        return await _for_all(
            pods, lambda pod: restart.restart_pod(self._ctx, pod.id, timeout_s=timeout_s)
        )

    async def pause_pods(self, pods: Sequence[Pod]) -> Results:
        """Freeze the running containers of many pods at once."""
        return await _for_all(pods, lambda pod: pause.pause_pod(self._ctx, pod.id))

    async def unpause_pods(self, pods: Sequence[Pod]) -> Results:
        """Thaw the paused containers of many pods at once."""
        return await _for_all(pods, lambda pod: pause.unpause_pod(self._ctx, pod.id))

    async def kill_pods(self, pods: Sequence[Pod], number: int) -> Results:
        """Send a signal to the running containers of many pods at once."""
        return await _for_all(pods, lambda pod: stop.kill_pod(self._ctx, pod.id, number))

    async def remove_pods(
        self, pods: Sequence[Pod], *, force: bool = False, timeout_s: int | None = None
    ) -> Results:
        """Remove many pods at once."""
        return await _for_all(
            pods,
            lambda pod: teardown.remove_pod(self._ctx, pod.id, force=force, timeout_s=timeout_s),
        )

    async def prune_pods(self) -> prune.Pruned:
        """Remove every pod whose containers have all ended; what was to go, and how that went."""
        return await prune.prune_pods(self._ctx)

    async def prune_containers(
        self, wanted: Callable[[ContainerRecord], bool] = lambda record: True
    ) -> prune.Pruned:
        """Remove the containers outside of pods that do not run and that `wanted` accepts."""
        return await prune.prune_containers(self._ctx, wanted)

    async def import_image(
        self,
        source: str,
        reference: str = "",
        *,
        changes: Sequence[str] = (),
        message: str = "",
    ) -> Image:
        """Make an image of one layer from a root file system's archive; "-" is standard input.

        A reference that another image has moves to the new one. Raises: InvalidConfig, NotFound,
        StoreFailed.
        """
        return await images.import_archive(
            self._ctx, source, reference, changes=changes, message=message
        )

    def image(self, name: str) -> Image:
        """The image with that reference or ID prefix. Raises: NotFound, Ambiguous."""
        self._ctx.check_open()
        self._ctx.view.refresh()
        return image_named(self._ctx.store.tables, name)

    def images(self) -> list[Image]:
        """Every image, newest first."""
        self._ctx.check_open()
        self._ctx.view.refresh()
        found = [record.image for record in self._ctx.store.tables.all(ImageRecord)]
        return sorted(found, key=lambda image: -image.created_at_ns)

    async def remove_image(self, name: str, *, force: bool = False) -> Image:
        """Remove an image, or one of its names if it has several. Raises: NotFound, InUse."""
        return await images.remove_image(self._ctx, name, force=force)

    async def settle(self, group_id: str) -> None:
        """Do what exit policies and `--rm` ask for in a pod, or for a container outside of pods.

        Raises: Removed when it is gone; Busy, WalkFailed when it is worth another try.
        """
        await settle.settle(self._ctx, group_id)

    async def check(self, *, repair: bool = False) -> list[Finding]:
        """What does not fit together; with `repair` it is mended where that is safe."""
        return await check.check(self._ctx, mends=repair)


async def _for_all(pods: Sequence[Pod], verb: Callable[[Pod], Awaitable[Outcomes]]) -> Results:
    """Run `verb` on every pod at once."""
    results: Results = {}

    async def run(pod: Pod) -> None:
        try:
            results[pod.id] = await verb(pod)
        except Removed:
            # The record that says its name is gone, the handle still knows it.
            results[pod.id] = Removed("pod", pod.name)
        except PodrtError as exc:
            results[pod.id] = exc

    async with trio.open_nursery() as nursery:
        for pod in pods:
            nursery.start_soon(run, pod)
    return results
