"""Whether a process that waits for `start` will find its program.

`create` says so if not, as callers expect: they show the words of a failed create, and take
"not found" from them. The kernel has the last word when the process execs.
"""

from __future__ import annotations

import errno
import os
import stat

from podrt.errors import EngineFailed
from podrt.linux import files
from podrt.model import runtimespec as oci

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def check(pid: int, process: oci.Process) -> None:
    """Look for the program of `process` in the root of the process `pid`. Raises: EngineFailed."""
    name = process.args[0]
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # it ended, or nobody may look at it
    try:
        if "/" in name:
            number = _look(root, os.path.join(process.cwd, name))
        else:
            number = _search(root, process, name)
    finally:
        os.close(root)
    if number:
        raise EngineFailed("exec", number, name)


def _search(root: int, process: oci.Process, name: str) -> int:
    path = _DEFAULT_PATH
    for entry in process.env:
        if entry.startswith("PATH="):
            path = entry.removeprefix("PATH=")
            break
    found = errno.ENOENT
    for folder in path.split(":") if name else ():
        number = _look(root, os.path.join(process.cwd, folder, name))
        if number == errno.EACCES:
            found = number
        elif number not in (errno.ENOENT, errno.ENOTDIR):
            return number
    return found


def _look(root: int, path: str) -> int:
    """0 if there is a program, or an errno; what cannot be judged from here counts as one."""
    try:
        fd = files.open_inside(root, path, os.O_PATH | os.O_CLOEXEC)
    except OSError as exc:
        number = exc.errno or 0
        return number if number in (errno.ENOENT, errno.ENOTDIR) else 0
    try:
        mode = os.fstat(fd).st_mode
    finally:
        os.close(fd)
    return 0 if stat.S_ISREG(mode) and mode & 0o111 else errno.EACCES
