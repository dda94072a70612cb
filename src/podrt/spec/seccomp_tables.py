"""System call numbers of each architecture, and what the kernel calls the architectures.

`data/syscalls.csv` is made by `python -m podrt.spec.compile_seccomp --table`, so that nothing here
needs libseccomp when podrt runs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

import msgspec

from podrt.errors import InvalidConfig
from podrt.model.unsupported import unsupported

DATA_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
X32_BIT = 0x40000000


class Arch(msgspec.Struct, frozen=True):
    """An architecture a filter can tell apart.

    `audit` is seccomp_data.arch; `base` is added to the table's numbers (x32's bit); `is_wide`
    says whether all 64 bits of an argument count.
    """

    name: str
    audit: int
    base: int = 0
    is_wide: bool = True


ARCHES: Mapping[str, Arch] = {
    "SCMP_ARCH_X86_64": Arch("x86_64", 0xC000003E),
    "SCMP_ARCH_X86": Arch("x86", 0x40000003, is_wide=False),
    "SCMP_ARCH_X32": Arch("x32", 0xC000003E, X32_BIT, is_wide=False),
    "SCMP_ARCH_AARCH64": Arch("aarch64", 0xC00000B7),
    "SCMP_ARCH_ARM": Arch("arm", 0x40000028, is_wide=False),
}
# No kernel of a machine podrt runs on takes calls of these: rules for them have no effect.
FOREIGN: frozenset[str] = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        "LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE "
        "S390 S390X SH SHEB PARISC PARISC64 RISCV64"
    ).split()
)
NATIVE: Mapping[str, str] = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
# The names of the `arches` of a profile's includes and excludes are Go's.
GO_NAMES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}

# Calls that 32-bit x86 also knows as an operation of socketcall(2) or ipc(2).
# Source: linux/net.h, linux/ipc.h.
SOCKETCALLS: Mapping[str, int] = {
    name: number
    for number, name in enumerate(
        (
            "socket bind connect listen accept getsockname getpeername socketpair send recv sendto "
            "recvfrom shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"
        ).split(),
        start=1,
    )
}
IPC_CALLS: Mapping[str, int] = {
    "semop": 1,
    "semget": 2,
    "semctl": 3,
    "semtimedop": 4,
    "msgsnd": 11,
    "msgrcv": 12,
    "msgget": 13,
    "msgctl": 14,
    "shmat": 21,
    "shmdt": 22,
    "shmget": 23,
    "shmctl": 24,
}


@functools.cache
def numbers(arch: str) -> Mapping[str, int]:
    """The numbers by name of an architecture ("x86_64"), without the architecture's base."""
    with open(os.path.join(DATA_DIR, "syscalls.csv"), encoding="ascii") as table:
        columns = table.readline().rstrip("\n").split(",")
        column = columns.index(arch)
        rows = (line.rstrip("\n").split(",") for line in table)
        return {row[0]: int(row[column]) for row in rows if row[column]}


def native(machine: str) -> str:
    """The seccomp name of a machine (os.uname().machine). Raises: Unsupported."""
    try:
        return NATIVE[machine]
    except KeyError:
        raise unsupported("linux.seccomp", f"no system call table for {machine}") from None


def arch_of(token: str) -> Arch:
    """The architecture a specification names. Raises: InvalidConfig."""
    try:
        return ARCHES[token]
    except KeyError:
        raise InvalidConfig("linux.seccomp.architectures", f"{token} is not known") from None
