from __future__ import annotations

import subprocess
import sys

import pytest

from podrt.cli.filters import Filters, check_container_filters, check_pod_filters
from podrt.errors import InvalidConfig, Unsupported


@pytest.mark.parametrize("key", ["health", "network"])
def test_filter_of_a_missing_feature_is_named(key: str) -> None:
    with pytest.raises(Unsupported, match=f"--filter {key}"):
        check_container_filters(Filters([f"{key}=x"]))


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("name", "not KEY=VALUE"),
        ("color=red", "color is an invalid filter"),
        ("status=bogus", "bogus"),
        ("until=soon", "--filter until: .soon. is no time"),
        ("name=[", "unterminated"),
    ],
)
def test_filter_that_is_wrong_is_refused_before_anything_is_read(word: str, reason: str) -> None:
    for check in (check_container_filters, check_pod_filters):
        with pytest.raises(InvalidConfig, match=reason):
            check(Filters([word]))


@pytest.mark.parametrize("word", ["ctr-number=x", "ctr-status=x"])
def test_pod_filter_with_a_wrong_value_is_refused(word: str) -> None:
    with pytest.raises(InvalidConfig, match="x"):
        check_pod_filters(Filters([word]))


@pytest.mark.parametrize(
    "module",
    [
        "pod_read",
        "container_read",
        "image_read",
        "stats",
        "system",
        "top",
        "graph",
        "container_logs",
    ],
)
def test_reading_verbs_load_neither_trio_nor_templates(module: str) -> None:
    code = f"import sys, podrt.cli.{module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    unwanted = {"trio", "podrt.cli.templates", "podrt.cli.template_run", "podrt.cli.options"}
    assert not unwanted & set(loaded)
