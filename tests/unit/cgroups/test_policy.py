from __future__ import annotations

import itertools

import pytest

from podrt.cgroups import policy
from podrt.errors import InvalidConfig

REFUSED = "refused"

# manager, rootless, parent -> the parent that counts
TABLE = {
    ("cgroupfs", False, ""): "/podrt_parent",
    ("cgroupfs", False, "/podrt_parent"): "/podrt_parent",
    ("cgroupfs", False, "/mine"): "/mine",
    ("cgroupfs", False, "mine/deep/"): "/mine/deep",
    ("cgroupfs", False, "/a.slice/mine"): "/a.slice/mine",
    ("cgroupfs", False, "/mine/a.slice"): REFUSED,
    ("cgroupfs", False, "a.slice/"): REFUSED,
    ("cgroupfs", False, ".slice"): REFUSED,
    ("cgroupfs", False, "/a/../b"): REFUSED,
    ("cgroupfs", False, "/"): REFUSED,
    ("cgroupfs", True, ""): "",
    ("cgroupfs", True, "/podrt_parent"): "",
    ("cgroupfs", True, "/mine"): "/mine",
    ("cgroupfs", True, "/a.slice"): REFUSED,
    ("systemd", False, ""): "machine.slice",
    ("systemd", True, ""): "user.slice",
    ("systemd", False, "a.slice"): "a.slice",
    ("systemd", True, "a.slice"): "a.slice",
    ("systemd", False, ".slice"): ".slice",
    ("systemd", False, "/x/a.slice"): "/x/a.slice",
    ("systemd", False, "slice"): REFUSED,
    ("systemd", False, "/mine"): REFUSED,
    ("systemd", True, "/mine"): REFUSED,
    ("systemd", False, "/a.slice/mine"): REFUSED,
    ("systemd", False, "../a.slice"): REFUSED,
    ("disabled", False, ""): "",
    ("disabled", True, "a.slice"): "",
    ("disabled", False, "/a/../b"): "",
    ("docker", False, ""): REFUSED,
    ("", True, "/mine"): REFUSED,
}


@pytest.mark.parametrize(("case", "expected"), TABLE.items(), ids=str)
@pytest.mark.parametrize("share_parent", [True, False])
def test_decide_follows_the_table(
    case: tuple[str, bool, str], expected: str, share_parent: bool
) -> None:
    manager, rootless, parent = case
    if expected == REFUSED:
        with pytest.raises(InvalidConfig):
            policy.decide(manager, parent, rootless=rootless, share_parent=share_parent)
        return
    decision = policy.decide(manager, parent, rootless=rootless, share_parent=share_parent)
    assert decision.parent == expected
    assert decision.pod_cgroup == (share_parent and expected != "")


def test_decide_with_limits_but_no_pod_cgroup_refuses() -> None:
    for manager, share_parent in itertools.product(policy.MANAGERS, (True, False)):
        has_cgroup = manager != "disabled" and share_parent
        if has_cgroup:
            assert policy.decide(manager, "", share_parent=True, has_limits=True).pod_cgroup
        else:
            with pytest.raises(InvalidConfig, match="limits of a pod"):
                policy.decide(manager, "", share_parent=share_parent, has_limits=True)


def test_check_member_parent_refuses_only_inside_a_pod_cgroup() -> None:
    inside = policy.Decision(parent="/p", pod_cgroup=True)
    outside = policy.Decision(parent="/p", pod_cgroup=False)
    policy.check_member_parent("", inside)
    policy.check_member_parent("/own", outside)
    with pytest.raises(InvalidConfig, match="--cgroup-parent"):
        policy.check_member_parent("/own", inside)


def test_decide_refuses_in_the_words_scripts_match() -> None:
    with pytest.raises(InvalidConfig, match="systemd slice received as cgroup parent"):
        policy.decide("cgroupfs", "a.slice")
    with pytest.raises(InvalidConfig, match="did not receive systemd slice as cgroup parent"):
        policy.decide("systemd", "/a")
