"""`system check`: what does not fit together, and mending it.

Looks at intents, locks, cgroups, directories and monitors without an owner, and at objects
without their parts. Source: semantics.md section 9.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator

import msgspec

from podrt.config import Settings
from podrt.engines.liveness import has_monitor
from podrt.errors import PodrtError, Removed
from podrt.linux import features
from podrt.model.ids import is_full_id, short_id
from podrt.store.records import ContainerRecord, Delete, GroupRecord, IntentRecord, PodRecord
from podrt.store.repair import repair

from .context import Context
from .finding import Finding, Problem, found, removal
from .kernel_check import damaged_journals, kernel_problems
from .policy_check import policy_problems
from .recovery import dead_intents, undo_dead_intents
from .teardown import remove_container_verb, remove_left_cgroup, remove_pod


async def check(ctx: Context, *, mends: bool = False) -> list[Finding]:
    """Look at everything once; with `mends`, mend what can be mended."""
    ctx.check_open()
    ctx.view.refresh()
    findings = _check_lock_table(ctx, mends)
    # Without its header a journal can be neither read nor checked against anything.
    findings += await _tend(damaged_journals(ctx), mends)
    return findings + await _tend(_Checker(ctx).problems(), mends)


async def _tend(problems: Iterable[Problem], mends: bool) -> list[Finding]:
    findings = []
    for finding, mend in list(problems):
        is_repaired = False
        if mends and mend is not None:
            try:
                # What is gone by now does not stand out any more.
                with contextlib.suppress(Removed):
                    await mend()
                is_repaired = True
            except (PodrtError, OSError) as exc:
                finding = msgspec.structs.replace(finding, problem=f"{finding.problem} ({exc})")
        findings.append(msgspec.structs.replace(finding, is_repaired=is_repaired))
    return findings


def _check_lock_table(ctx: Context, mends: bool) -> list[Finding]:
    """Locks that nobody has and nobody can get: their process died half way."""
    torn = [entry.lock for entry in ctx.locks.table.entries() if entry.is_torn]
    returned = ctx.locks.repair() if mends else 0
    findings = [
        Finding(
            kind="lock",
            what=str(lock),
            problem="who allocated or freed it was killed",
            is_repaired=mends,
        )
        for lock in torn
    ]
    if returned > len(torn):
        problem = f"{returned - len(torn)} free ones could not be allocated"
        findings.append(Finding(kind="lock", what="table", problem=problem, is_repaired=True))
    return findings


def repair_store(settings: Settings) -> list[Finding]:
    """Make a log that refuses to open usable again; what was lost, and where the original is.

    Does nothing to one that opens. Raises: StoreFailed, Unsupported.
    """
    features.require_root()
    if not os.path.isdir(settings.layout.state_dir):
        return []
    done = repair(settings.layout.state_dir)
    if not done.kept:
        return []
    findings = [
        Finding(kind="log", what=what, problem="could not be recovered", is_repaired=True)
        for what in done.lost
    ]
    kept = Finding(
        kind="log",
        what=settings.layout.state_dir,
        problem=f"was damaged; the original is kept in {done.kept}",
        is_repaired=True,
    )
    return [kept, *findings]


class _Checker:
    """One look at the whole state, all lists taken from the same tables."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        tables = ctx.store.tables
        self._pods = {pod.id: pod for pod in tables.all(PodRecord)}
        self._containers = {record.id: record for record in tables.all(ContainerRecord)}
        self._intents = {intent.id for intent in tables.all(IntentRecord)}
        self._known = self._pods.keys() | self._containers.keys() | self._intents

    def _is_stray(self, owner: str, path: str) -> bool:
        """Whether nothing owns what is at `path`, also not what other commands do meanwhile.

        They write down an intent before they make anything and remove everything before they
        strike the record out: so what was seen first and is looked up now has its owner there.
        """
        if not is_full_id(owner) or owner in self._known or not self._is_nobody(owner):
            return False
        return os.path.lexists(path)

    def _is_nobody(self, owner: str) -> bool:
        self._ctx.view.refresh()
        tables = self._ctx.store.tables
        kinds = (PodRecord, ContainerRecord, IntentRecord)
        return all(tables.get(kind, owner) is None for kind in kinds)

    def _is_at_work(self, lock: int) -> bool:
        """Whether a command works on the group of that lock now."""
        claim = self._ctx.locks.table.read_claim(lock)
        return claim is not None and claim.holder.alive

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
        yield from self._stray_records()
        yield from kernel_problems(self._ctx)
        yield from policy_problems(self._ctx)

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
            if pod.removing and not self._is_at_work(pod.lock):
                yield (
                    found("pod", pod.config.name, "its removal was never finished"),
                    functools.partial(remove_pod, self._ctx, pod.id, force=True),
                )
        for record in self._containers.values():
            pod_of = self._pods.get(record.pod_id)
            lock = pod_of.lock if pod_of is not None else record.lock
            if record.removing and not self._pod_is_removing(record) and not self._is_at_work(lock):
                yield (
                    found("container", record.config.name, "its removal was never finished"),
                    functools.partial(remove_container_verb, self._ctx, record.id, force=True),
                )

    def _pod_is_removing(self, record: ContainerRecord) -> bool:
        pod = self._pods.get(record.pod_id)
        return pod is not None and pod.removing

    def _strays(self, directory: str, kind: str) -> Iterator[Problem]:
        for name in _listdir(directory):
            if self._is_stray(name, f"{directory}/{name}"):
                yield (
                    found(kind, f"{directory}/{name}", "nothing owns it"),
                    removal(f"{directory}/{name}"),
                )

    def _stray_journals(self) -> Iterator[Problem]:
        directory = self._ctx.layout.journal_dir
        for name in _listdir(directory):
            path = f"{directory}/{name}"
            if self._is_stray(name.partition(".")[0], path):
                yield found("journal", path, "nothing owns it"), removal(path)

    def _stray_groups(self) -> Iterator[Problem]:
        directory = self._ctx.layout.run_dir
        for name in _listdir(directory):
            if not self._is_stray(name, f"{directory}/{name}"):
                continue
            if has_monitor(self._ctx.layout, name):
                yield found("monitor", name, "it watches nothing that exists"), None
            else:
                path = f"{directory}/{name}"
                yield found("run directory", path, "nothing owns it"), removal(path)

    def _stray_cgroups(self) -> Iterator[Problem]:
        """Cgroups whose removal failed; a foreign one may belong to another root of this host."""
        for intent in self._ctx.store.tables.all(IntentRecord):
            if intent.verb == "remove":
                for path in intent.made:
                    yield (
                        found("cgroup", path, "its owner is gone"),
                        functools.partial(remove_left_cgroup, self._ctx, intent.id, path),
                    )

    def _stray_locks(self) -> Iterator[Problem]:
        locks = self._ctx.locks
        for index, owner in locks.owners():
            problem = self._lock_problem(index, owner)
            if problem:

                async def mend(index: int = index, owner: str = owner) -> None:
                    locks.free(index, owner)

                yield found("lock", str(index), problem), mend

    def _lock_problem(self, index: int, owner: str) -> str:
        """Why nobody uses a lock, "" if somebody does or is about to."""
        if owner not in self._known and self._is_nobody(owner):
            # Freed right after its owner was removed, it is nobody's fault.
            return f"its owner {short_id(owner)} is gone" if self._is_owner(index, owner) else ""
        tables = self._ctx.store.tables
        record = tables.get(PodRecord, owner) or tables.get(ContainerRecord, owner)
        if record is None or record.lock in (0, index):
            return ""
        return f"its owner {short_id(owner)} uses lock {record.lock}"

    def _is_owner(self, index: int, owner: str) -> bool:
        entry = self._ctx.locks.table.entry(index)
        return entry is not None and entry.owner_id.hex() == owner

    def _stray_records(self) -> Iterator[Problem]:
        for group in list(self._ctx.store.tables.all(GroupRecord)):
            if group.id not in self._known and self._is_nobody(group.id):
                yield (
                    found("group", group.id, "nothing owns it"),
                    functools.partial(_forget_group, self._ctx, group.id),
                )


async def _forget_group(ctx: Context, group_id: str) -> None:
    await ctx.commit(lambda _: [Delete(GroupRecord, group_id)])


def _listdir(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
