"""`system check`: what does not fit together, and mending it.

Looks at intents, locks, cgroups, directories and monitors without an owner, and at objects
without their parts. Source: semantics.md section 9.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from podrt.engines.liveness import has_monitor
from podrt.errors import PodrtError
from podrt.linux import trees
from podrt.model.ids import is_full_id, short_id
from podrt.store.records import ContainerRecord, GroupRecord, IntentRecord, PodRecord

from .context import Context
from .recovery import dead_intents, undo_dead_intents
from .teardown import remove_container_verb, remove_left_cgroup, remove_pod

Mend = Callable[[], Awaitable[object]]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that does not fit; `is_repaired` says whether it was mended just now."""

    kind: str
    what: str
    problem: str
    is_repaired: bool = False


async def check(ctx: Context, *, repair: bool = False) -> list[Finding]:
    """Look at everything once; with `repair`, mend what can be mended."""
    ctx.check_open()
    ctx.view.refresh()
    findings = []
    for finding, mend in list(_Checker(ctx).problems()):
        is_repaired = False
        if repair and mend is not None:
            try:
                await mend()
                is_repaired = True
            except (PodrtError, OSError) as exc:
                finding = msgspec.structs.replace(finding, problem=f"{finding.problem} ({exc})")
        findings.append(msgspec.structs.replace(finding, is_repaired=is_repaired))
    return findings


Problem = tuple[Finding, Mend | None]


class _Checker:
    """One look at the whole state, all lists taken from the same tables."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        tables = ctx.store.tables
        self._pods = {pod.id: pod for pod in tables.all(PodRecord)}
        self._containers = {record.id: record for record in tables.all(ContainerRecord)}
        self._intents = {intent.id for intent in tables.all(IntentRecord)}
        self._known = self._pods.keys() | self._containers.keys() | self._intents

    def problems(self) -> Iterator[Problem]:
        """Every problem with what mends it; None: nothing can, without the user's word."""
        yield from self._intents_of_the_dead()
        yield from self._half_removed()
        yield from self._strays(self._ctx.layout.containers_dir, "container directory")
        yield from self._strays(self._ctx.layout.pods_dir, "pod directory")
        yield from self._stray_journals()
        yield from self._stray_groups()
        yield from self._stray_cgroups()
        yield from self._stray_locks()
        yield from self._missing_plans()

    def _intents_of_the_dead(self) -> Iterator[Problem]:
        for intent in dead_intents(self._ctx):
            yield (
                Finding(
                    kind=intent.kind,
                    what=intent.name or short_id(intent.id),
                    problem="its creation was never finished",
                ),
                lambda: undo_dead_intents(self._ctx),
            )

    def _half_removed(self) -> Iterator[Problem]:
        for pod in self._pods.values():
            if pod.removing:
                yield (
                    _finding("pod", pod.config.name, "its removal was never finished"),
                    functools.partial(remove_pod, self._ctx, pod.id, force=True),
                )
        for record in self._containers.values():
            if record.removing and not self._pod_is_removing(record):
                yield (
                    _finding("container", record.config.name, "its removal was never finished"),
                    functools.partial(remove_container_verb, self._ctx, record.id, force=True),
                )

    def _pod_is_removing(self, record: ContainerRecord) -> bool:
        pod = self._pods.get(record.pod_id)
        return pod is not None and pod.removing

    def _strays(self, directory: str, kind: str) -> Iterator[Problem]:
        for name in _listdir(directory):
            if is_full_id(name) and name not in self._known:
                yield (
                    _finding(kind, f"{directory}/{name}", "nothing owns it"),
                    _removal(f"{directory}/{name}"),
                )

    def _stray_journals(self) -> Iterator[Problem]:
        directory = self._ctx.layout.journal_dir
        for name in _listdir(directory):
            group_id = name.partition(".")[0]
            if is_full_id(group_id) and group_id not in self._known:
                path = f"{directory}/{name}"
                yield _finding("journal", path, "nothing owns it"), _removal(path)

    def _stray_groups(self) -> Iterator[Problem]:
        directory = self._ctx.layout.run_dir
        for name in _listdir(directory):
            if not is_full_id(name) or name in self._known:
                continue
            if has_monitor(self._ctx.layout, name):
                yield _finding("monitor", name, "it watches nothing that exists"), None
            else:
                path = f"{directory}/{name}"
                yield _finding("run directory", path, "nothing owns it"), _removal(path)

    def _stray_cgroups(self) -> Iterator[Problem]:
        """Cgroups whose removal failed; a foreign one may belong to another root of this host."""
        for intent in self._ctx.store.tables.all(IntentRecord):
            if intent.verb == "remove":
                for path in intent.made:
                    yield (
                        _finding("cgroup", path, "its owner is gone"),
                        functools.partial(remove_left_cgroup, self._ctx, intent.id, path),
                    )

    def _stray_locks(self) -> Iterator[Problem]:
        locks = self._ctx.locks
        for index, owner in locks.owners():
            if owner not in self._known:

                async def mend(index: int = index, owner: str = owner) -> None:
                    locks.free(index, owner)

                yield _finding("lock", str(index), f"its owner {short_id(owner)} is gone"), mend

    def _missing_plans(self) -> Iterator[Problem]:
        for record in self._containers.values():
            path = self._ctx.layout.plan(record.id)
            if not record.config.is_infra and not record.removing and not os.path.exists(path):
                yield _finding("container", record.config.name, f"{path} is missing"), None
        for group in self._ctx.store.tables.all(GroupRecord):
            if group.id not in self._known:
                yield _finding("group", group.id, "nothing owns it"), None


def _finding(kind: str, what: str, problem: str) -> Finding:
    return Finding(kind=kind, what=what, problem=problem)


def _removal(path: str) -> Mend:
    async def mend() -> None:
        trees.remove_tree(path)

    return mend


def _listdir(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
