"""Running the `--format` templates that templates.py parsed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from podrt.errors import InvalidConfig

from .template_values import (
    Head,
    Struct,
    Time,
    is_true,
    json_text,
    sprint,
    sprintf,
    text_of,
    type_name,
)
from .templates import (
    Block,
    Command,
    Field,
    Jump,
    Literal,
    Node,
    Operand,
    Pipe,
    Template,
    Text,
    Variable,
    Word,
    place,
    shown,
)

# Nobody needs more, and it bounds what a line can ask for.
_MAX_PAD = 1000

_Function = Callable[..., Any]


class _Refused(Exception):
    """A function cannot work on these values."""


class _Jumped(Exception):
    """`break` or `continue` was met."""


def _join(items: Any, between: str) -> Any:
    return items if isinstance(items, Head) else between.join(items)


def _split(text: str, by: str) -> list[str]:
    return text.split(by) if by else list(text)


def _title(words: str) -> str:
    starts = [True, *(not (sign.isalnum() or sign == "_") for sign in words)]
    return "".join(
        sign.upper() if is_start else sign for sign, is_start in zip(words, starts, strict=False)
    )


def _truncate(text: str, length: int) -> str:
    return text[: max(0, length)]


def _pad(text: str, before: int, after: int) -> str:
    if not text:
        return text
    return " " * min(before, _MAX_PAD) + text + " " * min(after, _MAX_PAD)


def _html(text: str) -> str:
    for sign, entity in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("'", "&#39;"),
        ('"', "&#34;"),
    ):
        text = text.replace(sign, entity)
    return text


def _key(value: Any) -> str:
    if not isinstance(value, str):
        raise _Refused(f"value has type {type_name(value)}; should be string")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Refused(f"cannot index slice/array with type {type_name(value)}")
    return value


def _len(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, Struct) or not isinstance(value, list | tuple | Mapping):
        raise _Refused(f"len of {'nil pointer' if value is None else 'type ' + type_name(value)}")
    return len(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(_key(key), "")
            continue
        if not isinstance(value, list | tuple | str):
            raise _Refused(
                "index of untyped nil"
                if value is None
                else f"can't index item of type {type_name(value)}"
            )
        items = value.encode("utf-8", "replace") if isinstance(value, str) else value
        if not 0 <= _number(key) < len(items):
            raise _Refused(f"index out of range: {key}")
        value = items[key]
    return value


def _slice(value: Any, *ends: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        raise _Refused(f"can't slice item of type {type_name(value)}")
    begin, end = [*map(_number, ends), *(0, len(value))[len(ends) :]][:2]
    if not 0 <= begin <= len(value) or not 0 <= end <= len(value) or len(ends) > 2:
        raise _Refused(f"index out of range: {max(begin, end)}")
    if begin > end:
        raise _Refused(f"invalid slice index: {begin} > {end}")
    return value[begin:end]


def _kind(value: Any) -> str:
    for kind, types in (("bool", bool), ("int", int), ("float", float), ("string", str)):
        if isinstance(value, types):
            return kind
    raise _Refused(f"non-comparable type {text_of(value)}: {type_name(value)}")


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise _Refused("missing argument for comparison")
    for other in others:
        if first is None or other is None:
            if first is other:
                return True
            continue
        if _kind(first) != _kind(other):
            raise _Refused("incompatible types for comparison")
        if first == other:
            return True
    return False


def _ordered(compare: Callable[[Any, Any], bool]) -> _Function:
    def function(first: Any, second: Any) -> bool:
        if _kind(first) != _kind(second):
            raise _Refused("incompatible types for comparison")
        if isinstance(first, bool):
            raise _Refused("invalid type for comparison")
        return compare(first, second)

    return function


def _printf(pattern: str, *values: Any) -> str:
    return sprintf(pattern, values)


# Each with how few and how many arguments it takes; None is any number.
_FUNCTIONS: dict[str, tuple[_Function, int, int | None]] = {
    "eq": (_equal, 1, None),
    "ge": (_ordered(operator.ge), 2, 2),
    "gt": (_ordered(operator.gt), 2, 2),
    "html": (_html, 1, 1),
    "index": (_index, 1, None),
    "join": (_join, 2, 2),
    "json": (json_text, 1, 1),
    "le": (_ordered(operator.le), 2, 2),
    "len": (_len, 1, 1),
    "lower": (lambda text: text.lower(), 1, 1),
    "lt": (_ordered(operator.lt), 2, 2),
    "ne": (lambda first, second: not _equal(first, second), 2, 2),
    "not": (lambda value: not is_true(value), 1, 1),
    "pad": (_pad, 3, 3),
    "print": (lambda *values: sprint(values), 0, None),
    "printf": (_printf, 1, None),
    "println": (lambda *values: " ".join(map(text_of, values)) + "\n", 0, None),
    "slice": (_slice, 1, None),
    "split": (_split, 2, 2),
    "title": (_title, 1, 1),
    "truncate": (_truncate, 2, 2),
    "upper": (lambda text: text.upper(), 1, 1),
}

# What the functions take that do not take everything.
_TEXT: tuple[type, ...] = (str,)
_LIST: tuple[type, ...] = (list, tuple)
_INT: tuple[type, ...] = (int,)
_PARAMETERS: dict[str, tuple[tuple[type, ...], ...]] = {
    "html": (_TEXT,),
    "join": (_LIST, _TEXT),
    "lower": (_TEXT,),
    "pad": (_TEXT, _INT, _INT),
    "printf": (_TEXT,),
    "split": (_TEXT, _TEXT),
    "title": (_TEXT,),
    "truncate": (_TEXT, _INT),
    "upper": (_TEXT,),
}

FUNCTIONS = frozenset(_FUNCTIONS) | {"and", "or"}
"""Every function of the templates. `and` and `or` evaluate no more than they need."""


def _mismatch(node: Operand | Command, kind: tuple[type, ...], value: Any) -> str:
    """Why `value` is not what a function takes."""
    wanted = {_TEXT: "string", _LIST: "[]string", _INT: "int"}[kind]
    if isinstance(node, Literal):
        return f"expected {'integer' if kind == _INT else wanted}; found {shown(node)}"
    return f"wrong type for value; expected {wanted}; got {type_name(value)}"


def execute(template: Template, value: Any) -> str:
    """What `template` makes of `value`. Raises: InvalidConfig."""
    run = _Run(template, value)
    run.walk(value, template.nodes)
    return "".join(run.out)


class _Run:
    def __init__(self, template: Template, value: Any) -> None:
        self._template = template
        self._variables: list[tuple[str, Any]] = [("$", value)]
        self.out: list[str] = []

    def _error(self, node: Operand | Command, reason: str) -> InvalidConfig:
        where = place(self._template, node.at)
        name = self._template.name
        return InvalidConfig(
            "", f'template: {where}: executing "{name}" at <{shown(node)}>: {reason}'
        )

    def walk(self, dot: Any, nodes: Sequence[Node]) -> None:
        for node in nodes:
            match node:
                case Text():
                    self.out.append(node.text)
                case Pipe():
                    value = self._pipe(dot, node)
                    if not node.names:
                        self.out.append(text_of(value))
                case Block():
                    known = len(self._variables)
                    self._block(dot, node)
                    del self._variables[known:]
                case Jump():
                    raise _Jumped(node.kind)

    def _block(self, dot: Any, block: Block) -> None:
        value = self._pipe(dot, block.pipe, is_range=block.kind == "range")
        if block.kind == "range":
            self._range(dot, block, value)
        elif is_true(value):
            self.walk(value if block.kind == "with" else dot, block.body)
        else:
            self.walk(dot, block.other)

    def _range(self, dot: Any, block: Block, value: Any) -> None:
        if value is None or isinstance(value, Head):
            items: list[tuple[Any, Any]] = []
        elif isinstance(value, list | tuple):
            items = list(enumerate(value))
        elif isinstance(value, Mapping):
            items = sorted(value.items())
        else:
            raise self._error(block.pipe.commands[0], f"range can't iterate over {text_of(value)}")
        if not items:
            self.walk(dot, block.other)
        known = len(self._variables)
        for key, item in items:
            names = block.pipe.names
            values = (key, item) if len(names) == 2 else (item,)
            for name, one in zip(names, values, strict=False):
                self._set(name, one, is_new=block.pipe.is_new)
            try:
                self.walk(item, block.body)
            except _Jumped as jump:
                if jump.args == ("break",):
                    break
            finally:
                del self._variables[known:]

    def _set(self, name: str, value: Any, *, is_new: bool) -> None:
        if is_new:
            self._variables.append((name, value))
            return
        for index in range(len(self._variables) - 1, -1, -1):
            if self._variables[index][0] == name:
                self._variables[index] = (name, value)
                return

    def _pipe(self, dot: Any, pipe: Pipe, *, is_range: bool = False) -> Any:
        value: Any = None
        for index, command in enumerate(pipe.commands):
            value = self._command(dot, command, (value,) if index else ())
        for name in () if is_range else pipe.names:
            self._set(name, value, is_new=pipe.is_new)
        return value

    def _command(self, dot: Any, command: Command, last: tuple[Any, ...]) -> Any:
        first, others = command.words[0], command.words[1:]
        if isinstance(first, Word):
            return self._call(dot, first, command, last)
        if others or last:
            if isinstance(first, Field) and first.names:
                raise self._error(first, f"{first.names[-1]} is not a method but has arguments")
            raise self._error(first, f"can't give argument to non-function {shown(first)}")
        if isinstance(first, Literal) and first.text == "nil":
            raise self._error(command, "nil is not a command")
        return self._value(dot, first)

    def _call(self, dot: Any, word: Word, command: Command, last: tuple[Any, ...]) -> Any:
        name, words = word.name, command.words[1:]
        if name in ("and", "or"):
            return self._short(dot, word, words, last)
        function, fewest, most = _FUNCTIONS[name]
        count = len(words) + len(last)
        if count < fewest or (most is not None and count > most):
            least = "at least " if most is None else ""
            raise self._error(
                word, f"wrong number of args for {name}: want {least}{fewest} got {count}"
            )
        values = [*(self._value(dot, one) for one in words), *last]
        for index, kind in enumerate(_PARAMETERS.get(name, ())[: len(values)]):
            if not isinstance(values[index], (*kind, Head)):
                node = words[index] if index < len(words) else command
                raise self._error(node, _mismatch(node, kind, values[index]))
        try:
            return function(*values)
        except _Refused as exc:
            raise self._error(command, f"error calling {name}: {exc}") from None

    def _short(self, dot: Any, word: Word, words: Sequence[Operand], last: tuple[Any, ...]) -> Any:
        if not words and not last:
            raise self._error(word, f"wrong number of args for {word.name}: want at least 1 got 0")
        value: Any = None
        for one in words:
            value = self._value(dot, one)
            if is_true(value) == (word.name == "or"):
                return value
        return last[0] if last else value

    def _value(self, dot: Any, node: Operand) -> Any:
        match node:
            case Literal():
                return node.value
            case Variable():
                return next(value for name, value in reversed(self._variables) if name == node.name)
            case Pipe():
                return self._pipe(dot, node)
            case Word():
                return self._call(dot, node, Command(node.at, (node,)), ())
            case Field():
                value = dot if node.base is None else self._value(dot, node.base)
                for name in node.names:
                    value = self._field(node, value, name)
                return value

    def _field(self, node: Field, value: Any, name: str) -> Any:
        if isinstance(value, Head):
            return Head(name.upper())
        if value is None:
            return None
        if isinstance(value, Mapping):
            return value.get(name)
        if isinstance(value, Struct):
            try:
                return value.get(name)
            except KeyError:
                pass
        named = "time.Time" if isinstance(value, Time) else type_name(value)
        raise self._error(node, f"can't evaluate field {name} in type {named}")
