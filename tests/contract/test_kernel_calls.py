"""Calls that need root and the real kernel: mounts, namespaces."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from podrt._fast import calls
from podrt.linux import mounts, trees


def test_readonly_clone_can_be_executed_but_not_written(tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    fd = mounts.readonly_clone(str(program))
    try:
        assert not os.get_inheritable(fd)
        assert subprocess.run([f"/proc/self/fd/{fd}"], pass_fds=(fd,), check=False).returncode == 0
        with pytest.raises(OSError, match="Read-only") as caught:
            os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
        assert caught.value.errno == errno.EROFS
        program.write_bytes(b"the original can still be replaced")
    finally:
        os.close(fd)
    assert not [mount for mount in mounts.read_mounts() if mount.target.startswith(str(program))]


def test_readonly_clone_of_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        mounts.readonly_clone(str(tmp_path / "none"))


def test_unshare_and_setns_move_only_the_calling_thread() -> None:
    before = os.readlink("/proc/self/ns/uts")
    seen: list[str] = []

    def leave_and_return() -> None:
        home = os.open("/proc/thread-self/ns/uts", os.O_RDONLY)
        try:
            calls.unshare(calls.CLONE_NEWUTS)
            seen.append(os.readlink("/proc/thread-self/ns/uts"))
            calls.setns(home, calls.CLONE_NEWUTS)
            seen.append(os.readlink("/proc/thread-self/ns/uts"))
        finally:
            os.close(home)

    thread = threading.Thread(target=leave_and_return)
    thread.start()
    thread.join()
    assert seen[0] != before
    assert seen[1] == os.readlink("/proc/self/ns/uts") == before


def test_calls_that_fail_raise_with_their_number(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        calls.setns(-1)
    with pytest.raises(OSError, match="Invalid argument"):
        calls.unshare(-1)
    with pytest.raises(FileNotFoundError, match="none"):
        calls.open_tree(calls.AT_FDCWD, str(tmp_path / "none"), 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        calls.mount_setattr(-1, "", calls.AT_EMPTY_PATH, calls.MOUNT_ATTR_RDONLY, 0)


MOVE = """
import os, sys
from podrt._fast import calls
source, target = sys.argv[1:]
calls.unshare(calls.CLONE_NEWNS)
fd = calls.open_tree(calls.AT_FDCWD, source, calls.OPEN_TREE_CLONE)
calls.mount_setattr(fd, "", calls.AT_EMPTY_PATH, calls.MOUNT_ATTR_RDONLY, 0, propagation=1 << 18)
calls.move_mount(fd, "", calls.AT_FDCWD, target, calls.MOVE_MOUNT_F_EMPTY_PATH)
print(open(target + "/file").read())
try:
    open(target + "/file", "w")
except OSError as exc:
    print(exc.errno)
try:
    os.rmdir(target)
except OSError as exc:
    print(exc.errno)
"""


def test_move_mount_attaches_a_read_only_clone(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for path in (source, target):
        path.mkdir()
    (source / "file").write_text("seen")
    # In a process of its own: its mount namespace ends with it.
    ran = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", MOVE, str(source), str(target)],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["seen", str(errno.EROFS), str(errno.EBUSY)]


REAP = """
import os, sys
from podrt._fast import calls
calls.set_child_subreaper()
ready, write = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.read(ready, 1)
        os._exit(7)
    os._exit(0)
os.wait()
os.write(write, b"x")
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_child_subreaper_inherits_orphans() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", REAP],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "7"


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_remove_tree_with_a_mount_inside_leaves_its_contents(tmp_path: Path, kind: str) -> None:
    inside, elsewhere = tmp_path / "tree/inside", tmp_path / "elsewhere"
    inside.mkdir(parents=True)
    elsewhere.mkdir()
    how = ["-t", "tmpfs", "none"] if kind == "tmpfs" else ["--bind", str(elsewhere)]
    subprocess.run(["mount", *how, str(inside)], check=True)
    try:
        (inside / "file").write_text("kept")
        with pytest.raises(OSError, match=r"mounted|busy") as caught:
            trees.remove_tree(str(tmp_path / "tree"))
        assert caught.value.errno == errno.EBUSY
        with pytest.raises(OSError, match=r"mounted|busy"):
            trees.remove_tree(str(inside))
        assert (inside / "file").read_text() == "kept"
    finally:
        subprocess.run(["umount", str(inside)], check=True)
    trees.remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()
