"""`--filter KEY=VALUE` of the listings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from podrt.errors import InvalidConfig, Unsupported
from podrt.model.restarts import RestartKind
from podrt.model.states import ALIVE, ContainerState, PodState
from podrt.runtime.view import View
from podrt.store.records import ContainerRecord, PodRecord

from .moments import point_in_time_ns
from .shapes import state_word

_POD_KEYS = frozenset(
    {
        "ctr-ids", "ctr-names", "ctr-number", "ctr-status", "id", "label", "label!", "name",
        "status", "until",
    }
)  # fmt: skip
_CONTAINER_KEYS = frozenset(
    {
        "ancestor", "before", "command", "exited", "id", "label", "label!", "name", "pod",
        "restart-policy", "should-start-on-boot", "since", "status", "until", "volume",
    }
)  # fmt: skip
_MISSING = {
    "health": "there are no health checks yet",
    "network": "there are no named networks yet",
}
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_ALL_MUST_FIT = frozenset({"label", "label!"})


class Filters:
    """The filters of a command: keys narrow each other, and so do labels.

    The values of any other key are alternatives.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.values: dict[str, list[str]] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise InvalidConfig("--filter", f"{word!r} is not KEY=VALUE")
            self.values.setdefault(key, []).append(value)

    def check(self, known: frozenset[str]) -> None:
        """Raises: InvalidConfig for a key that is not known, Unsupported for one not built yet."""
        for key in self.values:
            if key in known:
                continue
            if key in _MISSING:
                raise Unsupported(f"--filter {key}", _MISSING[key])
            raise InvalidConfig("--filter", f"{key} is an invalid filter")


def check_pod_filters(filters: Filters) -> None:
    """Raises: InvalidConfig, Unsupported for what `pod ps` cannot filter by."""
    filters.check(_POD_KEYS)
    for value in filters.values.get("status", ()):
        if value.capitalize() not in list(PodState):
            raise InvalidConfig("--filter", f"{value} is not a valid pod status")
    for value in filters.values.get("ctr-number", ()):
        if not value.isdecimal():
            raise InvalidConfig("--filter", f"ctr-number={value} is no number")
    _check_states(filters, "ctr-status")
    _check_values(filters)


def check_container_filters(filters: Filters) -> None:
    """Raises: InvalidConfig, Unsupported for what `ps` cannot filter by."""
    filters.check(_CONTAINER_KEYS)
    for value in filters.values.get("exited", ()):
        if not value.isdecimal():
            raise InvalidConfig("--filter", f"exited={value} is no exit code")
    for value in filters.values.get("should-start-on-boot", ()):
        if value.lower() not in _TRUTHS:
            raise InvalidConfig("--filter", f"should-start-on-boot={value} is not true or false")
    _check_states(filters, "status")
    _check_values(filters)


def _check_states(filters: Filters, key: str) -> None:
    known = {state_word(state) for state in ContainerState} | set(ContainerState)
    for value in filters.values.get(key, ()):
        if value.lower() not in known:
            raise InvalidConfig("--filter", f"unknown container state: {value}")


def _check_values(filters: Filters) -> None:
    for value in filters.values.get("until", ()):
        point_in_time_ns("--filter until", value)
    for key in ("name", "ctr-names"):
        for value in filters.values.get(key, ()):
            _fits(value, "")


def pod_matches(view: View, pod: PodRecord, filters: Filters) -> bool:
    """Whether a pod is to be listed. Raises: InvalidConfig, Unsupported."""
    check_pod_filters(filters)
    return all(
        (all if key in _ALL_MUST_FIT else any)(_pod_has(view, pod, key, value) for value in values)
        for key, values in filters.values.items()
    )


def _pod_has(view: View, pod: PodRecord, key: str, value: str) -> bool:
    if key.startswith("ctr-"):
        return _members_have(view, pod, key, value)
    if key == "status":
        return str(view.pod_state(pod)).lower() == value.lower()
    return _has(pod, pod.config.labels, key, value)


def _members_have(view: View, pod: PodRecord, key: str, value: str) -> bool:
    members = view.members(pod.id)
    if key == "ctr-number":
        return len(members) == int(value)
    if key == "ctr-ids":
        return any(member.id.startswith(value) for member in members)
    if key == "ctr-names":
        return any(_fits(value, member.config.name) for member in members)
    return any(state_word(view.state(member)) == value.lower() for member in members)


def _has(
    record: PodRecord | ContainerRecord, labels: Mapping[str, str], key: str, value: str
) -> bool:
    """What pods and containers have both."""
    if key == "id":
        return record.id.startswith(value)
    if key == "name":
        return _fits(value, record.config.name)
    if key == "until":
        return record.created_at_ns < point_in_time_ns("--filter until", value)
    return has_label(labels, value) == (key == "label")


def container_matches(view: View, record: ContainerRecord, filters: Filters) -> bool:
    """Whether a container is to be listed. Raises: InvalidConfig, NotFound, Unsupported."""
    check_container_filters(filters)
    return all(
        (all if key in _ALL_MUST_FIT else any)(
            _container_has(view, record, key, value) for value in values
        )
        for key, values in filters.values.items()
    )


def _container_has(view: View, record: ContainerRecord, key: str, value: str) -> bool:
    if key == "status":
        return value.lower() in (state_word(view.state(record)), str(view.state(record)))
    if key == "pod":
        return _is_in_pod(view, record, value)
    if key in ("before", "since"):
        other = view.container(value)
        if other.id == record.id:
            return False
        is_older = (record.created_at_ns, record.id) < (other.created_at_ns, other.id)
        return is_older == (key == "before")
    if key == "ancestor":
        return _has_image(record, value)
    if key == "volume":
        mounts = record.config.mounts
        return any(value in (mount.source, mount.destination) for mount in mounts)
    if key == "command":
        return value in (record.config.command or ())[:1]
    if key == "restart-policy":
        return view.restart_policy(record).name == value
    if key == "should-start-on-boot":
        return _should_start_on_boot(view, record) == _TRUTHS[value.lower()]
    if key == "exited":
        is_over = view.state(record) not in ALIVE and view.facts(record).finished_at_ns != 0
        return is_over and view.facts(record).exit_code == int(value)
    return _has(record, record.config.labels, key, value)


def _should_start_on_boot(view: View, record: ContainerRecord) -> bool:
    """podman's rule: always, and unless-stopped if it was not the user who stopped it."""
    kind = view.restart_policy(record).kind
    is_kept = kind is RestartKind.UNLESS_STOPPED and not record.user_stopped
    return kind is RestartKind.ALWAYS or is_kept


def _is_in_pod(view: View, record: ContainerRecord, value: str) -> bool:
    if not record.pod_id:
        return False
    pod = view.store.tables.get(PodRecord, record.pod_id)
    is_named = pod is not None and pod.config.name == value
    return is_named or (value != "" and record.pod_id.startswith(value))


def _has_image(record: ContainerRecord, value: str) -> bool:
    image = record.config.image
    names = (image, image.rpartition(":")[0], image.rpartition("/")[2])
    return value in (*names, names[2].rpartition(":")[0]) or (
        value != "" and record.image_id.startswith(value)
    )


def _fits(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error as exc:
        raise InvalidConfig("--filter", f"{pattern!r}: {exc}") from exc


def has_label(labels: Mapping[str, str], value: str) -> bool:
    """Whether `value`, KEY or KEY=VALUE, is among `labels`."""
    key, equals, wanted = value.partition("=")
    return key in labels and (not equals or labels[key] == wanted)
