"""The state of containers made by `podrt oci`: a directory each below a root of their own.

Shape: `<root>/<id>/state.json`, replaced as a whole, and beside it the configuration as it was
when the container was created, since later changes of the bundle must have no effect. A lock on
the directory is held by whoever changes the container; looking needs none.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator, Mapping

import msgspec

from podrt.errors import AlreadyExists, InvalidConfig, NotFound, StoreCorrupt, StoreFailed
from podrt.linux import files
from podrt.linux.process import Process
from podrt.model import runtimespec as oci

DEFAULT_ROOT = "/run/podrt-oci"
FILTERS = "@seccomp"
"""The directory of compiled filters: no container can have this name."""

_STATE = "state.json"
_CONFIG = "config.json"
_ID = re.compile(r"[\w+\-.]+", re.ASCII)
_LONGEST_ID = 255 - len("/")


class Container(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a container.

    `pid` is 0 before its process is there. `is_created` says that create has succeeded,
    `is_started` that the program runs or ran. `cgroup` is its path ("" is none). `covered_mount`
    is the mount on which `rootfs` lay, where the container's own hang over it in the caller's
    mount namespace.
    """

    id: str
    bundle: str
    rootfs: str
    created: str
    oci_version: str = oci.OCI_VERSION
    owner: str = ""
    pid: int = 0
    start_ticks: int = 0
    cgroup: str = ""
    covered_mount: int = 0
    is_created: bool = False
    is_started: bool = False
    annotations: Mapping[str, str] = {}

    @property
    def process(self) -> Process:
        """Its first process."""
        return Process(self.pid, self.start_ticks)


class Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The state as the specification has it, and what runc adds.

    Source: runtime-spec runtime.md, "State".
    """

    oci_version: str
    id: str
    pid: int
    status: str
    bundle: str
    rootfs: str
    created: str
    annotations: Mapping[str, str]
    owner: str


def document(container: Container, status: str) -> Document:
    """The state of a container as others read it; what has stopped has no process."""
    return Document(
        oci_version=container.oci_version,
        id=container.id,
        status=status,
        pid=0 if status == "stopped" else container.pid,
        bundle=container.bundle,
        rootfs=container.rootfs,
        created=container.created,
        owner=container.owner,
        annotations=container.annotations,
    )


def check_id(container_id: str) -> str:
    """`container_id` if it can be one. Raises: InvalidConfig."""
    if not container_id:
        raise InvalidConfig("container id", "cannot be empty")
    if not _ID.fullmatch(container_id) or container_id in (".", ".."):
        raise InvalidConfig("container id", f"invalid container ID format: {container_id!r}")
    if len(container_id) > _LONGEST_ID:
        raise InvalidConfig("container id", f"is longer than {_LONGEST_ID} characters")
    return container_id


class Place:
    """One container's directory, locked by this process until `close`."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def close(self) -> None:
        """Let the lock go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def save(self, container: Container) -> Container:
        """Replace the state. Raises: StoreFailed."""
        self.write(_STATE, msgspec.json.encode(container))
        return container

    def write(self, name: str, data: bytes) -> str:
        """Write a file beside the state; its path. Raises: StoreFailed."""
        path = f"{self.path}/{name}"
        try:
            files.write_atomically(path, data)
        except OSError as exc:
            raise StoreFailed(path, exc.errno or 0) from exc
        return path

    def write_config(self, data: bytes) -> None:
        """Keep the configuration the container is made from. Raises: StoreFailed."""
        self.write(_CONFIG, data)

    def config(self) -> oci.Spec:
        """The configuration the container was made from. Raises: StoreCorrupt."""
        path = f"{self.path}/{_CONFIG}"
        try:
            with open(path, "rb") as file:
                return oci.decode(file.read())
        except (OSError, InvalidConfig) as exc:
            raise StoreCorrupt(path, 0, str(exc)) from exc

    def load(self) -> Container | None:
        """The state; None when the one who was creating it has died before writing any."""
        with contextlib.suppress(FileNotFoundError):
            return _read(f"{self.path}/{_STATE}")
        return None

    def remove(self) -> None:
        """Remove the directory with all that is in it. Raises: StoreFailed."""
        try:
            for name in os.listdir(self.path):
                os.unlink(f"{self.path}/{name}")
            os.rmdir(self.path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise StoreFailed(self.path, exc.errno or 0, "remove") from exc


class Containers:
    """All containers below one root."""

    def __init__(self, root: str = DEFAULT_ROOT) -> None:
        self.root = os.path.abspath(root)

    def reserve(self, container_id: str) -> Place:
        """Take an ID: its new directory, locked. Raises: AlreadyExists, InvalidConfig."""
        path = f"{self.root}/{check_id(container_id)}"
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            os.mkdir(path, 0o700)
        except FileExistsError as exc:
            if exc.filename != path:
                raise InvalidConfig("--root", f"{self.root} is not a directory") from exc
            raise AlreadyExists("container", container_id, f"the one in {path}") from exc
        except OSError as exc:
            raise StoreFailed(path, exc.errno or 0, "make") from exc
        place = self._lock(path)
        if place is None:
            raise AlreadyExists("container", container_id, "another command")
        return place

    @contextlib.contextmanager
    def locked(self, container_id: str) -> Iterator[Place]:
        """A container's directory for somebody who changes it. Raises: NotFound, InvalidConfig."""
        place = self._lock(f"{self.root}/{check_id(container_id)}")
        if place is None:
            raise NotFound("container", container_id)
        try:
            yield place
        finally:
            place.close()

    def load(self, container_id: str) -> Container:
        """A container's state. Raises: NotFound, InvalidConfig, StoreCorrupt."""
        try:
            return _read(f"{self.root}/{check_id(container_id)}/{_STATE}")
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise NotFound("container", container_id) from exc

    def all(self) -> list[Container]:
        """Every container, by ID. Raises: StoreCorrupt."""
        try:
            names = sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            with contextlib.suppress(NotFound, InvalidConfig):
                found.append(self.load(name))
        return found

    def filters(self) -> str:
        """The directory for compiled filters, made if it is not there. Raises: StoreFailed."""
        path = f"{self.root}/{FILTERS}"
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError as exc:
            raise StoreFailed(path, exc.errno or 0, "make") from exc
        return path

    def _lock(self, path: str) -> Place | None:
        """Wait for the lock; None when the directory is gone, or was removed meanwhile."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise StoreFailed(path, exc.errno or 0, "open") from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            there, mine = os.stat(path), os.fstat(fd)
            if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                return Place(path, fd)
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None


def _read(path: str) -> Container:
    with open(path, "rb") as file:
        data = file.read()
    try:
        return msgspec.json.decode(data, type=Container)
    except msgspec.MsgspecError as exc:
        raise StoreCorrupt(path, 0, str(exc)) from exc
