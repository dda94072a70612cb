"""Objects against the kernel and against their own parts: the second half of `system check`.

A verb at work is left alone (its claim says so), and what is seen once is only believed if it is
still so after a second look. Source: semantics.md section 9.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

from podrt.engines.liveness import has_monitor
from podrt.engines.wire import Kind
from podrt.errors import NotFound, PodrtError, StoreCorrupt, StoreFailed
from podrt.images.rootfs import check_layers
from podrt.linux.mounts import read_mounts
from podrt.model.states import ContainerState, Phase
from podrt.model.verbs import Verb
from podrt.store.journal import read_header, renew_header
from podrt.store.records import ContainerRecord, GroupRecord, ImageRecord, PodRecord

from .claims import claim
from .context import Context
from .finding import Mend, Problem, found, removal
from .frozen import is_frozen, thaw_member
from .group import members_of, open_group
from .teardown import parent_of

_AT_REST = frozenset({ContainerState.CONFIGURED, ContainerState.EXITED})


def damaged_journals(ctx: Context) -> Iterator[Problem]:
    """Journals whose header nobody can read: their groups refuse every verb until it is renewed."""
    for group in list(ctx.store.tables.all(GroupRecord)):
        path = ctx.layout.journal(group.id, group.epoch)
        try:
            read_header(path)
        except StoreCorrupt as exc:
            # Of an empty one nothing is lost, and readers take it for that.
            if os.path.getsize(path):

                async def mend(path: str = path, group_id: str = group.id) -> None:
                    renew_header(path, ctx.boot_id, group_id)

                yield found("journal", path, str(exc)), mend
        except (PodrtError, OSError):
            continue


def kernel_problems(ctx: Context) -> Iterator[Problem]:
    """What the kernel says otherwise than the state, and objects that lack a part."""
    tables = ctx.store.tables
    for group in list(tables.all(GroupRecord)):
        members = members_of(tables, group.id)
        if not members or _is_at_work(ctx, group.id):
            continue
        with contextlib.suppress(StoreCorrupt, StoreFailed):
            yield from _unwatched(ctx, group, members)
            for member in members:
                yield from _frozen(ctx, member)
            yield from _left_cgroups(ctx, group.id, members)
        yield from _old_journals(ctx, group)
    for record in list(tables.all(ContainerRecord)):
        yield from _missing_parts(ctx, record)
    yield from _mounts(ctx)


def _is_at_work(ctx: Context, group_id: str) -> bool:
    tables = ctx.store.tables
    record = tables.get(PodRecord, group_id) or tables.get(ContainerRecord, group_id)
    standing = ctx.locks.table.read_claim(record.lock) if record is not None else None
    return standing is not None and standing.holder.alive


def _unwatched(
    ctx: Context, group: GroupRecord, members: list[ContainerRecord]
) -> Iterator[Problem]:
    """Processes whose monitor was killed: nobody would journal their end."""
    if not any(map(ctx.view.is_unwatched, members)) and (
        has_monitor(ctx.layout, group.id) or not any(map(ctx.view.has_process, members))
    ):
        yield from _dead_links(ctx, group.id)
        return

    async def mend() -> None:
        async with (
            claim(ctx, group.id, Verb.SETTLE),
            open_group(ctx, group.id, parent_of(ctx, members[0])),
        ):
            pass

    yield found("monitor", group.id, "it ended and nobody watches its processes"), mend


def _dead_links(ctx: Context, group_id: str) -> Iterator[Problem]:
    """Links into a monitor that has ended lead to whoever has its number next."""
    folder = f"{ctx.layout.group_run(group_id)}/ns"
    if has_monitor(ctx.layout, group_id) or not os.path.isdir(folder):
        return
    for name in sorted(os.listdir(folder)):
        if not name.startswith("."):
            yield (
                found("namespace", f"{folder}/{name}", "its monitor is gone"),
                _unlink(f"{folder}/{name}"),
            )


def _unlink(path: str) -> Mend:
    async def mend() -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    return mend


def _frozen(ctx: Context, member: ContainerRecord) -> Iterator[Problem]:
    """A pause or an unpause that was cut off between its note and its effect."""
    if not member.cgroup_path or not member.config.has_program:
        return
    phase = ctx.view.facts(member).phase
    if phase is Phase.PAUSED and not is_frozen(ctx, member):
        problem = "it is said to be paused, but runs"
    elif phase is Phase.RUNNING and is_frozen(ctx, member):
        problem = "it is said to run, but is frozen"
    else:
        return
    yield found("container", member.config.name, problem), functools.partial(_wake, ctx, member)


async def _wake(ctx: Context, member: ContainerRecord) -> None:
    async with (
        claim(ctx, member.group_id, Verb.PAUSE),
        open_group(ctx, member.group_id, parent_of(ctx, member)) as monitor,
    ):
        await thaw_member(ctx, monitor, member)
        if ctx.view.facts(member).phase is Phase.PAUSED:
            await monitor.note(Kind.UNPAUSE, member.id)


def _left_cgroups(ctx: Context, group_id: str, members: list[ContainerRecord]) -> Iterator[Problem]:
    """Cgroups of members that do not run and were cleaned up behind, and of a pod of only those."""
    at_rest = [one for one in members if ctx.view.state(one) in _AT_REST]
    paths = [one.cgroup_path for one in at_rest if one.cgroup_path]
    pod = ctx.store.tables.get(PodRecord, group_id)
    if pod is not None and pod.cgroup_path and len(at_rest) == len(members):
        paths.append(pod.cgroup_path)
    for path in paths:
        if ctx.cgroups.exists(path):
            yield (
                found("cgroup", path, "nothing runs in it that is known"),
                functools.partial(_remove_cgroup, ctx, group_id, path),
            )


async def _remove_cgroup(ctx: Context, group_id: str, path: str) -> None:
    async with claim(ctx, group_id, Verb.SETTLE):
        ctx.view.refresh()
        owners = members_of(ctx.store.tables, group_id)
        if all(ctx.view.state(one) in _AT_REST for one in owners if path in one.cgroup_path):
            ctx.cgroups.kill(path)
            ctx.cgroups.remove(path)


def _old_journals(ctx: Context, group: GroupRecord) -> Iterator[Problem]:
    """Journals of earlier monitors, which are folded and read no more."""
    for epoch in range(1, group.epoch):
        path = ctx.layout.journal(group.id, epoch)
        if os.path.lexists(path):
            yield found("journal", path, f"journal {group.epoch} has followed it"), removal(path)


def _missing_parts(ctx: Context, record: ContainerRecord) -> Iterator[Problem]:
    if record.removing or not record.config.has_program:
        return
    missing = ""
    if not os.path.isdir(ctx.layout.container(record.id)):
        missing = f"{ctx.layout.container(record.id)} is missing"
    elif not os.path.exists(ctx.layout.plan(record.id)):
        missing = f"{ctx.layout.plan(record.id)} is missing"
    image = ctx.store.tables.get(ImageRecord, record.image_id) if record.image_id else None
    if image is not None:
        try:
            check_layers(ctx.layout.images_dir, image.image)
        except NotFound as exc:
            missing = missing or str(exc)
    if missing and not _is_going(ctx, record.id):
        yield found("container", record.config.name, missing), None


def _is_going(ctx: Context, container_id: str) -> bool:
    """Whether a command has removed it meanwhile, or is about to."""
    ctx.view.refresh()
    current = ctx.store.tables.get(ContainerRecord, container_id)
    return current is None or current.removing


def _mounts(ctx: Context) -> Iterator[Problem]:
    """Mounts of ours are in namespaces of their own: one that the host sees is nobody's."""
    ours = (f"{ctx.layout.containers_dir}/", f"{ctx.layout.run_dir}/")
    for mount in read_mounts():
        if mount.target.startswith(ours):
            yield found("mount", mount.target, "no container's mount is the host's"), None
