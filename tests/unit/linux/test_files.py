from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from podrt._fast import calls
from podrt.linux import files


@pytest.fixture
def root_fd(tmp_path: Path) -> Iterator[int]:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("inside")
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    "path", ["etc/passwd", "/etc/passwd", "/../../etc/passwd", "up/etc/passwd", "absolute"]
)
def test_open_inside_never_leaves_the_root(root_fd: int, path: str) -> None:
    os.symlink("../../../..", "up", dir_fd=root_fd)
    os.symlink("/etc/passwd", "absolute", dir_fd=root_fd)
    fd = files.open_inside(root_fd, path, os.O_RDONLY)
    try:
        assert os.read(fd, 100) == b"inside"
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_open_inside_of_a_magic_link_is_refused() -> None:
    proc = os.open("/proc", os.O_PATH)
    try:
        with pytest.raises(OSError, match="symbolic links") as caught:
            files.open_inside(proc, f"{os.getpid()}/exe", os.O_RDONLY)
        assert caught.value.errno == errno.ELOOP
        assert caught.value.filename == f"{os.getpid()}/exe"
    finally:
        os.close(proc)


def test_openat2_with_a_null_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="null byte"):
        calls.openat2(calls.AT_FDCWD, "a\0b", os.O_RDONLY)


@pytest.mark.parametrize("fsync", [True, False])
def test_write_atomically_replaces_contents_and_mode(tmp_path: Path, fsync: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o777)
    files.write_atomically(str(path), b"new" * 100_000, 0o640, fsync=fsync)
    assert path.read_bytes() == b"new" * 100_000
    assert path.stat().st_mode & 0o7777 == 0o640
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_write_atomically_over_a_symlink_replaces_the_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"kept")
    (tmp_path / "link").symlink_to(target)
    files.write_atomically(str(tmp_path / "link"), b"new")
    assert target.read_bytes() == b"kept"
    assert not (tmp_path / "link").is_symlink()


def test_write_atomically_that_fails_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_atomically(str(tmp_path / "taken"), b"new")
    assert [item.name for item in tmp_path.iterdir()] == ["taken"]


def test_write_atomically_shows_readers_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = {bytes([65 + n]) * 5_000 for n in range(4)}
    files.write_atomically(str(path), min(texts))
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for text in texts:
            files.write_atomically(str(path), text)
    done.set()
    reader.join()
    assert seen <= texts
