"""The device nodes and links of a plan.

Source: runtime-spec config-linux.md, "Devices", "Default Devices", "Dev symbolic links".
"""

from __future__ import annotations

import functools

from podrt.errors import InvalidConfig
from podrt.model import runtimespec as oci

from .plan_ops import Op, OpCode

DEFAULT_MODE = 0o666
MAX_MAJOR = (1 << 12) - 1
MAX_MINOR = (1 << 20) - 1
_KINDS = {"c": ord("c"), "u": ord("c"), "b": ord("b"), "p": ord("p")}
_NUMBERS = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
_SYMLINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
)


def device_ops(mounts: tuple[oci.Mount, ...], devices: tuple[oci.Device, ...]) -> tuple[Op, ...]:
    """The default nodes and links and those asked for, unless /dev is the host's.

    What a mount covers is not made: the node would be the mount's file. Raises: InvalidConfig.
    """
    is_hosts = any(
        mount.destination == "/dev"
        and (mount.type == "bind" or {"bind", "rbind"} & set(mount.options))
        for mount in mounts
    )
    # Where mounts come from differs between pods, where they go to mostly does not.
    made = _device_ops(tuple([mount.destination for mount in mounts]), devices)
    return () if is_hosts else made


@functools.lru_cache(maxsize=256)
def _device_ops(covered: tuple[str, ...], devices: tuple[oci.Device, ...]) -> tuple[Op, ...]:
    made = {path: Op(OpCode.SYMLINK, (target, path)) for target, path in _SYMLINKS}
    for path, major, minor in _NUMBERS:
        made[path] = Op(OpCode.DEVICE, (path, ord("c"), major, minor, DEFAULT_MODE, 0, 0))
    for index, device in enumerate(devices):
        made[device.path] = _device(device, f"linux.devices[{index}]")
    hidden = set(covered)
    return tuple(op for path, op in made.items() if path not in hidden)


def _device(device: oci.Device, field: str) -> Op:
    if device.type not in _KINDS:
        raise InvalidConfig(f"{field}.type", f"{device.type!r} is no device type")
    if not device.path.startswith("/"):
        raise InvalidConfig(f"{field}.path", "is not an absolute path")
    is_pipe = device.type == "p"
    for name, number, most in (
        ("major", device.major, MAX_MAJOR),
        ("minor", device.minor, MAX_MINOR),
    ):
        if not is_pipe and not 0 <= number <= most:
            reason = "is missing" if number == oci.NO_NUMBER else f"{number} is not 0 to {most}"
            raise InvalidConfig(f"{field}.{name}", reason)
    return Op(
        OpCode.DEVICE,
        (
            device.path,
            _KINDS[device.type],
            0 if is_pipe else device.major,
            0 if is_pipe else device.minor,
            DEFAULT_MODE if device.file_mode is None else device.file_mode & 0o7777,
            device.uid or 0,
            device.gid or 0,
        ),
    )
