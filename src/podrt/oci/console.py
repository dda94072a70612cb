"""The terminal's descriptor on its way to who asked for it.

Source: runc's terminals.md; the receiver listens on a stream socket and gets one descriptor.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from podrt.errors import InvalidConfig

_FLAG = "--console-socket"


def check(terminal: bool, path: str) -> None:
    """A terminal needs somebody who takes it, and nobody else does. Raises: InvalidConfig."""
    if terminal and not path:
        raise InvalidConfig(_FLAG, "is needed when process.terminal is true and nobody waits")
    if path and not terminal:
        raise InvalidConfig(_FLAG, "is of no use when process.terminal is false")


@contextmanager
def sent_to(path: str) -> Iterator[Callable[[int], None]]:
    """What sends a terminal's descriptor to the socket `path`, and closes it.

    Connected at once, so that a wrong path is found before anything is made.
    Raises: InvalidConfig.
    """
    if not path:
        yield os.close
        return
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _connect(sock, path)

        def send(master: int) -> None:
            try:
                socket.send_fds(sock, [b"/dev/ptmx"], [master])
            except OSError as exc:
                raise InvalidConfig(_FLAG, os.strerror(exc.errno or 0)) from exc
            finally:
                os.close(master)

        yield send
    finally:
        sock.close()


def _connect(sock: socket.socket, path: str) -> None:
    folder, name = os.path.split(path)
    try:
        # A socket's address holds 107 bytes; through a descriptor the folder's length is no matter.
        fd = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{fd}/{name}")
        finally:
            os.close(fd)
    except OSError as exc:
        raise InvalidConfig(_FLAG, f"{path}: {os.strerror(exc.errno or 0)}") from exc
