"""The batch runner against its slow twin, on plain directories."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles import cgroup_steps as twin
from podrt._fast import cgroupfs as fast

OPERATIONS = [
    fast.MKDIR,
    fast.WRITE,
    fast.READ,
    fast.RMDIR,
    *(operation | fast.OPTIONAL for operation in (fast.MKDIR, fast.WRITE, fast.READ, fast.RMDIR)),
    9,
]
NAMES = [b"a", b"b", b"a/c", b"a/file", b"file", b"link", b"", b"nowhere/x"]

plans = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.sampled_from(NAMES), st.binary(max_size=6)),
    max_size=12,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steps")


@pytest.fixture
def dir_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def prepared(path: Path) -> int:
    path.mkdir()
    (path / "file").write_bytes(b"old text")
    (path / "link").symlink_to("file")
    return os.open(path, os.O_PATH | os.O_DIRECTORY)


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(item.relative_to(path)): item.read_bytes() if item.is_file() else b"dir"
        for item in path.rglob("*")
    }


@given(plans)
def test_run_does_what_the_slow_twin_does(base: Path, plan: list[tuple[int, bytes, bytes]]) -> None:
    seen = []
    for run in (fast.run, twin.run):
        place = base / os.urandom(8).hex()
        fd = prepared(place)
        try:
            outcome = run([(operation, fd, path, data) for operation, path, data in plan])
        finally:
            os.close(fd)
        seen.append((outcome, contents(place)))
    assert seen[0] == seen[1]


def test_run_of_nothing_succeeds() -> None:
    assert fast.run([]) == (-1, 0, [])


def test_run_creates_no_file(dir_fd: int, tmp_path: Path) -> None:
    outcome = fast.run([(fast.WRITE, dir_fd, b"new", b"x")])
    assert outcome == (0, errno.ENOENT, [-errno.ENOENT])
    assert not list(tmp_path.iterdir())


def test_run_reads_a_file_of_many_buffers_whole(dir_fd: int, tmp_path: Path) -> None:
    data = os.urandom(100_001)
    (tmp_path / "big").write_bytes(data)
    assert fast.run([(fast.READ, dir_fd, b"big", b"")]) == (-1, 0, [data])


def test_run_stops_at_the_first_failure_and_names_it(dir_fd: int) -> None:
    outcome = fast.run(
        [
            (fast.MKDIR, dir_fd, b"a", b""),
            (fast.RMDIR | fast.OPTIONAL, dir_fd, b"none", b""),
            (fast.RMDIR, dir_fd, b"none", b""),
            (fast.RMDIR, dir_fd, b"a", b""),
        ]
    )
    assert outcome == (2, errno.ENOENT, [0, -errno.ENOENT, -errno.ENOENT, None])


@pytest.mark.parametrize(
    "step",
    [(1, 0, b"a\0b", b""), (1, 0, None, b""), (1, 0, b"a", None)],
    ids=["null byte", "no path", "no data"],
)
def test_run_of_a_bad_step_is_refused(step: tuple[int, int, bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="a step needs"):
        fast.run([step])


@pytest.mark.parametrize("step", [(1, 0, "a", b""), (1, 0, b"a"), ("x", 0, b"a", b"")])
def test_run_of_something_else_is_refused(step: tuple[int, int, bytes, bytes]) -> None:
    with pytest.raises((TypeError, ValueError)):
        fast.run([step])
