"""Kubernetes files as plans: which pods with which containers, in creation order. Pure.

Names, as podman gives them: the pod `shop` with the container `db` becomes the pod `shop` with
the container `shop-db`; the Deployment `fleet` becomes the pod `fleet-pod`, or with several
replicas `fleet-pod-0`, `fleet-pod-1` and so on (podman makes one).

Annotations of a pod that mean something here:
`podrt.io/requires.<container>: db,cache:started` are the containers it starts after;
`io.podman.annotations.init.container.type: once|always` is whether init containers run at the
first start only or at every one, which is Kubernetes' way and the default.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from podrt.errors import InvalidConfig, Unsupported
from podrt.model.container import ContainerConfig, DependencyKind, InitKind
from podrt.model.ids import check_name
from podrt.model.pod import DEFAULT_SHARE, ExitPolicy, PodConfig

from .containers import Frame, container_config, in_pod
from .documents import STDIN, Document, parse_documents, read_documents
from .mounts import HostPathNeed, Volumes
from .types import Deployment, ObjectMeta, Pod, PodSpec, below, convert, prune, shown

REQUIRES = "podrt.io/requires."
_OWN = "podrt.io/"
_INIT_KIND = "io.podman.annotations.init.container.type"
# What a cluster's own limit on pods of one node (110) is far below.
MAX_PODS = 5000
MAX_CONTAINERS = 20_000
_VERSIONS = {"Pod": "v1", "List": "v1", "Deployment": "apps/v1"}
_KNOWN_KINDS = frozenset(
    "ConfigMap CronJob DaemonSet Ingress Job Namespace NetworkPolicy PersistentVolume "
    "PersistentVolumeClaim ReplicaSet ReplicationController Secret Service ServiceAccount "
    "StatefulSet".split()
)
_RESTARTS = {"Always": "always", "OnFailure": "on-failure", "Never": "no"}


class PodPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A pod to make. `fields` says where in which file each of `containers` stands.

    `notes` are sentences about what the file asks for or implies and podrt does otherwise.
    """

    config: PodConfig
    containers: tuple[ContainerConfig, ...]
    fields: tuple[str, ...]
    host_paths: tuple[HostPathNeed, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The pod's name."""
        return self.config.name


def parse_files(paths: Sequence[str]) -> list[PodPlan]:
    """The pods that the files `paths` ("-": standard input) describe, in their order.

    Raises: NotFound for a file, InvalidConfig or Unsupported naming file and field.
    """
    if paths.count(STDIN) > 1:
        raise InvalidConfig(STDIN, "standard input can be read once")
    return plan_documents(document for path in paths for document in _placed(read_documents(path)))


def parse_text(data: bytes, name: str) -> list[PodPlan]:
    """The pods that `data`, which came from the file `name`, describes. Raises: as parse_files."""
    return plan_documents(_placed(parse_documents(data, name)))


def notes_of(plans: Iterable[PodPlan]) -> list[str]:
    """The notes of all `plans`, each once."""
    return list(dict.fromkeys(note for plan in plans for note in plan.notes))


def _placed(documents: Sequence[Document]) -> Iterator[tuple[Any, str]]:
    """The objects with where they stand: "shop.yaml:", and the line if there are several."""
    for document in documents:
        line = f" (object at line {document.line})" if len(documents) > 1 else ""
        yield document.value, f"{document.file}{line}:"


def plan_documents(documents: Iterable[tuple[Any, str]]) -> list[PodPlan]:
    """The pods of objects, each with its place. Raises: InvalidConfig, Unsupported."""
    plans: dict[str, PodPlan] = {}
    containers = 0
    for value, place in documents:
        for plan in _object(value, place, is_inside=False):
            if plan.name in plans:
                raise InvalidConfig(below(place, "metadata.name"), f"pod {plan.name} twice")
            containers += len(plan.containers)
            if len(plans) >= MAX_PODS or containers > MAX_CONTAINERS:
                limit = f"more than {MAX_PODS} pods or {MAX_CONTAINERS} containers"
                raise InvalidConfig(place.removesuffix(":"), limit)
            plans[plan.name] = plan
    return list(plans.values())


def _object(value: Any, place: str, *, is_inside: bool) -> Iterator[PodPlan]:
    if not isinstance(value, dict):
        raise InvalidConfig(place.removesuffix(":"), "a Kubernetes object is a mapping")
    kind = value.get("kind")
    _check_kind(kind, value.get("apiVersion"), place)
    if kind == "List":
        if is_inside:
            raise InvalidConfig(below(place, "kind"), "a List in a List")
        yield from _list(value, place)
    elif kind == "Pod":
        yield _pod(value, place)
    else:
        yield from _deployment(value, place)


def _check_kind(kind: Any, version: Any, place: str) -> None:
    field = below(place, "kind")
    if kind is None:
        raise InvalidConfig(field, "is missing: not a Kubernetes object")
    if not isinstance(kind, str) or kind not in _VERSIONS:
        if isinstance(kind, str) and kind in _KNOWN_KINDS:
            raise Unsupported(f"{field} {kind}", "Pod, Deployment and List can be played")
        raise InvalidConfig(field, f"unknown kind {str(kind)[:40]!r}")
    if version != _VERSIONS[kind]:
        raise InvalidConfig(
            below(place, "apiVersion"), f"{str(version)[:40]!r} is not {_VERSIONS[kind]}"
        )


def _list(value: Mapping[str, Any], place: str) -> Iterator[PodPlan]:
    items = value.get("items", [])
    if not isinstance(items, list):
        raise InvalidConfig(below(place, "items"), "is not a list")
    for at, item in enumerate(items):
        yield from _object(item, below(place, f"items[{at}]"), is_inside=True)


def _pod(value: Mapping[str, Any], place: str) -> PodPlan:
    place_of_spec = below(place, "spec")
    pruned = {**value, "spec": prune(value.get("spec"), place_of_spec)}
    pod = convert(_without_none(pruned), Pod, place)
    name = check_name(pod.metadata.name, below(place, "metadata.name"))
    source = _Source(pod.metadata, pod.spec, place_of_spec, below(place, "metadata"))
    return source.plan(name)


def _deployment(value: Mapping[str, Any], place: str) -> Iterator[PodPlan]:
    template = below(place, "spec.template")
    deployment = convert(_pruned_template(value, f"{template}.spec"), Deployment, place)
    name = check_name(deployment.metadata.name, below(place, "metadata.name"))
    spec = deployment.spec
    if spec.paused:
        raise Unsupported(below(place, "spec.paused"))
    if not 0 <= spec.replicas <= MAX_PODS:
        raise InvalidConfig(
            below(place, "spec.replicas"), f"{spec.replicas} is not 0 to {MAX_PODS}"
        )
    source = _Source(
        spec.template.metadata, spec.template.spec, f"{template}.spec", f"{template}.metadata"
    )
    # A single replica has podman's name for it.
    names = [f"{name}-pod-{number}" for number in range(spec.replicas)]
    for pod_name in names if len(names) > 1 else [f"{name}-pod"] * len(names):
        yield source.plan(pod_name)


def _pruned_template(value: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A Deployment whose template's spec is pruned, if it has one."""
    spec = value.get("spec")
    template = spec.get("template") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(template, dict):
        return dict(value)
    template = _without_none({**template, "spec": prune(template.get("spec"), place)})
    return {**value, "spec": {**spec, "template": template}}


def _without_none(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}


class _Source:
    """A pod's description, from which one or many plans are made."""

    def __init__(
        self, metadata: ObjectMeta, spec: PodSpec, place: str, metadata_place: str
    ) -> None:
        self._metadata = metadata
        self._spec = spec
        self._place = place
        self._annotations_place = f"{metadata_place}.annotations"
        self._names = self._check_names()
        self._volumes = Volumes(spec, place)
        self._requires = self._edges()
        _check_cycle(self._requires, self._annotations_place)
        self._fields = (
            *(f"{place}.initContainers[{at}]" for at in range(len(spec.init_containers))),
            *(f"{place}.containers[{at}]" for at in range(len(spec.containers))),
        )
        self._containers = self._container_configs()

    def plan(self, name: str) -> PodPlan:
        """The plan of the pod called `name`."""
        return PodPlan(
            config=self._pod_config(name),
            containers=tuple(
                in_pod(one, name, self._requires.get(one.name, ()), field)
                for one, field in zip(self._containers, self._fields, strict=True)
            ),
            fields=self._fields,
            host_paths=self._volumes.host_paths(),
            notes=self._notes(),
        )

    def _container_configs(self) -> list[ContainerConfig]:
        spec = self._spec
        frame = Frame(spec=spec, init_kind=self._init_kind(), mounts_of=self._volumes.mounts_of)
        inits = len(spec.init_containers)
        everyone = (*spec.init_containers, *spec.containers)
        return [
            container_config(one, frame, field, is_init=at < inits)
            for at, (one, field) in enumerate(zip(everyone, self._fields, strict=True))
        ]

    def _check_names(self) -> frozenset[str]:
        spec = self._spec
        if not spec.containers:
            raise InvalidConfig(f"{self._place}.containers", "a pod needs a container")
        seen: set[str] = set()
        for kind, some in (
            ("initContainers", spec.init_containers),
            ("containers", spec.containers),
        ):
            for at, container in enumerate(some):
                field = f"{self._place}.{kind}[{at}].name"
                check_name(container.name, field)
                if container.name in seen:
                    raise InvalidConfig(field, f"container {container.name} is defined twice")
                if not container.image:
                    raise InvalidConfig(f"{self._place}.{kind}[{at}].image", "is empty")
                seen.add(container.name)
        return frozenset(seen)

    def _pod_config(self, name: str) -> PodConfig:
        spec = self._spec
        host = {"net": spec.host_network, "ipc": spec.host_ipc}
        share = frozenset(kind for kind in DEFAULT_SHARE if not host.get(kind))
        if spec.share_process_namespace:
            if spec.host_pid:
                field = f"{self._place}.shareProcessNamespace"
                raise InvalidConfig(field, "and hostPID cannot both be set")
            share |= {"pid"}
        return PodConfig(
            name=name,
            labels=self._metadata.labels,
            annotations=self._metadata.annotations,
            hostname=spec.hostname and check_name(spec.hostname, f"{self._place}.hostname"),
            share=None if share == DEFAULT_SHARE else share,
            add_hosts=self._add_hosts(),
            restart_policy=_RESTARTS[spec.restart_policy or "Always"],
            exit_policy=ExitPolicy.STOP,
        )

    def _add_hosts(self) -> tuple[str, ...]:
        found = []
        for at, alias in enumerate(self._spec.host_aliases):
            field = f"{self._place}.hostAliases[{at}]"
            try:
                address = ipaddress.ip_address(alias.ip)
            except ValueError:
                raise InvalidConfig(f"{field}.ip", f"{alias.ip[:80]!r} is no address") from None
            for name in alias.hostnames:
                found.append(f"{check_name(name, f'{field}.hostnames')}:{address}")
        return tuple(found)

    def _notes(self) -> tuple[str, ...]:
        found = []
        if self._spec.security_context.fs_group is not None:
            field = f"{self._place}.securityContext.fsGroup"
            found.append(f"{field}: ignored: every user may write to an emptyDir")
        return tuple(found)

    def _init_kind(self) -> InitKind:
        word = self._metadata.annotations.get(_INIT_KIND, InitKind.ALWAYS)
        try:
            return InitKind(word)
        except ValueError:
            field = f"{self._annotations_place}.{_INIT_KIND}"
            raise InvalidConfig(field, f"{word[:40]!r} is neither once nor always") from None

    def _edges(self) -> dict[str, tuple[str, ...]]:
        """Container name -> names it requires. Raises: InvalidConfig, Unsupported."""
        found = {}
        inits = {container.name for container in self._spec.init_containers}
        for key, value in self._metadata.annotations.items():
            field = f"{self._annotations_place}.{key}"
            if key.startswith(_OWN) and not key.startswith(REQUIRES):
                raise InvalidConfig(field, "unknown annotation of podrt's")
            if not key.startswith(REQUIRES):
                continue
            dependent = self._member(key.removeprefix(REQUIRES), field)
            needs = [self._need(word.strip(), field) for word in value.split(",")]
            for name in (dependent, *needs):
                if name in inits:
                    raise InvalidConfig(
                        field, f"{name} is an init container, which runs before all others"
                    )
            found[dependent] = tuple(dict.fromkeys(needs))
        return found

    def _need(self, word: str, field: str) -> str:
        name, colon, kind = word.partition(":")
        if colon and kind not in set(DependencyKind):
            raise InvalidConfig(field, f"{kind[:40]!r} is not started, healthy or completed")
        if colon and kind != DependencyKind.STARTED:
            raise Unsupported(f"{field}: {shown(name)}:{kind}", "only started is built so far")
        return self._member(name, field)

    def _member(self, name: str, field: str) -> str:
        if name not in self._names:
            raise InvalidConfig(field, f"no such container in the pod: {shown(name)}")
        return name


def _check_cycle(edges: Mapping[str, Sequence[str]], field: str) -> None:
    """Raises: InvalidConfig naming a cycle ("a -> b -> a"). Without recursion."""
    done: set[str] = set()
    for start in edges:
        path = [start]
        branches = [iter(edges.get(start, ()))]
        while branches:
            need = next(branches[-1], None)
            if need is None:
                done.add(path.pop())
                branches.pop()
            elif need in path:
                cycle = [*path[path.index(need) :], need]
                raise InvalidConfig(field, f"a cycle of requirements: {' -> '.join(cycle)}")
            elif need not in done:
                path.append(need)
                branches.append(iter(edges.get(need, ())))
