"""Whether a cgroup is frozen, for those who only look.

`state` is asked for more often than all else together, and the cgroup managers are dear to load.
"""

from __future__ import annotations

import contextlib

# Where every distribution mounts them. Source: file-hierarchy(7).
_V1 = "/sys/fs/cgroup/freezer"
_V2 = "/sys/fs/cgroup"


def is_frozen(path: str) -> bool:
    """Whether the cgroup `path` is frozen, or on its way there; one that is gone is not."""
    with contextlib.suppress(OSError):
        with open(f"{_V1}{path}/freezer.state", encoding="ascii") as file:
            return file.read().strip() in ("FROZEN", "FREEZING")
    with contextlib.suppress(OSError):
        with open(f"{_V2}{path}/cgroup.events", encoding="ascii") as file:
            return "frozen 1" in file.read().splitlines()
    from .cgroup import opened

    with opened(path) as cgroup:
        return cgroup.is_frozen()
