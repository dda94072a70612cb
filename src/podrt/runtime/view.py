"""Reading pods and containers: wishes from the log, facts from the monitors' journals.

Synchronous and free of Trio, and it takes no lock: `ps`, `inspect` and `exists` never wait for
a verb. Source: architecture.md decisions 2, 3 and 17.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import msgspec

from podrt.config import Settings
from podrt.engines.liveness import has_monitor
from podrt.errors import NotFound, StoreCorrupt, StoreFailed
from podrt.layout import Layout
from podrt.linux import features
from podrt.linux.process import alive
from podrt.model.restarts import RestartPolicy, policy_of
from podrt.model.states import (
    ALIVE,
    LIVE_PHASES,
    ContainerState,
    Facts,
    Phase,
    PodState,
    container_state,
    pod_state,
)
from podrt.store.events import journaled
from podrt.store.facts import JournalTail, lost, refreshed
from podrt.store.records import ContainerRecord, EventRecord, GroupRecord, PodRecord
from podrt.store.wal import Store

R = TypeVar("R", PodRecord, ContainerRecord)

# A journal kept open is a descriptor; a host may have more pods than descriptors.
_MAX_TAILS = 256


class Unfolded(NamedTuple):
    """Containers whose facts a journal moved, and the group as it stands once they are folded.

    `group` is None when there is nothing to fold.
    """

    ids: frozenset[str]
    group: GroupRecord | None


class View:
    """What is there, as of the last `refresh`."""

    def __init__(self, layout: Layout, store: Store, boot_id: str, namespace: str = "") -> None:
        self.layout = layout
        self.store = store
        self.boot_id = boot_id
        self.namespace = namespace
        self.is_lenient = False
        self._tails: dict[str, JournalTail] = {}
        self._monitored: dict[str, bool] = {}

    def refresh(self) -> None:
        """Bring everything up to now."""
        self.store.catch_up()
        self._monitored.clear()

    def pod(self, name: str) -> PodRecord:
        """The pod called `name` (or with that ID or unique prefix). Raises: NotFound, Ambiguous."""
        return self._in_namespace(self.store.tables.find(PodRecord, name), "pod", name)

    def container(self, name: str) -> ContainerRecord:
        """The container called `name`, as `pod`."""
        record = self.store.tables.find(ContainerRecord, name)
        return self._in_namespace(record, "container", name)

    def _in_namespace(self, record: R, kind: str, name: str) -> R:
        if self.namespace and record.namespace != self.namespace:
            raise NotFound(kind, name)
        return record

    def pods(self) -> list[PodRecord]:
        """Every pod of the namespace, oldest first."""
        return self._sorted(self.store.tables.all(PodRecord))

    def containers(self) -> list[ContainerRecord]:
        """Every container of the namespace, oldest first."""
        return self._sorted(self.store.tables.all(ContainerRecord))

    def _sorted(self, records: Iterable[R]) -> list[R]:
        kept = [r for r in records if not self.namespace or r.namespace == self.namespace]
        kept.sort(key=lambda record: (record.created_at_ns, record.id))
        return kept

    def members(self, pod_id: str) -> list[ContainerRecord]:
        """A pod's containers in creation order, infra included."""
        return self.store.tables.members(pod_id)

    def facts(self, container: ContainerRecord) -> Facts:
        """What is known of the container's latest run, believing the kernel over the journal.

        Raises: StoreFailed, StoreCorrupt for a journal that cannot be read; who only looks
        (`open_view`) gets what the log knows.
        """
        try:
            return self._newest_facts(container)
        except (StoreCorrupt, StoreFailed):
            if not self.is_lenient:
                raise
            return container.facts

    def _newest_facts(self, container: ContainerRecord) -> Facts:
        """However old the caller's record is: what was folded since is in the newest one only."""
        container = self.store.tables.get(ContainerRecord, container.id) or container
        group_id = container.group_id
        group = self.store.tables.get(GroupRecord, group_id)
        if group is None:
            return container.facts
        facts = self._tail(group).facts(container, group)
        if facts.phase in LIVE_PHASES:
            return self._believe_kernel(group_id, container, facts)
        return refreshed(facts, self.boot_id) if facts.phase is Phase.BACK_OFF else facts

    def _tail(self, group: GroupRecord) -> JournalTail:
        """The group's newest journal; the one longest open is closed when there are too many."""
        tail = self._tails.get(group.id)
        if tail is not None and tail.epoch == group.epoch:
            return tail
        if tail is not None:
            tail.close()
        elif len(self._tails) >= _MAX_TAILS:
            self._tails.pop(next(iter(self._tails))).close()
        tail = JournalTail(self.layout.journal(group.id, group.epoch), group)
        self._tails[group.id] = tail
        return tail

    def unfolded_events(self, container: ContainerRecord) -> list[EventRecord]:
        """What the journal tells of `container`, a record as the log has it, and nobody folded."""
        group = self.store.tables.get(GroupRecord, container.group_id)
        if group is None:
            return []
        return list(journaled(container, self._tail(group).steps(container, group), group.epoch))

    def is_unwatched(self, container: ContainerRecord) -> bool:
        """Whether its process lives and the group's newest monitor does not know of it."""
        facts = self.facts(container)
        is_alive = facts.phase in LIVE_PHASES and container.config.has_program
        return is_alive and not self._is_watched(container, facts)

    def _is_watched(self, container: ContainerRecord, facts: Facts) -> bool:
        group = self.store.tables.get(GroupRecord, container.group_id)
        return group is not None and facts.epoch == group.epoch

    def unfolded(self, group_id: str) -> Unfolded:
        """What the group's journal tells that the log does not hold yet. Raises: StoreFailed."""
        group = self.store.tables.get(GroupRecord, group_id)
        if group is None:
            return Unfolded(frozenset(), None)
        tail = self._tail(group)
        ids = tail.unfolded(group)
        seq, at = tail.position
        if seq == group.folded_seq:
            return Unfolded(frozenset(), None)
        folded = msgspec.structs.replace(group, folded_seq=seq, folded_bytes=at)
        if group_id in ids:
            ids.update(member.id for member in self.members(group_id))
        return Unfolded(frozenset(ids), folded)

    def _believe_kernel(self, group_id: str, container: ContainerRecord, facts: Facts) -> Facts:
        if facts.boot_id and facts.boot_id != self.boot_id:
            return refreshed(facts, self.boot_id)
        if group_id not in self._monitored:
            self._monitored[group_id] = has_monitor(self.layout, group_id)
        has_program = container.config.has_program
        if self._monitored[group_id] and (not has_program or self._is_watched(container, facts)):
            return facts
        if has_program and alive(facts.pid, facts.start_ticks):
            if facts.phase is Phase.STARTING:
                # Its monitor died before it could write that exec had succeeded.
                return msgspec.structs.replace(facts, phase=Phase.RUNNING)
            return facts
        # The monitor may have written the end between our reading and its own end.
        tail = self._tails.get(group_id)
        group = self.store.tables.get(GroupRecord, group_id)
        if tail is not None and group is not None:
            latest = tail.facts(container, group)
            if latest.phase not in LIVE_PHASES:
                return latest
        return lost(facts)

    def state(self, container: ContainerRecord) -> ContainerState:
        """A container's state."""
        return self._state(container, is_removing=container.removing)

    def live_state(self, container: ContainerRecord) -> ContainerState:
        """A container's state as if its removal had not begun: what its process does."""
        return self._state(container, is_removing=False)

    def _state(self, container: ContainerRecord, *, is_removing: bool) -> ContainerState:
        try:
            facts = self._newest_facts(container)
        except (StoreCorrupt, StoreFailed):
            if not self.is_lenient:
                raise
            # One that cannot be read does not spoil a listing.
            return ContainerState.UNKNOWN
        # Of what ran in another boot nothing is left to clean up.
        ended = facts.run if facts.boot_id not in ("", self.boot_id) else 0
        cleaned_run = max(container.cleaned_run, ended)
        return container_state(facts, is_removing=is_removing, cleaned_run=cleaned_run)

    def pod_state(self, pod: PodRecord) -> PodState:
        """A pod's state from its members (semantics.md section 2)."""
        members = [member for member in self.members(pod.id) if member.config.init is None]
        ordinary = [member for member in members if member.config.has_program]
        return pod_state(self.state(member) for member in ordinary or members)

    def has_process(self, container: ContainerRecord) -> bool:
        """Whether it has a process, if only one that is being set up; `removing` hides nothing."""
        return container.config.has_program and self.facts(container).phase in LIVE_PHASES

    def is_unfinished(self, container: ContainerRecord) -> bool:
        """Whether it has a process or waits in back-off for its next one."""
        is_waiting = self.facts(container).phase is Phase.BACK_OFF
        return is_waiting or self.has_process(container)

    def restart_policy(self, container: ContainerRecord) -> RestartPolicy:
        """The restart policy that counts for a container."""
        pod = self.store.tables.get(PodRecord, container.pod_id) if container.pod_id else None
        return policy_of(container.config, pod.config if pod is not None else None)

    def is_running(self, container: ContainerRecord) -> bool:
        """Whether the container has a process (running, paused or stopping)."""
        return self.state(container) in ALIVE

    def close(self) -> None:
        """Let go of the journals."""
        for tail in self._tails.values():
            tail.close()
        self._tails.clear()


@contextlib.contextmanager
def open_view(settings: Settings) -> Iterator[View]:
    """The reading side alone: no lock is taken and nothing is written.

    Raises: Unsupported for who may not read the state, StoreFailed, StoreCorrupt.
    """
    features.require_root()
    store = Store.open(settings.layout.state_dir, readonly=True)
    view = View(settings.layout, store, features.boot_id(), settings.namespace)
    view.is_lenient = True
    try:
        view.refresh()
        yield view
    finally:
        view.close()
        store.close()
