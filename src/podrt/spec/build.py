"""A container's OCI runtime specification from its configuration and its image's defaults.

This is what `inspect` shows, what another OCI runtime gets, and what a plan is compiled from.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

import msgspec

from podrt.errors import InvalidConfig
from podrt.linux.caps import last_cap
from podrt.model import runtimespec as oci
from podrt.model.container import ContainerConfig, NamespaceMode, Security
from podrt.model.ids import short_id
from podrt.model.image import ImageDefaults

from . import accounts, devices, mounts, namespaces, process, resources, seccomp, security
from .userns import Maps

SECCOMP_UNCONFINED = "unconfined"
MAX_HOSTNAME = 64
PERSONALITIES = ("LINUX", "LINUX32")
OOM_SCORES = range(-1000, 1001)


class Host(msgspec.Struct, frozen=True):
    """What a specification depends on of the machine it is for."""

    machine: str
    last_cap: int


@functools.cache
def this_host() -> Host:
    """The machine this runs on. Raises: OSError."""
    return Host(os.uname().machine, last_cap())


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container and what it shares is on the host.

    `rootfs` is where another OCI runtime finds the mounted root; `ns_dir` has the pod's
    namespaces and `shm` is its shared memory; `cgroup` is the container's cgroup path;
    `shared` are the namespace types its pod shares, `pod_hostname` the name in its uts namespace.
    """

    container_id: str
    rootfs: str
    cgroup: str = ""
    ns_dir: str = ""
    shm: str = ""
    files: mounts.SharedFiles = mounts.SharedFiles()
    shared: frozenset[str] = frozenset()
    pod_hostname: str = ""


def build_spec(
    config: ContainerConfig,
    place: Place,
    *,
    image: ImageDefaults | None = None,
    known: accounts.Accounts | None = None,
    volumes: Mapping[str, str] | None = None,
    host: Host | None = None,
    userns: Maps | None = None,
) -> oci.Spec:
    """The specification of a container.

    `known` are the image's accounts (`accounts.read_accounts`), `volumes` the directories of
    named volumes, `userns` what `userns.resolve` gave. Raises: InvalidConfig, NotFound,
    Unsupported.
    """
    image = ImageDefaults() if image is None else image
    host = this_host() if host is None else host
    modes = namespaces.modes(config.namespaces, place.shared)
    hostname = _hostname(config, place, modes["uts"])
    userns = Maps() if userns is None else userns
    kept = "{}:{}".format(*userns.user) if userns.user is not None else ""
    identity = accounts.find_identity(
        config.user or kept or image.user,
        config.groups,
        config.umask,
        known or accounts.Accounts(),
    )
    _check_mapped(identity.user, userns)
    bounding = security.bounding_set(config.security, host.last_cap)
    mounted = mounts.all_mounts(
        mounts.default_mounts(_mount_defaults(config, place, modes, userns)),
        config.mounts,
        volumes or {},
    )
    _check(config)
    return oci.Spec(
        process=_process(config, image, identity=identity, bounding=bounding, hostname=hostname),
        root=oci.Root(path=place.rootfs, readonly=config.read_only),
        hostname=hostname if modes["uts"] is NamespaceMode.PRIVATE else "",
        mounts=mounted,
        annotations=config.annotations,
        linux=_linux(
            config,
            place,
            modes=modes,
            profile=_seccomp(config.security, bounding, host.machine),
            propagation=mounts.root_propagation(mounted),
            userns=userns,
        ),
    )


def _check_mapped(user: oci.User, userns: Maps) -> None:
    """Who the process is must be somebody in its user namespace."""
    for field, ranges, numbers in (
        ("--user", userns.uid_map, (user.uid,)),
        ("--user", userns.gid_map, (user.gid,)),
        ("--group-add", userns.gid_map, user.additional_gids),
    ):
        for number in numbers if ranges else ():
            if not any(0 <= number - one.container_id < one.size for one in ranges):
                raise InvalidConfig(field, f"{number} is in no range of --userns or its maps")


def _check(config: ContainerConfig) -> None:
    if config.oom_score_adj is not None and config.oom_score_adj not in OOM_SCORES:
        raise InvalidConfig("--oom-score-adj", f"{config.oom_score_adj} is not -1000 to 1000")
    if not 0 <= config.umask <= 0o777:
        raise InvalidConfig("--umask", f"{config.umask:#o} is not 0 to 0777")


def _hostname(config: ContainerConfig, place: Place, mode: NamespaceMode) -> str:
    """The name the container sees: its own, its pod's or the host's."""
    if mode is not NamespaceMode.PRIVATE and config.hostname:
        whose = "pod" if mode is NamespaceMode.POD else "host"
        raise InvalidConfig("--hostname", f"cannot be set in the {whose}'s uts namespace")
    if mode is NamespaceMode.HOST:
        return os.uname().nodename
    own = config.hostname or short_id(place.container_id)
    found = place.pod_hostname if mode is NamespaceMode.POD and place.pod_hostname else own
    if len(found) > MAX_HOSTNAME or "\0" in found:
        raise InvalidConfig("--hostname", f"{found!r} has more than {MAX_HOSTNAME} characters")
    return found


def _mount_defaults(
    config: ContainerConfig, place: Place, modes: Mapping[str, NamespaceMode], userns: Maps
) -> mounts.Defaults:
    is_mapped = not userns.is_host
    return mounts.Defaults(
        ipc=modes["ipc"],
        pod_shm=place.shm,
        shm_bytes=config.shm_bytes,
        is_privileged=config.security.privileged,
        is_read_only=config.read_only,
        has_tmpfs=config.read_only_tmpfs,
        files=place.files,
        binds_sys=is_mapped and modes["net"] is NamespaceMode.HOST,
        binds_proc=is_mapped and modes["pid"] is NamespaceMode.HOST,
    )


def _process(
    config: ContainerConfig,
    image: ImageDefaults,
    *,
    identity: accounts.Identity,
    bounding: frozenset[str],
    hostname: str,
) -> oci.Process:
    return oci.Process(
        terminal=config.terminal,
        user=identity.user,
        args=process.arguments(config, image),
        env=process.environment(config, image, hostname=hostname, home=identity.home),
        cwd=process.working_directory(config, image),
        capabilities=security.capabilities(
            bounding, config.security, is_root=identity.user.uid == 0
        ),
        rlimits=process.rlimits(config.ulimits),
        no_new_privileges=config.security.no_new_privileges,
        oom_score_adj=config.oom_score_adj,
    )


def _seccomp(wanted: Security, bounding: frozenset[str], machine: str) -> oci.Seccomp | None:
    """The resolved profile; a privileged container has none unless it names one, as podman's."""
    if wanted.seccomp == SECCOMP_UNCONFINED or (wanted.privileged and not wanted.seccomp):
        return None
    profile = seccomp.load_profile(wanted.seccomp) if wanted.seccomp else None
    return seccomp.resolve(profile, bounding, machine)


def _personality(word: str) -> oci.Personality | None:
    if not word:
        return None
    if word.upper() not in PERSONALITIES:
        known = ", ".join(PERSONALITIES)
        raise InvalidConfig("--personality", f"{word!r} is not one of {known}")
    return oci.Personality(domain=word.upper())


def _linux(
    config: ContainerConfig,
    place: Place,
    *,
    modes: Mapping[str, NamespaceMode],
    profile: oci.Seccomp | None,
    propagation: str,
    userns: Maps,
) -> oci.Linux:
    nodes, rules = devices.given_devices(config.devices)
    if config.security.privileged:
        nodes = [*devices.host_devices(), *nodes]
        allowed = devices.ALL_RULES
    else:
        allowed = (*devices.DEFAULT_RULES, *rules, *devices.parse_rules(config.device_rules))
    own = () if userns.is_host else (oci.Namespace(type="user", path=userns.path),)
    return oci.Linux(
        namespaces=(*own, *namespaces.namespaces(modes, place.ns_dir)),
        uid_mappings=userns.uid_map,
        gid_mappings=userns.gid_map,
        devices=tuple({node.path: node for node in nodes}.values()),
        cgroups_path=place.cgroup,
        resources=resources.limits(config.resources, allowed),
        rootfs_propagation=propagation,
        seccomp=profile,
        sysctl=namespaces.sysctls(config.sysctls, modes),
        masked_paths=security.masked_paths(config.security),
        readonly_paths=security.readonly_paths(config.security),
        personality=_personality(config.personality),
    )
