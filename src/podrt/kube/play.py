"""Playing plans: all of their pods are made, or none, and then started together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec
import trio

from podrt.errors import InvalidConfig, NotFound, PodrtError
from podrt.runtime.pod import Pod
from podrt.runtime.runtime import Runtime
from podrt.runtime.walk import Outcomes

from .mounts import check_host_paths
from .plans import PodPlan

Progress = Callable[[str, int, int], None]
"""Called with ("create" or "start", pods done, pods in all)."""

_logger = logging.getLogger(__name__)

# Pods created at the same moment share their waits for the disk.
_CREATED_AT_ONCE = 16
_CLEANUP_S = 60


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that was made: `containers` are (name, ID) in creation order, infra left out.

    `outcome` is None if it was not started, else container ID -> None or its error, or the
    error that came before any container was touched.
    """

    pod_id: str
    pod_name: str
    containers: tuple[tuple[str, str], ...]
    outcome: Outcomes | PodrtError | None = None

    @property
    def errors(self) -> list[PodrtError]:
        """What went wrong at its start."""
        if self.outcome is None:
            return []
        if isinstance(self.outcome, PodrtError):
            return [self.outcome]
        return [error for error in self.outcome.values() if error is not None]


async def play(
    runtime: Runtime,
    plans: Sequence[PodPlan],
    *,
    start: bool = True,
    replace: bool = False,
    progress: Progress | None = None,
) -> list[Played]:
    """Make the pods of `plans` and start them.

    If one cannot be made, those already made are removed again. `replace` removes (by force)
    pods that have their names first. A pod that does not start stays, and its error is in the
    result. Raises: InvalidConfig naming the field, AlreadyExists, Unsupported, StoreFailed.
    """
    _check(runtime, plans)
    tell = progress or _silent
    pods = await _create_all(runtime, plans, replace=replace, progress=tell)
    played = [_played(pod) for pod in pods]
    if not start:
        return played
    tell("start", 0, len(pods))
    results = await runtime.start_pods(pods)
    tell("start", len(pods), len(pods))
    return [msgspec.structs.replace(one, outcome=results[one.pod_id]) for one in played]


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Nobody looks."""


def _check(runtime: Runtime, plans: Sequence[PodPlan]) -> None:
    """See that what the plans need exists before anything is made."""
    known: set[str] = set()
    for plan in plans:
        for container, field in zip(plan.containers, plan.fields, strict=True):
            if container.image not in known:
                _check_image(runtime, container.image, f"{field}.image")
                known.add(container.image)
    for plan in plans:
        check_host_paths(plan.host_paths)


def _check_image(runtime: Runtime, name: str, field: str) -> None:
    try:
        runtime.image(name)
    except (NotFound, InvalidConfig) as error:
        reason = error.reason if isinstance(error, InvalidConfig) else str(error)
        raise InvalidConfig(field, reason) from error


async def _create_all(
    runtime: Runtime, plans: Sequence[PodPlan], *, replace: bool, progress: Progress
) -> list[Pod]:
    creation = _Creation(runtime, plans, replace=replace, progress=progress)
    try:
        return await creation.run()
    except BaseException:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEANUP_S):
            await _remove(runtime, list(creation.pods.values()))
        raise


async def _remove(runtime: Runtime, pods: Sequence[Pod]) -> None:
    results = await runtime.remove_pods(pods, force=True)
    for pod in pods:
        result = results.get(pod.id)
        if isinstance(result, PodrtError):
            # The first error is what the caller hears; this one must not be lost either.
            _logger.error("cannot remove pod %s again: %s", pod.name, result)


class _Creation:
    """Pods being made by a fixed number of tasks; the first error ends it."""

    def __init__(
        self, runtime: Runtime, plans: Sequence[PodPlan], *, replace: bool, progress: Progress
    ) -> None:
        self._runtime = runtime
        self._plans = plans
        self._replace = replace
        self._progress = progress
        self._left = iter(enumerate(plans))
        self._error: PodrtError | None = None
        self.pods: dict[int, Pod] = {}

    async def run(self) -> list[Pod]:
        """Make all of them; returned in the plans' order. Raises: PodrtError, the first one."""
        self._progress("create", 0, len(self._plans))
        async with trio.open_nursery() as nursery:
            for _ in range(min(_CREATED_AT_ONCE, len(self._plans))):
                nursery.start_soon(self._work)
        if self._error is not None:
            raise self._error
        return [self.pods[at] for at in range(len(self._plans))]

    async def _work(self) -> None:
        # What is being made when another fails is finished and then removed with the rest: a
        # creation cut off in the middle would have to be undone the same way.
        for at, plan in self._left:
            if self._error is not None:
                return
            try:
                self.pods[at] = await self._runtime.create_pod(
                    plan.config, plan.containers, replace=self._replace
                )
            except PodrtError as error:
                if self._error is None:
                    self._error = error
                return
            self._progress("create", len(self.pods), len(self._plans))


def _played(pod: Pod) -> Played:
    infra_id = pod.record().infra_id
    return Played(
        pod_id=pod.id,
        pod_name=pod.name,
        containers=tuple(
            (container.name, container.id)
            for container in pod.containers()
            if container.id != infra_id
        ),
    )
