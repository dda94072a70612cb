"""--userns, --uidmap and --gidmap: read, and made into maps for somebody on a host."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podrt.errors import InvalidConfig, LimitReached, Unsupported
from podrt.model.runtimespec import IdMapping
from podrt.spec.userns import (
    IDS_END,
    Caller,
    Maps,
    Range,
    Wanted,
    parse_id_map,
    parse_subids,
    parse_userns,
    resolve,
)


def ids(*ranges: tuple[int, int, int]) -> tuple[IdMapping, ...]:
    return tuple(IdMapping(container_id=a, host_id=b, size=c) for a, b, c in ranges)


ROOT = Caller(
    subuids=(Range(100_000, 5000), Range(200_000, 100_000)), subgids=(Range(300_000, 100_000),)
)
USER = Caller(uid=1000, gid=100, subuids=(Range(100_000, 65536),), subgids=(Range(200_000, 65536),))


@pytest.mark.parametrize(
    ("userns", "uidmaps", "gidmaps", "expected"),
    [
        ("", (), (), Wanted()),
        ("host", (), (), Wanted()),
        ("auto", (), (), Wanted(mode="auto")),
        ("auto:size=5000", (), (), Wanted(mode="auto", size=5000)),
        (
            "auto:uidmapping=0:7:2,gidmapping=5:6,uidmapping=9:9,size=10",
            (),
            (),
            Wanted(mode="auto", size=10, uid_map=ids((0, 7, 2), (9, 9, 1)), gid_map=ids((5, 6, 1))),
        ),
        ("keep-id", (), (), Wanted(mode="keep-id")),
        ("keep-id:uid=5,gid=6", (), (), Wanted(mode="keep-id", uid=5, gid=6)),
        ("keep-id:uid=0", (), (), Wanted(mode="keep-id", uid=0)),
        ("nomap", (), (), Wanted(mode="nomap")),
        ("ns:/proc/7/ns/user", (), (), Wanted(mode="ns", path="/proc/7/ns/user")),
        (
            "",
            ("0:1000:10",),
            (),
            Wanted(mode="map", uid_map=ids((0, 1000, 10)), gid_map=ids((0, 1000, 10))),
        ),
        (
            "private",
            (),
            ("0:5",),
            Wanted(mode="map", uid_map=ids((0, 5, 1)), gid_map=ids((0, 5, 1))),
        ),
        (
            "",
            ("0:@7:2", "5:1"),
            ("1:2:3",),
            Wanted(mode="map", uid_map=ids((0, 7, 2), (5, 1, 1)), gid_map=ids((1, 2, 3))),
        ),
        (
            "",
            ("u0:7:2", "g0:8:2", "ug5:5"),
            (),
            Wanted(
                mode="map", uid_map=ids((0, 7, 2), (5, 5, 1)), gid_map=ids((0, 8, 2), (5, 5, 1))
            ),
        ),
    ],
)
def test_parse_userns_reads_what_podman_reads(
    userns: str, uidmaps: tuple[str, ...], gidmaps: tuple[str, ...], expected: Wanted
) -> None:
    assert parse_userns(userns, uidmaps, gidmaps) == expected


@pytest.mark.parametrize(
    ("userns", "maps", "field", "says"),
    [
        ("pod", (), "--userns", "'pod' is not auto, host, keep-id, nomap or ns:PATH"),
        ("host:x", (), "--userns", "is not"),
        ("nomap:size=3", (), "--userns", "is not"),
        ("ns:", (), "--userns", "absolute"),
        ("ns:rel", (), "--userns", "absolute"),
        ("auto:size=0", (), "--userns auto:size", "0 is not 1 to"),
        ("auto:size=x", (), "--userns auto:size", "'x' is not a number"),
        ("auto:size=4294967296", (), "--userns auto:size", "is not 1 to"),
        ("auto:uid=5", (), "--userns auto", "unknown option 'uid=5'"),
        ("auto:uidmapping=0:1:2,uidmapping=1:9", (), "--userns auto:uidmapping", "twice"),
        ("keep-id:uid=-1", (), "--userns keep-id:uid", "not a number"),
        ("keep-id:what", (), "--userns keep-id", "unknown option 'what'"),
        ("auto", ("0:0:1",), "--userns", "together"),
        ("", ("0",), "--uidmap", "'0' is not CONTAINER_ID:HOST_ID[:COUNT]"),
        ("", ("0:1:2:3",), "--uidmap", "is not CONTAINER_ID"),
        ("", ("0:1:0",), "--uidmap", "0 is not 1 to"),
        ("", ("a:1:2",), "--uidmap", "'a' is not a number"),
        ("", ("0:٣",), "--uidmap", "is not a number"),
        ("", ("0:1:99999999999",), "--uidmap", "is not a number"),
        ("", ("0:1:10", "5:100"), "--uidmap", "ID 5 in the container is mapped twice"),
        ("", ("0:1:10", "50:5"), "--uidmap", "ID 5 on the host is mapped twice"),
        ("", ("0:4294967295:2",), "--uidmap", "on the host end before 4294967296"),
    ],
)
def test_parse_userns_that_makes_no_sense_is_refused(
    userns: str, maps: tuple[str, ...], field: str, says: str
) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_userns(userns, maps)
    assert caught.value.field == field
    assert says in caught.value.reason


@pytest.mark.parametrize(
    ("userns", "maps"), [("container:abc", ()), ("", ("+0:1:2",)), ("", ("u+0:1",))]
)
def test_parse_userns_what_is_not_there_is_unsupported(userns: str, maps: tuple[str, ...]) -> None:
    with pytest.raises(Unsupported):
        parse_userns(userns, maps)


@pytest.mark.parametrize(
    ("wanted", "caller", "more", "expected"),
    [
        (Wanted(), ROOT, {}, Maps()),
        (Wanted(mode="ns", path="/n"), ROOT, {}, Maps(path="/n")),
        (
            Wanted(mode="map", uid_map=ids((0, 1, 2)), gid_map=ids((0, 3, 2))),
            ROOT,
            {},
            Maps(uid_map=ids((0, 1, 2)), gid_map=ids((0, 3, 2))),
        ),
        (
            Wanted(mode="auto"),
            ROOT,
            {},
            Maps(uid_map=ids((0, 100_000, 1024)), gid_map=ids((0, 300_000, 1024))),
        ),
        (
            Wanted(mode="auto"),
            ROOT,
            {"image_size": 3000},
            Maps(uid_map=ids((0, 100_000, 3000)), gid_map=ids((0, 300_000, 3000))),
        ),
        (
            Wanted(mode="auto"),
            ROOT,
            {"image_size": IDS_END},
            Maps(uid_map=ids((0, 200_000, 65536)), gid_map=ids((0, 300_000, 65536))),
        ),
        (
            Wanted(mode="auto", size=2000),
            ROOT,
            {"taken": [Range(102_000, 10), Range(100_000, 100), Range(300_000, 1)]},
            Maps(uid_map=ids((0, 102_010, 2000)), gid_map=ids((0, 300_001, 2000))),
        ),
        (
            Wanted(mode="auto", size=10, uid_map=ids((0, 7, 1), (5, 50, 2), (20, 60, 1))),
            ROOT,
            {},
            Maps(
                uid_map=ids((0, 7, 1), (5, 50, 2), (20, 60, 1), (1, 100_001, 4), (7, 100_007, 3)),
                gid_map=ids((0, 300_000, 10)),
            ),
        ),
        (
            Wanted(mode="keep-id"),
            ROOT,
            {},
            Maps(uid_map=ids((0, 0, IDS_END - 1)), gid_map=ids((0, 0, IDS_END - 1)), user=(0, 0)),
        ),
        (
            Wanted(mode="keep-id", uid=5, size=100),
            Caller(uid_map=ids((0, 1000, 50), (50, 9, 100)), gid_map=ids((0, 7, 10))),
            {},
            Maps(uid_map=ids((0, 0, 50), (50, 50, 50)), gid_map=ids((0, 0, 10)), user=(5, 0)),
        ),
        (
            Wanted(mode="keep-id"),
            USER,
            {},
            Maps(
                uid_map=ids((0, 100_000, 1000), (1000, 1000, 1), (1001, 101_000, 64536)),
                gid_map=ids((0, 200_000, 100), (100, 100, 1), (101, 200_100, 65436)),
                user=(1000, 100),
            ),
        ),
        (
            Wanted(mode="keep-id", uid=0, gid=2, size=4),
            USER,
            {},
            Maps(
                uid_map=ids((0, 1000, 1), (1, 100_000, 3)),
                gid_map=ids((0, 200_000, 2), (2, 100, 1), (3, 200_002, 1)),
                user=(0, 2),
            ),
        ),
        (
            Wanted(mode="nomap"),
            USER,
            {},
            Maps(uid_map=ids((0, 100_000, 65536)), gid_map=ids((0, 200_000, 65536))),
        ),
    ],
)
def test_resolve_makes_the_maps(
    wanted: Wanted, caller: Caller, more: dict[str, Any], expected: Maps
) -> None:
    assert resolve(wanted, caller, **more) == expected
    assert expected.is_host == (wanted.mode == "host")


@pytest.mark.parametrize(
    ("wanted", "caller", "error", "says"),
    [
        (Wanted(mode="nomap"), ROOT, InvalidConfig, "not for root"),
        (Wanted(mode="auto"), Caller(), InvalidConfig, "/etc/subuid has no line for containers"),
        (Wanted(mode="nomap"), Caller(uid=5), InvalidConfig, "/etc/subuid"),
        (Wanted(mode="keep-id"), Caller(uid=5), InvalidConfig, "/etc/subuid"),
        (
            Wanted(mode="auto", uid_map=ids((0, 100_500, 1))),
            ROOT,
            InvalidConfig,
            "ID 100500 on the host is mapped twice",
        ),
        (Wanted(mode="auto", size=100_001), ROOT, LimitReached, "no 100001 IDs in a row"),
    ],
)
def test_resolve_what_cannot_be_is_refused(
    wanted: Wanted, caller: Caller, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        resolve(wanted, caller)


@given(
    st.lists(st.tuples(st.integers(100_000, 306_000), st.integers(1, 20_000)), max_size=12),
    st.integers(1, 70_000),
)
def test_resolve_auto_never_gives_what_is_taken_or_not_its_own(
    taken: list[tuple[int, int]], size: int
) -> None:
    used = [Range(first, count) for first, count in taken]
    try:
        maps = resolve(Wanted(mode="auto", size=size), ROOT, taken=used)
    except LimitReached:
        return
    for found, own in ((maps.uid_map, ROOT.subuids), (maps.gid_map, ROOT.subgids)):
        (one,) = found
        end = one.host_id + one.size
        assert (one.container_id, one.size) == (0, size)
        assert any(part.first <= one.host_id and end <= part.end for part in own)
        assert all(part.end <= one.host_id or end <= part.first for part in used)


@given(
    inside=st.integers(0, 300),
    size=st.integers(0, 400),
    counts=st.lists(st.integers(1, 100), min_size=1, max_size=4),
)
def test_resolve_keep_id_maps_every_id_once(inside: int, size: int, counts: list[int]) -> None:
    ranges = tuple(Range(100_000 * (n + 1), count) for n, count in enumerate(counts))
    caller = Caller(uid=7, gid=8, subuids=ranges, subgids=ranges)
    found = resolve(Wanted(mode="keep-id", uid=inside, size=size), caller).uid_map
    inner = [one.container_id + n for one in found for n in range(one.size)]
    outer = [one.host_id + n for one in found for n in range(one.size)]
    assert len(set(inner)) == len(inner) == len(set(outer))
    assert dict(zip(inner, outer, strict=True))[inside] == 7
    total = sum(counts) + 1
    assert len(inner) == (min(total, size) if size else total)
    # Nothing is left out before the last but the caller's own place.
    assert set(range(max(inner))) - set(inner) <= set(range(len(inner) - 1, inside))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("containers:100:10\nroot:1:2\n", (Range(100, 10),)),
        ("containers:1:2\ncontainers:5:6", (Range(1, 2), Range(5, 6))),
        ("1000:7:8\n", (Range(7, 8),)),
        ("# x\ncontainers:a:1\ncontainers:1\ncontainers:1:0\ncontainers:4294967295:2", ()),
        (" containers:1:2 \ncontainers:1:2:3\ncontainers:-1:2", (Range(1, 2),)),
    ],
)
def test_parse_subids_reads_the_lines_of_a_name(text: str, expected: tuple[Range, ...]) -> None:
    assert parse_subids(text, "containers", "1000") == expected


def test_parse_id_map_reads_the_kernels_lines() -> None:
    assert parse_id_map("         0       1000          1\n  1 100000 65536\n") == ids(
        (0, 1000, 1), (1, 100_000, 65536)
    )
    with open("/proc/self/uid_map", encoding="ascii") as own:
        assert parse_id_map(own.read())
    with pytest.raises(InvalidConfig):
        parse_id_map("0 1\n")
