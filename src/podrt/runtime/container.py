"""A handle to one container."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from podrt.errors import EngineFailed, MonitorGone, Removed
from podrt.model.resources import NO_LIMITS, Resources
from podrt.model.states import ALIVE, ContainerState, Facts
from podrt.store.records import ContainerRecord

from . import pause, rename, restart, start, stop, teardown, update
from .context import Context
from .group import open_group
from .logs import LogLine, LogReader

_POLL_S = 0.05
_UNFINISHED = ALIVE | {ContainerState.RESTARTING}


class Container:
    """A container by its ID; every call looks at the state anew.

    All verbs raise RuntimeClosed and Removed first of all.
    """

    def __init__(self, ctx: Context, container_id: str, name: str) -> None:
        self._ctx = ctx
        self.id = container_id
        self.name = name

    def record(self) -> ContainerRecord:
        """The container's record as of now. Raises: Removed."""
        self._ctx.check_open()
        self._ctx.view.refresh()
        found = self._ctx.store.tables.get(ContainerRecord, self.id)
        if found is None:
            raise Removed("container", self.name)
        return found

    def state(self) -> ContainerState:
        """The container's state."""
        return self._ctx.view.state(self.record())

    def facts(self) -> Facts:
        """What is known of its latest run."""
        return self._ctx.view.facts(self.record())

    async def start(self) -> None:
        """Start it; a running one is no error. Raises: EngineFailed, InvalidState."""
        self.record()
        await start.start_container(self._ctx, self.id)

    async def stop(self, *, timeout_s: int | None = None) -> None:
        """Stop it with its grace period; one that does not run is no error."""
        self.record()
        await stop.stop_container(self._ctx, self.id, timeout_s=timeout_s)

    async def kill(self, number: int) -> None:
        """Send a signal. Raises: InvalidState when it does not run."""
        self.record()
        await stop.kill_container(self._ctx, self.id, number)

    async def restart(self, *, timeout_s: int | None = None) -> None:
        """Stop it and start it again; one that does not run is started. Raises: InvalidState."""
        self.record()
        await restart.restart_container(self._ctx, self.id, timeout_s=timeout_s)

    async def pause(self) -> None:
        """Freeze it. Raises: InvalidState when it does not run."""
        self.record()
        await pause.pause_container(self._ctx, self.id)

    async def unpause(self) -> None:
        """Thaw it. Raises: InvalidState when it is not paused."""
        self.record()
        await pause.unpause_container(self._ctx, self.id)

    async def rename(self, name: str) -> None:
        """Give it another name. Raises: InvalidConfig, AlreadyExists, InvalidState."""
        self.record()
        await rename.rename_container(self._ctx, self.id, name)
        self.name = name

    async def update(
        self, limits: Resources = NO_LIMITS, *, restart_policy: str | None = None
    ) -> None:
        """Give it the limits that are not None and a restart policy, now and at later starts.

        The policy "" is its pod's. Raises: InvalidConfig, Unsupported.
        """
        self.record()
        await update.update_container(self._ctx, self.id, limits, restart_policy)

    async def remove(self, *, force: bool = False, timeout_s: int | None = None) -> None:
        """Remove it. Raises: InvalidState while it runs, InUse naming its dependents."""
        self.record()
        await teardown.remove_container_verb(self._ctx, self.id, force=force, timeout_s=timeout_s)

    async def wait(self) -> int:
        """Wait until it has ended for good; its exit code (255 when nobody saw it)."""
        while True:
            record = self.record()
            state = self._ctx.view.live_state(record)
            if state not in _UNFINISHED:
                return self._ctx.view.facts(record).exit_code
            # In back-off nothing happens without a monitor.
            may_start = state is ContainerState.RESTARTING
            parent = teardown.parent_of(self._ctx, record)
            try:
                async with open_group(
                    self._ctx, record.group_id, parent, may_start=may_start
                ) as monitor:
                    run = self._ctx.view.facts(record).run
                    return (await monitor.wait(record.id, run)).code
            except (MonitorGone, EngineFailed):
                # Its monitor died or does not know it; the kernel still does.
                await trio.sleep(_POLL_S)

    def logs(self) -> Iterator[LogLine]:
        """Every line logged so far."""
        self.record()
        reader = LogReader(self._ctx.layout.log(self.id))
        try:
            yield from reader.read()
        finally:
            reader.close()
