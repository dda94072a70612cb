"""What an image shows in a directory, copied: layers over each other, as an overlay has them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from podrt.images.copy_up import copy_up

pytestmark = pytest.mark.root


def same(uid: int, gid: int) -> tuple[int, int]:
    return uid, gid


def listed(top: Path) -> dict[str, str]:
    """Relative path -> text, link target, or the kind of what is there."""
    found = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "/"
        elif path.is_file():
            found[name] = path.read_text()
        else:
            found[name] = stat.filemode(path.lstat().st_mode)[0]
    return found


def write(top: Path, **files: str) -> Path:
    for name, text in files.items():
        path = top / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return top


def whiteout(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR, 0)


def opaque(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    try:
        os.setxattr(path, "trusted.overlay.opaque", b"y")
    except OSError:
        pytest.skip("this file system has no trusted attributes")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "target"
    made.mkdir()
    return made


def test_copy_up_lays_higher_layers_over_lower_ones(tmp_path: Path, target: Path) -> None:
    low = write(tmp_path / "low", data__kept="low", data__over="low", data__gone="low",
                data__sub__a="low", data__turned="file", other="other")  # fmt: skip
    high = write(tmp_path / "high", data__over="high", data__sub__b="high", data__turned__in="x")
    whiteout(high / "data/gone")
    (high / "data/link").symlink_to("/etc/passwd")
    os.mkfifo(high / "data/pipe")
    (high / "data/over").chmod(0o604)
    os.chown(high / "data/over", 7, 8)
    (high / "data").chmod(0o1750)
    copy_up([str(high), str(low)], "/data", str(target), same)
    assert listed(target) == {
        "kept": "low", "over": "high", "sub": "/", "sub/a": "low", "sub/b": "high",
        "turned": "/", "turned/in": "x", "link": "-> /etc/passwd", "pipe": "p",
    }  # fmt: skip
    over, top = (target / "over").stat(), target.stat()
    assert (over.st_uid, over.st_gid, stat.S_IMODE(over.st_mode)) == (7, 8, 0o604)
    assert over.st_mtime_ns == (high / "data/over").stat().st_mtime_ns
    assert stat.S_IMODE(top.st_mode) == 0o1750


def test_copy_up_hides_what_is_below_an_opaque_or_removed_directory(
    tmp_path: Path, target: Path
) -> None:
    low = write(tmp_path / "low", data__a="low", data__sub__b="low")
    high = write(tmp_path / "high", data__c="high", data__sub__d="high")
    opaque(high / "data/sub")
    copy_up([str(high), str(low)], "/data", str(target), same)
    assert listed(target) == {"a": "low", "c": "high", "sub": "/", "sub/d": "high"}
    highest = tmp_path / "highest"
    whiteout(highest / "data")
    empty = tmp_path / "empty"
    empty.mkdir()
    copy_up([str(highest), str(high), str(low)], "/data", str(empty), same)
    assert listed(empty) == {}
    opaque(tmp_path / "cut/data")
    (tmp_path / "cut/data/only").write_text("cut")
    copy_up([str(tmp_path / "cut"), str(high), str(low)], "/data", str(empty), same)
    assert listed(empty) == {"only": "cut"}


def test_copy_up_follows_no_symlink_out_of_the_image(tmp_path: Path, target: Path) -> None:
    secret = write(tmp_path / "secret", file="secret")
    layer = write(tmp_path / "layer", data__x="x")
    (layer / "way").symlink_to(secret)
    (layer / "data/out").symlink_to(secret)
    for path in ("/way", "/way/deeper", "/none", "/data/x"):
        copy_up([str(layer)], path, str(target), same)
        assert listed(target) == {}, path
    copy_up([str(layer)], "/data", str(target), same)
    assert listed(target) == {"x": "x", "out": f"-> {secret}"}


def test_copy_up_gives_everything_to_whom_the_caller_says(tmp_path: Path, target: Path) -> None:
    layer = write(tmp_path / "layer", data__sub__x="x")
    (layer / "data/link").symlink_to("sub")
    copy_up([str(layer)], "/data", str(target), lambda uid, gid: (uid + 1000, gid + 2000))
    paths = [target, *target.rglob("*")]
    me = os.getuid(), os.getgid()
    assert {(path.lstat().st_uid - me[0], path.lstat().st_gid - me[1]) for path in paths} == {
        (1000, 2000)
    }
