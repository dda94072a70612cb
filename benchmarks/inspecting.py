"""P14: inspecting one pod, with 5,000 containers in the state and with 20."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from podrt.cli.shapes import pod_document
from podrt.config import Settings
from podrt.model.ids import new_id
from podrt.model.pod import PodConfig
from podrt.model.states import NO_FACTS
from podrt.runtime.view import open_view
from podrt.store.records import ContainerRecord, PodRecord, put
from podrt.store.wal import Store

from .harness import Contender, Row, Target
from .peers import timed_ms
from .stage import Stage
from .store import container
from .subject import command

FEW, MANY, QUICK_MANY = 20, 5_000, 500
PER_POD = 10
POD = "pod0"
REPEATS = 5


class State:
    """A state written as creates would have written it; nothing of it runs."""

    def __init__(self, folder: Path, containers: int) -> None:
        self.root, self.runroot = str(folder / "root"), str(folder / "runroot")
        folder.mkdir()
        self.settings = Settings(root=self.root, runroot=self.runroot)
        with Store.open(self.settings.layout.state_dir) as store:
            for first in range(0, containers, PER_POD):
                pod = PodRecord(id=new_id(), config=PodConfig(name=f"pod{first}"))
                members = [idle(first + number, pod.id) for number in range(PER_POD)]
                store.transact(lambda _, pod=pod, members=members: map(put, (pod, *members)))

    def command_ms(self) -> float:
        words = [*command(), "--root", self.root, "--runroot", self.runroot, "pod", "inspect", POD]
        return sum(timed_ms(words) for _ in range(REPEATS)) / REPEATS

    def call_ms(self) -> float:
        """The same within a process: the state is opened, and one pod's document is made."""
        start = time.perf_counter()
        for _ in range(REPEATS):
            with open_view(self.settings) as view:
                pod_document(view, view.pod(POD))
        return (time.perf_counter() - start) * 1e3 / REPEATS


def idle(number: int, pod_id: str) -> ContainerRecord:
    return msgspec.structs.replace(container(number, pod_id), facts=NO_FACTS, run=0, wanted="")


def rows(stage: Stage, wanted: set[str]) -> list[Row]:
    """The wanted rows of this file, with their contenders prepared."""
    if "P14" not in wanted:
        return []
    many = QUICK_MANY if stage.is_quick else MANY
    small, large = State(stage.folder / "few", FEW), State(stage.folder / "many", many)
    few_words, many_words = f"podrt, {FEW} containers", f"podrt, {many} containers"
    return [
        Row(
            key=key,
            work=work,
            isolation="none: nothing is started",
            contenders=[Contender(few_words, few_ms), Contender(many_words, many_ms)],
            targets=[
                Target(many_words, few_words, 1.2, f"at most 1.2 x that of {FEW}"),
                Target(many_words, few_words, 1.05, f"aim: at most 1.05 x that of {FEW}"),
            ]
            if key == "P14"
            else [],
        )
        for key, work, few_ms, many_ms in (
            ("P14", "pod inspect, the whole command", small.command_ms, large.command_ms),
            ("P14 call", "the same in one process, opening included", small.call_ms, large.call_ms),
        )
    ]
