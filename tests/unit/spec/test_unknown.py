"""Fields nobody has heard of are named, and no error."""

from __future__ import annotations

import json

import pytest

from podrt.errors import InvalidConfig
from podrt.model import runtimespec as oci
from podrt.spec.unknown import MOST, unknown_fields


def test_unknown_fields_are_named_wherever_they_are() -> None:
    document = {
        "future": 1,
        "process": {"user": {"uid": 1, "name": "x"}, "rlimits": [{"type": "a", "min": 1}]},
        "linux": {
            "timeOffsets": {"monotonic": {"hours": 1}},
            "resources": {"rdma": {"mlx": {"hcaThings": 1}}, "memory": {"high": 5}},
            "seccomp": {"syscalls": [{"args": [{"mask": 1}]}]},
        },
        "annotations": {"any": "1"},
        "windows": {"ignoreFlushesDuringBoot": True},
        "vm": {"kernel": {"path": "/x"}},
    }
    assert unknown_fields(json.dumps(document).encode()) == [
        "future",
        "process.user.name",
        "process.rlimits[0].min",
        "linux.timeOffsets.monotonic.hours",
        "linux.resources.rdma.mlx.hcaThings",
        "linux.resources.memory.high",
        "linux.seccomp.syscalls[0].args[0].mask",
    ]


def test_unknown_fields_of_a_document_podrt_wrote_are_none() -> None:
    spec = oci.Spec(process=oci.Process(args=("x",)), linux=oci.Linux(), root=oci.Root(path="r"))
    assert unknown_fields(oci.encode(spec)) == []


def test_unknown_fields_are_cut_off_at_some_point() -> None:
    document = {f"field{number}": None for number in range(1000)}
    assert len(unknown_fields(json.dumps(document).encode())) == MOST


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 200_000])
def test_unknown_fields_of_no_document_are_an_error(data: bytes) -> None:
    with pytest.raises(InvalidConfig):
        unknown_fields(data)


@pytest.mark.parametrize("data", [b"3", b"[]", b'{"process": 3, "linux": []}'])
def test_unknown_fields_of_another_shape_are_none(data: bytes) -> None:
    assert unknown_fields(data) == []
