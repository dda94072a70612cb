"""A pod's configuration with every default filled in, or the error it deserves.

Pure: nothing is looked up and nothing is touched. Source: semantics.md section 3.
"""

from __future__ import annotations

import msgspec

from podrt.cgroups import policy
from podrt.config import Settings
from podrt.errors import InvalidConfig, Unsupported
from podrt.model.ids import check_name
from podrt.model.pod import DEFAULT_SHARE, SHAREABLE, PodConfig
from podrt.model.restarts import parse_restart
from podrt.model.userns import HOST_USERS
from podrt.net.hosts import check_files
from podrt.spec import devices, mounts, seccomp
from podrt.spec.build import SECCOMP_UNCONFINED
from podrt.spec.userns import parse_userns

from .infra import check_infra
from .prepare import etc_files

# Linux: HOST_NAME_MAX.
MAX_HOSTNAME = 64


def resolve_pod(config: PodConfig, settings: Settings) -> PodConfig:
    """`config` with share, infra, cgroup parent and pod cgroup decided.

    Raises: InvalidConfig or Unsupported naming the flag.
    """
    if config.name:
        check_name(config.name, "--name")
    if config.infra_name:
        check_name(config.infra_name, "--infra-name")
    if len(config.hostname.encode()) > MAX_HOSTNAME or "\0" in config.hostname:
        raise InvalidConfig("--hostname", f"{config.hostname!r}: at most {MAX_HOSTNAME} bytes")
    parse_restart(config.restart_policy)
    _check_given(config)
    check_files(etc_files(config))
    share, infra = _sharing(config)
    check_infra(config, infra=infra)
    if not infra:
        _need_infra(config)
    away = config.host_namespaces
    _check_users(config, infra=infra)
    decision = policy.decide(
        settings.cgroup_manager,
        config.cgroup_parent,
        share_parent=config.use_pod_cgroup,
        has_limits=not config.resources.is_unset,
    )
    return msgspec.structs.replace(
        config,
        share=share - away,
        infra=infra,
        cgroup_parent=decision.parent,
        use_pod_cgroup=decision.pod_cgroup,
    )


def _check_given(config: PodConfig) -> None:
    """What members will get has to be right already. Raises: InvalidConfig, Unsupported."""
    devices.given_devices(config.devices)
    mounts.all_mounts({}, config.mounts, {mount.source: "/" for mount in config.mounts})
    if config.security.seccomp not in ("", SECCOMP_UNCONFINED):
        seccomp.load_profile(config.security.seccomp)


def _need_infra(config: PodConfig) -> None:
    """What belongs to the infra container cannot be without one. Raises: InvalidConfig."""
    etc = etc_files(config)
    for option, is_given in (
        ("DNSServer", etc.dns_servers),
        ("DNSOption", etc.dns_options),
        ("DNSSearch", etc.dns_searches),
        ("HostAdd", etc.add_hosts),
    ):
        if is_given:
            raise InvalidConfig("", f"NoInfra and {option} are mutually exclusive pod options")
    if etc.no_hosts:
        raise InvalidConfig("", "cannot specify --no-hosts without an infra container")


def _check_users(config: PodConfig, *, infra: bool) -> None:
    if config.userns == HOST_USERS:
        return
    wanted = parse_userns(config.userns.mode, config.userns.uid_maps, config.userns.gid_maps)
    if wanted.mode == "ns":
        raise Unsupported("--userns ns", "a pod's namespaces are made in one of its own")
    if not infra:
        raise InvalidConfig("--userns", "a pod needs an infra container for it")


def _sharing(config: PodConfig) -> tuple[frozenset[str], bool]:
    """What is shared, and whether there is an infra container to hold it."""
    share = config.share
    if share is None:
        share = frozenset() if config.infra is False else DEFAULT_SHARE
    unknown = sorted(share - SHAREABLE)
    if unknown:
        raise InvalidConfig("--share", f"invalid kernel namespace to share: {unknown[0]}")
    if share and config.infra is False:
        raise InvalidConfig("", "Pods must have an infra container to share namespaces")
    # Without anything to share an infra container is only made when it was asked for.
    return share, bool(share) if config.infra is None else config.infra
