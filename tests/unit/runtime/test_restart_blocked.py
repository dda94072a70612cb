from __future__ import annotations

from podrt.errors import DependencyFailed, InvalidState
from podrt.runtime.graph import build_graph
from podrt.runtime.restart import blocked

NAMES = {name: name for name in ("infra", "db", "cache", "web", "till", "other")}
GRAPH = build_graph(
    {
        "infra": [],
        "db": ["infra"],
        "cache": ["infra"],
        "web": ["infra", "db", "cache"],
        "till": ["infra", "web"],
        "other": ["infra"],
    }
)


def test_nobody_is_blocked_when_nobody_is_skipped() -> None:
    assert blocked(GRAPH, NAMES, frozenset()) == {}


def test_direct_dependents_name_what_does_not_run_and_further_ones_what_failed() -> None:
    found = blocked(GRAPH, NAMES, {"db", "cache"})
    assert found.keys() == {"web", "till"}
    assert "the following dependencies are not running: db, cache" in str(found["web"])
    assert isinstance(found["till"], DependencyFailed) and found["till"].failed == ("web",)


def test_skipped_ones_get_no_error_of_their_own() -> None:
    found = blocked(GRAPH, NAMES, {"db", "web"})
    assert found.keys() == {"till"}
    assert type(found["till"]) is InvalidState
