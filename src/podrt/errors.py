"""Every error podrt raises on purpose: one class per reaction of the caller.

PodrtError
├── InvalidConfig       mend the value that is named and call again
├── NotFound            there is no such object
│   └── NothingToStart  a pod has no container that could be started first
├── Ambiguous           an ID prefix fits several objects
├── AlreadyExists       the name or ID is taken
├── InvalidState        the object exists but cannot do that now
│   └── DependencyFailed  a container was not tried because one it needs failed
├── Busy                somebody else works on it; try again
├── InUse               something else still needs it
├── Unsupported         asked for something podrt does not do (yet)
├── LimitReached        a limit of podrt or of the host
├── EngineFailed        the kernel or the OCI runtime refused a step
├── StoreFailed         the disk refused: nothing was acknowledged
├── StoreCorrupt        the log contradicts itself
├── WalkFailed          some containers of a pod failed, each with its own error
├── RuntimeClosed       the runtime was closed
├── Removed             the pod or container is gone
└── InternalError       a fault of podrt itself
    └── MonitorGone     a monitor ended or was killed while it was asked

A class words its message from its fields, so that every door shows the same sentence.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence


class PodrtError(Exception):
    """The root of the tree: `except PodrtError` catches all that podrt raises on purpose."""


class InvalidConfig(PodrtError):
    """A value the caller gave is wrong.

    `field` names it as the caller wrote it (`--cpus`, `spec.containers[0].image`).
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}" if field else reason)


class NotFound(PodrtError):
    """`kind` is "pod", "container", "image", "volume" or "file"; `name` is what was looked for."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"no such {kind}: {name}" if kind != "file" else f"{name}: no such file")


class NothingToStart(NotFound):
    """Pod `pod` has no container without dependencies, so none could be the first."""

    def __init__(self, pod: str) -> None:
        super().__init__("container", pod)
        self.args = (
            f"no containers in pod {pod} have no dependencies, cannot start pod: no such container",
        )


class Ambiguous(PodrtError):
    """An ID prefix that fits several objects; `matches` are their full IDs."""

    def __init__(self, kind: str, name: str, matches: Sequence[str]) -> None:
        self.kind = kind
        self.name = name
        self.matches = tuple(matches)
        listed = ", ".join(match[:12] for match in self.matches)
        super().__init__(f"more than one {kind} matches {name}: {listed}")


class AlreadyExists(PodrtError):
    """The name (or ID) `name` is taken by the object `owner`."""

    def __init__(self, kind: str, name: str, owner: str) -> None:
        self.kind = kind
        self.name = name
        self.owner = owner
        super().__init__(
            f'the {kind} name "{name}" is already in use by {owner}: that name is already in use'
        )


class InvalidState(PodrtError):
    """`verb` cannot be done to `what` ("container web") because of `reason`."""

    def __init__(self, verb: str, what: str, reason: str) -> None:
        self.verb = verb
        self.what = what
        self.reason = reason
        super().__init__(f"cannot {verb} {what}: {reason}")


class DependencyFailed(InvalidState):
    """Container `name` was not tried: `failed` (names), which it needs, did not start."""

    def __init__(self, name: str, failed: Sequence[str]) -> None:
        super().__init__("start", f"container {name}", "a dependency failed to start")
        self.failed = tuple(failed)
        listed = ", ".join(self.failed)
        self.args = (f"a dependency of container {name} failed to start: {listed}",)


class Busy(PodrtError):
    """Another command works on `what`; `owner` says which ("podrt pod start, pid 12")."""

    def __init__(self, what: str, owner: str) -> None:
        self.what = what
        self.owner = owner
        super().__init__(f"{what} is busy: {owner}")


class InUse(PodrtError):
    """`what` is still needed by `users` (names or IDs); `reason` says for what."""

    def __init__(self, what: str, users: Sequence[str], reason: str = "") -> None:
        self.what = what
        self.users = tuple(users)
        text = f"{what} is in use by {', '.join(self.users)}"
        super().__init__(f"{text}: {reason}" if reason else text)


class Unsupported(PodrtError):
    """`field` was asked for and is not honoured; never dropped silently."""

    def __init__(self, field: str, reason: str = "") -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field} is not supported{': ' + reason if reason else ''}")


class LimitReached(PodrtError):
    """`what` has reached `limit` ("lock table", "1000000 locks")."""

    def __init__(self, what: str, limit: str) -> None:
        self.what = what
        self.limit = limit
        super().__init__(f"{what} has reached its limit: {limit}")


class EngineFailed(PodrtError):
    """A step of starting a container failed: (`stage`, `errno`, `path`).

    `stage` is the plan's word ("mount", "exec"), `errno` the kernel's number (0: none), `path`
    what it was about or, without a number, what was said ("" when there is none), `container`
    whose step it was ("" when unknown).
    """

    def __init__(self, stage: str, errno: int, path: str = "", *, container: str = "") -> None:
        self.stage = stage
        self.errno = errno
        self.path = path
        self.container = container
        reason = os.strerror(errno) if errno else path or "failed"
        text = f"{stage} {path}: {reason}" if path and errno else f"{stage}: {reason}"
        if stage == "exec":
            text = f"{text}: {_EXEC_WORDS.get(errno, 'OCI runtime error')}"
        super().__init__(f"cannot start container {container}: {text}" if container else text)

    def of_container(self, name: str) -> EngineFailed:
        """The same failure, saying whose it was."""
        return EngineFailed(self.stage, self.errno, self.path, container=name)


# Scripts look for these words of podman's.
_EXEC_WORDS = {
    errno.ENOENT: "OCI runtime attempted to invoke a command that was not found",
    errno.ENOTDIR: "OCI runtime attempted to invoke a command that was not found",
    errno.EACCES: "OCI runtime permission denied error",
}


class StoreFailed(PodrtError):
    """Writing state failed (`path`, `errno`): what was asked for is not acknowledged."""

    def __init__(self, path: str, errno: int, doing: str = "write") -> None:
        self.path = path
        self.errno = errno
        super().__init__(f"cannot {doing} {path}: {os.strerror(errno)}")


class StoreCorrupt(PodrtError):
    """The file `path` contradicts itself at byte `offset`."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        self.path = path
        self.offset = offset
        self.reason = reason
        super().__init__(f"{path} is damaged at offset {offset}: {reason}")


class WalkFailed(PodrtError):
    """Some containers failed: `outcomes` maps every container's ID to None or its error."""

    def __init__(self, verb: str, outcomes: Mapping[str, PodrtError | None]) -> None:
        self.verb = verb
        self.outcomes = dict(outcomes)
        failed = [error for error in self.outcomes.values() if error is not None]
        super().__init__(f"cannot {verb} {len(failed)} of {len(self.outcomes)} containers")


class RuntimeClosed(PodrtError):
    """The runtime this handle came from was closed."""

    def __init__(self) -> None:
        super().__init__("the runtime is closed")


class Removed(PodrtError):
    """The pod or container behind this handle is gone."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"{kind} {name} has been removed")


class InternalError(PodrtError):
    """A fault of podrt itself: please report it with the text."""


class MonitorGone(InternalError):
    """The monitor closed the connection: it ended, or was killed."""


def sole_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that matters in a group a nursery raised.

    An interrupt first, then the only other error there is; several stay a group.
    """
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop()
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
        else:
            leaves.append(error)
    for error in leaves:
        if isinstance(error, KeyboardInterrupt):
            return error
    return leaves[0] if len(leaves) == 1 else group
