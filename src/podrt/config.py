"""Settings of one runtime: what the global flags and the library's keyword arguments say."""

from __future__ import annotations

import os

import msgspec

from podrt.errors import InvalidConfig, Unsupported
from podrt.layout import DEFAULT_ROOT, DEFAULT_RUNROOT, Layout

CGROUP_MANAGERS = ("cgroupfs", "systemd", "disabled")
ENGINES = ("native", "crun", "runc")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime is opened with; paths are absolute once `resolve` made them so."""

    root: str = DEFAULT_ROOT
    runroot: str = DEFAULT_RUNROOT
    cgroup_manager: str = "cgroupfs"
    engine: str = "native"
    namespace: str = ""

    @property
    def layout(self) -> Layout:
        """The paths under this root and runroot."""
        return Layout(self.root, self.runroot)

    def resolve(self) -> Settings:
        """The same settings checked, with absolute paths.

        Raises: InvalidConfig naming the flag; Unsupported for an engine that is not built yet.
        """
        if self.cgroup_manager not in CGROUP_MANAGERS:
            raise InvalidConfig(
                "--cgroup-manager",
                f"unknown cgroup manager {self.cgroup_manager!r}: {', '.join(CGROUP_MANAGERS)}",
            )
        if self.engine not in ENGINES:
            raise InvalidConfig("--engine", f"unknown engine {self.engine!r}: native")
        if self.engine != "native":
            raise Unsupported(f"--engine {self.engine}", "only native is built so far")
        for flag, path in (("--root", self.root), ("--runroot", self.runroot)):
            if not path or "\0" in path or "," in path or ":" in path:
                # Overlay options are separated by these, so a root with one could not be mounted.
                raise InvalidConfig(flag, f"{path!r}: a path without ',' or ':' is needed")
        return msgspec.structs.replace(
            self, root=os.path.abspath(self.root), runroot=os.path.abspath(self.runroot)
        )
