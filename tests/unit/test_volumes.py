from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from podrt import volumes
from podrt.errors import InvalidConfig
from podrt.layout import Layout
from podrt.model.container import Mount, MountKind

GROUP = "a" * 64


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(f"{tmp_path}/root", f"{tmp_path}/run")
    made.make()
    return made


def mount(name: str, kind: MountKind = MountKind.VOLUME) -> Mount:
    return Mount(kind=kind, source=name, destination=f"/{name}")


def test_directories_of_volumes_are_made_once_with_their_modes(layout: Layout) -> None:
    mounts = [mount("data"), mount("./own"), mount("data"), mount("/etc", MountKind.BIND)]
    found = volumes.volume_directories(layout, GROUP, mounts)
    assert found == {
        "data": f"{layout.volumes_dir}/data/_data",
        "./own": f"{layout.pod(GROUP)}/volumes/own",
    }
    assert stat.S_IMODE(os.stat(found["data"]).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(found["./own"]).st_mode) == 0o777
    Path(found["data"], "file").write_text("1")
    assert volumes.volume_directories(layout, GROUP, mounts) == found
    assert Path(found["data"], "file").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "./", "./..", "./a/b", "a\0b"])
def test_directories_of_a_wrong_name_are_refused(layout: Layout, name: str) -> None:
    with pytest.raises(InvalidConfig):
        volumes.volume_directories(layout, GROUP, [mount(name)])
