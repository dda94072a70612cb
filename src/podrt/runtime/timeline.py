"""When each container of a start waited, was made, ran its stages and became running."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import msgspec

from podrt.engines.stages import Stage
from podrt.errors import PodrtError

from .graph import Graph


class Track(msgspec.Struct, kw_only=True):
    """One container. `needs` are IDs; times are ns since 1970, 0: that did not come to pass.

    From `expected_ns` to `begun_ns` it waited for what it needs and for its turn; then its lock
    was taken and its cgroup made; at `sent_ns` its monitor was asked; `stages` are the child's; at
    `ended_ns` it ran, or `error` was known.
    """

    id: str
    name: str
    pod: str
    needs: tuple[str, ...]
    expected_ns: int
    begun_ns: int = 0
    sent_ns: int = 0
    stages: tuple[Stage, ...] = ()
    ended_ns: int = 0
    error: str = ""


class Timeline:
    """What a start fills in, container by container, in the order in which they were created."""

    def __init__(self) -> None:
        self.begun_ns = time.time_ns()
        self.tracks: dict[str, Track] = {}

    def expect(self, pod: str, names: Mapping[str, str], graph: Graph) -> None:
        """The containers of a pod will start."""
        now = time.time_ns()
        for node, needs in graph.needs.items():
            name = names.get(node, node[:12])
            self.tracks[node] = Track(id=node, name=name, pod=pod, needs=needs, expected_ns=now)

    @contextlib.contextmanager
    def acting(self, node: str) -> Iterator[None]:
        """Inside, one container is started; who was started before is not started again."""
        track = self.tracks.get(node)
        if track is None or track.ended_ns:
            yield
            return
        track.begun_ns = time.time_ns()
        try:
            yield
        except PodrtError as exc:
            track.error = str(exc)
            raise
        finally:
            track.ended_ns = time.time_ns()

    def not_tried(self, node: str, error: PodrtError) -> None:
        """What a container needs failed."""
        if node in self.tracks:
            self.tracks[node].error = str(error)
            self.tracks[node].ended_ns = time.time_ns()

    def sent(self, node: str) -> None:
        """The monitor is asked."""
        if node in self.tracks:
            self.tracks[node].sent_ns = time.time_ns()

    def ran(self, node: str, stages: tuple[Stage, ...]) -> None:
        """The child told when it did what."""
        if node in self.tracks:
            self.tracks[node].stages = stages

    def awaited(self, track: Track) -> str:
        """The name of what a container waited for longest, "" if for nothing."""
        needs = [self.tracks[need] for need in track.needs if need in self.tracks]
        return max(needs, key=lambda need: need.ended_ns).name if needs else ""
