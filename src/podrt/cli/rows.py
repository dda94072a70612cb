"""The fields that templates of the listings know, and how the listings are sorted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from podrt.errors import InvalidConfig, NotFound
from podrt.model.ids import short_id
from podrt.model.image import Image
from podrt.model.states import ALIVE
from podrt.runtime.view import View
from podrt.store.records import ContainerRecord, PodRecord

from .output import age
from .shapes import container_row, pod_row, state_word, status_text

_COMMAND_SHOWN = 17

POD_HEADS = {
    "ID": "POD ID", "Id": "POD ID", "InfraID": "INFRA ID", "Name": "NAME",
    "NumberOfContainers": "# OF CONTAINERS", "ContainerIds": "IDS", "ContainerNames": "NAMES",
    "ContainerStatuses": "STATUS", "Namespace": "NAMESPACES",
}  # fmt: skip
CONTAINER_HEADS = {
    "ID": "CONTAINER ID", "Names": "NAMES", "ImageID": "IMAGE ID", "Pod": "POD ID",
    "PodName": "PODNAME", "CreatedHuman": "CREATED",
}  # fmt: skip
IMAGE_HEADS = {"ID": "IMAGE ID", "CreatedSince": "CREATED"}


def shown_id(text: str, *, whole: bool) -> str:
    """An ID as a table shows it."""
    return text if whole else short_id(text)


def moment(at_ns: int) -> str:
    """A time as Go prints one: "2026-11-22 01:51:11.395795516 +0000 UTC"."""
    seconds, rest = divmod(at_ns, 10**9)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + fraction + " +0000 UTC"


def command_text(record: ContainerRecord, *, whole: bool) -> str:
    """A container's command on one line."""
    text = " ".join(record.config.command or ())
    if not whole and len(text) > _COMMAND_SHOWN + 3:
        text = text[:_COMMAND_SHOWN] + "..."
    return text.replace("\n", " ")


def pod_fields(view: View, pod: PodRecord, *, whole: bool) -> dict[str, Any]:
    """What templates of `pod ps` see."""
    members = view.members(pod.id)
    states = [state_word(view.state(member)) for member in members]
    return {
        **pod_row(view, pod),
        "ID": shown_id(pod.id, whole=whole),
        "Id": shown_id(pod.id, whole=whole),
        "InfraID": shown_id(pod.infra_id, whole=whole),
        "InfraId": shown_id(pod.infra_id, whole=whole),
        "Created": age(pod.created_at_ns),
        "NumberOfContainers": len(members),
        "ContainerIds": ",".join(shown_id(member.id, whole=whole) for member in members),
        "ContainerNames": ",".join(member.config.name for member in members),
        "ContainerStatuses": ",".join(states),
        "Networks": "",
        "Restarts": sum(view.facts(member).restarts for member in members),
    }


def container_fields(view: View, record: ContainerRecord, *, whole: bool) -> dict[str, Any]:
    """What templates of `ps` see."""
    row = container_row(view, record)
    status = status_text(view.state(record), view.facts(record))
    return {
        **row,
        "ID": shown_id(record.id, whole=whole),
        "Command": command_text(record, whole=whole),
        "Created": row["CreatedHuman"],
        "CreatedAt": moment(record.created_at_ns),
        "RunningFor": row["CreatedHuman"],
        "Mounts": ",".join(row["Mounts"]),
        "Names": record.config.name,
        "Networks": "",
        "Pod": shown_id(record.pod_id, whole=whole),
        "Ports": "",
        "State": status,
        "Status": status,
    }


def image_size(size_bytes: int) -> str:
    """A size as podman shows an image's: "1.99 MB"."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def image_fields(image: Image, repository: str, tag: str, *, whole: bool) -> dict[str, Any]:
    """What templates of `images` see of one of an image's names."""
    return {
        "ID": f"sha256:{image.id}" if whole else short_id(image.id),
        "Id": image.id,
        "Repository": repository,
        "Tag": tag,
        "Digest": image.manifest_digest,
        "Size": image_size(image.size_bytes),
        "Created": age(image.created_at_ns),
        "CreatedSince": age(image.created_at_ns),
        "CreatedAt": moment(image.created_at_ns),
        "CreatedTime": moment(image.created_at_ns),
        "Names": list(image.references),
        "RepoTags": list(image.references),
        "Labels": dict(image.defaults.labels),
    }


def sort_pods(view: View, pods: Sequence[PodRecord], by: str) -> list[PodRecord]:
    """Pods in the order that `--sort` asks for. Raises: InvalidConfig."""
    keys: dict[str, Callable[[PodRecord], Any]] = {
        "created": lambda pod: -pod.created_at_ns,
        "id": lambda pod: pod.id,
        "name": lambda pod: pod.config.name,
        "names": lambda pod: pod.config.name,
        "number": lambda pod: len(view.members(pod.id)),
        "status": lambda pod: str(view.pod_state(pod)),
    }
    return sorted(pods, key=_key(keys, by))


def sort_containers(
    view: View, records: Sequence[ContainerRecord], by: str
) -> list[ContainerRecord]:
    """Containers in the order that `--sort` asks for. Raises: InvalidConfig."""

    def pod_name(record: ContainerRecord) -> str:
        pod = view.store.tables.get(PodRecord, record.pod_id) if record.pod_id else None
        return pod.config.name if pod is not None else ""

    def started_at_ns(record: ContainerRecord) -> int:
        return view.facts(record).started_at_ns

    keys: dict[str, Callable[[ContainerRecord], Any]] = {
        "command": lambda record: " ".join(record.config.command or ()),
        "created": lambda record: record.created_at_ns,
        "id": lambda record: record.id,
        "image": lambda record: record.config.image,
        "names": lambda record: record.config.name,
        "pod": pod_name,
        "runningfor": started_at_ns,
        "status": lambda record: (view.state(record) not in ALIVE, state_word(view.state(record))),
    }
    return sorted(records, key=_key(keys, by))


def _key(keys: dict[str, Callable[[Any], Any]], by: str) -> Callable[[Any], Any]:
    if by.lower() not in keys:
        raise InvalidConfig("--sort", f"{by!r} is not one of {', '.join(sorted(keys))}")
    return keys[by.lower()]


def newest_container(view: View) -> ContainerRecord:
    """The container that was made last. Raises: NotFound."""
    found = [record for record in view.containers() if not record.config.is_infra]
    if not found:
        raise NotFound("container", "the latest")
    return found[-1]
