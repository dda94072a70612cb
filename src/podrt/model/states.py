"""The life cycles: what state a container is in, and a pod from its containers.

Source: semantics.md section 2. A container's state is never stored: it follows from wishes
(kept in the log) and facts (kept in the monitor's journal).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec


class ContainerState(enum.StrEnum):
    """A container's state; podman prints `configured` as created and `created` as initialized."""

    CONFIGURED = "configured"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    RESTARTING = "restarting"
    EXITED = "exited"
    REMOVING = "removing"
    UNKNOWN = "unknown"


class PodState(enum.StrEnum):
    """A pod's state as `podrt pod ps` prints it."""

    CREATED = "Created"
    RUNNING = "Running"
    DEGRADED = "Degraded"
    PAUSED = "Paused"
    EXITED = "Exited"
    STOPPED = "Stopped"
    ERROR = "Error"


PODMAN_WORDS = {
    ContainerState.CONFIGURED: "created",
    ContainerState.CREATED: "initialized",
}

MOVES: dict[ContainerState, frozenset[ContainerState]] = {
    ContainerState.CONFIGURED: frozenset({ContainerState.CREATED}),
    ContainerState.CREATED: frozenset({ContainerState.RUNNING, ContainerState.CONFIGURED}),
    ContainerState.RUNNING: frozenset(
        {ContainerState.PAUSED, ContainerState.STOPPING, ContainerState.STOPPED}
    ),
    ContainerState.PAUSED: frozenset({ContainerState.RUNNING, ContainerState.STOPPED}),
    ContainerState.STOPPING: frozenset({ContainerState.STOPPED}),
    ContainerState.STOPPED: frozenset({ContainerState.EXITED, ContainerState.RESTARTING}),
    ContainerState.RESTARTING: frozenset({ContainerState.RUNNING, ContainerState.EXITED}),
    ContainerState.EXITED: frozenset({ContainerState.CREATED}),
    ContainerState.REMOVING: frozenset(),
    ContainerState.UNKNOWN: frozenset(),
}
"""The moves between states; every state may also go to `removing`."""

ALIVE = frozenset({ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.STOPPING})
ENDED = frozenset({ContainerState.STOPPED, ContainerState.EXITED})

UNKNOWN_EXIT_CODE = 255
"""The code of a container whose real one nobody saw; the `code_unknown` fact says so."""


class Phase(enum.StrEnum):
    """How far a container's latest run has come, as its monitor journaled it."""

    NONE = "none"
    STARTING = "starting"
    HELD = "held"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    BACK_OFF = "back-off"
    EXITED = "exited"
    FAILED = "failed"


LIVE_PHASES = frozenset({Phase.STARTING, Phase.HELD, Phase.RUNNING, Phase.PAUSED, Phase.STOPPING})
"""The phases in which a container has a process."""


class Facts(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What is known of a container's latest run.

    `run` is the run number the facts belong to; `pid` and `start_ticks` name the process
    (clock ticks since boot, /proc/PID/stat field 22); `error` is the errno and `error_stage`
    the plan's op code of a start that failed; `boot_id` is the boot they were seen in; `epoch` is
    the number of the journal whose monitor started the process or took it over. `restarts` counts
    the runs since somebody started it by hand; in back-off the next one begins at `due_at_ns`.
    """

    run: int = 0
    phase: Phase = Phase.NONE
    pid: int = 0
    start_ticks: int = 0
    exit_code: int = 0
    started_at_ns: int = 0
    finished_at_ns: int = 0
    oom_killed: bool = False
    by_user: bool = False
    code_unknown: bool = False
    error: int = 0
    error_stage: int = 0
    boot_id: str = ""
    epoch: int = 0
    restarts: int = 0
    due_at_ns: int = 0


NO_FACTS = Facts()

_PHASE_STATES = {
    Phase.NONE: ContainerState.CONFIGURED,
    Phase.STARTING: ContainerState.CONFIGURED,
    Phase.FAILED: ContainerState.CONFIGURED,
    Phase.HELD: ContainerState.CREATED,
    Phase.RUNNING: ContainerState.RUNNING,
    Phase.PAUSED: ContainerState.PAUSED,
    Phase.STOPPING: ContainerState.STOPPING,
    Phase.BACK_OFF: ContainerState.RESTARTING,
    Phase.EXITED: ContainerState.STOPPED,
}


def container_state(facts: Facts, *, is_removing: bool, cleaned_run: int) -> ContainerState:
    """The state that follows from `facts`; a run that was cleaned up is `exited`."""
    if is_removing:
        return ContainerState.REMOVING
    state = _PHASE_STATES[facts.phase]
    if state is ContainerState.STOPPED and cleaned_run >= facts.run:
        return ContainerState.EXITED
    return state


def pod_state(states: Iterable[ContainerState]) -> PodState:
    """A pod's state from those of its counted containers: the first rule that fits.

    The caller leaves init containers out, and an infra without a process unless it is alone. One
    in back-off neither runs nor has ended.
    """
    counted = list(states)
    if not counted:
        return PodState.CREATED
    running = sum(state in (ContainerState.RUNNING, ContainerState.STOPPING) for state in counted)
    if running == len(counted):
        return PodState.RUNNING
    if running or ContainerState.RESTARTING in counted:
        return PodState.DEGRADED
    if all(state is ContainerState.PAUSED for state in counted):
        return PodState.PAUSED
    if all(state in ENDED for state in counted):
        return PodState.EXITED
    if any(state in ENDED for state in counted):
        return PodState.STOPPED
    if any(state in (ContainerState.UNKNOWN, ContainerState.REMOVING) for state in counted):
        return PodState.ERROR
    return PodState.CREATED
