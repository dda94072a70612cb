"""The slow twin of podrt._fast.cgroupfs.run: the same steps in plain Python."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

MKDIR, WRITE, READ, RMDIR, OPTIONAL = 1, 2, 3, 4, 0x100

Step = tuple[int, int, bytes, bytes]
Result = bytes | int | None


def run(steps: Iterable[Step]) -> tuple[int, int, list[Result]]:
    todo = list(steps)
    results: list[Result] = [None] * len(todo)
    for at, step in enumerate(todo):
        try:
            results[at] = do(*step)
        except OSError as exc:
            number = exc.errno or 0
            results[at] = -number
            operation = step[0]
            exists = operation == MKDIR and number == errno.EEXIST
            if not exists and not operation & OPTIONAL:
                return at, number, results
    return -1, 0, results


def do(operation: int, dirfd: int, path: bytes, data: bytes) -> bytes | int:
    kind = operation & 0xFF
    if kind == MKDIR:
        os.mkdir(path, 0o755, dir_fd=dirfd)
    elif kind == RMDIR:
        os.rmdir(path, dir_fd=dirfd)
    elif kind == WRITE:
        with open(path, "r+b", buffering=0, opener=lambda p, _: opened(p, os.O_WRONLY, dirfd)) as f:
            if f.write(data) != len(data):
                raise OSError(errno.EIO, "short write")
    elif kind == READ:
        with open(path, "rb", opener=lambda p, _: opened(p, os.O_RDONLY, dirfd)) as f:
            return f.read()
    else:
        raise OSError(errno.EINVAL, "no such operation")
    return 0


def opened(path: bytes | str, flags: int, dirfd: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=dirfd)
