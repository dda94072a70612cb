"""Security modules: a process has a label of those that are on, and of no other."""

from __future__ import annotations

from podrt.linux.lsm import security_modules


def has_label(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return bool(file.read())
    except OSError:
        return False


def test_security_modules_are_those_this_process_has_a_label_of() -> None:
    assert ("apparmor" in security_modules()) == has_label("/proc/self/attr/apparmor/current")
    assert security_modules() <= {"apparmor", "selinux"}
    if "selinux" in security_modules():
        assert has_label("/proc/self/attr/current")
