"""The native engine: podrt's own launcher, fed with plans. Nothing has to be installed for it."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable

from podrt.errors import InternalError, StoreFailed
from podrt.linux.files import write_atomically
from podrt.linux.mounts import read_mounts
from podrt.model.runtimespec import Seccomp, Spec

from .plan import CgroupView, Held, OverlayRoot, cgroup_view, compile_plan

Rootfs = OverlayRoot
"""The layers a container's root is mounted from."""

CompileFilter = Callable[[Seccomp, str], bytes]
"""The seccomp compiler: a specification's `linux.seccomp` and a machine to a BPF program."""


@functools.cache
def host_cgroups() -> CgroupView:
    """What containers of this host see at /sys/fs/cgroup. Raises: OSError."""
    return cgroup_view(read_mounts())


def compile_container(
    spec: Spec,
    root: OverlayRoot,
    *,
    log_path: str,
    log_max_bytes: int = 0,
    ns_dir: str = "",
    shm: str = "",
    seccomp_dir: str,
    compile_filter: CompileFilter | None = None,
) -> bytes:
    """The plan of a container; its filter is put into `seccomp_dir` once for all that use it.

    `ns_dir` and `shm` name what the group's monitor holds; `shm` is beside `ns_dir` if not given.
    Raises: InvalidConfig, Unsupported, LimitReached, StoreFailed.
    """
    filter_path = ""
    seccomp = spec.linux.seccomp if spec.linux is not None else None
    if seccomp is not None:
        if compile_filter is None:
            raise InternalError("a container with a seccomp filter, and nothing to compile it")
        filter_path = store_filter(seccomp_dir, compile_filter(seccomp, os.uname().machine))
    if ns_dir and not shm:
        shm = f"{os.path.dirname(ns_dir)}/shm"
    return compile_plan(
        spec,
        root=root,
        log_path=log_path,
        log_max_bytes=log_max_bytes,
        held=Held(ns_dir=ns_dir, shm=shm),
        cgroups=host_cgroups(),
        filter_path=filter_path,
    )


def store_filter(directory: str, program: bytes) -> str:
    """Put a filter beside the others, named by its hash; its path. Raises: StoreFailed."""
    path = f"{directory}/{_digest(program)}.bpf"
    try:
        if os.path.exists(path) and os.path.getsize(path) == len(program):
            return path
        os.makedirs(directory, mode=0o700, exist_ok=True)
        write_atomically(path, program)
    except OSError as exc:
        raise StoreFailed(path, exc.errno or 0) from exc
    return path


@functools.lru_cache(maxsize=64)
def _digest(program: bytes) -> str:
    return hashlib.sha256(program).hexdigest()
