"""Device nodes and who may use which: the default list, a host's devices, all of them."""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Iterator, Sequence

from podrt.errors import InvalidConfig
from podrt.model.container import Device as WantedDevice
from podrt.model.runtimespec import Device, DeviceRule

# Source: devices.list of cgroup v1.
_RULE = re.compile(r"([abc]) ([0-9]{1,9}|\*):([0-9]{1,9}|\*) ([rwm]{1,3})")
_ACCESS = frozenset("rwm")
# These are the container's own, never the host's. Source: podman's list for --privileged.
_NOT_GIVEN = frozenset({"pts", "shm", "fd", "mqueue", "console", "ptmx", ".lxc", ".lxd-mounts"})


def _allow(major: int | None, minor: int | None, access: str = "rwm") -> DeviceRule:
    return DeviceRule(allow=True, type="c", major=major, minor=minor, access=access)


# Nodes may be made (with CAP_MKNOD), but only these be opened: null, zero, full, random, urandom,
# tty, console, ptmx and the terminals behind it.
DEFAULT_RULES: tuple[DeviceRule, ...] = (
    DeviceRule(allow=False, access="rwm"),
    _allow(None, None, "m"),
    DeviceRule(allow=True, type="b", access="m"),
    _allow(1, 3),
    _allow(1, 5),
    _allow(1, 7),
    _allow(1, 8),
    _allow(1, 9),
    _allow(5, 0),
    _allow(5, 1),
    _allow(5, 2),
    _allow(136, None),
)
ALL_RULES: tuple[DeviceRule, ...] = (DeviceRule(allow=True, access="rwm"),)


def given_devices(wanted: Sequence[WantedDevice]) -> tuple[list[Device], list[DeviceRule]]:
    """Nodes and rules of the host devices a container is given; a directory gives all in it.

    Raises: InvalidConfig.
    """
    nodes: list[Device] = []
    rules: list[DeviceRule] = []
    for device in wanted:
        access = device.access or "rwm"
        if not set(access) <= _ACCESS:
            raise InvalidConfig("--device", f"{device.source}: invalid access {device.access!r}")
        found = list(_nodes(device.source, device.destination or device.source))
        if not found:
            raise InvalidConfig("--device", f"{device.source}: not a device")
        nodes += found
        rules += (
            DeviceRule(
                allow=True, type=node.type, major=node.major, minor=node.minor, access=access
            )
            for node in found
        )
    return nodes, rules


def parse_rules(words: Sequence[str]) -> tuple[DeviceRule, ...]:
    """Rules such as "c 1:3 rwm" or "b *:* r". Raises: InvalidConfig."""
    return tuple(_parse_rule(word) for word in words)


def _parse_rule(word: str) -> DeviceRule:
    match = _RULE.fullmatch(word)
    if match is None:
        raise InvalidConfig("--device-cgroup-rule", f"invalid device cgroup rule: {word!r}")
    kind, major, minor, access = match.groups()
    numbers = [None if number in ("*", None) else int(number) for number in (major, minor)]
    return DeviceRule(
        allow=True,
        type=kind,
        major=numbers[0],
        minor=numbers[1],
        access=access or "rwm",
    )


def _nodes(source: str, destination: str) -> Iterator[Device]:
    try:
        status = os.stat(source)
        names = sorted(os.listdir(source)) if stat.S_ISDIR(status.st_mode) else []
    except OSError as exc:
        raise InvalidConfig("--device", f"{source}: {os.strerror(exc.errno or 0)}") from exc
    if stat.S_ISDIR(status.st_mode):
        for name in names:
            yield from _nodes(f"{source}/{name}", f"{destination}/{name}")
        return
    node = describe(destination, status)
    if node is not None:
        yield node


def describe(path: str, status: os.stat_result) -> Device | None:
    """A node like the one with `status`; None if that is no device."""
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        return None
    return Device(
        type=kind,
        path=path,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


@functools.lru_cache(maxsize=1)
def host_devices(top: str = "/dev") -> tuple[Device, ...]:
    """Every device of the host, for a privileged container."""
    return tuple(_walk(top, is_top=True))


def _walk(directory: str, *, is_top: bool) -> Iterator[Device]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if is_top and entry.name in _NOT_GIVEN:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, is_top=False)
            continue
        try:
            node = describe(entry.path, entry.stat(follow_symlinks=False))
        except OSError:
            # A device that is unplugged meanwhile is none.
            continue
        if node is not None:
            yield node
