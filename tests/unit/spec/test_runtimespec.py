"""Runtime specifications as JSON that anybody may have written."""

from __future__ import annotations

import json

import pytest

from podrt.errors import InvalidConfig
from podrt.model import runtimespec as oci


def test_decode_foreign_document_ignores_what_it_does_not_know() -> None:
    text = b"""{"ociVersion": "1.0.2", "vm": {"kernel": {}}, "process": {"args": null,
        "user": {"uid": 3, "additionalGids": [5]}, "cwd": "/x", "future": 1},
        "linux": {"resources": {"blockIO": {"throttleReadIOPSDevice":
        [{"major": 8, "minor": 0, "rate": 100}]}}, "seccomp": null}}"""
    spec = oci.decode(text)
    assert spec.process == oci.Process(
        user=oci.User(uid=3, additional_gids=(5,)), cwd="/x", args=()
    )
    assert spec.linux is not None and spec.linux.resources is not None
    assert spec.linux.resources.block_io == oci.BlockIo(
        throttle_read_iops_device=(oci.ThrottleDevice(major=8, minor=0, rate=100),)
    )


def test_encode_writes_what_strict_readers_require() -> None:
    document = json.loads(oci.encode(oci.Spec(process=oci.Process(args=("true",)))))
    assert document == {
        "ociVersion": oci.OCI_VERSION,
        "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("closID", oci.Spec(linux=oci.Linux(intel_rdt=oci.IntelRdt(clos_id="x")))),
        ("containerID", oci.Spec(linux=oci.Linux(uid_mappings=(oci.IdMapping(
            container_id=0, host_id=1, size=1),)))),
        ("class", oci.Spec(process=oci.Process(io_priority=oci.IoPriority(class_="be")))),
        ("execCPUAffinity", oci.Spec(process=oci.Process(exec_cpu_affinity=oci.CpuAffinity(
            initial="0")))),
        ("kernelTCP", oci.Spec(linux=oci.Linux(resources=oci.Resources(memory=oci.Memory(
            kernel_tcp=1))))),
    ],
)  # fmt: skip
def test_encode_uses_the_specifications_names(name: str, value: oci.Spec) -> None:
    data = oci.encode(value)
    assert f'"{name}"'.encode() in data
    assert oci.decode(data) == value


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b'{"process": {"args": [1]}}', "process.args"),
        (b'{"mounts": [{"type": "proc"}]}', "mounts"),
        (b"{", "config.json"),
        (b"\xff", "config.json"),
        (b"[]", "config.json"),
        (b"[" * 200_000, "config.json"),
    ],
)
def test_decode_malformed_document_names_the_field(text: bytes, field: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        oci.decode(text)
    assert caught.value.field.startswith(field)
