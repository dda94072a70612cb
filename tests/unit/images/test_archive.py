"""Nothing an archive holds may be written outside its layer, and what it holds arrives."""

from __future__ import annotations

import contextlib
import io
import os
import random
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.archives import Entry, RecordingSource, directory, entry, hard_link, symlink, tar_of
from podrt.errors import InvalidConfig, PodrtError
from podrt.images.archive import Unpacked, unpack_archive
from podrt.images.tarstream import TarReader
from podrt.linux import trees

pytestmark = pytest.mark.root


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the layer whose one file must stay as it is."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_text("untouched")
    (tmp_path / "layer").mkdir()
    yield place
    assert [path.name for path in place.iterdir()] == ["secret"]
    assert (place / "secret").read_text() == "untouched"
    assert (place / "secret").stat().st_nlink == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layer", "outside"]


def unpack_bytes(layer: Path, data: bytes) -> Unpacked:
    descriptor = os.open(layer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack_archive(descriptor, TarReader(RecordingSource(data), "a.tar"))
    finally:
        os.close(descriptor)


def unpack(outside: Path, *entries: Entry) -> Path:
    layer = outside.parent / "layer"
    unpack_bytes(layer, tar_of(entries))
    return layer


def test_unpack_an_honest_archive_keeps_everything(outside: Path) -> None:
    layer = unpack(
        outside,
        directory(".", 0o711),
        directory("./d", 0o1777, uid=5, gid=6, mtime=1000),
        entry("d/suid", b"#!", mode=0o4711, uid=7, gid=8, mtime=1_600_000_000),
        hard_link("d/again", "d/suid"),
        symlink("d/link", "/etc/passwd"),
        entry("d/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        entry("d/fifo", type=tarfile.FIFOTYPE, mode=0o600),
        entry("implied/parents/file", b"1"),
    )
    status = (layer / "d/suid").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o4711, 7, 8)
    assert (status.st_mtime, status.st_nlink) == (1_600_000_000, 2)
    status = (layer / "d").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o1777, 5, 1000)
    assert stat.S_IMODE(layer.stat().st_mode) == 0o711
    assert os.readlink(layer / "d/link") == "/etc/passwd"
    assert (layer / "d/null").lstat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO((layer / "d/fifo").lstat().st_mode)
    assert (layer / "implied/parents/file").read_bytes() == b"1"


@pytest.mark.parametrize(
    "name", ["../x", "d/../../outside/x", "..", "/../x", "./../outside/secret"]
)
def test_unpack_a_name_with_dots_is_refused(outside: Path, name: str) -> None:
    with pytest.raises(InvalidConfig, match=r'a\.tar: a name with "\.\."'):
        unpack(outside, entry(name, b"evil"))


def test_unpack_an_absolute_name_stays_inside(outside: Path) -> None:
    layer = unpack(outside, entry(f"{outside}/secret", b"evil"))
    assert (layer / str(outside)[1:] / "secret").read_bytes() == b"evil"


@pytest.mark.parametrize("target", ["{outside}", "../outside", "/", "../../../../../.."])
def test_unpack_through_a_symlink_parent_stays_inside(outside: Path, target: str) -> None:
    link = symlink("out", target.format(outside=outside))
    # "/" and ".." are the layer itself; a target that is only outside is nothing inside.
    try:
        unpack(outside, link, entry("out/secret", b"evil"), entry("out/deep/er", b"evil"))
    except InvalidConfig as error:
        assert "symbolic link to nothing" in str(error)


def test_unpack_over_a_symlink_replaces_it(outside: Path) -> None:
    layer = unpack(outside, symlink("f", str(outside / "secret")), entry("f", b"evil"))
    assert not (layer / "f").is_symlink()
    assert (layer / "f").read_bytes() == b"evil"


def test_unpack_a_directory_over_a_symlink_replaces_it(outside: Path) -> None:
    layer = unpack(outside, symlink("d", str(outside)), directory("d"), entry("d/f", b"1"))
    assert (layer / "d/f").read_bytes() == b"1"


@pytest.mark.parametrize(
    "target", ["../outside/secret", "{outside}/secret", "link/secret", "missing", "", "."]
)
def test_unpack_a_hard_link_to_outside_is_refused(outside: Path, target: str) -> None:
    with pytest.raises(InvalidConfig, match=r"member 'hard'"):
        unpack(
            outside,
            symlink("link", str(outside)),
            hard_link("hard", target.format(outside=outside)),
        )


def test_unpack_a_hard_link_to_a_symlink_links_the_symlink(outside: Path) -> None:
    layer = unpack(
        outside,
        symlink("link", str(outside / "secret")),
        hard_link("hard", "link"),
        entry("hard", b"evil"),
    )
    assert (layer / "hard").read_bytes() == b"evil"


def test_unpack_a_directory_replaced_by_a_symlink_loses_its_files(outside: Path) -> None:
    layer = unpack(
        outside,
        entry("d/one", b"1"),
        symlink("d", str(outside)),
        directory("d"),
        entry("d/two", b"2"),
    )
    assert os.listdir(layer / "d") == ["two"]


def test_unpack_whiteouts_makes_overlays_marks(outside: Path) -> None:
    layer = unpack(
        outside,
        entry("d/.wh.gone"),
        entry("d/.wh..wh..opq"),
        entry("d/.wh..wh.plnk", b"aufs"),
        entry("kept", b"1"),
        entry(".wh.kept"),
    )
    for path in (layer / "d/gone", layer / "kept"):
        assert stat.S_ISCHR(path.lstat().st_mode)
        assert path.lstat().st_rdev == 0
    assert os.getxattr(layer / "d", "trusted.overlay.opaque") == b"y"
    assert os.listdir(layer / "d") == ["gone"]


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh..."])
def test_unpack_a_whiteout_of_no_name_is_refused(outside: Path, name: str) -> None:
    with pytest.raises(InvalidConfig, match="whiteout of no name"):
        unpack(outside, entry(f"d/{name}"))


def test_unpack_attributes_sets_capabilities_and_never_overlays_own(outside: Path) -> None:
    info, data = entry("f", b"1", uid=1)
    # VFS_CAP_REVISION_2 with cap_net_raw, effective.
    capability = b"\x01\x00\x00\x02\x00\x20" + b"\0" * 14
    info.pax_headers = {
        "SCHILY.xattr.security.capability": capability.decode("latin-1"),
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.overlay.redirect": "/etc",
        "SCHILY.xattr.user.note": "kept",
    }
    layer = unpack(outside, (info, data))
    assert os.getxattr(layer / "f", "security.capability") == capability
    assert "trusted.overlay.redirect" not in os.listxattr(layer / "f")
    assert "user.overlay.redirect" not in os.listxattr(layer / "f")


@pytest.mark.parametrize(
    "bad",
    [
        entry("n" * 300, b"1"),
        symlink("l", ""),
        entry(".", b"1"),
        entry("c", type=tarfile.CHRTYPE, devmajor=5000, devminor=1),
        symlink("loop/x", "y"),
    ],
)
def test_unpack_what_cannot_be_made_names_archive_and_member(outside: Path, bad: Entry) -> None:
    with pytest.raises(InvalidConfig, match=r"^a\.tar: .* \(member '"):
        unpack(outside, symlink("loop", "loop"), bad)


def test_unpack_very_deep_names_works_and_is_removed_again(outside: Path) -> None:
    deep = "/".join("d" * 700)
    layer = unpack(outside, entry(f"{deep}/f", b"1"))
    assert (layer / deep / "f").read_bytes() == b"1"
    trees.remove_tree(str(layer / "d"))
    assert os.listdir(layer) == []


def test_unpack_hostile_archives_never_leaves_the_layer(outside: Path) -> None:
    """Every order of links, parents and files over few names: the worst an archive can say."""
    source = random.Random(5)
    layer = outside.parent / "layer"
    names = [
        "a",
        "b",
        "a/b",
        "b/a",
        "a/b/a",
        "..",
        "a/../../outside",
        "/a",
        "./b",
        ".wh.a",
        "a/.wh.b",
    ]
    targets = ["/", "..", ".", "a", "b", "../outside", str(outside), "a/b", "/b/..", "secret"]
    for _ in range(400):
        entries = [random_entry(source, names, targets) for _ in range(source.randint(1, 12))]
        try:
            unpack_bytes(layer, tar_of(entries))
        except PodrtError as error:
            assert "\n" not in str(error)
        assert (outside / "secret").read_text() == "untouched"
        assert os.listdir(outside) == ["secret"]
        for name in os.listdir(layer):
            trees.remove_tree(str(layer / name))


@pytest.mark.parametrize(
    "entries",
    [
        [symlink("out", "../outside"), entry("out/secret", b"evil")],
        [entry("../outside/secret", b"evil")],
        [hard_link("hard", "../outside/secret"), entry("hard", b"evil")],
    ],
    ids=["symlink", "dots", "hard link"],
)
def test_archives_that_write_outside_do_so_unchecked(tmp_path: Path, entries: list[Entry]) -> None:
    """What the tests above refuse is an attack: whoever unpacks without checks falls for it."""
    for name in ("checked", "unchecked"):
        (tmp_path / name / "outside").mkdir(parents=True)
        (tmp_path / name / "layer").mkdir()
        (tmp_path / name / "outside/secret").write_text("untouched")
    with contextlib.suppress(InvalidConfig):
        unpack_bytes(tmp_path / "checked/layer", tar_of(entries))
    assert (tmp_path / "checked/outside/secret").read_text() == "untouched"
    tar = tmp_path / "a.tar"
    tar.write_bytes(tar_of(entries))
    with tarfile.open(tar) as archive:
        archive.extractall(tmp_path / "unchecked/layer", filter="fully_trusted")
    assert (tmp_path / "unchecked/outside/secret").read_text() == "evil"


def random_entry(source: random.Random, names: list[str], targets: list[str]) -> Entry:
    name, target = source.choice(names), source.choice(targets)
    return source.choice(
        [
            entry(name, b"evil"),
            entry(f"{name}/secret", b"evil"),
            directory(name),
            symlink(name, target),
            hard_link(name, target),
            hard_link(name, f"{target}/secret"),
            entry(name, type=tarfile.FIFOTYPE),
        ]
    )


def test_unpack_in_the_same_way_as_tar_does(outside: Path) -> None:
    layer, other = outside.parent / "layer", io.BytesIO()
    entries = [directory("a"), entry("a/f", b"x" * 100_000, mode=0o640), symlink("l", "a/f")]
    other.write(tar_of(entries, tarfile.GNU_FORMAT))
    unpacked = unpack_bytes(layer, other.getvalue())
    assert unpacked == Unpacked(members=3, size_bytes=100_000)
    assert (layer / "l").read_bytes() == b"x" * 100_000
