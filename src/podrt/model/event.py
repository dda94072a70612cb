"""What happened to a pod or a container, as `podrt events` tells it.

Source: semantics.md section 10; the words are podman's.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec


class EventType(enum.StrEnum):
    """What an event is about."""

    POD = "pod"
    CONTAINER = "container"


class Action(enum.StrEnum):
    """What happened; podman calls it the status of an event."""

    CREATE = "create"
    INIT = "init"
    START = "start"
    STOP = "stop"
    DIED = "died"
    KILL = "kill"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    RESTART = "restart"
    CLEANUP = "cleanup"
    REMOVE = "remove"
    OOM = "oom"


class Event(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One thing that happened, written after it did.

    `id`, `name`, `image` and `labels` are those of the pod or container; `pod_id` is "" outside
    pods; `exit_code` is None where there is none; `namespace` is the tenant's label.
    Units: `at_ns` nanoseconds since 1970.
    """

    at_ns: int
    type: EventType
    action: Action
    id: str
    name: str
    pod_id: str = ""
    image: str = ""
    labels: Mapping[str, str] = {}
    exit_code: int | None = None
    namespace: str = ""
