"""What `--format` templates work on: values as Go sees them, and as Go's fmt prints them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

# Go's own bound for widths and precisions in a format.
_MAX_WIDTH = 1_000_000
_VERB = re.compile(r"%([-+# 0]*)(\d+|\*)?(?:\.(\d*))?(.)?", re.DOTALL)
_MAPS = frozenset({"Labels", "Annotations", "Attributes", "Options"})
"""The fields that are maps: a key they lack is no value. Every other mapping has fixed fields."""

_GO_NAMES = {
    "ID": "Id", "CPUQuota": "cpu_quota", "CPUPeriod": "cpu_period", "CPUShares": "cpu_shares",
    "CPUSetCPUs": "cpuset_cpus", "MemoryLimit": "memory_limit", "MemorySwap": "memory_swap",
    "BlkioWeight": "blkio_weight", "CgroupsVersion": "cgroupVersion", "CPUs": "cpus",
    "OSArch": "OsArch", "GraphRoot": "root",
}  # fmt: skip
"""Fields that templates name otherwise than JSON does, beyond a capital letter."""


class Struct:
    """Named fields; one that is not there is an error."""

    def __init__(self, fields: Mapping[str, Any], type_name: str) -> None:
        self.fields = fields
        self.type_name = type_name

    def get(self, name: str) -> Any:
        """The field that templates call `name`. Raises: KeyError."""
        for key in (name, _GO_NAMES.get(name, ""), name[:1].lower() + name[1:]):
            if name[0].isupper() and key in self.fields:
                return seen(self.fields[key], key)
        raise KeyError(name)


class Head(str):
    """A column's heading; whatever is asked of it is a heading as well."""

    __slots__ = ()


class Time(str):
    """A time in RFC 3339, which templates print as Go does."""

    __slots__ = ()


_TIMES = frozenset({"Created", "StartedAt", "FinishedAt", "Time"})
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:(\.\d*?)0*)?Z")


def seen(value: Any, name: str) -> Any:
    """`value` of the field `name` as templates see it."""
    if isinstance(value, Mapping):
        return value if name in _MAPS else Struct(value, name)
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        return [Struct(item, name) for item in value]
    if name in _TIMES and isinstance(value, str) and _RFC3339.fullmatch(value):
        return Time(value)
    return value


def type_name(value: Any) -> str:
    """The type of `value` as Go would name it."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, str):
        return "time.Time" if isinstance(value, Time) else "string"
    if isinstance(value, Struct):
        return value.type_name
    if isinstance(value, Mapping):
        return "map[string]string"
    return "nil" if value is None else "[]string"


def is_true(value: Any) -> bool:
    """What `if` makes of a value: the zero of its type is false."""
    return True if isinstance(value, Struct) else bool(value)


def text_of(value: Any) -> str:
    """`value` as `%v` prints it; None is no value."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Time):
        found = _RFC3339.fullmatch(value)
        assert found is not None
        fraction = found[3] if found[3] not in (None, ".") else ""
        return f"{found[1]} {found[2]}{fraction} +0000 UTC"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, Struct):
        return "{" + " ".join(_inner(seen(item, key)) for key, item in value.fields.items()) + "}"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{k}:{_inner(value[k])}" for k in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(_inner, value)) + "]"
    return str(value)


def _inner(value: Any) -> str:
    return "<nil>" if value is None else text_of(value)


def _float_text(value: float) -> str:
    """The fewest digits that say it, with an exponent from a million on."""
    text = repr(value)
    if value != value or value in (float("inf"), -float("inf")):
        return "NaN" if value != value else f"{value:+}".capitalize().replace("inf", "Inf")
    if not value or 1e-4 <= abs(value) < 1e6:
        return text.removesuffix(".0")
    if "e" in text:
        return text
    digits = len(text.replace(".", "").strip("-").strip("0"))
    return f"{value:.{max(digits - 1, 0)}e}"


def json_text(value: Any) -> str:
    """`value` as JSON on one line, keys of maps in order, fields in theirs."""
    return msgspec.json.encode(_plain(value)).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        return {key: _plain(seen(item, key)) for key, item in value.fields.items()}
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Head | Time) else value


def quote(text: str) -> str:
    """`text` as a string of Go's."""
    short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r",
             "\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}  # fmt: skip
    return '"' + "".join(short.get(sign) or _printable(sign) for sign in text) + '"'


def _printable(sign: str) -> str:
    code = ord(sign)
    if sign.isprintable():
        return sign
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def sprint(values: Sequence[Any]) -> str:
    """Values one after the other, a blank between two of which neither is a string."""
    text = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            text += " "
        text += _inner(value)
    return text


def sprintf(pattern: str, values: Sequence[Any]) -> str:
    """Go's Sprintf: a value that does not fit its verb is shown as such, never an error."""
    rest = list(values)
    out = []
    at = 0
    for found in _VERB.finditer(pattern):
        out.append(pattern[at : found.start()])
        at = found.end()
        flags, width, precision, verb = found[1], found[2], found[3], found[4]
        if verb == "%":
            out.append("%")
            continue
        if verb is None:
            out.append("%!(NOVERB)")
            continue
        if width == "*":
            number = rest.pop(0) if rest else None
            if not isinstance(number, int) or abs(number) > _MAX_WIDTH:
                out.append("%!(BADWIDTH)")
                number = 0
            flags, width = flags + ("-" if number < 0 else ""), str(abs(number))
        if not rest:
            out.append(f"%!{verb}(MISSING)")
            continue
        out.append(_one(rest.pop(0), verb, flags, (_size(width), _size(precision))))
    out.append(pattern[at:])
    if rest:
        listed = ", ".join(f"{type_name(value)}={_inner(value)}" for value in rest)
        out.append(f"%!(EXTRA {listed})")
    return "".join(out)


def _size(digits: str | None) -> int | None:
    """A width or precision; one that is too large counts as none."""
    if digits is None:
        return None
    number = int(digits or "0") if len(digits) < 8 else _MAX_WIDTH + 1
    return number if number <= _MAX_WIDTH else None


def _one(value: Any, verb: str, flags: str, sizes: tuple[int | None, int | None]) -> str:
    width, precision = sizes
    if isinstance(value, list | tuple) and verb != "v":
        return "[" + " ".join(_one(item, verb, flags, sizes) for item in value) + "]"
    text = _body(value, verb, flags, precision)
    if text is None:
        return f"%!{verb}({type_name(value)}={_inner(value)})"
    if width is None or len(text) >= width:
        return text
    if "-" in flags:
        return text.ljust(width)
    if "0" in flags:
        return text.zfill(width) if not isinstance(value, str) else text.rjust(width, "0")
    return text.rjust(width)


def _body(value: Any, verb: str, flags: str, precision: int | None) -> str | None:
    if verb == "v":
        return quote(value) if isinstance(value, str) and "#" in flags else _inner(value)
    if verb == "t":
        return text_of(value) if isinstance(value, bool) else None
    if isinstance(value, str) or (verb == "s" and isinstance(value, Mapping | Struct)):
        return _string_body(text_of(value), verb, precision)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return _int_body(value, verb, flags)
    return _float_body(value, verb, flags, precision) if isinstance(value, float) else None


def _string_body(text: str, verb: str, precision: int | None) -> str | None:
    if verb in "sq":
        text = text if precision is None else text[:precision]
        return text if verb == "s" else quote(text)
    if verb in "xX":
        digits = text.encode("utf-8", "replace").hex()
        return digits if verb == "x" else digits.upper()
    return None


def _int_body(value: int, verb: str, flags: str) -> str | None:
    sign = "+" if "+" in flags else " " if " " in flags else ""
    if verb in "dxXob":
        return format(value, ("" if sign == "" else sign) + ("#" if "#" in flags else "") + verb)
    if verb in "cqU":
        point = value if 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000 else 0xFFFD
        return {"c": chr(point), "q": f"'{chr(point)}'", "U": f"U+{value:04X}"}[verb]
    return None


def _float_body(value: float, verb: str, flags: str, precision: int | None) -> str | None:
    if verb not in "eEfFgG":
        return None
    if verb in "gG" and precision is None:
        return _float_text(value)
    sign = "+" if "+" in flags else ""
    # More digits than that a float does not have, and Python refuses to write a million.
    return format(value, f"{sign}.{min(6 if precision is None else precision, 1100)}{verb}")
