"""Random operations in several processes at once, against a plain dictionary."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import podrt
from doubles.states import Model, apply, container, content, pod
from doubles.store_peer import Peer, server
from podrt.errors import AlreadyExists
from podrt.store.records import ContainerRecord, GroupRecord, Op, PodRecord, delete, put
from podrt.store.wal import Store

TESTS = Path(__file__).parents[2]
SOURCES = Path(podrt.__file__).parents[1]
READER = 2

numbers = st.integers(1, 6)
names = st.sampled_from(["a", "b", "c", ""])
one_op = st.one_of(
    st.builds(lambda n, name: put(pod(n, name)), numbers, names),
    st.builds(lambda n, p, name: put(container(n, p, name)), numbers, numbers, names),
    st.builds(lambda n, e: put(GroupRecord(id=f"{n:064x}", epoch=e)), numbers, numbers),
    st.builds(lambda n: delete(PodRecord, pod(n).id), numbers),
    st.builds(lambda n: delete(ContainerRecord, container(n, 0).id), numbers),
)
some_ops = st.lists(one_op, min_size=1, max_size=4)
writers = st.integers(0, READER - 1)
anybody = st.integers(0, READER)


def is_valid(model: Model) -> bool:
    """Whether no name is used twice."""
    used = [
        record.config.name
        for record in model.values()
        if isinstance(record, PodRecord | ContainerRecord)
    ]
    return len(used) == len(set(used))


def steps_are_valid(model: Model, ops: list[Op]) -> bool:
    return all(is_valid(apply(model, ops[: n + 1])) for n in range(len(ops)))


@pytest.fixture(scope="module", autouse=True)
def peers() -> Iterator[None]:
    with server({**os.environ, "PYTHONPATH": f"{SOURCES}:{TESTS}"}) as path:
        StoreMachine.server = path
        yield


class StoreMachine(RuleBasedStateMachine):
    """Three processes have one store open, the last of them only looks.

    Nobody catches up but when told to, so each knows another part of the past.
    """

    server = ""

    @initialize(bound=st.sampled_from([300, 2000, 1 << 20]))
    def begin(self, bound: int) -> None:
        self.folder = tempfile.mkdtemp(prefix="podrt-test-")
        self.bound = bound
        self.model: Model = {}
        self.seq = 0
        self.flushed = 0
        self.peers = [self.start(number) for number in range(3)]

    def start(self, which: int) -> Peer:
        peer = Peer(self.server)
        assert peer("open", f"{self.folder}/state", self.bound, which == READER) >= 0
        return peer

    def wrote(self, ops: list[Op], seq: int) -> None:
        # A sealed segment takes a sequence of its own.
        assert self.seq < seq <= self.seq + 2
        self.seq = seq
        self.model = apply(self.model, ops)
        assert is_valid(self.model)

    @rule(which=writers, ops=some_ops, rotate=st.sampled_from([False, False, False, True]))
    def transact(self, which: int, ops: list[Op], rotate: bool) -> None:
        answer = self.peers[which]("transact", ops, rotate)
        if answer is AlreadyExists:
            assert not steps_are_valid(self.model, ops)
        else:
            self.wrote(ops, answer)

    @rule(both=st.tuples(some_ops, some_ops))
    def transact_at_once(self, both: tuple[list[Op], list[Op]]) -> None:
        for peer, ops in zip(self.peers, both, strict=False):
            peer.order("transact", ops, False)
        answers = [self.peers[which].answer() for which in (0, 1)]
        before = self.model
        done = [which for which in (0, 1) if answers[which] is not AlreadyExists]
        for which in sorted(done, key=answers.__getitem__):
            self.wrote(both[which], answers[which])
        for which in {0, 1} - set(done):
            # It was refused for what was there, or for what the other one did just before.
            assert not (
                steps_are_valid(before, both[which]) and steps_are_valid(self.model, both[which])
            )

    @rule(which=writers)
    def transact_that_fails(self, which: int) -> None:
        assert self.seq <= self.peers[which]("refuse") <= self.seq + 1

    @rule(which=writers)
    def flush(self, which: int) -> None:
        seq, durable = self.peers[which]("flush")
        assert self.flushed <= seq <= durable or seq <= self.flushed <= durable
        self.flushed = max(self.flushed, seq)

    @rule(which=writers)
    def snapshot(self, which: int) -> None:
        assert 0 <= self.peers[which]("snapshot") <= self.seq + 1

    @rule(which=anybody)
    def look(self, which: int) -> None:
        seq, found = self.peers[which]("look")
        assert self.seq <= seq <= self.seq + 1
        assert found == self.model

    @rule(which=anybody)
    def reopen(self, which: int) -> None:
        seq = self.peers[which]("open", f"{self.folder}/state", self.bound, which == READER)
        assert self.seq <= seq <= self.seq + 1

    @rule(which=anybody)
    def kill(self, which: int) -> None:
        self.peers[which].kill()
        self.peers[which] = self.start(which)

    @rule(which=writers, ops=some_ops)
    def kill_amid_a_transaction(self, which: int, ops: list[Op]) -> None:
        self.peers[which].order("transact", ops, False)
        self.peers[which].kill()
        self.peers[which] = self.start(which)
        seq, found = self.peers[which]("look")
        if found != self.model or seq > self.seq + 1:
            self.wrote(ops, seq)
        assert found == self.model
        self.seq = seq

    def teardown(self) -> None:
        if not hasattr(self, "peers"):
            return
        try:
            for which in range(3):
                self.look(which)
            with Store.open(f"{self.folder}/state", readonly=True) as store:
                assert content(store.tables) == self.model
        finally:
            for peer in self.peers:
                peer.kill()
            shutil.rmtree(self.folder)


TestStoreOfSeveralProcessesAgainstADictionary = StoreMachine.TestCase
