"""Reading containers' logs: the k8s-file format that the monitor writes.

Shape of a line: RFC 3339 time, stream, F (a whole line) or P (a part of one), the text.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_CHUNK_BYTES = 64 << 10


class LogLine(NamedTuple):
    """One line of a log; `text` has its newline unless the line is a part."""

    time: bytes
    stream: bytes
    text: bytes


class LogReader:
    """Follows one log by its inode: what is new at every `read`, also over a rotation."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._rest = b""

    def read(self) -> Iterator[LogLine]:
        """Every line since the last call; a line that is not written to its end waits."""
        if self._fd < 0 and not self._open():
            return
        while chunk := os.read(self._fd, _CHUNK_BYTES):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                parsed = parse_line(line)
                if parsed is not None:
                    yield parsed
        if self._was_rotated():
            os.close(self._fd)
            self._fd = -1
            yield from self.read()

    def _open(self) -> bool:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        return True

    def _was_rotated(self) -> bool:
        try:
            return os.stat(self._path).st_ino != os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def parse_line(line: bytes) -> LogLine | None:
    """The parts of a line, or None for one that is damaged."""
    fields = line.split(b" ", 3)
    if len(fields) < 4 or fields[2] not in (b"F", b"P"):
        return None
    end = b"\n" if fields[2] == b"F" else b""
    return LogLine(fields[0], fields[1], fields[3] + end)


def last_lines(lines: Iterable[LogLine], count: int) -> Iterator[LogLine]:
    """The last `count` whole lines with the parts before them; all if `count` is negative."""
    if count < 0:
        return iter(lines)
    kept: deque[list[LogLine]] = deque(maxlen=count)
    group: list[LogLine] = []
    for line in lines:
        group.append(line)
        if line.text.endswith(b"\n"):
            kept.append(group)
            group = []
    if group:
        kept.append(group)
    return (line for lines in kept for line in lines)
