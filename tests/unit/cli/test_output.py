from __future__ import annotations

import pytest

from podrt.cli.moments import point_in_time_ns
from podrt.cli.output import binary_size, decimal_size, duration
from podrt.errors import InvalidConfig


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (7, "7ns"),
        (1_500, "1.5µs"),
        (16_754_798, "16.754798ms"),
        (999_000_000, "999ms"),
        (1_000_000_000, "1s"),
        (61_500_000_000, "1m1.5s"),
        (3_600_000_000_000, "1h0m0s"),
        (309_976_632_171, "5m9.976632171s"),
    ],
)
def test_duration_is_written_as_go_writes_it(ns: int, text: str) -> None:
    assert duration(ns) == text


@pytest.mark.parametrize(
    ("count", "decimal", "binary"),
    [
        (0, "0B", "0B"),
        (999, "999B", "999B"),
        (1023, "1.023kB", "1023B"),
        (237_568, "237.6kB", "232KiB"),
        (67_108_864, "67.11MB", "64MiB"),
        (25_277_313_024, "25.28GB", "23.54GiB"),
        (10**19, "1e+04PB", "8882PiB"),
    ],
)
def test_size_has_four_digits(count: int, decimal: str, binary: str) -> None:
    assert (decimal_size(count), binary_size(count)) == (decimal, binary)


def test_point_in_time_is_a_number_a_date_or_so_long_ago() -> None:
    assert point_in_time_ns("--since", "12") == 12 * 10**9
    assert point_in_time_ns("--since", "12.5") == 12_500_000_000
    exact = "1970-01-01T00:00:01.123456789+00:00"
    assert point_in_time_ns("--since", exact) == 1_123_456_789
    assert point_in_time_ns("--since", "1970-01-01T00:00:01Z") == 10**9
    ago_ns = point_in_time_ns("--since", "0s") - point_in_time_ns("--since", "1h30m0.5s")
    assert abs(ago_ns - 5_400_500_000_000) < 10**9
    for word in ("1d", "soon", "", "-5m"):
        with pytest.raises(InvalidConfig, match=r"--since: .* no duration"):
            point_in_time_ns("--since", word)
