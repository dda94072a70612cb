"""Life cycles: a container's state from its facts, a pod's from its containers."""

from __future__ import annotations

import pytest

from podrt.model.states import (
    ALIVE,
    MOVES,
    ContainerState,
    Facts,
    Phase,
    PodState,
    container_state,
    pod_state,
)

C = ContainerState


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], PodState.CREATED),
        ([C.RUNNING, C.RUNNING], PodState.RUNNING),
        ([C.RUNNING, C.STOPPING], PodState.RUNNING),
        ([C.RUNNING, C.EXITED], PodState.DEGRADED),
        ([C.RUNNING, C.PAUSED], PodState.DEGRADED),
        ([C.PAUSED, C.PAUSED], PodState.PAUSED),
        ([C.EXITED, C.STOPPED], PodState.EXITED),
        ([C.EXITED, C.CONFIGURED], PodState.STOPPED),
        ([C.CONFIGURED, C.UNKNOWN], PodState.ERROR),
        ([C.CONFIGURED, C.REMOVING], PodState.ERROR),
        ([C.CONFIGURED, C.CREATED], PodState.CREATED),
        ([C.PAUSED, C.CONFIGURED], PodState.CREATED),
        ([C.RESTARTING], PodState.DEGRADED),
        ([C.RESTARTING, C.EXITED], PodState.DEGRADED),
        ([C.RESTARTING, C.RUNNING], PodState.DEGRADED),
    ],
)
def test_pod_state_is_the_first_rule_that_fits(
    states: list[ContainerState], expected: PodState
) -> None:
    assert pod_state(states) is expected


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase.NONE, C.CONFIGURED),
        (Phase.FAILED, C.CONFIGURED),
        (Phase.HELD, C.CREATED),
        (Phase.RUNNING, C.RUNNING),
        (Phase.PAUSED, C.PAUSED),
        (Phase.STOPPING, C.STOPPING),
        (Phase.EXITED, C.STOPPED),
        (Phase.BACK_OFF, C.RESTARTING),
    ],
)
def test_container_state_follows_from_its_phase(phase: Phase, expected: ContainerState) -> None:
    facts = Facts(run=2, phase=phase)
    assert container_state(facts, is_removing=False, cleaned_run=1) is expected
    assert container_state(facts, is_removing=True, cleaned_run=1) is C.REMOVING


def test_container_state_after_clean_up_is_exited() -> None:
    facts = Facts(run=2, phase=Phase.EXITED)
    assert container_state(facts, is_removing=False, cleaned_run=2) is C.EXITED


def test_moves_name_every_state_and_only_states_that_live_can_stop() -> None:
    assert set(MOVES) == set(ContainerState)
    assert {state for state, moves in MOVES.items() if C.STOPPED in moves} == ALIVE
