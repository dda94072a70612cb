"""Which namespaces a container has of its own, which are its pod's, and what may be set in them."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from podrt.errors import InvalidConfig
from podrt.linux.sysctls import namespace_of
from podrt.model.container import NamespaceMode, Namespaces
from podrt.model.runtimespec import Namespace

# The specification's words for ours.
OCI_TYPES: Mapping[str, str] = {
    "pid": "pid",
    "net": "network",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
}
PING_SYSCTL = ("net.ipv4.ping_group_range", "0 0")


@functools.lru_cache(maxsize=256)
def modes(wanted: Namespaces, shared: frozenset[str]) -> Mapping[str, NamespaceMode]:
    """The mode of each type once it is known what the pod shares."""
    found = {
        "pid": wanted.pid,
        "net": wanted.net,
        "ipc": wanted.ipc,
        "uts": wanted.uts,
        "cgroup": wanted.cgroup,
    }
    for kind, mode in found.items():
        if mode is NamespaceMode.POD and kind not in shared:
            found[kind] = NamespaceMode.PRIVATE
    return found


def namespaces(found: Mapping[str, NamespaceMode], ns_dir: str) -> tuple[Namespace, ...]:
    """`linux.namespaces`; those of the pod are joined through its run directory `ns_dir`."""
    return (
        Namespace(type="mount"),
        *(
            Namespace(
                type=OCI_TYPES[kind],
                path=f"{ns_dir}/{kind}" if mode is NamespaceMode.POD else "",
            )
            for kind, mode in found.items()
            if mode is not NamespaceMode.HOST
        ),
    )


def sysctls(wanted: Mapping[str, str], found: Mapping[str, NamespaceMode]) -> Mapping[str, str]:
    """`linux.sysctl`: what is asked for if it belongs to a namespace, and podman's default.

    Raises: InvalidConfig.
    """
    settings = dict([PING_SYSCTL]) if found["net"] is not NamespaceMode.HOST else {}
    for key, value in wanted.items():
        name = key.replace("/", ".")
        kind = namespace_of(name)
        if not kind:
            raise InvalidConfig(f"--sysctl {name}", "is not separate for each container")
        if kind == "uts":
            raise InvalidConfig(f"--sysctl {key}", "use --hostname")
        if found[kind] is NamespaceMode.HOST:
            raise InvalidConfig(
                f"--sysctl {key}", f"is not allowed in the host's {OCI_TYPES[kind]} namespace"
            )
        settings[name] = value
    return settings
