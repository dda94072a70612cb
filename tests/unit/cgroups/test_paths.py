from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podrt.cgroups import paths
from podrt.errors import InvalidConfig

BAD = ["", "/", ".", "//", "..", "/a/..", "../a", "a\0b", "a\nb", "\x7f", "a" * 256, "/a" * 2000]


@pytest.mark.parametrize("path", BAD, ids=lambda path: repr(path)[:20])
def test_check_of_a_bad_path_names_the_flag(path: str) -> None:
    with pytest.raises(InvalidConfig, match="--cgroup-parent"):
        paths.check(path)


@pytest.mark.parametrize(
    ("given_path", "expected"),
    [("a", "/a"), ("/a//b/./", "/a/b"), ("/...", "/..."), ("/a/ü\udcff", "/a/ü\udcff")],
)
def test_check_of_a_good_path_makes_it_absolute(given_path: str, expected: str) -> None:
    assert paths.check(given_path) == expected


@given(st.text(max_size=60))
def test_check_never_lets_a_path_leave_its_hierarchy(text: str) -> None:
    try:
        relative = paths.below_top(text)
    except InvalidConfig:
        return
    assert not relative.startswith(b"/")
    assert b"\0" not in relative
    assert not {b"", b".", b".."} & set(relative.split(b"/"))


def test_paths_of_pods_and_containers_lie_below_the_parent() -> None:
    assert paths.pod_path("/p", "1") == "/p/1"
    assert paths.container_path("/p", "2") == "/p/2"
    assert paths.container_path("/p", "2", "/p/1") == "/p/1/2"
    assert paths.monitor_path("/p", "1") == "/p/monitors/1"


def test_paths_without_a_parent_are_empty() -> None:
    assert paths.pod_path("", "1") == ""
    assert paths.container_path("", "2", "") == ""
    assert paths.monitor_path("", "1") == ""


def test_ancestors_go_from_the_top_down() -> None:
    assert paths.ancestors("/a/b/c") == ["/a", "/a/b", "/a/b/c"]
    assert paths.parent_of("/a/b") == "/a"
    assert paths.parent_of("/a") == ""
