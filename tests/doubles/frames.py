"""The log's frames, slowly: what `podrt._fast.frames` is compared with."""

from __future__ import annotations

import struct
import zlib

CLEAN, SHORT, BAD = 0, 1, 2
HEAD = struct.Struct("<IIIHHQQQ")
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024


def padded(count: int) -> int:
    return (count + 7) // 8 * 8


def encode_frame(
    payload: bytes, seq: int, *, salt: int, durable: int, at_ns: int, kind: int
) -> bytes:
    body = payload.ljust(padded(len(payload)), b"\0")
    head = HEAD.pack(0, zlib.crc32(body), len(payload), kind, 0, seq, durable, at_ns)[4:]
    return zlib.crc32(head, salt).to_bytes(4, "little") + head + body


def read_frame(data: bytes, at: int, salt: int) -> tuple[int, tuple[int, ...]]:
    if len(data) - at < HEAD.size:
        return SHORT, ()
    head = HEAD.unpack_from(data, at)
    if zlib.crc32(data[at + 4 : at + HEAD.size], salt) != head[0] or head[2] > MAX_PAYLOAD_BYTES:
        return BAD, ()
    end = at + HEAD.size + padded(head[2])
    if end > len(data):
        return SHORT, head
    body = data[at + HEAD.size : end]
    return (CLEAN if zlib.crc32(body) == head[1] else BAD), head


def scan(
    data: bytes, first_seq: int, *, salt: int
) -> tuple[list[tuple[int, int, int, int, int, int]], int, int]:
    found: list[tuple[int, int, int, int, int, int]] = []
    at = 0
    while at < len(data):
        state, head = read_frame(data, at, salt)
        if state == CLEAN and head[5] != (first_seq + len(found)) % (1 << 64):
            state = BAD
        if state != CLEAN:
            return found, at, state
        _, _, length, kind, _, seq, durable, at_ns = head
        found.append((seq, kind, at_ns, durable, at + HEAD.size, length))
        at += HEAD.size + padded(length)
    return found, at, CLEAN


def search(data: bytes, *, salt: int) -> tuple[int, int]:
    seq = durable = 0
    for at in range(0, len(data) - HEAD.size + 1, 8):
        head = HEAD.unpack_from(data, at)
        if zlib.crc32(data[at + 4 : at + HEAD.size], salt) != head[0]:
            continue
        if head[2] <= MAX_PAYLOAD_BYTES:
            seq, durable = max(seq, head[5]), max(durable, head[6])
    return seq, durable


def salvage(data: bytes, *, salt: int) -> list[tuple[int, int, int, int, int, int]]:
    found = []
    at = 0
    while at < len(data):
        state, head = read_frame(data, at, salt)
        if state != CLEAN:
            at += 8
            continue
        _, _, length, kind, _, seq, durable, at_ns = head
        found.append((seq, kind, at_ns, durable, at + HEAD.size, length))
        at += HEAD.size + padded(length)
    return found
