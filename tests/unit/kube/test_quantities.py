from __future__ import annotations

import pytest

from podrt.errors import InvalidConfig
from podrt.kube.quantities import parse_bytes, parse_millis


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64Mi", 64 << 20),
        ("1G", 10**9),
        ("1Gi", 1 << 30),
        ("128974848", 128974848),
        (128974848, 128974848),
        ("129e6", 129_000_000),
        ("129E6", 129_000_000),
        ("1E", 10**18),
        ("1.5Ki", 1536),
        ("100m", 1),
        (1000.0, 1000),
        ("0", 0),
    ],
)
def test_parse_bytes_of_every_spelling(text: str | float, expected: int) -> None:
    assert parse_bytes(text, "f") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("250m", 250), ("1", 1000), (2, 2000), (0.5, 500), ("1u", 1), ("2k", 2 * 10**6)],
)
def test_parse_millis_of_every_spelling(text: str | float, expected: int) -> None:
    assert parse_millis(text, "f") == expected


@pytest.mark.parametrize(
    "text",
    ["", "Mi", "1 Mi", "64MiB", "1KI", "-1", "1e99", "9E", "100E", "nan", "inf", "1" * 40, "0x10"],
)
def test_parse_what_is_no_quantity_names_the_field(text: str) -> None:
    if text == "9E":
        assert parse_bytes(text, "f") == 9 * 10**18
        return
    with pytest.raises(InvalidConfig, match=r"^limits\.memory: "):
        parse_bytes(text, "limits.memory")
