"""What containers take of the disk: what they wrote themselves, and what lies below it."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from podrt.store.records import ContainerRecord, ImageRecord

from .view import View


class Sizes(NamedTuple):
    """Bytes: of files the container wrote or changed, and of its whole root file system."""

    written: int
    whole: int


def container_sizes(view: View, record: ContainerRecord) -> Sizes:
    """How much a container takes; what cannot be read is not counted."""
    written = _tree_bytes(f"{view.layout.container(record.id)}/upper")
    image = view.store.tables.get(ImageRecord, record.image_id)
    return Sizes(written, written + (image.image.size_bytes if image is not None else 0))


def _tree_bytes(top: str) -> int:
    """The sum of the sizes of the files below `top`, without following a symlink."""
    total = 0
    waiting = [top]
    # A container may have made a tree deeper than any stack, or a path longer than any call takes.
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total
