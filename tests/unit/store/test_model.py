"""Random operations in two stores at once, against a plain dictionary."""

from __future__ import annotations

import contextlib
import shutil
import tempfile

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from doubles.states import Model, apply, check_indexes, container, content, pod
from podrt.errors import AlreadyExists, NotFound
from podrt.store.records import ContainerRecord, GroupRecord, Op, PodRecord, delete, put
from podrt.store.tables import Tables
from podrt.store.wal import Store

numbers = st.integers(1, 6)
names = st.sampled_from(["a", "b", "c", ""])
one_op = st.one_of(
    st.builds(lambda n, name: put(pod(n, name)), numbers, names),
    st.builds(lambda n, p, name: put(container(n, p, name)), numbers, numbers, names),
    st.builds(lambda n, e: put(GroupRecord(id=f"{n:064x}", epoch=e)), numbers, numbers),
    st.builds(lambda n: delete(PodRecord, pod(n).id), numbers),
    st.builds(lambda n: delete(ContainerRecord, container(n, 0).id), numbers),
)


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


class StoreMachine(RuleBasedStateMachine):
    @initialize(bound=st.sampled_from([300, 2000, 1 << 20]))
    def begin(self, bound: int) -> None:
        self.folder = tempfile.mkdtemp(prefix="podrt-test-")
        self.bound = bound
        self.model: Model = {}
        self.stores = [self.open(), self.open()]
        self.reader = Store.open(f"{self.folder}/state", readonly=True)

    def open(self) -> Store:
        return Store.open(
            f"{self.folder}/state", segment_bytes=self.bound, compact_in_background=False
        )

    @rule(which=st.integers(0, 1), ops=st.lists(one_op, min_size=1, max_size=4))
    def transact(self, which: int, ops: list[Op]) -> None:
        try:
            self.stores[which].transact(lambda _: ops)
        except AlreadyExists:
            assert not steps_are_valid(self.model, ops)
        else:
            self.model = apply(self.model, ops)
            assert is_valid(self.model)

    @rule(which=st.integers(0, 1))
    def transact_that_fails(self, which: int) -> None:
        def fail(_: Tables) -> list[Op]:
            raise NotFound("pod", "x")

        with contextlib.suppress(NotFound):
            self.stores[which].transact(fail)

    @rule(which=st.integers(0, 1))
    def flush(self, which: int) -> None:
        store = self.stores[which]
        store.flush_blocking(store.seq)
        assert store.durable >= store.seq

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = self.open()

    @rule()
    def reopen_reader(self) -> None:
        self.reader.close()
        self.reader = Store.open(f"{self.folder}/state", readonly=True)

    @invariant()
    def every_store_equals_the_dictionary(self) -> None:
        if not hasattr(self, "stores"):
            return
        for store in (*self.stores, self.reader):
            store.catch_up()
            assert content(store.tables) == self.model
            check_indexes(store.tables)

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            for store in (*self.stores, self.reader):
                store.close()
            shutil.rmtree(self.folder)


TestStoreAgainstADictionary = StoreMachine.TestCase
