"""Volumes: directories on the host that outlive a container, or live as long as its pod.

A named volume lies in `<root>/volumes/<name>/_data` and stays until it is removed. A pod's own
volume (Kubernetes' emptyDir), whose name begins with "./", lies among its group's files and goes
with them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from podrt.errors import StoreFailed
from podrt.layout import Layout
from podrt.model.container import Mount, MountKind
from podrt.model.ids import check_name

POD_PREFIX = "./"
_DATA = "_data"
_NAMED_MODE = 0o755
# As the kubelet does: a container of any user may write into its pod's volumes.
_POD_MODE = 0o777


def volume_directories(layout: Layout, group_id: str, mounts: Iterable[Mount]) -> dict[str, str]:
    """Make the volumes that `mounts` name and are missing; maps their names to directories.

    Raises: InvalidConfig naming the volume, StoreFailed.
    """
    found = {}
    for mount in mounts:
        if mount.kind is MountKind.VOLUME and mount.source not in found:
            mode = _POD_MODE if mount.source.startswith(POD_PREFIX) else _NAMED_MODE
            path = volume_path(layout, group_id, mount.source)
            _make(path, mode)
            found[mount.source] = path
    return found


def volume_path(layout: Layout, group_id: str, name: str) -> str:
    """The directory of the volume `name`, as a container of the group `group_id` sees it.

    Raises: InvalidConfig.
    """
    if name.startswith(POD_PREFIX):
        own = check_name(name.removeprefix(POD_PREFIX), "--volume")
        return f"{layout.pod(group_id)}/volumes/{own}"
    return f"{layout.volumes_dir}/{check_name(name, '--volume')}/{_DATA}"


def _make(path: str, mode: int) -> None:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chmod(path, mode)
    except OSError as error:
        raise StoreFailed(path, error.errno or 0, "create") from error
