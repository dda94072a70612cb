from __future__ import annotations

import io
import random
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.archives import RecordingSource, directory, entry, hard_link, symlink, tar_of
from podrt.errors import InvalidConfig, PodrtError, Unsupported
from podrt.images.tarstream import Member, TarReader

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def read_all(data: bytes, piece: int = 1 << 30) -> list[tuple[Member, bytes]]:
    reader = TarReader(RecordingSource(data, piece), "a.tar")
    found = []
    while (member := reader.next_member()) is not None:
        found.append((member, b"".join(reader.pieces())))
    return found


@pytest.mark.parametrize("tar_format", FORMATS)
@pytest.mark.parametrize("piece", [1, 512, 1 << 20])
def test_read_an_archive_gives_what_was_put_in(tar_format: int, piece: int) -> None:
    entries = [
        directory("./d/"),
        entry("d/file", b"x" * 1000, mode=0o4755, uid=7, gid=8, mtime=1234567890),
        entry("d/" + "n" * 90, b""),
        symlink("d/link", "../somewhere"),
        hard_link("d/hard", "d/file"),
        entry("d/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    ]
    found = [member for member, _ in read_all(tar_of(entries, tar_format), piece)]
    with tarfile.open(fileobj=io.BytesIO(tar_of(entries, tar_format))) as oracle:
        expected = oracle.getmembers()
    assert [m.name.rstrip(b"/").decode() for m in found] == [m.name for m in expected]
    assert [m.kind for m in found] == [m.type for m in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.mode, ours.uid, ours.gid) == (theirs.mode, theirs.uid, theirs.gid)
        assert ours.mtime_ns == int(theirs.mtime * 1_000_000_000)
        assert ours.link.decode() == theirs.linkname
    assert (found[-1].major, found[-1].minor) == (1, 3)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_read_long_names_and_large_numbers_gives_them_whole(tar_format: int) -> None:
    name, target = "a/" * 150 + "ü", "t" * 300
    data = tar_of([symlink(name, target), entry("big", uid=3_000_000_000)], tar_format)
    first, second = (member for member, _ in read_all(data))
    assert (first.name.decode(), first.link.decode()) == (name, target)
    assert second.uid == 3_000_000_000


def test_read_extended_attributes_gives_their_bytes() -> None:
    info, data = entry("f", b"1")
    info.pax_headers = {"SCHILY.xattr.security.capability": "\x01\x00\x02", "mtime": "5.25"}
    member = read_all(tar_of([(info, data)]))[0][0]
    assert member.xattrs == {b"security.capability": b"\x01\x00\x02"}
    assert member.mtime_ns == 5_250_000_000


def test_read_an_archive_without_its_end_mark_is_taken() -> None:
    data = tar_of([entry("f", b"12")])
    assert len(read_all(data[:1024])) == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello", "not a tar archive"),
        (b"hello world\n" * 100, "not a tar archive"),
        (b"\x7fELF" + b"\1" * 2000, "not a tar archive"),
    ],
)
def test_read_something_else_names_the_file(data: bytes, words: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"a\.tar: .*{words}"):
        read_all(data)


def test_read_a_truncated_archive_says_where() -> None:
    with pytest.raises(InvalidConfig, match="unexpected end of the archive"):
        read_all(tar_of([entry("f", b"x" * 5000)])[:2000])


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    """`data` with `value` at `offset` of its first header, and the sum made right."""
    block = bytearray(data[:512])
    block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data[512:]


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (124, b"\xff" * 12, "bytes"),
        (124, b"\x80" + b"\xff" * 11, "bytes"),
        (124, b"99999999999\0", "size"),
        (108, b"\xff" * 8, "uid -1 is out of range"),
        (108, b"\x80\0\0\0\xff\xff\xff\xff", "uid 4294967295"),
        (156, b"Z", "unknown type"),
    ],
)
def test_read_a_hostile_header_is_refused(offset: int, value: bytes, words: str) -> None:
    data = tar_of([entry("f", b"1")], tarfile.USTAR_FORMAT)
    with pytest.raises(InvalidConfig, match=words):
        read_all(patched(data, offset, value))


def test_read_a_sparse_member_is_unsupported() -> None:
    data = tar_of([entry("f", b"1")], tarfile.GNU_FORMAT)
    with pytest.raises(Unsupported, match="sparse"):
        read_all(patched(data, 156, b"S"))


@pytest.mark.parametrize("kind", [b"x", b"L", b"g"])
def test_read_a_huge_extended_header_is_refused_before_it_is_read(kind: bytes) -> None:
    data = patched(tar_of([entry("f", b"1")], tarfile.USTAR_FORMAT), 124, b"77777777777\0")
    with pytest.raises(InvalidConfig, match="an extended header of"):
        read_all(patched(data, 156, kind))


def test_read_endless_global_headers_is_refused() -> None:
    def one(number: int) -> bytes:
        record = b"key%d=" % number + b"v" * 200_000
        body = b"%d %s\n" % (len(record) + 8, record)
        block = patched(tar_of([entry("g", body)], tarfile.USTAR_FORMAT), 156, b"g")
        return block[: 512 + len(body) + (-len(body) % 512)]

    with pytest.raises(InvalidConfig):
        read_all(b"".join(one(number) for number in range(10)))


@pytest.mark.parametrize("record", [b"9 a=b\n", b"0 a=b\n", b"x a=b\n", b"6 ab\n\n", b"999 a=b\n"])
def test_read_a_damaged_pax_record_is_refused(record: bytes) -> None:
    data = patched(tar_of([entry("p", record)], tarfile.USTAR_FORMAT), 156, b"x")
    with pytest.raises(InvalidConfig, match="damaged pax header"):
        read_all(data)


@given(st.binary(max_size=3000))
def test_read_any_bytes_ends_in_members_or_an_error(data: bytes) -> None:
    try:
        read_all(data)
    except PodrtError as error:
        assert "\n" not in str(error)


def test_read_a_mutated_archive_ends_in_members_or_an_error() -> None:
    whole = tar_of([directory("d"), entry("d/" + "n" * 200, b"x" * 700), symlink("l", "t" * 200)])
    source = random.Random(20)
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(source.randint(1, 8)):
            data[source.randrange(len(data))] = source.randrange(256)
        try:
            read_all(bytes(data[: source.randint(1, len(data))]))
        except PodrtError as error:
            assert "\n" not in str(error)
