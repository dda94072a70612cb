"""podrt runs pods: groups of containers that share namespaces and live together.

The public names are loaded when they are first used, so that `import podrt` costs nothing.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

# typing's own constant would import typing; type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from podrt.config import Settings
    from podrt.errors import (
        AlreadyExists,
        Ambiguous,
        Busy,
        DependencyFailed,
        EngineFailed,
        InternalError,
        InUse,
        InvalidConfig,
        InvalidState,
        LimitReached,
        MonitorGone,
        NotFound,
        NothingToStart,
        PodrtError,
        Removed,
        RuntimeClosed,
        StoreCorrupt,
        StoreFailed,
        Unsupported,
        WalkFailed,
    )
    from podrt.model.container import ContainerConfig, Dependency
    from podrt.model.pod import PodConfig
    from podrt.runtime.container import Container
    from podrt.runtime.pod import Pod
    from podrt.runtime.runtime import Runtime, open_runtime

__all__ = [
    "AlreadyExists",
    "Ambiguous",
    "Busy",
    "Container",
    "ContainerConfig",
    "Dependency",
    "DependencyFailed",
    "EngineFailed",
    "InUse",
    "InternalError",
    "InvalidConfig",
    "InvalidState",
    "LimitReached",
    "MonitorGone",
    "NotFound",
    "NothingToStart",
    "Pod",
    "PodConfig",
    "PodrtError",
    "Removed",
    "Runtime",
    "RuntimeClosed",
    "Settings",
    "StoreCorrupt",
    "StoreFailed",
    "Unsupported",
    "WalkFailed",
    "open_runtime",
]

_HOMES = {
    "Container": "podrt.runtime.container",
    "ContainerConfig": "podrt.model.container",
    "Dependency": "podrt.model.container",
    "Pod": "podrt.runtime.pod",
    "PodConfig": "podrt.model.pod",
    "Runtime": "podrt.runtime.runtime",
    "Settings": "podrt.config",
    "open_runtime": "podrt.runtime.runtime",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'podrt' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES.get(name, "podrt.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
