"""Pruning: remove what has ended, and nothing that came to life again meanwhile.

Source: semantics.md sections 10 and 12: each removal is decided under the object's own claim.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

from podrt.errors import InvalidState, PodrtError, Removed
from podrt.model.states import ContainerState, PodState
from podrt.store.records import ContainerRecord, PodRecord

from . import teardown
from .context import Context

Pruned = dict[str, PodrtError | None]
"""Shape: the ID of each that was to go -> None, or why it could not be removed."""

Remove = Callable[[str], Awaitable[object]]

_ENDED_PODS = frozenset({PodState.EXITED, PodState.STOPPED})
_IDLE = frozenset(
    {
        ContainerState.CONFIGURED,
        ContainerState.CREATED,
        ContainerState.STOPPED,
        ContainerState.EXITED,
    }
)


async def prune_pods(ctx: Context) -> Pruned:
    """Remove every pod whose containers have ended (Exited and Stopped), all at once."""
    ctx.check_open()
    ctx.view.refresh()
    spared: set[str] = set()

    def has_ended(pod: PodRecord) -> bool:
        members = ctx.view.members(pod.id)
        is_over = ctx.view.pod_state(pod) in _ENDED_PODS
        if is_over and not any(ctx.view.has_process(member) for member in members):
            return True
        spared.add(pod.id)
        return False

    async def remove(pod_id: str) -> None:
        await teardown.remove_pod(ctx, pod_id, only_if=has_ended)

    ended = [pod.id for pod in ctx.view.pods() if has_ended(pod)]
    spared.clear()
    return await _remove_all(ended, remove, spared)


async def prune_containers(ctx: Context, wanted: Callable[[ContainerRecord], bool]) -> Pruned:
    """Remove every container outside of pods that does not run and that `wanted` accepts."""
    ctx.check_open()
    ctx.view.refresh()
    spared: set[str] = set()

    def is_idle(record: ContainerRecord) -> bool:
        if ctx.view.state(record) in _IDLE and not _is_at_work(ctx, record):
            return True
        spared.add(record.id)
        return False

    async def remove(container_id: str) -> None:
        await teardown.remove_container_verb(ctx, container_id, only_if=is_idle)

    alone = [record for record in ctx.view.containers() if not record.pod_id and wanted(record)]
    idle = [record.id for record in alone if is_idle(record)]
    spared.clear()
    return await _remove_all(idle, remove, spared)


def _is_at_work(ctx: Context, record: ContainerRecord) -> bool:
    """Whether it has a process that is more than held before its program."""
    is_held = ctx.view.state(record) is ContainerState.CREATED
    return ctx.view.has_process(record) and not is_held


async def _remove_all(ids: Iterable[str], remove: Remove, spared: set[str]) -> Pruned:
    """Remove all at once; who was spared or removed by others is left out."""
    found: Pruned = dict.fromkeys(ids)

    async def attempt(one: str) -> None:
        try:
            await remove(one)
        except Removed:
            del found[one]
        except InvalidState as exc:
            found[one] = exc
            if one in spared:
                del found[one]
        except PodrtError as exc:
            found[one] = exc

    async with trio.open_nursery() as nursery:
        for one in list(found):
            nursery.start_soon(attempt, one)
    return found
