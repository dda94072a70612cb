"""The flags of `pod create` and `pod clone`, and the configuration they ask for."""

from __future__ import annotations

import argparse
import shlex

import msgspec

from podrt.errors import InvalidConfig, Unsupported
from podrt.model.pod import DEFAULT_SHARE, ExitPolicy, PodConfig
from podrt.runtime.inherit import mounts_from
from podrt.runtime.runtime import Runtime

from .container_flags import security_of
from .environment import labels_of
from .etc_flags import add_etc_flags, etc_files_of
from .flags import Parser, pairs, size_bytes, split_list
from .mount_flags import parse_device, parse_volume
from .resources import add_limit_flags, limits_of
from .userns_flags import add_userns_flags, userns_of


def add_pod_flags(parser: Parser) -> None:
    """Everything that says what a pod is."""
    add_override_flags(parser)
    parser.add_argument(
        "--share", default=None, metavar="LIST", help="ipc,net,uts,pid,cgroup; none; +TYPE"
    )
    parser.switch("--infra", default=None, help="make an infra container")
    parser.switch("--share-parent", default=True, help="members live in the pod's cgroup")
    parser.add_argument("--infra-image", default="", help="image in which it runs")
    parser.add_argument("--exit-policy", default="continue", help="continue, stop or stop-any")
    add_etc_flags(parser)


def add_override_flags(parser: Parser) -> None:
    """What a clone may have otherwise than its original."""
    parser.add_argument("--name", "-n", default="", help="the pod's name")
    parser.add_argument("--hostname", default="", help="its host name; the pod's name")
    parser.add_argument("--infra-name", default="", help="name of the infra container")
    parser.add_argument("--infra-command", default=None, help="what it runs instead of /pause")
    parser.add_argument("--cgroup-parent", default="", metavar="PATH", help="where its cgroup is")
    parser.many("--label", "-l", metavar="KEY=VALUE", help="a label")
    parser.many("--label-file", metavar="FILE", help="a file with a label a line")
    parser.many("--sysctl", metavar="KEY=VALUE", help="a kernel parameter of the pod's namespaces")
    parser.add_argument("--shm-size", default=None, metavar="BYTES", help="size of /dev/shm")
    parser.add_argument(
        "--restart", default="", metavar="POLICY",
        help="its containers' default: no, always, on-failure[:N], unless-stopped",
    )  # fmt: skip
    parser.add_argument("--uts", default=None, metavar="MODE", help="private or host")
    parser.add_argument("--pid", default=None, metavar="MODE", help="private or host")
    parser.many("--volume", "-v", metavar="SOURCE:DEST[:OPTIONS]", help="a mount of all members")
    parser.many("--volumes-from", metavar="CONTAINER[:OPTIONS]", help="mounts of another container")
    parser.many("--device", metavar="SOURCE[:DEST[:rwm]]", help="a device for all members")
    parser.many("--security-opt", metavar="OPTION", help="security options of all members")
    add_userns_flags(parser)
    add_limit_flags(parser)


def pod_config(args: argparse.Namespace) -> PodConfig:
    """The pod that the flags describe. Raises: InvalidConfig, Unsupported."""
    try:
        exit_policy = ExitPolicy(args.exit_policy)
    except ValueError:
        raise InvalidConfig(
            "--exit-policy", f"invalid pod exit policy: {args.exit_policy!r}"
        ) from None
    share = parse_share(args.share)
    given = overrides(args)
    shared = DEFAULT_SHARE if share is None and args.infra is not False else share or frozenset()
    check_host_namespaces(given.host_namespaces, shared)
    return msgspec.structs.replace(
        given,
        share=share,
        infra=args.infra,
        use_pod_cgroup=args.share_parent,
        exit_policy=exit_policy,
        restart_policy=args.restart,
        infra_image=args.infra_image,
        etc=etc_files_of(args),
    )


def overrides(args: argparse.Namespace) -> PodConfig:
    """What the flags of a clone say; the rest has its defaults. Raises: InvalidConfig."""
    config = PodConfig(
        name=args.name,
        hostname=args.hostname,
        labels=labels_of(args),
        sysctls=pairs("--sysctl", args.sysctl),
        infra_name=args.infra_name,
        infra_command=tuple(shlex.split(args.infra_command or "")),
        cgroup_parent=args.cgroup_parent,
        resources=limits_of(args),
        userns=userns_of(args),
        host_namespaces=frozenset(
            kind for kind in ("uts", "pid") if _is_host(f"--{kind}", getattr(args, kind))
        ),
        mounts=tuple(map(parse_volume, args.volume)),
        devices=tuple(map(parse_device, args.device)),
        security=security_of(args.security_opt),
    )
    shm_bytes = size_bytes("--shm-size", args.shm_size)
    return config if shm_bytes is None else msgspec.structs.replace(config, shm_bytes=shm_bytes)


def _is_host(flag: str, mode: str | None) -> bool:
    if mode is not None and mode.startswith(("ns:", "container:")):
        raise Unsupported(f"{flag} {mode}", "private and host are built so far")
    if mode not in (None, "", "private", "pod", "host"):
        raise InvalidConfig(flag, f"unrecognized namespace mode {mode} passed")
    return mode == "host"


def check_host_namespaces(hosts: frozenset[str], shared: frozenset[str]) -> None:
    """The host's can only stand for one that members share. Raises: InvalidConfig."""
    for kind in sorted(hosts - shared):
        raise InvalidConfig(f"--{kind}", f"needs --share {kind}: no member would be in it")


def with_volumes(runtime: Runtime, args: argparse.Namespace, config: PodConfig) -> PodConfig:
    """`config` with the mounts of `--volumes-from`. Raises: NotFound, Ambiguous, InvalidConfig."""
    runtime.view.refresh()
    taken = mounts_from(runtime.view, args.volumes_from, config.mounts)
    return msgspec.structs.replace(config, mounts=(*config.mounts, *taken))


def parse_share(text: str | None) -> frozenset[str] | None:
    """`--share` as a set: None is the default, "none" and "" nothing, "+x" adds to the default."""
    if text is None:
        return None
    words = split_list([text])
    if all(word.startswith("+") for word in words) and words:
        return DEFAULT_SHARE | {word[1:] for word in words}
    return frozenset(words) - {"none"}
