"""`--volume`, `--mount`, `--tmpfs`, `--device`: what a container is given of the host."""

from __future__ import annotations

import os
from collections.abc import Iterable

from podrt.errors import InvalidConfig, Unsupported
from podrt.model.container import Device, Mount, MountKind
from podrt.model.ids import check_name

_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable",
                 "runbindable")  # fmt: skip
# Of --mount, with the word a mount has for it; true and false behind "=" are taken as well.
_SWITCHES = {
    "dev": ("dev", "nodev"),
    "suid": ("suid", "nosuid"),
    "exec": ("exec", "noexec"),
    "nodev": ("nodev", "dev"),
    "nosuid": ("nosuid", "suid"),
    "noexec": ("noexec", "exec"),
    "tmpcopyup": ("", "notmpcopyup"),
    "notmpcopyup": ("notmpcopyup", ""),
    "bind-nonrecursive": ("bind", "rbind"),
}
_ALIASES = {
    "source": "src",
    "target": "dst",
    "destination": "dst",
    "readonly": "ro",
    "tmpfs-size": "size",
    "tmpfs-mode": "mode",
}
# Keys that carry a value, by kind.
_VALUES = {
    MountKind.BIND: {"src", "dst", "bind-propagation"},
    MountKind.VOLUME: {"src", "dst"},
    MountKind.TMPFS: {"dst", "size", "mode"},
    MountKind.RAMFS: {"dst", "size", "mode"},
    MountKind.DEVPTS: {"dst", "uid", "gid", "mode", "max"},
}
_NOT_YET = frozenset({"U", "chown", "relabel", "idmap", "volume-opt", "volume-label", "subpath",
                      "O", "consistency"})  # fmt: skip


def parse_volume(word: str) -> Mount:
    """`--volume [SOURCE:]DEST[:OPTIONS]`. A source without "/" names a volume.

    Raises: InvalidConfig.
    """
    parts = word.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1]:
        raise InvalidConfig("--volume", f"{word!r} is not SOURCE:DEST[:OPTIONS]")
    source, destination = parts[:2]
    options = tuple(option for option in parts[2].split(",") if option) if parts[2:] else ()
    return _host_mount("--volume", source, destination, options)


def _host_mount(flag: str, source: str, destination: str, options: tuple[str, ...]) -> Mount:
    """A mount of a host's path, or of the volume with that name."""
    if source.startswith("."):
        source = os.path.abspath(source)
    if not source.startswith("/"):
        check_name(source, flag)
        return Mount(kind=MountKind.VOLUME, source=source, destination=destination, options=options)
    if not os.path.exists(source):
        raise InvalidConfig(flag, f"{source}: no such file or directory")
    return Mount(kind=MountKind.BIND, source=source, destination=destination, options=options)


def parse_tmpfs(word: str) -> Mount:
    """`--tmpfs DEST[:OPTIONS]`."""
    destination, _, options = word.partition(":")
    return Mount(
        kind=MountKind.TMPFS,
        destination=destination,
        options=tuple(option for option in options.split(",") if option),
    )


def parse_mount(word: str) -> Mount:
    """`--mount type=KIND,KEY=VALUE,...`; without a type it is a volume.

    Raises: InvalidConfig, Unsupported naming a key.
    """
    pairs = [_pair(part) for part in word.split(",") if part]
    kinds = [value for key, value in pairs if key == "type"]
    kind = _kind(kinds[-1] if kinds else "volume")
    values: dict[str, str] = {}
    options: list[str] = []
    for key, value in pairs:
        if key in _VALUES[kind]:
            values[key] = value
        elif key != "type":
            options += _option(key, value)
    if len({"ro", "rw"} & set(options)) > 1:
        raise InvalidConfig("--mount", "cannot pass 'readonly', 'ro', or 'rw' more than once")
    destination = values.pop("dst", "")
    if not destination:
        raise InvalidConfig("--mount", "must set volume destination")
    return _mount(kind, destination, values, options)


def _pair(part: str) -> tuple[str, str]:
    key, _, value = part.partition("=")
    return _ALIASES.get(key, key), value


def _kind(word: str) -> MountKind:
    if word in ("image", "glob", "cgroup"):
        raise Unsupported(f"--mount type={word}", "it is not built yet")
    try:
        return MountKind(word)
    except ValueError:
        raise InvalidConfig("--mount", f"invalid filesystem type {word!r}") from None


def _mount(kind: MountKind, destination: str, values: dict[str, str], options: list[str]) -> Mount:
    source = values.pop("src", destination if kind is MountKind.BIND else "")
    if kind in (MountKind.BIND, MountKind.VOLUME):
        propagation = values.get("bind-propagation")
        if propagation is not None and propagation not in _PROPAGATIONS:
            raise InvalidConfig("--mount", f"invalid propagation {propagation!r}")
        options += [propagation] if propagation is not None else []
        if kind is MountKind.VOLUME:
            if not source:
                raise Unsupported("--mount type=volume", "anonymous volumes are not built yet")
            check_name(source, "--mount")
            return Mount(kind=kind, source=source, destination=destination, options=tuple(options))
        if not source.startswith((".", "/")):
            source = f"./{source}"
        return _host_mount("--mount", source, destination, tuple(options))
    options += [f"{key}={value}" for key, value in values.items()]
    return Mount(kind=kind, destination=destination, options=tuple(options))


def _option(key: str, value: str) -> Iterable[str]:
    """The words of a mount for a key that is none of the kind's own."""
    if key in _NOT_YET:
        raise Unsupported(f"--mount {key}", "it is not built yet")
    if key not in ("ro", "rw", *_SWITCHES) or value not in ("", "true", "false"):
        raise InvalidConfig("--mount", f"{key}: invalid mount option")
    yes, no = _SWITCHES.get(key, (key, "rw" if key == "ro" else "ro"))
    word = no if value == "false" else yes
    return [word] if word else []


def parse_device(word: str) -> Device:
    """`--device SOURCE[:DEST][:rwm]`."""
    source, _, rest = word.partition(":")
    if rest and not rest.startswith("/"):
        return Device(source=source, destination=source, access=rest)
    destination, _, access = rest.partition(":")
    return Device(source=source, destination=destination or source, access=access or "rwm")
