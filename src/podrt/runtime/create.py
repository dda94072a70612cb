"""Creating pods and containers: validate, lock, intent, files, commit.

The intent reserves every name and ID and is on the disk before the first file is made, so that
the final commit cannot conflict and recovery knows what to undo. Source: semantics.md section 3,
architecture.md decision 5.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence

import msgspec
import trio

from podrt.cgroups import policy
from podrt.config import NATIVE
from podrt.errors import AlreadyExists, InvalidConfig, InvalidState, NotFound, PodrtError
from podrt.images.rootfs import describe_rootfs
from podrt.linux import process, trees
from podrt.model.container import ContainerConfig, Dependency
from podrt.model.ids import check_name, generate_name, generate_unique_name, new_id
from podrt.model.image import Image
from podrt.model.pod import PodConfig
from podrt.model.userns import GivenIds, UserNamespace
from podrt.model.verbs import Verb
from podrt.spec import accounts
from podrt.store.records import (
    ContainerRecord,
    Delete,
    ImageRecord,
    IntentRecord,
    Op,
    PodRecord,
    Put,
)
from podrt.store.tables import Tables

from .claims import claim
from .context import Context, finishing
from .graph import build_graph, check_graph
from .infra import infra_config, infra_image
from .inherit import inherit
from .namespaces import has_infra_program
from .prepare import (
    check_container,
    find_image,
    prepare_container,
    with_image_defaults,
    write_group_files,
)
from .resolve import MAX_HOSTNAME, resolve_pod
from .userns import Request, give, give_back, least_size, request_of

# Two words clash in a state of thousands; after some tries digits are put behind them.
_PLAIN_TRIES = 8
_NAME_TRIES = 64
# Preparing a container takes well under a millisecond, so the loop is not held long.
_PREPARED_AT_ONCE = 8


async def create_pod(
    ctx: Context,
    config: PodConfig,
    containers: Sequence[ContainerConfig] = (),
    *,
    pod_id: str = "",
) -> PodRecord:
    """Create a pod with its infra container and `containers`, all or nothing.

    Raises: InvalidConfig, AlreadyExists, NotFound for an image, StoreFailed.
    """
    ctx.check_open()
    ctx.view.refresh()
    config = resolve_pod(config, ctx.settings)
    pod = PodRecord(
        id=pod_id or new_id(),
        config=config,
        created_at_ns=time.time_ns(),
        namespace=ctx.settings.namespace if config.namespace is None else config.namespace,
    )
    if config.use_pod_cgroup:
        path = ctx.cgroups.pod_path(config.cgroup_parent, pod.id)
        pod = msgspec.structs.replace(pod, cgroup_path=path)
    creation = _Creation(ctx, pod, is_new_pod=True)
    if config.infra:
        creation.add_infra()
    for container in containers:
        creation.add(container)
    await creation.run()
    return creation.pod


async def create_container(ctx: Context, config: ContainerConfig) -> ContainerRecord:
    """Create a container, in the pod that `config.pod` names or outside of pods."""
    ctx.check_open()
    ctx.view.refresh()
    if not config.pod:
        return await _create_alone(ctx, config)
    pod = ctx.view.pod(config.pod)
    async with claim(ctx, pod.id, Verb.CREATE):
        ctx.view.refresh()
        pod = ctx.view.pod(pod.id)
        if pod.removing:
            raise InvalidState(
                "create container in", f"pod {pod.config.name}", "it is being removed"
            )
        creation = _Creation(ctx, pod, is_new_pod=False)
        creation.add(config)
        await creation.run()
    return creation.containers[-1]


async def _create_alone(ctx: Context, config: ContainerConfig) -> ContainerRecord:
    parent = policy.effective_parent(ctx.settings.cgroup_manager, config.cgroup_parent)
    creation = _Creation(ctx, None, is_new_pod=False)
    creation.add(msgspec.structs.replace(config, cgroup_parent=parent))
    await creation.run()
    return creation.containers[0]


class _Creation:
    """What one call creates: a pod or none, and containers; undone as a whole when it fails."""

    def __init__(self, ctx: Context, pod: PodRecord | None, *, is_new_pod: bool) -> None:
        self._ctx = ctx
        self._pod = pod
        self._is_new_pod = is_new_pod
        self._images: dict[str, Image] = {}
        self._users: dict[str, Request] = {}
        self._least_ids = 0
        if is_new_pod and pod is not None:
            self._ask_users(pod.id, pod.config.userns)
        self.containers: list[ContainerRecord] = []
        self._engine = "" if ctx.settings.engine == NATIVE else ctx.settings.engine

    @property
    def pod(self) -> PodRecord:
        """The pod as it was committed."""
        assert self._pod is not None
        return self._pod

    def add_infra(self) -> None:
        """Give the pod its infra container, which holds the shared namespaces."""
        pod = self.pod
        config = ContainerConfig(
            name=pod.config.infra_name, pod=pod.id, is_infra=True, hostname=pod.config.hostname
        )
        record = ContainerRecord(
            id=new_id(),
            config=config,
            pod_id=pod.id,
            created_at_ns=time.time_ns(),
            namespace=pod.namespace,
        )
        if has_infra_program(pod.config):
            image = self._images[record.id] = infra_image(self._ctx, pod.config)
            record = msgspec.structs.replace(
                record,
                config=infra_config(config, pod.config, image.defaults),
                image_id=image.id,
                cgroup_path=self._cgroup_path(config, record.id),
            )
        self.containers.append(record)
        self._pod = msgspec.structs.replace(pod, infra_id=record.id)

    def add(self, config: ContainerConfig) -> None:
        """Add a container. Raises: InvalidConfig, NotFound for its image, Unsupported."""
        if config.name:
            check_name(config.name, "--name")
        image = find_image(self._ctx, config)
        check_container(config, self._pod)
        if self._pod is not None:
            config = inherit(self._pod.config, config)
        config = with_image_defaults(config, image.defaults)
        container_id = new_id()
        pod = self._pod
        ctx = self._ctx
        self._images[container_id] = image
        if pod is None:
            self._ask_users(container_id, config.userns)
        self._note_size(config, image)
        self.containers.append(
            ContainerRecord(
                id=container_id,
                config=config if pod is None else msgspec.structs.replace(config, pod=pod.id),
                pod_id="" if pod is None else pod.id,
                created_at_ns=time.time_ns() + len(self.containers),
                image_id=image.id,
                engine=self._engine,
                namespace=ctx.settings.namespace if pod is None else pod.namespace,
                cgroup_path=self._cgroup_path(config, container_id),
            )
        )

    def _cgroup_path(self, config: ContainerConfig, container_id: str) -> str:
        pod = self._pod
        return self._ctx.cgroups.container_path(
            config.cgroup_parent if pod is None else pod.config.cgroup_parent,
            container_id,
            None if pod is None else pod.cgroup_path or None,
        )

    def _ask_users(self, owner: str, config: UserNamespace) -> None:
        request = request_of(config)
        if request is not None:
            self._users[owner] = request

    def _note_size(self, config: ContainerConfig, image: Image) -> None:
        """How many IDs an image needs only matters if podrt chooses them."""
        if any(request.is_auto for request in self._users.values()):
            found = describe_rootfs(self._ctx.layout.images_dir, image, "")
            known = accounts.read_accounts(found.lower)
            size = least_size(config, known, image.defaults.user)
            self._least_ids = max(self._least_ids, size)

    async def run(self) -> None:
        """Create everything, or leave nothing. Raises: PodrtError."""
        self._resolve_requires()
        self._check_init()
        try:
            await self._ctx.commit(self._reserve)
            self._allocate_locks()
            await self._prepare()
            # Not to be cut off between the log and the disk: it is made then, and the caller
            # has to hear of it.
            with finishing("create"):
                await self._ctx.commit(self._finish)
        except BaseException:
            self._undo()
            raise

    def _resolve_requires(self) -> None:
        """Turn names into IDs, refuse what is not in the pod, refuse cycles."""
        existing = [] if self._pod is None else self._ctx.view.members(self._pod.id)
        by_name = {member.config.name: member.id for member in (*existing, *self.containers)}
        by_name.pop("", None)
        ids = {member.id for member in (*existing, *self.containers)}
        self.containers = [self._with_requires(member, by_name, ids) for member in self.containers]
        everything = (*existing, *self.containers)
        graph = build_graph(
            {member.id: [edge.on for edge in member.config.requires] for member in everything}
        )
        names = {member.id: member.config.name or member.id[:12] for member in everything}
        self._refuse_ended({one.id for one in everything if one.config.init is not None}, names)
        check_graph(graph, names, self._pod.config.name if self._pod is not None else "")

    def _refuse_ended(self, inits: set[str], names: Mapping[str, str]) -> None:
        """An init container has ended before others start: nobody can need it to run."""
        for member in self.containers:
            for edge in member.config.requires:
                if edge.on in inits and member.config.init is None:
                    raise InvalidConfig(
                        "--requires", f"{names[edge.on]} is an init container: it runs before all"
                    )

    def _with_requires(
        self, member: ContainerRecord, by_name: Mapping[str, str], ids: set[str]
    ) -> ContainerRecord:
        if not member.config.requires:
            return member
        edges = []
        for edge in member.config.requires:
            target = by_name.get(edge.on) or (edge.on if edge.on in ids else "")
            if not target:
                target = self._outside(edge.on, ids)
            edges.append(Dependency(target, edge.kind))
        config = msgspec.structs.replace(member.config, requires=tuple(edges))
        return msgspec.structs.replace(member, config=config)

    def _outside(self, name: str, ids: set[str]) -> str:
        try:
            found = self._ctx.view.container(name)
        except NotFound as exc:
            raise InvalidConfig("--requires", f"no such container: {name}") from exc
        if found.id not in ids:
            raise InvalidConfig(
                "--requires", f"container {found.config.name} is not in the same pod"
            )
        return found.id

    def _check_init(self) -> None:
        if self._pod is None or self._is_new_pod:
            return
        if not any(member.config.init is not None for member in self.containers):
            return
        running = [m for m in self._ctx.view.members(self._pod.id) if self._ctx.view.is_running(m)]
        if any(not member.config.is_infra for member in running):
            raise InvalidState(
                "add init container to",
                f"pod {self._pod.config.name}",
                "its containers are running",
            )

    def _allocate_locks(self) -> None:
        locks = self._ctx.locks
        for number, member in enumerate(self.containers):
            lock = locks.allocate(member.id)
            self.containers[number] = msgspec.structs.replace(member, lock=lock)
        if self._is_new_pod and self._pod is not None:
            self._pod = msgspec.structs.replace(self._pod, lock=locks.allocate(self._pod.id))

    def _reserve(self, tables: Tables) -> list[Op]:
        """The intents; generated names are tried against the state they are committed to."""
        taken: set[str] = set()
        if self._is_new_pod and self._pod is not None:
            self._pod = _named_pod(self._pod, tables, taken)
        for number, member in enumerate(self.containers):
            default = _infra_name(self._pod) if member.config.is_infra else ""
            name = _free_name(tables, member.config.name or default, taken, "container")
            config = msgspec.structs.replace(member.config, name=name)
            self.containers[number] = msgspec.structs.replace(member, config=config)
        ops = self._give_users(tables)
        me = process.myself()
        records: list[PodRecord | ContainerRecord] = [*self.containers]
        if self._is_new_pod and self._pod is not None:
            records.insert(0, self._pod)
        return ops + [
            Put(
                IntentRecord(
                    id=record.id,
                    kind="pod" if isinstance(record, PodRecord) else "container",
                    name=record.config.name,
                    pid=me.pid,
                    start_ticks=me.start_ticks,
                    boot_id=self._ctx.boot_id,
                    at_ns=time.time_ns(),
                )
            )
            for record in records
        ]

    def _give_users(self, tables: Tables) -> list[Op]:
        """User namespaces: a pod's is that of all its members."""
        ops: list[Op] = []
        given: dict[str, GivenIds] = {}
        for owner, request in self._users.items():
            given[owner], more = give(tables, owner, request, self._least_ids)
            ops += more
        pod = self._pod
        if pod is not None and self._is_new_pod:
            pod = self._pod = msgspec.structs.replace(pod, userns=given.get(pod.id))
        for number, member in enumerate(self.containers):
            users = pod.userns if pod is not None else given.get(member.id)
            self.containers[number] = msgspec.structs.replace(member, userns=users)
        return ops

    async def _prepare(self) -> None:
        """Directories, specs and plans of all containers, and the files the group shares."""
        if self._pod is None:
            write_group_files(self._ctx, None, self.containers)
        elif self._is_new_pod:
            write_group_files(self._ctx, self._pod, self.containers)
        for number, member in enumerate(self.containers):
            if member.config.has_program:
                prepare_container(self._ctx, self._pod, member, self._images[member.id])
            if not number % _PREPARED_AT_ONCE:
                await trio.lowlevel.checkpoint()

    def _finish(self, tables: Tables) -> list[Op]:
        pod = self._pod
        ops: list[Op] = []
        if pod is not None:
            if self._is_new_pod:
                ops += [Delete(IntentRecord, pod.id), Put(pod)]
            else:
                current = tables.get(PodRecord, pod.id)
                if current is None or current.removing:
                    raise InvalidState(
                        "create container in", f"pod {pod.config.name}", "it is being removed"
                    )
        for member in self.containers:
            if member.image_id and tables.get(ImageRecord, member.image_id) is None:
                # Removed while we prepared: nobody keeps its layers for us.
                raise NotFound("image", member.config.image)
            ops += [Delete(IntentRecord, member.id), Put(member)]
        return ops

    def _undo(self) -> None:
        """Give back what was taken, the locks last; failures are left to `system check`."""
        if self._is_made():
            return
        made: list[PodRecord | ContainerRecord] = [*self.containers]
        if self._is_new_pod:
            made.append(self.pod)
        undo_creation(self._ctx, {record.id: record.lock for record in made})

    def _is_made(self) -> bool:
        """Whether the last commit is in the log (Ctrl-C came right behind it): then it counts."""
        self._ctx.view.refresh()
        tables = self._ctx.store.tables
        return any(tables.get(ContainerRecord, one.id) is not None for one in self.containers) or (
            self._is_new_pod and tables.get(PodRecord, self.pod.id) is not None
        )


def undo_creation(ctx: Context, locks: Mapping[str, int]) -> None:
    """Remove what objects have whose creation was not finished; the intents go last of all.

    Shape: ID -> its lock, 0 for none. What cannot be removed is left to `system check`.
    """
    for record_id, lock in locks.items():
        for path in (ctx.layout.container(record_id), ctx.layout.pod(record_id)):
            with contextlib.suppress(OSError, PodrtError):
                trees.remove_tree(path)
        if lock:
            with contextlib.suppress(OSError, PodrtError):
                ctx.locks.free(lock, record_id)

    def build(tables: Tables) -> list[Op]:
        return [
            *give_back(tables, locks),
            *(
                Delete(IntentRecord, record_id)
                for record_id in locks
                if tables.get(IntentRecord, record_id) is not None
            ),
        ]

    ctx.record(build)


def _named_pod(pod: PodRecord, tables: Tables, taken: set[str]) -> PodRecord:
    name = _free_name(tables, pod.config.name, taken, "pod")
    hostname = pod.config.hostname or name[:MAX_HOSTNAME]
    config = msgspec.structs.replace(pod.config, name=name, hostname=hostname)
    return msgspec.structs.replace(pod, config=config)


def _infra_name(pod: PodRecord | None) -> str:
    return f"{pod.id[:12]}-infra" if pod is not None else ""


def _free_name(tables: Tables, wanted: str, taken: set[str], kind: str) -> str:
    """`wanted` if it is free, or a generated name that is. Raises: AlreadyExists."""
    if wanted:
        owner = tables.id_of_name(wanted)
        if owner is not None or wanted in taken:
            raise AlreadyExists(kind, wanted, owner or wanted)
        taken.add(wanted)
        return wanted
    for attempt in range(_NAME_TRIES):
        name = generate_name() if attempt < _PLAIN_TRIES else generate_unique_name()
        if name not in taken and tables.id_of_name(name) is None:
            taken.add(name)
            return name
    raise AlreadyExists(kind, "(generated)", "other objects")
