"""A pod's volumes and where its containers mount them."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from podrt.errors import InvalidConfig, StoreFailed, Unsupported
from podrt.model.container import Mount, MountKind
from podrt.model.ids import check_name
from podrt.volumes import POD_PREFIX

from .quantities import parse_bytes
from .types import Container, EmptyDir, PodSpec, Volume, below, shown

_KINDS = {
    "Directory": stat.S_ISDIR,
    "DirectoryOrCreate": stat.S_ISDIR,
    "File": stat.S_ISREG,
    "FileOrCreate": stat.S_ISREG,
    "Socket": stat.S_ISSOCK,
    "CharDevice": stat.S_ISCHR,
    "BlockDevice": stat.S_ISBLK,
}


class HostPathNeed(msgspec.Struct, frozen=True, kw_only=True):
    """What must be on the host at `path`: `type` is Kubernetes' word for it."""

    path: str
    type: str
    field: str


class Volumes:
    """The volumes of a pod whose spec stands at `place`.

    Raises: InvalidConfig or Unsupported naming the volume.
    """

    def __init__(self, spec: PodSpec, place: str) -> None:
        self._by_name: dict[str, tuple[Volume, str]] = {}
        for at, volume in enumerate(spec.volumes):
            field = f"{below(place, 'volumes')}[{at}]"
            check_name(volume.name, f"{field}.name")
            if volume.name in self._by_name:
                raise InvalidConfig(f"{field}.name", f"volume {volume.name} is defined twice")
            self._by_name[volume.name] = (volume, field)
            _check_source(volume, field)
        everyone = (*spec.init_containers, *spec.containers)
        # A container may mount one volume at several places; it counts once.
        self._users = Counter(
            name for one in everyone for name in {mount.name for mount in one.volume_mounts}
        )

    def mounts_of(self, container: Container, place: str) -> tuple[Mount, ...]:
        """The mounts of `container`, which stands at `place`."""
        found: dict[str, Mount] = {}
        for at, mount in enumerate(container.volume_mounts):
            field = f"{below(place, 'volumeMounts')}[{at}]"
            if mount.name not in self._by_name:
                raise InvalidConfig(f"{field}.name", f"the pod has no volume {shown(mount.name)}")
            if not mount.mount_path.startswith("/"):
                raise InvalidConfig(
                    f"{field}.mountPath", f"{shown(mount.mount_path)} is not an absolute path"
                )
            if mount.mount_path in found:
                raise InvalidConfig(
                    f"{field}.mountPath", f"{shown(mount.mount_path)} is mounted twice"
                )
            options = ("ro",) if mount.read_only else ()
            found[mount.mount_path] = self._mount(mount.name, mount.mount_path, options)
        return tuple(found.values())

    def host_paths(self) -> tuple[HostPathNeed, ...]:
        """What the host must have before the pod is made."""
        return tuple(
            HostPathNeed(path=path.path, type=path.type, field=f"{field}.hostPath")
            for volume, field in self._by_name.values()
            if (path := volume.host_path) is not None
        )

    def _mount(self, name: str, destination: str, options: tuple[str, ...]) -> Mount:
        volume, field = self._by_name[name]
        if volume.host_path is not None:
            source = volume.host_path.path
            return Mount(
                kind=MountKind.BIND, source=source, destination=destination, options=options
            )
        if volume.empty_dir is not None and volume.empty_dir.medium == "Memory":
            return self._memory(volume.empty_dir, field, destination, options)
        return Mount(
            kind=MountKind.VOLUME,
            source=f"{POD_PREFIX}{name}",
            destination=destination,
            options=options,
        )

    def _memory(
        self, source: EmptyDir, field: str, destination: str, options: tuple[str, ...]
    ) -> Mount:
        name = field.rpartition(".")[2]
        if any(
            self._users[volume.name] > 1 for volume, at in self._by_name.values() if at == field
        ):
            raise Unsupported(
                f"{field}.emptyDir.medium", f"Memory, for {name}, which several containers mount"
            )
        size = source.size_limit
        if size is not None:
            options += (f"size={parse_bytes(size, f'{field}.emptyDir.sizeLimit')}",)
        return Mount(kind=MountKind.TMPFS, destination=destination, options=(*options, "mode=0777"))


def check_host_paths(needs: Sequence[HostPathNeed]) -> None:
    """See that what `needs` names is on the host; the OrCreate kinds are made if missing.

    Raises: InvalidConfig naming the field, StoreFailed.
    """
    for need in needs:
        try:
            _make_missing(need)
            status = os.stat(need.path)
        except FileNotFoundError:
            raise InvalidConfig(f"{need.field}.path", f"{shown(need.path)}: no such file") from None
        except OSError as error:
            raise StoreFailed(need.path, error.errno or 0, "create") from error
        is_kind = _KINDS.get(need.type)
        if is_kind is not None and not is_kind(status.st_mode):
            kind = need.type.removesuffix("OrCreate")
            raise InvalidConfig(f"{need.field}.path", f"{shown(need.path)} is not a {kind}")


def _make_missing(need: HostPathNeed) -> None:
    # The kubelet's modes. As there, only a directory's parents are made.
    if need.type == "DirectoryOrCreate":
        os.makedirs(need.path, mode=0o755, exist_ok=True)
    elif need.type == "FileOrCreate":
        os.close(os.open(need.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _check_source(volume: Volume, field: str) -> None:
    sources: Mapping[str, object] = {"emptyDir": volume.empty_dir, "hostPath": volume.host_path}
    given = [name for name, source in sources.items() if source is not None]
    if len(given) != 1:
        raise InvalidConfig(field, f"needs one of {' and '.join(sources)}, and has {len(given)}")
    empty = volume.empty_dir
    if empty is not None and empty.medium == "" and empty.size_limit is not None:
        raise Unsupported(f"{field}.emptyDir.sizeLimit", "only a Memory volume has a limit")
    path = volume.host_path
    if path is not None and (not path.path.startswith("/") or "\0" in path.path):
        raise InvalidConfig(f"{field}.hostPath.path", f"{shown(path.path)} is not an absolute path")
