"""User namespaces of pods and containers: what is decided without a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podrt.errors import LimitReached, Unsupported
from podrt.model.container import ContainerConfig
from podrt.model.runtimespec import IdMapping
from podrt.model.userns import GivenIds, IdRange
from podrt.runtime.userns import Request, check_kernel, give, give_back, least_size
from podrt.spec.accounts import parse_accounts
from podrt.spec.userns import Caller, Maps, Range, Wanted, to_ids, to_maps
from podrt.store.records import ContainerRecord, IntentRecord, MetaRecord, Op, delete, put
from podrt.store.tables import Tables
from podrt.store.wal import Store

A, B, C = (character * 64 for character in "abc")
CALLER = Caller(subuids=(Range(1000, 5000),), subgids=(Range(1000, 5000),))
AUTO = Request(wanted=Wanted(mode="auto", size=2000), caller=CALLER)
NUMBERS = st.integers(0, 2**32 - 1)
RANGES = st.lists(st.builds(IdRange, NUMBERS, NUMBERS, NUMBERS)).map(tuple)


@given(
    st.builds(
        GivenIds,
        path=st.sampled_from(["", "/proc/7/ns/user"]),
        uid_map=RANGES,
        gid_map=RANGES,
        user=st.none() | st.tuples(NUMBERS, NUMBERS),
    )
)
def test_ids_of_a_record_become_maps_and_ids_again(ids: GivenIds) -> None:
    assert to_ids(to_maps(ids)) == ids


def test_maps_of_a_pod_are_joined_where_its_monitor_holds_them() -> None:
    ids = GivenIds(uid_map=(IdRange(0, 7, 9),), gid_map=(IdRange(0, 8, 9),))
    assert ids.root() == (7, 8)
    assert to_maps(ids, "/ns/user") == Maps(
        path="/ns/user",
        uid_map=(IdMapping(container_id=0, host_id=7, size=9),),
        gid_map=(IdMapping(container_id=0, host_id=8, size=9),),
    )


@pytest.mark.parametrize(
    ("user", "groups", "image_user", "expected"),
    [
        ("", (), "", 1801),
        ("", (), "4000", 4001),
        ("5:6000", (), "4000", 6001),
        ("big", ("7000",), "", 7001),
    ],
)
def test_least_size_is_one_more_than_the_highest_id(
    user: str, groups: tuple[str, ...], image_user: str, expected: int
) -> None:
    passwd = "big:x:1800:5::/:\nnobody:x:65534:65534::/:\n"
    known = parse_accounts(passwd, "nogroup:x:65534:\nusers:x:100:\n")
    config = ContainerConfig(user=user, groups=groups)
    assert least_size(config, known, image_user) == expected


def test_kernel_without_idmapped_layers_is_unsupported_by_name() -> None:
    check_kernel((6, 13))
    with pytest.raises(Unsupported, match=r"--userns is not supported: .* need Linux 6\.13"):
        check_kernel((6, 12))


def first_of(ids: GivenIds) -> int:
    return ids.uid_map[0].outside


def test_give_auto_passes_over_what_living_owners_have(tmp_path: Path) -> None:
    with Store.open(str(tmp_path)) as store:

        def make(owner: str) -> int:
            found: list[int] = []

            def build(tables: Tables) -> list[Op]:
                ids, ops = give(tables, owner, AUTO, 1)
                found.append(first_of(ids))
                return [*ops, put(IntentRecord(id=owner, kind="container"))]

            store.transact(build)
            return found[0]

        assert (make(A), make(B)) == (1000, 3000)
        with pytest.raises(LimitReached, match="--userns auto"):
            make(C)
        record = put(ContainerRecord(id=A, config=ContainerConfig(name="a")))
        store.transact(lambda _: [delete(IntentRecord, A), record])
        with pytest.raises(LimitReached):
            make(C)
        # An owner that is gone without a word leaves nothing either.
        store.transact(lambda _: [delete(ContainerRecord, A)])
        assert make(C) == 1000
        assert store.tables.get(MetaRecord, f"ids:{A}") is None
        store.transact(lambda tables: give_back(tables, [B, "d" * 64]))
        assert make("e" * 64) == 3000
