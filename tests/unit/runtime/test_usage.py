from __future__ import annotations

import msgspec

from podrt.cgroups.base import Stats
from podrt.runtime.stats import Usage, _sum


def usage(cpu_ns: int | None, at_ns: int, started_at_ns: int = 0) -> Usage:
    return Usage(
        pod_id="p",
        container_id="c",
        name="c",
        figures=None if cpu_ns is None else Stats(cpu_ns=cpu_ns),
        network=None,
        started_at_ns=started_at_ns,
        at_ns=at_ns,
    )


def test_share_of_the_cpu_is_since_the_former_look() -> None:
    assert usage(1_500, 2_000).cpu_percent_since(usage(1_000, 1_000)) == 50
    assert usage(3_000, 2_000).cpu_percent_since(usage(1_000, 1_000)) == 200


def test_share_of_the_cpu_without_a_former_look_is_that_of_its_life() -> None:
    now = usage(500, 3_000, started_at_ns=1_000)
    assert now.cpu_percent_of_life == 25
    assert now.cpu_percent_since(None) == now.cpu_percent_since(usage(None, 2_000)) == 25
    # A new process has begun to count at nothing.
    assert now.cpu_percent_since(usage(900, 2_000)) == 25
    assert usage(None, 3_000).cpu_percent_of_life == 0
    assert usage(5, 3_000, started_at_ns=3_000).cpu_percent_of_life == 0


def test_sum_has_a_limit_only_if_all_have_one() -> None:
    first = Stats(cpu_ns=1, memory_bytes=10, memory_limit_bytes=100, pids=2, read_bytes=7)
    second = msgspec.structs.replace(first, memory_limit_bytes=None, read_bytes=None)
    assert _sum([first, first]).memory_limit_bytes == 200
    found = _sum([first, second])
    assert (found.cpu_ns, found.memory_bytes, found.pids, found.read_bytes) == (2, 20, 4, 7)
    assert found.memory_limit_bytes is None and found.written_bytes is None
