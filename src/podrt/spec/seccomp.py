"""seccomp: profiles as containers-common writes them, resolved and compiled to BPF.

A profile becomes the specification's `linux.seccomp` for a set of capabilities and a machine
(`resolve`), and that becomes a program (`compile_filter`). The default profile with the default
capabilities is shipped compiled."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Collection, Iterable

import msgspec

from podrt.errors import InvalidConfig, NotFound
from podrt.model.runtimespec import Seccomp, SeccompArg, SeccompRule, drop_nulls

from . import seccomp_tables as tables
from .seccomp_rules import compile_filter
from .security import DEFAULT_CAPABILITIES

_ERRNOS = {name: number for number, name in errno.errorcode.items()}


class ArchFamily(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An architecture and those its kernels run beside it."""

    architecture: str
    sub_architectures: tuple[str, ...] = ()


class When(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a rule of a profile depends on; `min_kernel` is "5.11"."""

    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    min_kernel: str = ""


class ProfileRule(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A rule with the circumstances it is for."""

    name: str = ""
    names: tuple[str, ...] = ()
    action: str
    errno_ret: int | None = None
    errno: str = ""
    args: tuple[SeccompArg, ...] = ()
    includes: When = When()
    excludes: When = When()


class Profile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A seccomp profile file, as podman and Docker write them."""

    default_action: str = ""
    default_errno_ret: int | None = None
    default_errno: str = ""
    architectures: tuple[str, ...] = ()
    arch_map: tuple[ArchFamily, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[ProfileRule, ...] = ()


def read_profile(data: bytes, field: str = "seccomp") -> Profile:
    """Decode a profile file. Raises: InvalidConfig naming `field`."""
    try:
        return msgspec.convert(drop_nulls(msgspec.json.decode(data)), Profile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidConfig(field, f"not a seccomp profile: {exc}") from exc


@functools.lru_cache(maxsize=16)
def load_profile(path: str) -> Profile:
    """Read a profile the caller named. Raises: NotFound, InvalidConfig."""
    try:
        with open(path, "rb") as profile:
            return read_profile(profile.read(), path)
    except FileNotFoundError as exc:
        raise NotFound("file", path) from exc
    except OSError as exc:
        raise InvalidConfig("seccomp", f"{path}: {os.strerror(exc.errno or 0)}") from exc


@functools.cache
def default_profile() -> Profile:
    """containers-common's default profile."""
    return load_profile(os.path.join(tables.DATA_DIR, "seccomp.json"))


@functools.lru_cache(maxsize=64)
def resolve(
    profile: Profile | None, capabilities: frozenset[str], machine: str, kernel: str = ""
) -> Seccomp | None:
    """The rules of a profile (None: the default) that hold for a container.

    `capabilities` is its bounding set, `kernel` the release ("6.1.0-18"), "" for the host's.
    None when the profile turns seccomp off. Raises: InvalidConfig, Unsupported.
    """
    profile = default_profile() if profile is None else profile
    if not profile.default_action and not profile.syscalls:
        return None
    if profile.architectures and profile.arch_map:
        raise InvalidConfig("seccomp", "both architectures and archMap are given")
    holds = functools.partial(
        _is_for, caps=capabilities, arch=tables.GO_NAMES.get(machine, machine), kernel=kernel
    )
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=_errno(profile.default_errno, profile.default_errno_ret),
        architectures=_architectures(profile, machine),
        flags=profile.flags,
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=tuple(_spec_rule(rule) for rule in profile.syscalls if holds(rule)),
    )


def _architectures(profile: Profile, machine: str) -> tuple[str, ...]:
    """The native architecture and those beside it that the profile covers."""
    if profile.architectures:
        return profile.architectures
    native = tables.native(machine)
    for family in profile.arch_map:
        if family.architecture == native:
            return (native, *family.sub_architectures)
    return ()


def _is_for(rule: ProfileRule, *, caps: Collection[str], arch: str, kernel: str) -> bool:
    """Whether a rule holds for a container with `caps` on `arch`."""
    includes, excludes = rule.includes, rule.excludes
    if arch in excludes.arches or any(cap in caps for cap in excludes.caps):
        return False
    if includes.arches and arch not in includes.arches:
        return False
    if includes.min_kernel and _version(kernel or _host_kernel()) < _version(includes.min_kernel):
        return False
    return all(cap in caps for cap in includes.caps)


@functools.cache
def _host_kernel() -> str:
    return os.uname().release


def _version(release: str) -> tuple[int, ...]:
    """The first two numbers of a kernel release."""
    parts = release.split("-")[0].split(".")[:2]
    if not all(part.isdigit() for part in parts):
        raise InvalidConfig("seccomp", f"{release!r} is not a kernel version")
    return tuple(int(part) for part in parts)


def _errno(name: str, number: int | None) -> int | None:
    """An errno given as a name, a number in a string, or a number."""
    if not name:
        return number
    if name.isdecimal():
        return int(name)
    if name not in _ERRNOS:
        raise InvalidConfig("seccomp", f"unknown errno {name}")
    return _ERRNOS[name]


def _spec_rule(rule: ProfileRule) -> SeccompRule:
    if rule.name and rule.names:
        raise InvalidConfig("seccomp", "both name and names are given")
    return SeccompRule(
        names=rule.names or (rule.name,),
        action=rule.action,
        errno_ret=_errno(rule.errno, rule.errno_ret),
        args=rule.args,
    )


def filter_for(profile: Profile | None, capabilities: Iterable[str], machine: str) -> bytes:
    """The compiled filter of a profile (None: the default); b"" when it turns seccomp off.

    Raises: InvalidConfig, Unsupported.
    """
    capabilities = frozenset(capabilities)
    if profile is None and capabilities == DEFAULT_CAPABILITIES and machine in tables.NATIVE:
        return shipped_filter(machine)
    resolved = resolve(profile, capabilities, machine)
    return b"" if resolved is None else compile_filter(resolved, machine)


def filter_of(seccomp: Seccomp, machine: str) -> bytes:
    """The compiled filter of a specification's `linux.seccomp`.

    Raises: InvalidConfig, Unsupported.
    """
    if machine in tables.NATIVE:
        default = resolve(None, DEFAULT_CAPABILITIES, machine)
        # Comparing hundreds of names costs more than all else here; mostly it is the same object.
        if seccomp is default or seccomp == default:
            return shipped_filter(machine)
    return compile_filter(seccomp, machine)


@functools.cache
def shipped_filter(machine: str) -> bytes:
    """The default profile compiled for the default capabilities."""
    with open(shipped_path(machine), "rb") as program:
        return program.read()


def shipped_path(machine: str) -> str:
    """The file with the default profile compiled for the default capabilities."""
    return os.path.join(tables.DATA_DIR, f"default-{machine}.bpf")
