from __future__ import annotations

import pytest

from podrt.cgroups.managers import open_manager
from podrt.errors import InvalidConfig, Unsupported


def test_open_manager_systemd_says_that_it_is_not_built() -> None:
    with pytest.raises(Unsupported, match="--cgroup-manager systemd is not supported"):
        open_manager("systemd")


def test_open_manager_unknown_lists_the_known() -> None:
    with pytest.raises(InvalidConfig, match="cgroupfs, systemd, disabled"):
        open_manager("docker")


def test_open_manager_disabled_opens_nothing() -> None:
    assert open_manager("disabled").name == "disabled"
