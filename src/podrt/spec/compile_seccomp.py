"""Make the data files of the default seccomp profile: `python -m podrt.spec.compile_seccomp`.

Without options the default profile is compiled for the default capabilities of every machine
(`default-<machine>.bpf`). With `--table` the numbers in `syscalls.csv` are first read again from
the libseccomp of the machine this runs on; names it does not know keep what they have.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator

from .seccomp import resolve
from .seccomp_rules import compile_filter
from .seccomp_tables import ARCHES, DATA_DIR, NATIVE, numbers
from .security import DEFAULT_CAPABILITIES

# ARM's private calls are the only ones above the first range.
_RANGES = (range(600), range(0xF0000, 0xF0010))


def compile_default(machine: str) -> bytes:
    """The default profile compiled for the default capabilities."""
    resolved = resolve(None, DEFAULT_CAPABILITIES, machine)
    assert resolved is not None, "the default profile is not empty"
    return compile_filter(resolved, machine)


def read_numbers(library: ctypes.CDLL, arch: str, base: int) -> Iterator[tuple[str, int]]:
    """Every name and number libseccomp knows of an architecture."""
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    free = ctypes.CDLL(None).free
    free.argtypes = [ctypes.c_void_p]
    token = library.seccomp_arch_resolve_name(arch.encode())
    for number in (number for some in _RANGES for number in some):
        found = library.seccomp_syscall_resolve_num_arch(ctypes.c_uint32(token), base + number)
        if found:
            yield ctypes.string_at(found).decode(), number
            free(found)


def write_table(path: str, library: ctypes.CDLL) -> None:
    """Write the table of names and numbers, one row a name."""
    columns: dict[str, dict[str, int]] = {}
    for arch in ARCHES.values():
        known = dict(numbers(arch.name)) if os.path.exists(path) else {}
        columns[arch.name] = known | dict(read_numbers(library, arch.name, arch.base))
    names = sorted(set().union(*columns.values()))
    with open(path, "w", encoding="ascii") as table:
        print("name", *columns, sep=",", file=table)
        for name in names:
            print(name, *(column.get(name, "") for column in columns.values()), sep=",", file=table)
    numbers.cache_clear()


def main(arguments: list[str]) -> None:
    """Write the data files."""
    if "--table" in arguments:
        write_table(os.path.join(DATA_DIR, "syscalls.csv"), ctypes.CDLL("libseccomp.so.2"))
    for machine in NATIVE:
        with open(os.path.join(DATA_DIR, f"default-{machine}.bpf"), "wb") as program:
            program.write(compile_default(machine))


if __name__ == "__main__":
    main(sys.argv[1:])
