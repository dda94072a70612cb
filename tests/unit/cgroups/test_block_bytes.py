from __future__ import annotations

from podrt.cgroups import v1, v2

V1 = (
    b"8:0 Read 4096\n8:0 Write 100\n8:0 Sync 1\n8:0 Total 4196\n"
    b"8:16 Read 4\n8:16 Write 0\nTotal 4200\n"
)
V2 = b"8:0 rbytes=4096 wbytes=100 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=4 wbytes=0\n"


def test_block_bytes_of_both_versions_are_summed_over_devices() -> None:
    first = v1.stats({"blkio.throttle.io_service_bytes_recursive": V1})
    second = v2.stats({"io.stat": V2})
    assert first == second == {"read_bytes": 4100, "written_bytes": 100}


def test_block_bytes_of_an_idle_cgroup_are_none_read() -> None:
    assert v1.stats({"blkio.throttle.io_service_bytes_recursive": b"Total 0\n"}) == {
        "read_bytes": 0,
        "written_bytes": 0,
    }
    assert v2.stats({"io.stat": b""}) == {"read_bytes": 0, "written_bytes": 0}


def test_block_bytes_that_nobody_counts_are_left_out() -> None:
    assert v1.stats({"blkio.throttle.io_service_bytes_recursive": 2}) == {}
    assert v2.stats({"io.stat": None}) == {}
