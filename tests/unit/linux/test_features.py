from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from podrt.errors import Unsupported
from podrt.linux import features
from podrt.linux.mounts import parse_mounts


@pytest.mark.parametrize(
    ("release", "expected"),
    [("6.1.0-18-amd64", (6, 1)), ("5.15.167.4-WSL2", (5, 15)), ("6.18", (6, 18)), ("odd", (0, 0))],
)
def test_kernel_version_reads_every_release(release: str, expected: tuple[int, int]) -> None:
    assert features.kernel_version(release) == expected


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "v2"),
        ("a /a cgroup rw,cpu 0 0\nb /b cgroup2 rw 0 0", "hybrid"),
        ("a /a cgroup rw,cpu 0 0", "v1"),
        ("proc /proc proc rw 0 0", "none"),
    ],
)
def test_cgroup_mode_follows_the_mounts(table: str, expected: str) -> None:
    assert features.cgroup_mode(parse_mounts(table)) == expected


def test_boot_id_is_32_digits() -> None:
    found = features.boot_id()
    assert len(found) == 32
    assert int(found, 16) >= 0


def test_require_host_here_is_content() -> None:
    features.require_host()


def test_require_host_on_an_old_kernel_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="5.10.0-8-amd64"))
    with pytest.raises(Unsupported, match=r"Linux 5\.10\.0-8-amd64 .* needs Linux 6\.1"):
        features.require_host()


def test_require_host_without_a_namespace_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "namespace_types", lambda: frozenset({"mnt", "pid", "cgroup"}))
    with pytest.raises(Unsupported, match="ipc, net, uts namespaces"):
        features.require_host()


def test_require_root_of_a_user_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unsupported, match=r"running as user 1000 .* not built yet"):
        features.require_root()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    features.require_root()


def test_namespace_types_of_this_kernel_hold_the_usual() -> None:
    assert set(features.NAMESPACES) <= features.namespace_types()
