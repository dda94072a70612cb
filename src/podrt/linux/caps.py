"""Capabilities by name and number. Source: capabilities(7), linux/capability.h."""

from __future__ import annotations

from podrt.errors import InvalidConfig

NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}


def full_name(word: str, field: str = "--cap-add") -> str:
    """The capability a user means by `word` ("chown", "CAP_CHOWN").

    Raises: InvalidConfig naming `field`.
    """
    name = word.upper()
    if not name.startswith("CAP_"):
        name = f"CAP_{name}"
    if name not in NUMBERS:
        raise InvalidConfig(field, f"unknown capability {word!r}")
    return name


def mask(names: tuple[str, ...] | frozenset[str] | list[str]) -> int:
    """The bit mask of full names; those unknown are an error of the caller (KeyError)."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[name]
    return bits


def names_of(bits: int) -> tuple[str, ...]:
    """The names in a bit mask, in the kernel's order; bits without a name are passed over."""
    return tuple(name for number, name in enumerate(NAMES) if bits >> number & 1)


def last_cap() -> int:
    """The highest capability this kernel knows. Raises: OSError."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def current(kind: str = "Eff") -> int:
    """A capability set of the calling process: "Inh", "Prm", "Eff", "Bnd" or "Amb".

    Raises: OSError; KeyError for another kind.
    """
    label = f"Cap{kind}:"
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(label):
                return int(line.split()[1], 16)
    raise KeyError(kind)
