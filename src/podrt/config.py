"""Settings of one runtime: what the global flags and the library's keyword arguments say."""

from __future__ import annotations

import os

import msgspec

from podrt.errors import InvalidConfig
from podrt.layout import DEFAULT_ROOT, DEFAULT_RUNROOT, Layout

NATIVE = "native"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUP_MANAGERS = ("cgroupfs", "systemd", "disabled")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime is opened with; paths are absolute once `resolve` made them so.

    `engine` makes the containers that are created: "native", or another OCI runtime.
    """

    root: str = DEFAULT_ROOT
    runroot: str = DEFAULT_RUNROOT
    cgroup_manager: str = "cgroupfs"
    engine: str = NATIVE
    namespace: str = ""

    @property
    def layout(self) -> Layout:
        """The paths under this root and runroot."""
        return Layout(self.root, self.runroot)

    def resolve(self) -> Settings:
        """The same settings checked, with absolute paths.

        Raises: InvalidConfig naming the flag.
        """
        if self.cgroup_manager not in CGROUP_MANAGERS:
            raise InvalidConfig(
                "--cgroup-manager",
                f"unknown cgroup manager {self.cgroup_manager!r}: {', '.join(CGROUP_MANAGERS)}",
            )
        for flag, path in (("--root", self.root), ("--runroot", self.runroot)):
            if not path or "\0" in path or "," in path or ":" in path:
                # Overlay options are separated by these, so a root with one could not be mounted.
                raise InvalidConfig(flag, f"{path!r}: a path without ',' or ':' is needed")
        return msgspec.structs.replace(
            self,
            root=os.path.abspath(self.root),
            runroot=os.path.abspath(self.runroot),
            engine=_find_engine(self.engine),
        )


def _find_engine(wanted: str) -> str:
    """The program of an OCI runtime, given by its path or by its name; "native" stays."""
    if wanted == NATIVE:
        return wanted
    folders = SEARCH_PATH.split(":") if "/" not in wanted else ["."]
    for folder in folders if wanted else ():
        path = os.path.abspath(os.path.join(folder, wanted))
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise InvalidConfig("--engine", f"no OCI runtime {wanted!r} is installed")
