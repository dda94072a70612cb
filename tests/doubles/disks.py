"""Disks that fail on purpose: one that fails a call, one that kills, one that loses power."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import NamedTuple

from podrt.store.disk import Disk


class FailingDisk(Disk):
    """Raises OSError(`errno`) from the calls named by `fails` ("write", "sync") when armed."""

    def __init__(self) -> None:
        self.fails: dict[str, int] = {}
        self.partial = 0
        self.calls: list[str] = []

    def _maybe(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise OSError(self.fails[name], os.strerror(self.fails[name]))

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        if "write" in self.fails and self.partial:
            count, self.partial = self.partial, 0
            return super().write(fd, data[:count], offset)
        self._maybe("write")
        return super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        self._maybe("sync")
        super().sync(fd)

    def truncate(self, fd: int, size: int) -> None:
        self._maybe("truncate")
        super().truncate(fd, size)


class KillingDisk(Disk):
    """Kills its process with SIGKILL amid the `at`th write, of which the front part is done."""

    def __init__(self, at: int) -> None:
        self.left = at

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        self.left -= 1
        if self.left == 0:
            super().write(fd, data[: random.Random(offset).randrange(len(data))], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(fd, data, offset)


class Event(NamedTuple):
    """A change: `what` happened to file number `file` or to the name `name`."""

    what: str
    file: int = -1
    name: str = ""
    to: str = ""
    offset: int = 0
    data: bytes = b""


class RecordingDisk(Disk):
    """Writes down every change of one directory, so that power can be cut at any of them.

    Nothing is really synced: the kernel is not going to crash.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self._names: dict[str, int] = {}
        self._fds: dict[int, int] = {}
        self._count = 0
        self.initial: dict[int, bytes] = {}
        self.initial_names: dict[str, int] = {}
        for path in sorted(folder.iterdir()) if folder.exists() else ():
            number = self._new(path.name)
            self.initial[number] = path.read_bytes()
            self.initial_names[path.name] = number

    def _new(self, name: str) -> int:
        number = self._count
        self._count += 1
        self._names[name] = number
        return number

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        name = os.path.basename(path)
        was_there = name in self._names
        fd = super().open(path, flags, mode)
        if not was_there:
            self.events.append(Event("create", self._new(name), name))
        elif flags & os.O_TRUNC:
            self.events.append(Event("truncate", self._names[name]))
        self._fds[fd] = self._names[name]
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        done = super().write(fd, data, offset)
        event = Event("write", self._fds[fd], offset=offset, data=bytes(data[:done]))
        self.events.append(event)
        return done

    def truncate(self, fd: int, size: int) -> None:
        super().truncate(fd, size)
        self.events.append(Event("truncate", self._fds[fd], offset=size))

    def sync(self, fd: int) -> None:
        self.events.append(Event("sync", self._fds[fd]))

    def sync_dir(self, path: str) -> None:
        self.events.append(Event("sync_dir"))

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        before, after = os.path.basename(old), os.path.basename(new)
        self._names[after] = self._names.pop(before)
        self.events.append(Event("rename", self._names[after], before, after))

    def unlink(self, path: str) -> None:
        name = os.path.basename(path)
        super().unlink(path)
        number = self._names.pop(name, -1)
        if number >= 0:
            self.events.append(Event("unlink", number, name))


class PowerCut:
    """What a disk may hold when power goes after the first `count` events of a recording."""

    def __init__(self, disk: RecordingDisk, count: int, rng: random.Random) -> None:
        self._rng = rng
        self._content: dict[int, bytearray] = {
            number: bytearray(data) for number, data in disk.initial.items()
        }
        self._waiting: dict[int, list[Event]] = {}
        self._names = dict(disk.initial_names)
        self._waiting_names: list[Event] = []
        for event in disk.events[:count]:
            self._take(event)

    def _take(self, event: Event) -> None:
        if event.what in ("write", "truncate"):
            self._waiting.setdefault(event.file, []).append(event)
        elif event.what == "sync":
            content = self._content.setdefault(event.file, bytearray())
            for waiting in self._waiting.pop(event.file, ()):
                _apply(content, waiting)
        elif event.what == "sync_dir":
            for waiting in self._waiting_names:
                self._apply_name(waiting)
            self._waiting_names.clear()
        else:
            self._waiting_names.append(event)

    def _apply_name(self, event: Event) -> None:
        if event.what == "create":
            self._names[event.name] = event.file
        elif event.what == "unlink":
            self._names.pop(event.name, None)
        else:
            # A journal may have the new name without ever having had the old one.
            if self._names.get(event.name) == event.file:
                del self._names[event.name]
            self._names[event.to] = event.file

    def leave(self, folder: Path) -> None:
        """Write what is left of the state into `folder`."""
        rng = self._rng
        in_order = rng.random() < 0.5
        keep = rng.randrange(len(self._waiting_names) + 1)
        for place, event in enumerate(self._waiting_names):
            if place < keep if in_order else rng.random() < 0.6:
                self._apply_name(event)
        for number, events in self._waiting.items():
            content = self._content.setdefault(number, bytearray())
            mercy = rng.random()
            for event in events:
                if rng.random() < mercy:
                    _apply(content, self._torn(event))
        folder.mkdir(parents=True, exist_ok=True)
        for name, number in self._names.items():
            (folder / name).write_bytes(self._content.get(number, b""))

    def _torn(self, event: Event) -> Event:
        """Mostly the whole write; else one end of it, torn where it pleases.

        The other end may be missing, or be there as zeros or as what the disk held before: the
        file's new size may reach the disk without its content.
        """
        if event.what != "write" or self._rng.random() < 0.6:
            return event
        middle = self._rng.randrange(len(event.data) + 1)
        front, back = event.data[:middle], event.data[middle:]
        manner = self._rng.randrange(6)
        if manner < 2:
            return event._replace(data=front)
        if manner == 2:
            return event._replace(data=back, offset=event.offset + middle)
        if manner == 3:
            return event._replace(data=bytes(len(front)) + back)
        if manner == 4:
            return event._replace(data=front + bytes(len(back)))
        return event._replace(data=front + self._rng.randbytes(len(back)))


def _apply(content: bytearray, event: Event) -> None:
    if event.what == "truncate":
        del content[event.offset :]
        content.extend(bytes(event.offset - len(content)))
        return
    content.extend(bytes(max(0, event.offset - len(content))))
    content[event.offset : event.offset + len(event.data)] = event.data
