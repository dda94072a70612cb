from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from podrt.linux import trees


def make_deep(top: Path, levels: int) -> None:
    """Directories nested deeper than any path can say."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=here))
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_remove_a_tree_deeper_than_descriptors_and_stack_works(tmp_path: Path) -> None:
    make_deep(tmp_path / "deep", 1200)
    trees.remove_tree(str(tmp_path / "deep"))
    assert os.listdir(tmp_path) == []


def test_remove_a_tree_follows_no_symlink(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("1")
    (tmp_path / "tree/below").mkdir(parents=True)
    os.symlink(tmp_path / "kept", tmp_path / "tree/link")
    os.symlink(tmp_path / "kept", tmp_path / "tree/below/link")
    trees.remove_tree(str(tmp_path / "tree"))
    os.symlink(tmp_path / "kept", tmp_path / "link")
    trees.remove_tree(str(tmp_path / "link"))
    assert os.listdir(tmp_path) == ["kept"]
    assert (tmp_path / "kept/file").read_text() == "1"


def test_remove_a_missing_tree_or_a_file_is_fine(tmp_path: Path) -> None:
    trees.remove_tree(str(tmp_path / "missing"))
    trees.remove_tree(str(tmp_path / "missing/below"))
    (tmp_path / "file").write_text("1")
    trees.remove_tree(str(tmp_path / "file"))
    assert os.listdir(tmp_path) == []


def test_remove_a_tree_twice_at_once_works(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"tree/{number % 7}/{number}").mkdir(parents=True)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: trees.remove_tree(str(tmp_path / "tree")), range(4)))
    assert os.listdir(tmp_path) == []
