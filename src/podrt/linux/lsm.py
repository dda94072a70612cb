"""Which security modules the kernel runs with. Source: Documentation/admin-guide/LSM."""

from __future__ import annotations

import functools
import os


@functools.cache
def security_modules() -> frozenset[str]:
    """Those a process can have a label of: "apparmor", "selinux"."""
    found = set()
    if _first("/sys/module/apparmor/parameters/enabled") == "Y":
        found.add("apparmor")
    if os.path.exists("/sys/fs/selinux/enforce"):
        found.add("selinux")
    return frozenset(found)


def _first(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(1)
    except OSError:
        return ""
