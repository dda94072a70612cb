"""A pod's configuration with its defaults filled in."""

from __future__ import annotations

import pytest

from podrt.cli.pod_flags import parse_share
from podrt.config import Settings
from podrt.errors import InvalidConfig, PodrtError
from podrt.model.pod import DEFAULT_SHARE, PodConfig
from podrt.model.resources import Resources
from podrt.runtime.namespaces import has_infra_program
from podrt.runtime.resolve import resolve_pod

SETTINGS = Settings()


def test_resolve_without_words_shares_the_default_and_has_an_infra() -> None:
    config = resolve_pod(PodConfig(), SETTINGS)
    assert config.share == DEFAULT_SHARE
    assert config.infra is True
    assert config.cgroup_parent == "/podrt_parent"
    assert config.use_pod_cgroup


NO_INFRA = "Pods must have an infra container to share namespaces"


@pytest.mark.parametrize(
    ("share", "infra", "result"),
    [
        # --share, --infra: what is shared and whether the infra has a process, or the error
        (None, None, ("ipc net uts", False)),
        (None, True, ("ipc net uts", False)),
        (None, False, ("", None)),
        ("none", None, ("", None)),
        ("none", True, ("", False)),
        ("none", False, ("", None)),
        ("", None, ("", None)),
        ("", True, ("", False)),
        ("", False, ("", None)),
        ("+pid", None, ("ipc net pid uts", True)),
        ("+pid", False, NO_INFRA),
        ("+pid,+cgroup", None, ("cgroup ipc net pid uts", True)),
        ("pid", True, ("pid", True)),
        ("cgroup", None, ("cgroup", True)),
        ("ipc,net", None, ("ipc net", False)),
        ("ipc,net", False, NO_INFRA),
        ("uts", None, ("uts", False)),
        ("uts", True, ("uts", False)),
        ("uts", False, NO_INFRA),
        ("net,time", None, "invalid kernel namespace to share: time"),
    ],
)
def test_resolve_of_share_and_infra(
    share: str | None, infra: bool | None, result: str | tuple[str, bool | None]
) -> None:
    asked = PodConfig(share=parse_share(share), infra=infra)
    if isinstance(result, str):
        with pytest.raises(InvalidConfig, match=result):
            resolve_pod(asked, SETTINGS)
        return
    config = resolve_pod(asked, SETTINGS)
    found = has_infra_program(config) if config.infra else None
    assert (" ".join(sorted(config.share or ())), found) == result


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        (PodConfig(name="-x"), InvalidConfig, "names must match"),
        (PodConfig(name="a" * 300), InvalidConfig, "at most 253"),
        (PodConfig(hostname="h" * 65), InvalidConfig, "--hostname"),
        (PodConfig(cgroup_parent="/a/b.slice"), InvalidConfig, "systemd slice received"),
        (PodConfig(infra_command=("/bin/sh",)), InvalidConfig, "only holds /pause"),
        (PodConfig(infra_command=("/pause",), infra=False), InvalidConfig, "no infra container"),
        (PodConfig(infra_image="base", share=frozenset()), InvalidConfig, "--infra-image"),
        (PodConfig(restart_policy="sometimes"), InvalidConfig, "--restart"),
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
