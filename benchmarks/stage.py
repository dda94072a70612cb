"""One benchmark run's temporary folder, root file system and everything to close at its end."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from .scene import enter_private_mounts, make_rootfs, pack_rootfs


class Closable(Protocol):
    def close(self) -> None: ...


Kept = TypeVar("Kept", bound=Closable)


class Stage:
    """What the rows of a run share."""

    def __init__(self, folder: Path, closing: contextlib.ExitStack, *, is_quick: bool) -> None:
        self.folder, self.is_quick = folder, is_quick
        self.rootfs = make_rootfs(folder / "rootfs")
        self.archive = pack_rootfs(self.rootfs, folder / "rootfs.tar")
        self._closing = closing

    def keep(self, thing: Kept) -> Kept:
        """Close the thing at the end, whatever happens."""
        self._closing.callback(thing.close)
        return thing


@contextlib.contextmanager
def open_stage(*, is_quick: bool) -> Iterator[Stage]:
    """A stage in a private mount namespace; everything on it is gone afterwards."""
    enter_private_mounts()
    with tempfile.TemporaryDirectory(prefix="podrt-bench-") as name:
        with contextlib.ExitStack() as closing:
            try:
                yield Stage(Path(name), closing, is_quick=is_quick)
            finally:
                # What ends a run must not end its cleaning up.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
