"""Restart policies as people write them, and whose counts."""

from __future__ import annotations

import pytest

from podrt.errors import InvalidConfig
from podrt.model.container import ContainerConfig, InitKind
from podrt.model.pod import PodConfig
from podrt.model.restarts import NO_RESTARTS, RestartKind, RestartPolicy, parse_restart, policy_of

K = RestartKind


@pytest.mark.parametrize(
    ("text", "policy", "name"),
    [
        ("", NO_RESTARTS, "no"),
        ("no", NO_RESTARTS, "no"),
        ("never", NO_RESTARTS, "no"),
        ("always", RestartPolicy(K.ALWAYS), "always"),
        ("unless-stopped", RestartPolicy(K.UNLESS_STOPPED), "unless-stopped"),
        ("on-failure", RestartPolicy(K.ON_FAILURE), "on-failure"),
        ("on-failure:0", RestartPolicy(K.ON_FAILURE), "on-failure"),
        ("on-failure:3", RestartPolicy(K.ON_FAILURE, 3), "on-failure"),
    ],
)
def test_parse_a_policy_gives_its_kind_and_bound(
    text: str, policy: RestartPolicy, name: str
) -> None:
    assert parse_restart(text) == policy
    assert policy.name == name


@pytest.mark.parametrize(
    "text",
    [
        "Always",
        "on-failure:",
        "on-failure:-1",
        "on-failure:x",
        "on-failure:²",
        "on-failure:9999999999",
        "always:3",
        "3",
    ],
)
def test_parse_no_policy_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidConfig, match="--restart"):
        parse_restart(text)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (ContainerConfig(), K.ALWAYS),
        (ContainerConfig(restart_policy="no"), K.NO),
        (ContainerConfig(restart_policy="on-failure"), K.ON_FAILURE),
        (ContainerConfig(is_infra=True), K.NO),
        (ContainerConfig(init=InitKind.ALWAYS), K.NO),
    ],
)
def test_policy_of_a_member_is_its_own_or_its_pods(
    config: ContainerConfig, kind: RestartKind
) -> None:
    assert policy_of(config, PodConfig(restart_policy="always")).kind is kind
    assert policy_of(ContainerConfig(), None).kind is K.NO
