"""Volumes: directories on the host that outlive a container, or live as long as its pod.

A named volume lies in `<root>/volumes/<name>/_data` and stays until it is removed. A pod's own
volume (Kubernetes' emptyDir), whose name begins with "./", lies among its group's files and goes
with them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from functools import partial

from podrt.errors import StoreFailed
from podrt.layout import Layout
from podrt.linux import trees
from podrt.model.container import Mount, MountKind
from podrt.model.ids import check_name

POD_PREFIX = "./"
_DATA = "_data"
_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY})
_NAMED_MODE = 0o755
# As the kubelet does: a container of any user may write into its pod's volumes.
_POD_MODE = 0o777


Fill = Callable[[str, str], None]
"""Puts what a container's image has at a path into a directory."""


def volume_directories(
    layout: Layout, group_id: str, mounts: Iterable[Mount], fill: Fill | None = None
) -> dict[str, str]:
    """Make the volumes that `mounts` name and are missing; maps their names to directories.

    A new named volume begins as `fill` says, unless its mount has the option "nocopy".
    Raises: InvalidConfig naming the volume, StoreFailed.
    """
    found = {}
    for mount in mounts:
        if mount.kind is MountKind.VOLUME and mount.source not in found:
            is_pods = mount.source.startswith(POD_PREFIX)
            path = volume_path(layout, group_id, mount.source)
            is_copied = fill is not None and not is_pods and "nocopy" not in mount.options
            begin = partial(fill, mount.destination) if fill is not None and is_copied else None
            _make(path, _POD_MODE if is_pods else _NAMED_MODE, begin)
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


def _make(path: str, mode: int, begin: Callable[[str], None] | None) -> None:
    """Make a volume beside its place, so that nobody sees one that is not yet filled."""
    beside = f"{path}.{os.urandom(8).hex()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        if os.path.isdir(path):
            return
        os.mkdir(beside, 0o700)
        os.chmod(beside, mode)
        try:
            if begin is not None:
                begin(beside)
            os.rename(beside, path)
        except BaseException as error:
            trees.remove_tree(beside)
            # Another command was faster: its volume it is.
            if not (isinstance(error, OSError) and error.errno in _TAKEN):
                raise
    except OSError as error:
        raise StoreFailed(path, error.errno or 0, "create") from error
