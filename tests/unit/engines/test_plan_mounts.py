"""Mounts, devices and hidden paths in plans: every option of the specification's table."""

from __future__ import annotations

from typing import Any

import pytest

from doubles.bundles import BUNDLE, IN_USERNS, MAP, changed, compiled, only, ops_of
from podrt.engines.mount_options import MS_REC, MS_SHARED, MS_SLAVE, MS_UNBINDABLE, parse_options
from podrt.engines.plan_ops import Op, OpCode
from podrt.errors import InvalidConfig, Unsupported
from podrt.model import runtimespec as oci

MOUNTING = (OpCode.MOUNT, OpCode.BIND, OpCode.MOUNT_ATTR)
UNMAPPED = ("", "")
# Source: runtime-spec config.md, the table of "Linux mount options".
TABLE = (
    "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev "
    "nodiratime noexec noiversion nolazytime norelatime nostrictatime nosuid nosymfollow private "
    "ratime rbind rdev rdiratime relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime "
    "rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave "
    "rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow "
    "sync tmpcopyup unbindable idmap ridmap nomand mand"
).split()
RDONLY, NOSUID, NODEV, NOEXEC, NOATIME, STRICTATIME, NODIRATIME = 1, 2, 4, 8, 0x10, 0x20, 0x80
ATIMES = 0x70
ALL = 0x2000FF


def mounted(*options: str, base: oci.Spec = BUNDLE, **fields: Any) -> list[Op]:
    """What one mount becomes; of a tmpfs unless it says otherwise."""
    given = {"destination": "/x", "type": "tmpfs", "source": "s", "options": options, **fields}
    return ops_of(compiled(changed(base, mounts=(oci.Mount(**given),))), *MOUNTING)


def bound(*options: str, **fields: Any) -> list[Op]:
    """The same of a bind of /src."""
    return mounted(*options, **{"type": "none", "source": "/src", **fields})


@pytest.mark.parametrize("word", TABLE)
def test_compile_every_option_of_the_table_is_known(word: str) -> None:
    if word in ("idmap", "ridmap"):
        (op,) = bound("bind", word, base=IN_USERNS)
        assert op.code is OpCode.BIND and op.fields[5:] == ("0 1000 100\n",) * 2
        return
    found = bound(word) if word.endswith("bind") else mounted(word)
    # None of them is handed to the file system but those that are its own.
    data = [value for op in found if op.code is OpCode.MOUNT for value in op.fields[4]]
    assert data == ([word] if word in ("sync", "dirsync", "lazytime", "mand") else [])


@pytest.mark.parametrize(
    ("options", "attributes"),
    [
        (("ro", "nosuid", "nodev", "noexec"), 15),
        (("ro", "rw"), 0),
        (("rro",), RDONLY),
        (("rro", "nosuid"), RDONLY | NOSUID),
        (("noatime", "strictatime"), STRICTATIME),
        (("strictatime", "relatime"), 0),
        (("noatime", "norelatime"), 0),
        (("nodiratime", "noatime"), NODIRATIME | NOATIME),
        (("nosymfollow",), 0x200000),
    ],
)
def test_compile_new_file_system_gets_its_attributes(
    options: tuple[str, ...], attributes: int
) -> None:
    # A tmpfs is read-only only once all below it is made.
    expected = attributes & ~RDONLY
    assert mounted(*options) == [Op(OpCode.MOUNT, ("tmpfs", "s", "/x", expected, ()))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("size=4k", "mode=755"), ("size=4k", "mode=755")),
        (("size=4k,mode=755",), ("size=4k", "mode=755")),
        (('context="a,b"',), ('context="a,b"',)),
        (("what",), ("what",)),
        (("",), ()),
    ],
)
def test_compile_words_it_does_not_know_are_the_file_systems(
    options: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert mounted(*options) == [Op(OpCode.MOUNT, ("tmpfs", "s", "/x", 0, expected))]


def test_compile_copy_up_is_a_flag_of_a_tmpfs() -> None:
    assert mounted("tmpcopyup") == [Op(OpCode.MOUNT, ("tmpfs", "s", "/x", 0, ()), 1)]
    assert mounted("notmpcopyup") == mounted()
    for fields in ({"type": "proc"}, {"type": "bind", "source": "/src"}):
        with pytest.raises(Unsupported) as caught:
            mounted("tmpcopyup", **fields)
        assert caught.value.field == "mounts[0].options"


@pytest.mark.parametrize(
    ("options", "fields", "after"),
    [
        (("bind",), (0, 0, 6), None),
        (("rbind", "rw", "rprivate"), (0, 0, 7), None),
        (("bind", "ro"), (RDONLY, 0, 6), None),
        (("bind", "suid", "exec", "dev"), (0, 14, 6), None),
        (("bind", "noatime"), (NOATIME, ATIMES & ~NOATIME, 6), None),
        (("bind", "relatime"), (0, ATIMES, 6), None),
        (("rbind", "rro"), (RDONLY, 0, 15), None),
        (("rbind", "rrw"), (0, RDONLY, 15), None),
        (("rbind", "rro", "nosuid"), (RDONLY, 0, 15), (NOSUID, 0, 0)),
        (("rbind", "rnoexec", "exec"), (NOEXEC, 0, 15), (0, NOEXEC, 0)),
        (("rbind", "rslave"), (0, 0, 7 | MS_SLAVE | MS_REC), None),
        (("bind", "shared"), (0, 0, 6 | MS_SHARED), None),
        (("bind", "slave", "private"), (0, 0, 6), None),
        (("bind", "runbindable"), (0, 0, 6 | MS_UNBINDABLE | MS_REC), None),
    ],
)
def test_compile_bind_gets_attributes_for_itself_or_for_all(
    options: tuple[str, ...], fields: tuple[int, ...], after: tuple[int, ...] | None
) -> None:
    expected = [Op(OpCode.BIND, ("/src", "/x", *fields, *UNMAPPED))]
    if after:
        expected.append(Op(OpCode.MOUNT_ATTR, ("/x", *after)))
    assert bound(*options) == expected


def test_compile_propagation_of_a_new_file_system_is_set_after_it() -> None:
    assert mounted("rslave")[1:] == [Op(OpCode.MOUNT_ATTR, ("/x", 0, 0, MS_SLAVE | MS_REC))]
    assert mounted("rslave", "rprivate") == mounted()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("remount", "ro"), (RDONLY, ALL & ~RDONLY, 0)),
        (("remount", "bind", "ro", "nosuid"), (3, ALL & ~3, 0)),
        (("remount",), (0, ALL, 0)),
        (("remount", "rro", "nosuid"), (3, ALL & ~3, 1)),
        (("remount", "ro", "slave"), (RDONLY, ALL & ~RDONLY, MS_SLAVE)),
    ],
)
def test_compile_remount_replaces_the_attributes(
    options: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    assert mounted(*options) == [Op(OpCode.MOUNT_ATTR, ("/x", *expected))]


OTHER_MAP = (oci.IdMapping(container_id=0, host_id=7, size=3),)


@pytest.mark.parametrize(
    ("options", "fields", "how", "text"),
    [
        (("bind", "idmap"), {}, 6, "0 1000 100\n"),
        (("rbind", "ridmap"), {}, 23, "0 1000 100\n"),
        (
            ("bind", "idmap"),
            {"uid_mappings": OTHER_MAP, "gid_mappings": OTHER_MAP},
            6,
            "0 7 3\n",
        ),
        (("bind",), {"uid_mappings": OTHER_MAP, "gid_mappings": OTHER_MAP}, 6, "0 7 3\n"),
        (
            ("rbind", "ridmap=uids=0-1-2#5-6-7;gids=0-1-2#5-6-7"),
            {},
            23,
            "0 1 2\n5 6 7\n",
        ),
    ],
)
def test_compile_idmapped_bind_takes_its_own_map_or_the_containers(
    options: tuple[str, ...], fields: dict[str, Any], how: int, text: str
) -> None:
    assert bound(*options, base=IN_USERNS, **fields) == [
        Op(OpCode.BIND, ("/src", "/x", 0, 0, how, text, text))
    ]


@pytest.mark.parametrize(
    ("options", "fields", "error", "field"),
    [
        (("bind", "idmap"), {}, InvalidConfig, "mounts[0].uidMappings"),
        (("bind",), {"uid_mappings": MAP}, InvalidConfig, "mounts[0].gidMappings"),
        (("bind",), {"gid_mappings": MAP}, InvalidConfig, "mounts[0].uidMappings"),
        (
            ("bind",),
            {"uid_mappings": (*MAP, *MAP), "gid_mappings": MAP},
            InvalidConfig,
            "mounts[0].uidMappings",
        ),
        (("bind", "idmap=uids=1-2;gids=0-0-1"), {}, InvalidConfig, "mounts[0].options"),
        (("bind", "idmap=uids=0-0-99999999999"), {}, InvalidConfig, "mounts[0].options"),
        (("bind", "idmap=x"), {}, InvalidConfig, "mounts[0].options"),
        (("idmap",), {"type": "tmpfs"}, Unsupported, "mounts[0].options"),
        ((), {"type": "tmpfs", "uid_mappings": MAP}, Unsupported, "mounts[0].options"),
        (("remount", "size=4k"), {}, Unsupported, "mounts[0].options"),
        (("bind",), {"source": ""}, InvalidConfig, "mounts[0].source"),
        (("bind",), {"destination": ""}, InvalidConfig, "mounts[0].destination"),
        ((), {"type": ""}, InvalidConfig, "mounts[0].type"),
    ],
)
def test_compile_mount_that_cannot_be_is_refused_by_field(
    options: tuple[str, ...], fields: dict[str, Any], error: type[Exception], field: str
) -> None:
    with pytest.raises(error) as caught:
        bound(*options, **fields)
    assert caught.value.field == field  # type: ignore[attr-defined]


def test_compile_relative_paths_start_at_the_bundle_and_at_the_root() -> None:
    assert bound("bind", source="data", destination="x/y") == [
        Op(OpCode.BIND, ("/bundle/data", "/x/y", 0, 0, 6, *UNMAPPED))
    ]


def test_compile_label_goes_to_file_systems_that_have_labels() -> None:
    mounts = tuple(
        oci.Mount(destination=f"/{kind}", type=kind, source=kind)
        for kind in ("tmpfs", "proc", "sysfs", "mqueue", "devpts")
    )
    label = "system_u:object_r:x_t:s0:c1,c2"
    plan = compiled(
        changed(mounts=mounts, linux__mount_label=label), modules=frozenset({"selinux"})
    )
    labelled = {op.fields[0] for op in ops_of(plan, OpCode.MOUNT) if op.fields[4]}
    assert labelled == {"tmpfs", "devpts"}
    assert ops_of(plan, OpCode.MOUNT)[0].fields[4] == (f"context={label}",)


def test_compile_mounts_keep_their_order() -> None:
    mounts = tuple(oci.Mount(destination=f"/{n}", type="tmpfs", source="t") for n in "cabd")
    plan = compiled(changed(mounts=mounts))
    assert [op.fields[2] for op in ops_of(plan, OpCode.MOUNT)] == ["/c", "/a", "/b", "/d"]


def test_parse_options_a_later_word_wins() -> None:
    assert parse_options(("ro", "rw", "ro"), "m").attr_set == RDONLY
    assert parse_options(("slave", "rshared"), "m").propagation == MS_SHARED | MS_REC


# --- devices and hidden paths ------------------------------------------------------------------


def device(**fields: Any) -> oci.Spec:
    given = {"type": "c", "path": "/dev/x", "major": 1, "minor": 3, **fields}
    return changed(linux__devices=(oci.Device(**given),))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("c", 1, 3, 0o666, 0, 0)),
        ({"type": "u"}, ("c", 1, 3, 0o666, 0, 0)),
        ({"type": "b", "major": 8, "minor": 0, "uid": 4}, ("b", 8, 0, 0o666, 4, 0)),
        ({"type": "p", "major": -1, "minor": -1, "file_mode": 0o600}, ("p", 0, 0, 0o600, 0, 0)),
        ({"file_mode": 0o100640, "gid": 9}, ("c", 1, 3, 0o640, 0, 9)),
        ({"file_mode": 0}, ("c", 1, 3, 0, 0, 0)),
    ],
)
def test_compile_device_has_defaults_for_mode_and_owner(
    fields: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    kind, *others = expected
    found = [op.fields for op in ops_of(compiled(device(**fields)), OpCode.DEVICE)]
    assert ("/dev/x", ord(kind), *others) in found
    assert len(found) == 7


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"type": "x"}, "type"),
        ({"path": "x"}, "path"),
        ({"major": -1}, "major"),
        ({"minor": -1}, "minor"),
        ({"major": 1 << 12}, "major"),
        ({"minor": 1 << 20}, "minor"),
    ],
)
def test_compile_wrong_device_is_refused_by_field(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        compiled(device(**fields))
    assert caught.value.field == f"linux.devices[0].{name}"


def test_compile_wrong_device_is_refused_even_if_dev_is_the_hosts() -> None:
    mounts = (oci.Mount(destination="/dev", source="/dev", options=("rbind",)),)
    spec = changed(device(type="x"), mounts=mounts)
    with pytest.raises(InvalidConfig):
        compiled(spec)


@pytest.mark.parametrize("name", ["masked_paths", "readonly_paths"])
def test_compile_hidden_path_that_is_relative_is_refused(name: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        compiled(changed(**{f"linux__{name}": ("/a", "b")}))
    field = "maskedPaths" if name == "masked_paths" else "readonlyPaths"
    assert caught.value.field == f"linux.{field}[1]"


@pytest.mark.parametrize(
    ("word", "flags"),
    [
        ("slave", MS_SLAVE),
        ("rslave", MS_SLAVE | MS_REC),
        ("shared", MS_SHARED),
        ("rshared", MS_SHARED | MS_REC),
        ("unbindable", MS_UNBINDABLE),
        ("runbindable", MS_UNBINDABLE | MS_REC),
    ],
)
def test_compile_propagation_of_the_root(word: str, flags: int) -> None:
    assert only(compiled(changed(linux__rootfs_propagation=word)), OpCode.PROPAGATION).fields == (
        flags,
    )


def test_compile_root_is_private_unless_it_says_otherwise() -> None:
    for word in ("", "private", "rprivate"):
        assert compiled(changed(linux__rootfs_propagation=word)) == compiled()
    with pytest.raises(InvalidConfig) as caught:
        compiled(changed(linux__rootfs_propagation="public"))
    assert caught.value.field == "linux.rootfsPropagation"
