"""A pod's configuration with its defaults filled in."""

from __future__ import annotations

import pytest

from podrt.config import Settings
from podrt.errors import InvalidConfig, PodrtError, Unsupported
from podrt.model.pod import DEFAULT_SHARE, ExitPolicy, PodConfig
from podrt.model.resources import Resources
from podrt.runtime.resolve import resolve_pod

SETTINGS = Settings()


def test_resolve_without_words_shares_the_default_and_has_an_infra() -> None:
    config = resolve_pod(PodConfig(), SETTINGS)
    assert config.share == DEFAULT_SHARE
    assert config.infra is True
    assert config.cgroup_parent == "/podrt_parent"
    assert config.use_pod_cgroup


def test_resolve_without_infra_shares_nothing() -> None:
    config = resolve_pod(PodConfig(infra=False), SETTINGS)
    assert (config.share, config.infra) == (frozenset(), False)


def test_resolve_sharing_nothing_makes_no_infra() -> None:
    assert resolve_pod(PodConfig(share=frozenset()), SETTINGS).infra is False


def test_resolve_infra_that_shares_nothing_is_allowed() -> None:
    assert resolve_pod(PodConfig(share=frozenset(), infra=True), SETTINGS).infra is True


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        (
            PodConfig(share=frozenset({"net"}), infra=False),
            InvalidConfig,
            "Pods must have an infra container to share namespaces",
        ),
        (PodConfig(share=frozenset({"time"})), InvalidConfig, "invalid kernel namespace"),
        (PodConfig(share=frozenset({"pid"})), Unsupported, "--share pid"),
        (PodConfig(name="-x"), InvalidConfig, "names must match"),
        (PodConfig(name="a" * 300), InvalidConfig, "at most 253"),
        (PodConfig(hostname="h" * 65), InvalidConfig, "--hostname"),
        (PodConfig(cgroup_parent="/a/b.slice"), InvalidConfig, "systemd slice received"),
        (PodConfig(exit_policy=ExitPolicy.STOP), Unsupported, "--exit-policy stop"),
        (PodConfig(infra_command=("/pause",)), Unsupported, "--infra-command"),
        (
            PodConfig(use_pod_cgroup=False, resources=Resources(memory_bytes=1)),
            InvalidConfig,
            "--share-parent",
        ),
    ],
)
def test_resolve_of_a_bad_pod_says_what_is_wrong(
    config: PodConfig, error: type[PodrtError], text: str
) -> None:
    with pytest.raises(error, match=text):
        resolve_pod(config, SETTINGS)
