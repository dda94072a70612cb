"""The flags of `create` and `run`, and the configuration they ask for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from podrt.errors import InvalidConfig, Unsupported
from podrt.linux import signals
from podrt.model.container import (
    DEFAULT_STOP_TIMEOUT_S,
    ContainerConfig,
    Dependency,
    DependencyKind,
    InitKind,
    Mount,
    NamespaceMode,
    Namespaces,
    Security,
    Ulimit,
)

from .environment import add_environment_flags, environment_of, labels_of, merges_of
from .etc_flags import add_etc_flags, etc_files_of
from .flags import Parser, pairs, read_id, size_bytes, split_list, whole_number
from .mount_flags import parse_device, parse_mount, parse_tmpfs, parse_volume
from .resources import add_limit_flags, limits_of
from .userns_flags import USERNS_LISTS, USERNS_WORDS, userns_of

_WORDS = (
    ("--name", "NAME", "the container's name"),
    ("--pod", "POD", "the pod to be in; new:NAME makes one"),
    ("--hostname", "NAME", "its host name"),
    ("--entrypoint", "COMMAND", "instead of the image's"),
    ("--init-ctr", "once|always", "run before the pod's other containers"),
    ("--network", "none|host", "network namespace; the pod's or an own one"),
    ("--ipc", "private|host", "ipc namespace"),
    ("--uts", "private|host", "uts namespace"),
    ("--pid", "private|host", "pid namespace"),
    *USERNS_WORDS,
    ("--cgroup-parent", "PATH", "where its cgroup is"),
    ("--stop-signal", "SIGNAL", "the signal that asks it to end"),
    ("--umask", "OCTAL", "its file mode mask"),
    ("--shm-size", "BYTES", "size of /dev/shm"),
    ("--pids-limit", "NUMBER", "number of processes; -1 unlimited"),
    ("--oom-score-adj", "NUMBER", "how likely it is killed for memory"),
    ("--cidfile", "FILE", "write the ID there"),
    ("--pidfile", "FILE", "write the process ID there at every start"),
    ("--pod-id-file", "FILE", "a file with the ID of the pod to be in"),
    ("--personality", "NAME", "LINUX or LINUX32"),
    ("--tz", "ZONE", "its time zone; local is the host's"),
    ("--cgroupns", "private|host", "cgroup namespace"),
    ("--restart", "POLICY", "no, always, on-failure[:N], unless-stopped; the pod's"),
    ("--log-opt", "max-size=BYTES", "bound the log"),
)
_LISTS = (
    (("--label", "-l"), "KEY=VALUE", "a label"),
    (("--label-file",), "FILE", "a file with a label a line"),
    (("--annotation",), "KEY=VALUE", "an annotation"),
    (("--volume", "-v"), "SOURCE:DEST[:OPTIONS]", "a host path or volume to mount"),
    (("--mount",), "type=KIND,KEY=VALUE,...", "a mount in full words"),
    (("--volumes-from",), "CONTAINER[:OPTIONS]", "the mounts of another container"),
    (("--tmpfs",), "DEST[:OPTIONS]", "mount a tmpfs"),
    (("--device",), "SOURCE[:DEST[:rwm]]", "give it a device"),
    (("--device-cgroup-rule",), "RULE", "devices it may use: c 1:3 rwm"),
    (("--cap-add",), "NAME", "a capability more"),
    (("--cap-drop",), "NAME", "a capability less"),
    (("--security-opt",), "OPTION", "seccomp=, no-new-privileges, mask=, unmask="),
    *USERNS_LISTS,
    (("--sysctl",), "KEY=VALUE", "a kernel parameter of its namespaces"),
    (("--ulimit",), "NAME=SOFT[:HARD]", "a resource limit"),
    (("--group-add",), "GROUP", "a further group"),
    (("--requires",), "CONTAINER", "must run before this one"),
)


def add_container_flags(parser: Parser) -> None:
    """Everything that `create` and `run` have in common."""
    parser.add_argument("image", metavar="IMAGE", help="the image to run")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run")
    for name, metavar, text in _WORDS:
        short = ("-h",) if name == "--hostname" else ()
        parser.add_argument(name, *short, default=None, metavar=metavar, help=text)
    for names, metavar, text in _LISTS:
        parser.many(*names, metavar=metavar, help=text)
    parser.add_argument("--user", "-u", default="", metavar="USER[:GROUP]", help="who runs it")
    parser.add_argument("--workdir", "-w", default="", metavar="DIR", help="where it starts")
    parser.add_argument("--stop-timeout", default=None, metavar="SECONDS", help="grace period")
    add_environment_flags(parser)
    add_etc_flags(parser)
    parser.switch("--rootfs", help="the image is a directory with a root file system")
    parser.switch("--read-only-tmpfs", default=True, help="with --read-only: /run, /tmp, /var/tmp")
    parser.switch("--quiet", "-q", help="say nothing of images; nothing is said anyway")
    parser.switch("--rm", help="remove it when it ends")
    parser.switch("--privileged", help="give it all privileges")
    parser.switch("--read-only", help="a read-only root file system")
    parser.switch("--tty", "-t", help="a terminal")
    parser.switch("--interactive", "-i", help="keep standard input open")
    parser.switch("--replace", help="remove a container of that name first")
    add_limit_flags(parser)


def new_pod_name(args: argparse.Namespace) -> str | None:
    """NAME of `--pod new:NAME` ("" lets one be generated), None otherwise."""
    if args.pod is None or not args.pod.startswith("new:"):
        return None
    return str(args.pod.removeprefix("new:"))


def _mounts(args: argparse.Namespace) -> tuple[Mount, ...]:
    return (
        *map(parse_volume, args.volume),
        *map(parse_mount, args.mount),
        *map(parse_tmpfs, args.tmpfs),
    )


def _pod_name(args: argparse.Namespace) -> str:
    """The pod of `--pod` or of the file that has its ID. Raises: InvalidConfig."""
    if not args.pod_id_file:
        return str(args.pod or "")
    if args.pod:
        raise InvalidConfig("", "cannot specify both --pod and --pod-id-file")
    return read_id("--pod-id-file", args.pod_id_file)


def container_config(args: argparse.Namespace, pod: str | None = None) -> ContainerConfig:
    """The container that the flags describe. Raises: InvalidConfig, Unsupported."""
    shm_bytes = size_bytes("--shm-size", args.shm_size)
    stop_timeout_s = whole_number("--stop-timeout", args.stop_timeout)
    return ContainerConfig(
        image="" if args.rootfs else args.image,
        rootfs=os.path.abspath(args.image) if args.rootfs else "",
        name=args.name or "",
        pod=_pod_name(args) if pod is None else pod,
        hostname=args.hostname or "",
        entrypoint=_entrypoint(args.entrypoint),
        command=tuple(args.command) if args.command else None,
        env=environment_of(args),
        unset_env=tuple(args.unsetenv),
        unset_all_env=args.unsetenv_all,
        merge_env=merges_of(args),
        labels=labels_of(args),
        annotations=pairs("--annotation", args.annotation),
        workdir=args.workdir,
        user=args.user,
        groups=tuple(args.group_add),
        umask=_umask(args.umask),
        requires=tuple(_dependency(word) for word in split_list(args.requires)),
        init=_init_kind(args.init_ctr),
        namespaces=_namespaces(args),
        userns=userns_of(args),
        security=security_of(
            args.security_opt,
            privileged=args.privileged,
            cap_add=split_list(args.cap_add),
            cap_drop=split_list(args.cap_drop),
        ),
        resources=limits_of(args, args.pids_limit),
        mounts=_mounts(args),
        devices=tuple(parse_device(word) for word in args.device),
        device_rules=tuple(args.device_cgroup_rule),
        etc=etc_files_of(args),
        personality=args.personality or "",
        timezone=args.tz or "",
        pidfile=os.path.abspath(args.pidfile) if args.pidfile else "",
        ulimits=tuple(_ulimit(word) for word in args.ulimit),
        sysctls=pairs("--sysctl", args.sysctl),
        shm_bytes=(64_000 << 10) if shm_bytes is None else shm_bytes,
        read_only=args.read_only,
        read_only_tmpfs=args.read_only_tmpfs,
        terminal=args.tty,
        stdin_open=args.interactive,
        stop_signal=signals.number(args.stop_signal, "--stop-signal") if args.stop_signal else 0,
        stop_timeout_s=DEFAULT_STOP_TIMEOUT_S if stop_timeout_s is None else stop_timeout_s,
        restart_policy=args.restart or "",
        auto_remove=args.rm,
        oom_score_adj=whole_number("--oom-score-adj", args.oom_score_adj),
        cgroup_parent=args.cgroup_parent or "",
        log_max_bytes=_log_bytes(args.log_opt),
    )


def _entrypoint(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    if text.startswith("["):
        import msgspec

        try:
            return msgspec.json.decode(text, type=tuple[str, ...])
        except msgspec.DecodeError as exc:
            raise InvalidConfig("--entrypoint", f"{text!r}: {exc}") from exc
    return (text,) if text else ()


def _umask(text: str | None) -> int:
    try:
        return 0o022 if text is None else int(text, 8)
    except ValueError:
        raise InvalidConfig("--umask", f"{text!r} is not octal") from None


def _dependency(word: str) -> Dependency:
    on, _, kind = word.partition(":")
    try:
        return Dependency(on, DependencyKind(kind or "started"))
    except ValueError:
        raise InvalidConfig("--requires", f"{word!r}: started, healthy or completed") from None


def _init_kind(text: str | None) -> InitKind | None:
    try:
        return None if text is None else InitKind(text)
    except ValueError:
        raise InvalidConfig("--init-ctr", f"{text!r} is not once or always") from None


def _namespaces(args: argparse.Namespace) -> Namespaces:
    in_pod = NamespaceMode.POD
    return Namespaces(
        net=_mode("--network", args.network, in_pod, private=("none", "private")),
        ipc=_mode("--ipc", args.ipc, in_pod, private=("private", "none")),
        uts=_mode("--uts", args.uts, in_pod, private=("private",)),
        pid=_mode("--pid", args.pid, in_pod, private=("private",)),
        cgroup=_mode("--cgroupns", args.cgroupns, in_pod, private=("private",)),
    )


def _mode(
    flag: str, text: str | None, default: NamespaceMode, *, private: tuple[str, ...]
) -> NamespaceMode:
    if text is None:
        return default
    if text in private:
        return NamespaceMode.PRIVATE
    if text == "host":
        return NamespaceMode.HOST
    raise Unsupported(f"{flag} {text}", f"{private[0]} and host are built so far")


def _option(word: str) -> tuple[str, str]:
    """A security option's name and value: podman takes `=` and, as of old, `:` between them."""
    ends = [at for at in (word.find("="), word.find(":")) if at >= 0]
    return (word[: min(ends)], word[min(ends) + 1 :]) if ends else (word, "")


def security_of(
    options: Sequence[str],
    *,
    privileged: bool = False,
    cap_add: tuple[str, ...] = (),
    cap_drop: tuple[str, ...] = (),
) -> Security:
    """What `--security-opt` and the flags of capabilities say.

    Raises: InvalidConfig, Unsupported.
    """
    no_new_privileges, seccomp = False, ""
    mask: tuple[str, ...] = ()
    unmask: tuple[str, ...] = ()
    for word in options:
        key, value = _option(word)
        if key == "no-new-privileges":
            no_new_privileges = value in ("", "true")
        elif key == "seccomp":
            seccomp = value
        elif key == "mask":
            mask += tuple(value.split(":"))
        elif key == "unmask":
            unmask += tuple(value.split(":"))
        elif not value:
            raise InvalidConfig("--security-opt", f"invalid option {word!r}")
        else:
            raise Unsupported(f"--security-opt {word}")
    return Security(
        privileged=privileged,
        cap_add=cap_add,
        cap_drop=cap_drop,
        no_new_privileges=no_new_privileges,
        seccomp=seccomp,
        mask=mask,
        unmask=unmask,
    )


def _ulimit(word: str) -> Ulimit:
    name, _, values = word.partition("=")
    soft, _, hard = values.partition(":")
    try:
        return Ulimit(name=name, soft=int(soft), hard=int(hard or soft))
    except ValueError:
        raise InvalidConfig("--ulimit", f"{word!r} is not NAME=SOFT[:HARD]") from None


def _log_bytes(text: str | None) -> int:
    if text is None:
        return 0
    key, _, value = text.partition("=")
    if key != "max-size":
        raise Unsupported(f"--log-opt {text}")
    return size_bytes("--log-opt", value) or 0
