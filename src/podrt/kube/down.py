"""Taking down what was played: the pods of the same files, by their names."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from podrt.errors import Ambiguous, NotFound, PodrtError, Removed
from podrt.runtime.pod import Pod
from podrt.runtime.runtime import Results, Runtime

from .plans import PodPlan


class TakenDown(msgspec.Struct, frozen=True, kw_only=True):
    """A pod of the files: `pod_id` is "" if there was none, `error` why it could not be removed."""

    pod_name: str
    pod_id: str = ""
    error: PodrtError | None = None

    @property
    def was_absent(self) -> bool:
        """Whether there was no such pod, which is no error."""
        return not self.pod_id


async def down(
    runtime: Runtime, plans: Sequence[PodPlan], *, timeout_s: int | None = None
) -> list[TakenDown]:
    """Stop and remove the pods of `plans`, with their emptyDir volumes; all at the same time.

    `timeout_s` takes the place of each container's own grace period. What cannot be removed is in
    the result. Raises: RuntimeClosed.
    """
    pods = {plan.name: _find(runtime, plan.name) for plan in plans}
    found = [pod for pod in pods.values() if pod is not None]
    results = await runtime.remove_pods(found, force=True, timeout_s=timeout_s)
    return [_taken_down(name, pod, results) for name, pod in pods.items()]


def _find(runtime: Runtime, name: str) -> Pod | None:
    try:
        pod = runtime.pod(name)
    except (NotFound, Ambiguous):
        return None
    # A name may also be the beginning of another pod's ID.
    return pod if pod.name == name else None


def _taken_down(name: str, pod: Pod | None, results: Results) -> TakenDown:
    if pod is None:
        return TakenDown(pod_name=name)
    result = results[pod.id]
    if isinstance(result, Removed):
        # Another command was faster.
        return TakenDown(pod_name=name)
    if isinstance(result, PodrtError):
        return TakenDown(pod_name=name, pod_id=pod.id, error=result)
    errors = [error for error in result.values() if error is not None]
    return TakenDown(pod_name=name, pod_id=pod.id, error=errors[0] if errors else None)
