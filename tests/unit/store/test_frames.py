from __future__ import annotations

import contextlib
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import doubles.frames as twin
from podrt._fast import frames

payloads = st.lists(st.binary(max_size=50), min_size=1, max_size=6)


def log_of(parts: list[bytes], *, first: int = 7, salt: int = 3) -> bytes:
    return b"".join(
        frames.encode_frame(part, first + n, salt=salt, durable=n, at_ns=n * 5, kind=1)
        for n, part in enumerate(parts)
    )


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_crc32_of_anything_is_zlibs(data: bytes, seed: int) -> None:
    assert frames.crc32(data, seed) == zlib.crc32(data, seed)


@given(st.binary(max_size=64), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_encode_frame_equals_the_slow_twin(payload: bytes, salt: int, seq: int) -> None:
    options = {"salt": salt, "durable": seq // 2, "at_ns": seq // 3, "kind": salt & 0xFFFF}
    assert frames.encode_frame(payload, seq, **options) == twin.encode_frame(
        payload, seq, **options
    )


@given(payloads, st.data())
def test_scan_and_search_of_damaged_bytes_equal_the_slow_twin(
    parts: list[bytes], data: st.DataObject
) -> None:
    log = bytearray(log_of(parts))
    for _ in range(data.draw(st.integers(0, 3))):
        log[data.draw(st.integers(0, len(log) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = bytes(log[: data.draw(st.integers(0, len(log)))])
    assert frames.scan(damaged, 7, salt=3) == twin.scan(damaged, 7, salt=3)
    assert frames.search(damaged, salt=3) == twin.search(damaged, salt=3)


def test_scan_of_a_whole_log_finds_every_payload() -> None:
    parts = [b"", b"1", b"x" * 1000]
    log = log_of(parts)
    found, end, state = frames.scan(log, 7, salt=3)
    assert [log[start : start + length] for *_, start, length in found] == parts
    assert [frame[0] for frame in found] == [7, 8, 9]
    assert (end, state) == (len(log), frames.CLEAN)


def test_scan_with_a_missing_middle_frame_stops_before_the_gap() -> None:
    log = log_of([b"one", b"two", b"three"])
    without = log[:48] + log[96:]
    found, end, state = frames.scan(without, 7, salt=3)
    assert ([frame[0] for frame in found], end, state) == ([7], 48, frames.BAD)


def test_scan_with_another_salt_takes_nothing() -> None:
    assert frames.scan(log_of([b"one"]), 7, salt=4) == ([], 0, frames.BAD)


def test_scan_of_zeros_takes_nothing() -> None:
    assert frames.scan(bytes(4096), 7, salt=3) == ([], 0, frames.BAD)


def test_search_behind_damage_finds_the_durable_mark() -> None:
    log = bytearray(log_of([b"one", b"two", b"three"]))
    log[45] ^= 1
    assert frames.search(bytes(log[48:]), salt=3) == (9, 2)


def test_scan_of_random_bytes_never_takes_any() -> None:
    rng = random.Random(1)
    for _ in range(200):
        assert frames.scan(rng.randbytes(rng.randrange(300)), 1, salt=0)[0] == []


def test_encode_frame_of_too_much_is_refused() -> None:
    with pytest.raises(ValueError):
        frames.encode_frame(
            bytes(frames.MAX_PAYLOAD_BYTES + 1), 1, salt=0, durable=0, at_ns=0, kind=1
        )


def test_words_raise_to_a_lower_value_keep_the_higher() -> None:
    words = frames.Words(bytearray(64))
    words.store(3, 2**63)
    assert words.raise_to(3, 5) == 2**63
    assert words.raise_to(3, 2**64 - 1) == words.load(3) == 2**64 - 1


@pytest.mark.parametrize("index", [-1, 8])
def test_words_outside_the_memory_raise_index_error(index: int) -> None:
    with pytest.raises(IndexError):
        frames.Words(bytearray(64)).load(index)


def test_find_rows_of_a_hostile_index_never_leads_outside() -> None:
    rng = random.Random(9)
    for _ in range(2000):
        data = rng.randbytes(rng.randrange(300))
        layout = [rng.choice([0, rng.randrange(400), 2**64 - 1 - rng.randrange(64)]) for _ in "123"]
        with contextlib.suppress(ValueError):
            first, last = frames.find_rows(
                data,
                (layout[0], layout[1], layout[2]),
                field=rng.randrange(3),
                count=rng.choice([0, 1, 5, 2**64 - 1]),
                wanted=rng.randbytes(rng.randrange(70)),
                table=rng.randrange(9),
            )
            assert 0 <= first <= last


def test_salvage_between_damage_finds_every_valid_frame() -> None:
    log = bytearray(log_of([b"one", b"two", b"three", b"four"]))
    log[50] ^= 1
    log[0:0] = bytes(16)
    assert [frame[0] for frame in frames.salvage(bytes(log), salt=3)] == [7, 9, 10]
