"""Users and groups of an image, and files read from layers that want to lead out of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from podrt.errors import InvalidConfig, NotFound
from podrt.spec import accounts

PASSWD = """root:x:0:0:root:/root:/bin/sh
# a comment
broken line
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
12:x:500:501::/home/twelve:/bin/sh
bad:x:minus:0::/:/bin/sh
"""
GROUP = "root:x:0:\nadm:x:4:root,www-data\nwww-data:x:33:\nwheel:x:10:root\nnomembers:x:9"
KNOWN = accounts.parse_accounts(PASSWD, GROUP)


def find(word: str, *groups: str) -> tuple[int, int, tuple[int, ...], str]:
    identity = accounts.find_identity(word, groups, 0o22, KNOWN)
    user = identity.user
    return user.uid, user.gid, user.additional_gids, identity.home


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("", (0, 0, (0, 4, 10), "/root")),
        ("root", (0, 0, (0, 4, 10), "/root")),
        ("33", (33, 33, (33, 4), "/var/www")),
        ("www-data", (33, 33, (33, 4), "/var/www")),
        ("www-data:adm", (33, 4, (4,), "/var/www")),
        ("1000", (1000, 0, (0,), "/")),
        ("1000:1001", (1000, 1001, (1001,), "/")),
        ("1000:wheel", (1000, 10, (10,), "/")),
        ("12", (500, 501, (501,), "/home/twelve")),
        ("4294967294", (4294967294, 0, (0,), "/")),
    ],
)
def test_find_identity_takes_the_forms_of_podman(
    word: str, expected: tuple[int, int, tuple[int, ...], str]
) -> None:
    assert find(word) == expected


def test_find_identity_additional_groups_are_joined_once() -> None:
    assert find("1000", "wheel", "77", "10")[2] == (0, 10, 77)


@pytest.mark.parametrize("word", ["nobody", "bad", "-1", "4294967295", "root:nogroup", "1:-1"])
def test_find_identity_unknown_name_is_refused(word: str) -> None:
    with pytest.raises(InvalidConfig, match="no matching entries"):
        find(word)


def make_layer(path: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    path.mkdir(exist_ok=True)
    return str(path)


def test_read_in_layers_the_highest_layer_wins(tmp_path: Path) -> None:
    top = make_layer(tmp_path / "top", {"etc/passwd": "top"})
    low = make_layer(tmp_path / "low", {"etc/passwd": "low", "etc/group": "low group"})
    assert accounts.read_in_layers([top, low], "/etc/passwd") == "top"
    assert accounts.read_in_layers([top, low], "/etc/group") == "low group"
    assert accounts.read_in_layers([top, low], "/etc/shadow") == ""
    assert accounts.read_in_layers([top, low], "/etc") == ""


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("/etc/real", "inside"),
        ("real", "inside"),
        ("../../../etc/real", "inside"),
        ("/../etc/./real", "inside"),
        ("passwd", ""),
        ("/etc/gone", ""),
        ("real/below", ""),
    ],
)
def test_read_in_layers_symlinks_stay_inside(tmp_path: Path, link: str, expected: str) -> None:
    top = make_layer(tmp_path / "top", {"etc/.keep": ""})
    low = make_layer(tmp_path / "low", {"etc/real": "inside"})
    os.symlink(link, f"{top}/etc/passwd")
    assert accounts.read_in_layers([top, low], "/etc/passwd") == expected


def test_read_in_layers_directory_symlink_never_reads_the_host(tmp_path: Path) -> None:
    secret = make_layer(tmp_path / "host", {"passwd": "secret"})
    layer = make_layer(tmp_path / "layer", {})
    os.symlink(secret, f"{layer}/etc")
    assert accounts.read_in_layers([layer], "/etc/passwd") == ""
    make_layer(Path(layer + secret), {"passwd": "the image's own"})
    assert accounts.read_in_layers([layer], "/etc/passwd") == "the image's own"


def test_read_in_layers_special_files_are_no_text(tmp_path: Path) -> None:
    layer = make_layer(tmp_path / "layer", {"etc/.keep": ""})
    os.mkfifo(f"{layer}/etc/passwd")
    assert accounts.read_in_layers([layer], "/etc/passwd") == ""


@pytest.mark.root
def test_read_in_layers_whiteouts_hide_what_is_below(tmp_path: Path) -> None:
    top = make_layer(tmp_path / "top", {"etc/.keep": ""})
    low = make_layer(tmp_path / "low", {"etc/passwd": "low", "etc/group": "low"})
    os.mknod(f"{top}/etc/passwd", 0o20000, os.makedev(0, 0))
    assert accounts.read_in_layers([top, low], "/etc/passwd") == ""
    assert accounts.read_in_layers([top, low], "/etc/group") == "low"
    os.setxattr(f"{top}/etc", "trusted.overlay.opaque", b"y")
    assert accounts.read_in_layers([top, low], "/etc/group") == ""


def test_read_accounts_of_missing_layer_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        accounts.read_accounts((str(tmp_path / "gone"),))


def test_read_accounts_closes_what_it_opens(tmp_path: Path) -> None:
    layer = make_layer(tmp_path / "a", {"etc/passwd": PASSWD, "etc/group": GROUP})
    before = len(os.listdir("/proc/self/fd"))
    assert accounts.read_accounts((layer,)) == KNOWN
    assert len(os.listdir("/proc/self/fd")) == before
