"""Kubernetes quantities: 250m, 64Mi, 1G, 1e3.

Source: the Quantity type of Kubernetes' API conventions.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

from podrt.errors import InvalidConfig

_QUANTITY = re.compile(
    r"([+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30}))"
    r"([eE][+-]?[0-9]{1,2}|[KMGTPE]i|[numkMGTPE]?)"
)
_BINARY = {f"{letter}i": Decimal(1 << 10 * (at + 1)) for at, letter in enumerate("KMGTPE")}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_MAX = (1 << 63) - 1


def parse_quantity(value: str | float, field: str) -> Decimal:
    """The number `value` stands for. Raises: InvalidConfig naming `field`."""
    text = str(value)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InvalidConfig(field, f"{text[:40]!r} is not a quantity such as 250m, 64Mi or 1G")
    number, suffix = Decimal(match.group(1)), match.group(2)
    if suffix in _BINARY:
        number *= _BINARY[suffix]
    elif suffix[:1] in ("e", "E") and len(suffix) > 1:
        number = number.scaleb(int(suffix[1:]))
    else:
        number = number.scaleb(_DECIMAL[suffix])
    if not 0 <= number <= _MAX:
        raise InvalidConfig(field, f"{text[:40]!r} is negative or too large")
    return number


def parse_bytes(value: str | float, field: str) -> int:
    """A quantity of memory, rounded up to whole bytes. Raises: InvalidConfig."""
    return int(parse_quantity(value, field).to_integral_value(ROUND_CEILING))


def parse_millis(value: str | float, field: str) -> int:
    """A quantity of processors in thousandths, rounded up. Raises: InvalidConfig."""
    thousandths = parse_quantity(value, field) * 1000
    return int(thousandths.to_integral_value(ROUND_CEILING))
