"""What every verb works with: the rooms below, opened once per runtime."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence

import trio

from podrt.cgroups.base import CgroupManager
from podrt.config import Settings
from podrt.engines.plan import cgroup_view
from podrt.errors import EngineFailed, Removed, RuntimeClosed
from podrt.layout import Layout
from podrt.linux.mounts import read_mounts
from podrt.locks.locks import Locks
from podrt.store.commit import wait_durable
from podrt.store.records import ContainerRecord, Op, PodRecord
from podrt.store.tables import Tables
from podrt.store.wal import Store

from . import events
from .view import View
from .walk import DEFAULT_LIMIT

Build = Callable[[Tables], Sequence[Op]]
"""What a transaction does, decided on tables that are up to date."""

CLEANUP_S = 30
"""How long a shielded clean-up may take before it is left to `system check`."""


@contextlib.contextmanager
def finishing(what: str) -> Iterator[None]:
    """Go on with what is inside although the caller is cancelled, for `CLEANUP_S` at most.

    Raises: EngineFailed(ETIMEDOUT) when that was not enough: it is not done then.
    """
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEANUP_S) as scope:
        yield
    if scope.cancelled_caught:
        raise EngineFailed(what, errno.ETIMEDOUT)


class Context:
    """The open rooms of one runtime; the only writer of its store."""

    def __init__(
        self, settings: Settings, store: Store, locks: Locks, cgroups: CgroupManager, boot_id: str
    ) -> None:
        self.settings = settings
        self.layout: Layout = settings.layout
        self.store = store
        self.locks = locks
        self.cgroups = cgroups
        self.boot_id = boot_id
        self.cgroup_view = cgroup_view(read_mounts())
        self.view = View(self.layout, store, boot_id, settings.namespace)
        self.limiter = trio.CapacityLimiter(DEFAULT_LIMIT)
        self.is_closed = False

    def close(self) -> None:
        """From here on every verb answers RuntimeClosed."""
        self.is_closed = True
        self.view.close()

    def check_open(self) -> None:
        """Raises: RuntimeClosed."""
        if self.is_closed:
            raise RuntimeClosed

    async def commit(self, build: Build, *, once_written: Callable[[], None] | None = None) -> None:
        """Commit a transaction and wait until it is on the disk. Raises: StoreFailed.

        `once_written` is called in between, when no crash of podrt can undo it any more.
        """
        self.store.retry_full()
        await wait_durable(self.store, self._written(build, once_written))

    @trio.lowlevel.enable_ki_protection
    def _written(self, build: Build, once_written: Callable[[], None] | None) -> int:
        """Write a transaction and do what belongs to it; Ctrl-C does not come in between."""
        seq = self.store.transact(self._told(build))
        if once_written is not None:
            once_written()
        return seq

    def record(self, build: Build) -> None:
        """Commit a transaction that a crash of podrt survives and a power cut may void."""
        self.store.retry_full()
        self.store.transact(self._told(build))

    def _told(self, build: Build) -> Build:
        """`build`, and the events that its changes stand for, in one transaction."""

        def build_all(tables: Tables) -> Sequence[Op]:
            ops = build(tables)
            return [*ops, *events.of_changes(self.view, tables, ops)]

        return build_all

    def load_container(self, container_id: str) -> ContainerRecord:
        """A container as it stands now. Raises: Removed."""
        self.view.refresh()
        record = self.store.tables.get(ContainerRecord, container_id)
        if record is None:
            raise Removed("container", container_id[:12])
        return record

    def load_pod(self, pod_id: str) -> PodRecord:
        """A pod as it stands now. Raises: Removed."""
        self.view.refresh()
        pod = self.store.tables.get(PodRecord, pod_id)
        if pod is None:
            raise Removed("pod", pod_id[:12])
        return pod

    def group_id(self, container: ContainerRecord) -> str:
        """The group whose monitor watches a container: its pod, or itself."""
        return container.pod_id or container.id

    def pod_of(self, container: ContainerRecord) -> PodRecord | None:
        """The pod a container is in, None for one outside every pod."""
        if not container.pod_id:
            return None
        return self.store.tables.get(PodRecord, container.pod_id)
