"""What the system tests share: the command line on a root of each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.commands import BUSYBOX, Podrt


@pytest.fixture
def podrt(tmp_path: Path, cgroup_parent: str) -> Iterator[Podrt]:
    """The command with the image `base`; everything is removed and checked afterwards."""
    if not BUSYBOX:
        pytest.skip("needs busybox")
    command = Podrt(tmp_path, cgroup_parent)
    command.import_busybox(tmp_path)
    yield command
    command.remove_all()
    assert command.is_clean()
