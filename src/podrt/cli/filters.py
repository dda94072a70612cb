"""`--filter KEY=VALUE` of the listings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from podrt.errors import InvalidConfig
from podrt.model.states import ALIVE
from podrt.runtime.view import View
from podrt.store.records import ContainerRecord, PodRecord

from .shapes import state_word

_POD_KEYS = frozenset({"id", "name", "label", "status", "ctr-ids", "ctr-names", "ctr-status"})
_CONTAINER_KEYS = frozenset({"id", "name", "label", "status", "pod", "ancestor", "exited"})


class Filters:
    """The filters of a command: values of one key are alternatives, keys narrow each other."""

    def __init__(self, words: Sequence[str]) -> None:
        self.values: dict[str, list[str]] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise InvalidConfig("--filter", f"{word!r} is not KEY=VALUE")
            self.values.setdefault(key, []).append(value)

    def check(self, known: frozenset[str]) -> None:
        """Raises: InvalidConfig for a key that is not known."""
        for key in self.values:
            if key not in known:
                raise InvalidConfig("--filter", f"{key} is an invalid filter")


def pod_matches(view: View, pod: PodRecord, filters: Filters) -> bool:
    """Whether a pod is to be listed. Raises: InvalidConfig."""
    filters.check(_POD_KEYS)
    return all(
        any(_pod_has(view, pod, key, value) for value in values)
        for key, values in filters.values.items()
    )


def _pod_has(view: View, pod: PodRecord, key: str, value: str) -> bool:
    members = view.members(pod.id) if key.startswith("ctr-") else []
    if key == "id":
        return pod.id.startswith(value)
    if key == "name":
        return _fits(value, pod.config.name)
    if key == "label":
        return _has_label(pod.config.labels, value)
    if key == "status":
        return str(view.pod_state(pod)).lower() == value.lower()
    if key == "ctr-ids":
        return any(member.id.startswith(value) for member in members)
    if key == "ctr-names":
        return any(_fits(value, member.config.name) for member in members)
    return any(state_word(view.state(member)) == value.lower() for member in members)


def container_matches(view: View, record: ContainerRecord, filters: Filters) -> bool:
    """Whether a container is to be listed. Raises: InvalidConfig."""
    filters.check(_CONTAINER_KEYS)
    return all(
        any(_container_has(view, record, key, value) for value in values)
        for key, values in filters.values.items()
    )


def _container_has(view: View, record: ContainerRecord, key: str, value: str) -> bool:
    if key == "id":
        return record.id.startswith(value)
    if key == "name":
        return _fits(value, record.config.name)
    if key == "label":
        return _has_label(record.config.labels, value)
    if key == "status":
        return state_word(view.state(record)) == value.lower()
    if key == "ancestor":
        return record.image_id.startswith(value) or record.config.image == value
    if key == "pod":
        pod = view.store.tables.get(PodRecord, record.pod_id) if record.pod_id else None
        return pod is not None and (pod.config.name == value or pod.id.startswith(value))
    is_over = view.state(record) not in ALIVE
    return is_over and str(view.facts(record).exit_code) == value


def _fits(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error as exc:
        raise InvalidConfig("--filter", f"{pattern!r}: {exc}") from exc


def _has_label(labels: Mapping[str, str], value: str) -> bool:
    key, equals, wanted = value.partition("=")
    return key in labels and (not equals or labels[key] == wanted)
