"""A handle to one pod."""

from __future__ import annotations

from collections.abc import Mapping

from podrt.errors import Removed
from podrt.model.resources import NO_LIMITS, Resources
from podrt.model.states import ContainerState, PodState
from podrt.store.records import ContainerRecord, PodRecord

from . import pause, restart, start, stop, teardown, update
from .container import Container
from .context import Context
from .walk import Outcomes


class Pod:
    """A pod by its ID; every call looks at the state anew.

    All verbs raise RuntimeClosed and Removed first of all.
    """

    def __init__(self, ctx: Context, pod_id: str, name: str) -> None:
        self._ctx = ctx
        self.id = pod_id
        self.name = name

    def record(self) -> PodRecord:
        """The pod's record as of now. Raises: Removed."""
        self._ctx.check_open()
        self._ctx.view.refresh()
        found = self._ctx.store.tables.get(PodRecord, self.id)
        if found is None:
            raise Removed("pod", self.name)
        return found

    @property
    def namespace(self) -> str:
        """The label that tells tenants of one state apart; "" for none."""
        return self.record().namespace

    @property
    def labels(self) -> dict[str, str]:
        """A copy of the pod's labels."""
        return dict(self.record().config.labels)

    @property
    def created_at_ns(self) -> int:
        """When it was created, in nanoseconds since the epoch."""
        return self.record().created_at_ns

    @property
    def cgroup_parent(self) -> str:
        """The cgroup below which the pod's lies; "" without cgroups."""
        return self.record().config.cgroup_parent

    @property
    def uses_pod_cgroup(self) -> bool:
        """Whether its members live in a cgroup of the pod's own."""
        return self.record().config.use_pod_cgroup

    @property
    def cgroup_path(self) -> str:
        """The pod's own cgroup; "" when it has none."""
        return self.record().cgroup_path

    def state(self) -> PodState:
        """The pod's state."""
        return self._ctx.view.pod_state(self.record())

    def status(self) -> Mapping[str, ContainerState]:
        """Container ID -> its state."""
        return {member.id: self._ctx.view.state(member) for member in self._members()}

    def containers(self) -> list[Container]:
        """The pod's containers in creation order, infra included."""
        return [Container(self._ctx, member.id, member.config.name) for member in self._members()]

    def container_ids(self) -> list[str]:
        """The IDs of `containers()`."""
        return [member.id for member in self._members()]

    def has_container(self, container_id: str) -> bool:
        """Whether the container with that full ID is in the pod."""
        return any(member.id == container_id for member in self._members())

    def _members(self) -> list[ContainerRecord]:
        self.record()
        return self._ctx.view.members(self.id)

    async def start(self) -> Outcomes:
        """Start every container, each as soon as what it needs runs.

        Shape: container ID -> None. Raises: WalkFailed with the whole map when some failed.
        """
        self.record()
        outcomes = await start.start_pod(self._ctx, self.id)
        start.raise_failures("start", outcomes)
        return outcomes

    async def stop(self, *, timeout_s: int | None = None) -> Outcomes:
        """Stop what runs, dependents first, and clean up. Raises: WalkFailed."""
        self.record()
        outcomes = await stop.stop_pod(self._ctx, self.id, timeout_s=timeout_s)
        start.raise_failures("stop", outcomes)
        return outcomes

    async def kill(self, number: int) -> Outcomes:
        """Send a signal to every running container. Raises: WalkFailed."""
        self.record()
        outcomes = await stop.kill_pod(self._ctx, self.id, number)
        start.raise_failures("kill", outcomes)
        return outcomes

    async def restart(self, *, timeout_s: int | None = None) -> Outcomes:
        """Stop every container and start it again, in order. Raises: WalkFailed."""
        self.record()
        outcomes = await restart.restart_pod(self._ctx, self.id, timeout_s=timeout_s)
        start.raise_failures("restart", outcomes)
        return outcomes

    async def pause(self) -> Outcomes:
        """Freeze every running container. Raises: WalkFailed."""
        self.record()
        outcomes = await pause.pause_pod(self._ctx, self.id)
        start.raise_failures("pause", outcomes)
        return outcomes

    async def unpause(self) -> Outcomes:
        """Thaw every paused container. Raises: WalkFailed."""
        self.record()
        outcomes = await pause.unpause_pod(self._ctx, self.id)
        start.raise_failures("unpause", outcomes)
        return outcomes

    async def update(
        self, limits: Resources = NO_LIMITS, *, restart_policy: str | None = None
    ) -> None:
        """Give the pod as a whole the limits that are not None, now and at every later start.

        The restart policy is that of its members without one of their own.
        Raises: InvalidConfig, Unsupported.
        """
        self.record()
        await update.update_pod(self._ctx, self.id, limits, restart_policy)

    async def remove(
        self,
        *,
        force: bool = False,
        timeout_s: int | None = None,
        remove_containers: bool = True,
    ) -> Outcomes:
        """Remove the pod with its containers. Raises: InvalidState while some run."""
        self.record()
        return await teardown.remove_pod(
            self._ctx,
            self.id,
            force=force,
            timeout_s=timeout_s,
            remove_containers=remove_containers,
        )
