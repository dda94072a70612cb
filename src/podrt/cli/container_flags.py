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
    Device,
    InitKind,
    Mount,
    MountKind,
    NamespaceMode,
    Namespaces,
    Security,
    Ulimit,
)
from podrt.model.ids import check_name

from .flags import Parser, pairs, size_bytes, split_list, whole_number
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
    ("--restart", "POLICY", "no"),
    ("--log-opt", "max-size=BYTES", "bound the log"),
)
_LISTS = (
    (("--env", "-e"), "NAME=VALUE", "an environment variable"),
    (("--label", "-l"), "KEY=VALUE", "a label"),
    (("--annotation",), "KEY=VALUE", "an annotation"),
    (("--volume", "-v"), "SOURCE:DEST[:OPTIONS]", "a host path or volume to mount"),
    (("--tmpfs",), "DEST[:OPTIONS]", "mount a tmpfs"),
    (("--device",), "SOURCE[:DEST[:rwm]]", "give it a device"),
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


def container_config(args: argparse.Namespace, pod: str | None = None) -> ContainerConfig:
    """The container that the flags describe. Raises: InvalidConfig, Unsupported."""
    if args.restart not in (None, "", "no", "never"):
        raise Unsupported(f"--restart {args.restart}", "restart policies are not built yet")
    if args.rm and getattr(args, "detach", False):
        raise Unsupported("--rm with --detach", "removal at exit is not built yet")
    shm_bytes = size_bytes("--shm-size", args.shm_size)
    stop_timeout_s = whole_number("--stop-timeout", args.stop_timeout)
    return ContainerConfig(
        image=args.image,
        name=args.name or "",
        pod=(args.pod or "") if pod is None else pod,
        hostname=args.hostname or "",
        entrypoint=_entrypoint(args.entrypoint),
        command=tuple(args.command) if args.command else None,
        env=_environment(args.env),
        labels=pairs("--label", args.label),
        annotations=pairs("--annotation", args.annotation),
        workdir=args.workdir,
        user=args.user,
        groups=tuple(args.group_add),
        umask=_umask(args.umask),
        requires=tuple(_dependency(word) for word in split_list(args.requires)),
        init=_init_kind(args.init_ctr),
        namespaces=_namespaces(args),
        userns=userns_of(args),
        security=_security(args),
        resources=limits_of(args, args.pids_limit),
        mounts=(*map(parse_volume, args.volume), *map(_tmpfs, args.tmpfs)),
        devices=tuple(_device(word) for word in args.device),
        ulimits=tuple(_ulimit(word) for word in args.ulimit),
        sysctls=pairs("--sysctl", args.sysctl),
        shm_bytes=(64_000 << 10) if shm_bytes is None else shm_bytes,
        read_only=args.read_only,
        terminal=args.tty,
        stdin_open=args.interactive,
        stop_signal=signals.number(args.stop_signal, "--stop-signal") if args.stop_signal else 0,
        stop_timeout_s=DEFAULT_STOP_TIMEOUT_S if stop_timeout_s is None else stop_timeout_s,
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


def _environment(words: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE; a bare NAME takes the value it has here, if it has one."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise InvalidConfig("--env", f"invalid environment variable {word!r}")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


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


def _security(args: argparse.Namespace) -> Security:
    no_new_privileges, seccomp = False, ""
    mask: tuple[str, ...] = ()
    unmask: tuple[str, ...] = ()
    for word in args.security_opt:
        key, value = _option(word)
        if key == "no-new-privileges":
            no_new_privileges = value in ("", "true")
        elif key == "seccomp":
            seccomp = value
        elif key == "mask":
            mask += tuple(value.split(":"))
        elif key == "unmask":
            unmask += tuple(value.split(":"))
        else:
            raise Unsupported(f"--security-opt {word}")
    return Security(
        privileged=args.privileged,
        cap_add=split_list(args.cap_add),
        cap_drop=split_list(args.cap_drop),
        no_new_privileges=no_new_privileges,
        seccomp=seccomp,
        mask=mask,
        unmask=unmask,
    )


def parse_volume(word: str) -> Mount:
    """`--volume SOURCE:DEST[:OPTIONS]`. A source without "/" names a volume.

    Raises: InvalidConfig.
    """
    parts = word.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1]:
        raise InvalidConfig("--volume", f"{word!r} is not SOURCE:DEST[:OPTIONS]")
    source, destination = parts[:2]
    options = tuple(option for option in parts[2].split(",") if option) if parts[2:] else ()
    if source.startswith("."):
        source = os.path.abspath(source)
    if not source.startswith("/"):
        check_name(source, "--volume")
        return Mount(kind=MountKind.VOLUME, source=source, destination=destination, options=options)
    if not os.path.exists(source):
        raise InvalidConfig("--volume", f"{source}: no such file or directory")
    return Mount(kind=MountKind.BIND, source=source, destination=destination, options=options)


def _tmpfs(word: str) -> Mount:
    destination, _, options = word.partition(":")
    return Mount(
        kind=MountKind.TMPFS,
        destination=destination,
        options=tuple(option for option in options.split(",") if option),
    )


def _device(word: str) -> Device:
    source, _, rest = word.partition(":")
    if rest and not rest.startswith("/"):
        return Device(source=source, destination=source, access=rest)
    destination, _, access = rest.partition(":")
    return Device(source=source, destination=destination or source, access=access or "rwm")


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
