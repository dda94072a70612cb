"""Images on a real file system: imported, mounted by overlay, read by other tools, swept."""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import os
import shutil
import signal
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from doubles.archives import directory, entry, symlink, tar_of
from podrt.errors import InvalidConfig, NotFound, PodrtError, StoreFailed, Unsupported
from podrt.images import blobs, importer, layers, rootfs
from podrt.linux import trees

BUSYBOX = shutil.which("busybox")
needs_busybox = pytest.mark.skipif(BUSYBOX is None, reason="needs busybox")


@pytest.fixture
def images_dir(tmp_path: Path) -> str:
    place = tmp_path / "images"
    place.mkdir(mode=0o700)
    return str(place)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A small root file system with busybox, as a tar file."""
    assert BUSYBOX is not None
    path = tmp_path / "busybox.tar"
    with open(BUSYBOX, "rb") as file:
        program = file.read()
    path.write_bytes(
        tar_of(
            [
                directory("."),
                directory("bin"),
                entry("bin/busybox", program, mode=0o755),
                symlink("bin/sh", "busybox"),
                directory("etc"),
                directory("tmp", 0o1777),
            ]
        )
    )
    return path


def leftovers(images_dir: str) -> list[str]:
    return os.listdir(f"{images_dir}/tmp")


@needs_busybox
def test_import_an_archive_gives_a_layer_and_a_record(images_dir: str, archive: Path) -> None:
    image = importer.import_image(
        images_dir, str(archive), "base", changes=['CMD ["sh"]', "ENV A=1"], message="first"
    )
    assert image.references == ("localhost/base:latest",)
    assert (image.defaults.command, image.defaults.env) == (("sh",), ("A=1",))
    layer = Path(layers.layer_path(images_dir, image.layers[0]))
    assert os.readlink(layer / "bin/sh") == "busybox"
    document = importer.image_document(images_dir, image)
    assert document["rootfs"] == {"type": "layers", "diff_ids": [f"sha256:{image.layers[0]}"]}
    assert document["history"][0]["comment"] == "first"
    assert blobs.indexed_references(images_dir) == {"localhost/base:latest": image.manifest_digest}
    assert leftovers(images_dir) == []


@needs_busybox
def test_import_every_compression_gives_the_same_layer(images_dir: str, archive: Path) -> None:
    plain = archive.read_bytes()
    expected = importer.import_image(images_dir, str(archive), "plain").layers
    for name, data in (("gz", gzip.compress(plain)), ("xz", lzma.compress(plain))):
        packed = archive.with_suffix(f".{name}")
        packed.write_bytes(data)
        assert importer.import_image(images_dir, str(packed), name).layers == expected
    assert len(os.listdir(f"{images_dir}/layers")) == 1


@needs_busybox
@pytest.mark.parametrize("packer", [bytes, gzip.compress])
def test_import_is_read_by_skopeo_and_umoci(
    images_dir: str, archive: Path, tmp_path: Path, packer: type[bytes]
) -> None:
    if not shutil.which("skopeo") or not shutil.which("umoci"):
        pytest.skip("needs skopeo and umoci")
    archive.write_bytes(packer(archive.read_bytes()))
    image = importer.import_image(images_dir, str(archive), "base:v1", changes=["USER 1:2"])
    copied = tmp_path / "copied"
    run("skopeo", "copy", "-q", f"oci:{images_dir}:localhost/base:v1", f"oci:{copied}:v1")
    bundle = tmp_path / "bundle"
    run("umoci", "unpack", "--image", f"{copied}:v1", str(bundle))
    config = json.loads((bundle / "config.json").read_text())
    assert (config["process"]["user"]["uid"], config["process"]["user"]["gid"]) == (1, 2)
    ours = Path(layers.layer_path(images_dir, image.layers[0]))
    assert listing(bundle / "rootfs") == listing(ours)


def listing(root: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, int(status.st_mtime))
    return found


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def mounted(fs: rootfs.Rootfs, where: Path) -> Iterator[Path]:
    where.mkdir()
    options = f"lowerdir={':'.join(fs.lower)},upperdir={fs.upper},workdir={fs.work}"
    run("mount", "-t", "overlay", "overlay", "-o", options, str(where))
    try:
        yield where
    finally:
        run("umount", str(where))


@needs_busybox
def test_prepare_rootfs_is_a_root_that_runs(images_dir: str, archive: Path, tmp_path: Path) -> None:
    image = importer.import_image(images_dir, str(archive), "base")
    fs = rootfs.prepare_rootfs(images_dir, image, str(tmp_path / "ctr"))
    with mounted(fs, tmp_path / "root") as root:
        assert stat.S_IMODE(root.stat().st_mode) == 0o755
        for name in ("etc/hosts", "etc/hostname", "etc/resolv.conf", "run/.containerenv"):
            assert (root / name).read_bytes() == b""
        said = run(
            "chroot", str(root), "/bin/sh", "-c", "echo $((6*7)) >/tmp/x; read a </tmp/x; echo $a"
        )
        assert said == "42\n"
    assert (tmp_path / "ctr/upper/tmp/x").read_text() == "42\n"
    os.symlink("/etc", tmp_path / "ctr/upper/link")
    trees.remove_tree(str(tmp_path / "ctr"))
    assert not (tmp_path / "ctr").exists()
    assert os.path.isdir("/etc")


@needs_busybox
def test_removing_a_root_leaves_what_is_mounted_in_it(
    images_dir: str, archive: Path, tmp_path: Path
) -> None:
    image = importer.import_image(images_dir, str(archive), "base")
    fs = rootfs.prepare_rootfs(images_dir, image, str(tmp_path / "ctr"))
    point = Path(fs.upper) / "mnt"
    point.mkdir()
    run("mount", "-t", "tmpfs", "none", str(point))
    try:
        (point / "precious").write_text("1")
        with pytest.raises(OSError, match="something is mounted here"):
            trees.remove_tree(str(tmp_path / "ctr"))
        assert (point / "precious").exists()
    finally:
        run("umount", str(point))
    trees.remove_tree(str(tmp_path / "ctr"))
    trees.remove_tree(str(tmp_path / "ctr"))


def test_prepare_rootfs_without_its_layer_names_it(images_dir: str, tmp_path: Path) -> None:
    blobs.make_layout(images_dir)
    image = importer.Image(id="1" * 64, layers=("2" * 64,))
    with pytest.raises(NotFound, match="2" * 64):
        rootfs.prepare_rootfs(images_dir, image, str(tmp_path / "ctr"))
    assert not (tmp_path / "ctr").exists()


@needs_busybox
def test_import_the_same_archive_many_times_at_once_works(images_dir: str, archive: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        images = list(
            pool.map(
                lambda number: importer.import_image(images_dir, str(archive), f"base:{number}"),
                range(8),
            )
        )
    assert len({image.layers for image in images}) == 1
    assert len(blobs.indexed_references(images_dir)) == 8
    assert leftovers(images_dir) == []
    assert importer.sweep(images_dir, lambda: images)
    for image in images:
        rootfs.check_layers(images_dir, image)
        importer.image_document(images_dir, image)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello " * 500, "not a tar archive"),
        (gzip.compress(b"hello " * 500), "not a tar archive"),
        (tar_of([entry("f", b"x" * 9000)])[:4000], "unexpected end"),
        (gzip.compress(tar_of([entry("f", os.urandom(9000))]))[:4000], "unexpected end"),
        (tar_of([entry("../f", b"1")]), r'"\.\."'),
    ],
)
def test_import_a_bad_archive_names_it_and_leaves_nothing(
    images_dir: str, tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(data)
    with pytest.raises(InvalidConfig, match=f"bad.tar: .*{words}") as caught:
        importer.import_image(images_dir, str(path), "bad")
    assert "\n" not in str(caught.value)
    assert leftovers(images_dir) == os.listdir(f"{images_dir}/layers") == []
    assert os.listdir(f"{images_dir}/blobs/sha256") == []
    assert blobs.indexed_references(images_dir) == {}


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("/nowhere/at/all.tar", NotFound),
        ("/etc", InvalidConfig),
        ("https://example.org/x.tar", Unsupported),
        ("a\0b", InvalidConfig),
    ],
)
def test_import_from_nowhere_is_one_line(
    images_dir: str, source: str, error: type[PodrtError]
) -> None:
    with pytest.raises(error) as caught:
        importer.import_image(images_dir, source, "x")
    assert "\n" not in str(caught.value)


def test_import_on_a_full_disk_is_one_line_and_leaves_room(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small))
    try:
        path = tmp_path / "big.tar"
        path.write_bytes(tar_of([entry("f", b"x" * (2 << 20))]))
        with pytest.raises(StoreFailed, match="No space left on device"):
            importer.import_image(str(small), str(path), "big")
        assert leftovers(str(small)) == []
    finally:
        run("umount", str(small))


def test_import_a_large_archive_keeps_memory_small(images_dir: str, tmp_path: Path) -> None:
    path = tmp_path / "big.tar.gz"
    path.write_bytes(gzip.compress(tar_of([entry("f", b"\0" * (48 << 20))]), 1))
    tracemalloc.start()
    try:
        importer.import_image(images_dir, str(path), "big")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


_SLOW_IMPORT = """
import sys
from podrt.images import importer
print(importer.import_image(sys.argv[1], "-", "base").id)
"""


@needs_busybox
def test_kill_during_an_import_leaves_only_what_sweep_removes(
    images_dir: str, archive: Path
) -> None:
    known = importer.import_image(images_dir, str(archive), "known")
    before = sorted(os.walk(images_dir))
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_IMPORT, images_dir], stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        # More than one piece, so that something is unpacked when the stream stops.
        process.stdin.write(archive.read_bytes()[: 700 << 10])
        process.stdin.flush()
        while not any(Path(images_dir, "tmp").glob("*/bin/busybox")):
            assert process.poll() is None
        assert not importer.sweep(images_dir, lambda: [known])
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.stdin.close()
        process.wait()
    assert leftovers(images_dir)
    assert importer.sweep(images_dir, lambda: [known])
    assert sorted(os.walk(images_dir)) == before


@needs_busybox
def test_sweep_without_an_image_removes_its_files(images_dir: str, archive: Path) -> None:
    importer.import_image(images_dir, str(archive), "gone")
    with blobs.hold_images(images_dir):
        assert not importer.sweep(images_dir, list)
    assert importer.sweep(images_dir, list)
    assert os.listdir(f"{images_dir}/layers") == os.listdir(f"{images_dir}/blobs/sha256") == []
    assert blobs.indexed_references(images_dir) == {}
    assert os.path.isdir(layers.skeleton_path(images_dir))


@needs_busybox
def test_import_under_a_taken_name_moves_the_name(images_dir: str, archive: Path) -> None:
    importer.import_image(images_dir, str(archive), "base", message="one")
    second = importer.import_image(images_dir, str(archive), "base", message="two")
    assert blobs.indexed_references(images_dir) == {"localhost/base:latest": second.manifest_digest}
