"""Names of cgroups: paths from the top of every hierarchy, checked before they reach the kernel."""

from __future__ import annotations

import functools
import re

from podrt.errors import InvalidConfig

MONITORS = "monitors"

# The first is the kernel's; the second leaves room for the names of files below PATH_MAX.
_LONGEST_NAME = 255
_LONGEST_PATH = 3500
_CONTROL = re.compile("[\0-\x1f\x7f]")


def check(path: str, field: str = "--cgroup-parent") -> str:
    """`path` as an absolute path without empty or "." parts; a relative one starts at the top.

    Raises: InvalidConfig naming `field`: a "..", a control character, a name too long, the top
    itself.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts:
        raise InvalidConfig(field, f"{path!r} names no cgroup")
    if ".." in parts:
        raise InvalidConfig(field, f"{path!r} must not contain ..")
    if _CONTROL.search(path):
        raise InvalidConfig(field, f"{path!r} holds a control character")
    lengths = [len(_encoded(part, field)) for part in parts]
    if max(lengths) > _LONGEST_NAME or sum(lengths) + len(lengths) > _LONGEST_PATH:
        raise InvalidConfig(field, f"{path[:40]!r}... is too long")
    return "/" + "/".join(parts)


def _encoded(part: str, field: str) -> bytes:
    try:
        # What the command line could not decode came as a surrogate; the kernel gets its byte.
        return part.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise InvalidConfig(field, f"{part!r} is no text a path can hold") from exc


def pod_path(parent: str, pod_id: str) -> str:
    """A pod's cgroup; "" where `parent` is "" (no cgroups)."""
    return f"{parent}/{pod_id}" if parent else ""


def container_path(parent: str, container_id: str, pod: str | None = None) -> str:
    """A container's cgroup, in its pod's cgroup `pod` if it has one; "" without cgroups."""
    above = pod or parent
    return f"{above}/{container_id}" if above else ""


def monitor_path(parent: str, group_id: str) -> str:
    """The cgroup of a group's monitor, outside the pod's so that its limits spare the monitor."""
    return f"{parent}/{MONITORS}/{group_id}" if parent else ""


@functools.lru_cache(maxsize=64)
def below_top(path: str) -> bytes:
    """The path relative to a hierarchy's mount point, as the kernel takes it."""
    return check(path).encode("utf-8", "surrogateescape")[1:]


def ancestors(path: str) -> list[str]:
    """Every cgroup from the topmost one down to and with `path`."""
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]


def parent_of(path: str) -> str:
    """The cgroup above; "" when that is the top."""
    return path.rpartition("/")[0]
