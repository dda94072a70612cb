"""What `inspect` says of a user namespace, in podman's field names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from podrt.model.userns import IdRange
from podrt.runtime.view import View
from podrt.store.records import ContainerRecord, PodRecord


def users_of(view: View, record: ContainerRecord) -> dict[str, Any]:
    """A container's UsernsMode, and the maps if it is not in the host's; a member's is that of its
    pod's infra container."""
    given = record.userns
    if given is None:
        return {"UsernsMode": "", "IDMappings": None}
    pod = view.store.tables.get(PodRecord, record.pod_id) if record.pod_id else None
    mode = f"ns:{given.path}" if given.path else "private"
    if pod is not None and pod.infra_id and not record.config.is_infra:
        mode = f"container:{pod.infra_id}"
    maps = {"UidMap": _lines(given.uid_map), "GidMap": _lines(given.gid_map)}
    return {"UsernsMode": mode, "IDMappings": maps}


def _lines(ranges: Sequence[IdRange]) -> list[str]:
    return [f"{one.inside}:{one.outside}:{one.count}" for one in ranges]
