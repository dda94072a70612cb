"""Which kernel parameters belong to a namespace, so that a container may have its own."""

from __future__ import annotations

_IPC = frozenset(
    f"kernel.{name}"
    for name in (
        "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced msg_next_id sem_next_id "
        "shm_next_id"
    ).split()
)


def namespace_of(name: str) -> str:
    """The type of namespace ("net", "ipc", "uts") that has a parameter of its own, or "".

    `name` is written with dots. Source: sysctl(8), namespaces(7).
    """
    if name.startswith("net."):
        return "net"
    if name in _IPC or name.startswith("fs.mqueue."):
        return "ipc"
    if name in ("kernel.domainname", "kernel.hostname"):
        return "uts"
    return ""
