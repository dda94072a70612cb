"""`--format` templates: the part of Go's text/template that people write for podman, parsed.

A template is text with actions between `{{` and `}}`. What is not here: `define`, `block` and
`template`, which one line has no use for.

Source: the documentation of Go's package text/template; errors are worded as Go words them.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from podrt.errors import InvalidConfig, Unsupported

MAX_DEPTH = 50
"""How deep parentheses and blocks may nest: Python's own stack must not end first."""

_OPEN = re.compile(r"\{\{(-(?=\s))?")
_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
  | (?P<number>[+-]?\d[\w.]*(?:(?<=[eE])[+-]\d+)?|[+-]?\.\d+(?:[eE][+-]?\d+)?|'(?:[^'\\\n]|\\.)+')
  | (?P<field>\.[^\W\d]\w*)
  | (?P<variable>\$\w*)
  | (?P<word>[^\W\d]\w*)
  | (?P<sign>:=|=|\||\(|\)|,|\.)
    """,
    re.VERBOSE,
)
_CLOSE = re.compile(r"\s-\}\}\s*|\}\}")
_COMMENT = re.compile(r"/\*.*?\*/(\s-\}\}\s*|\}\})", re.DOTALL)
_BLOCKS = frozenset({"if", "with", "range"})
_KEYWORDS = _BLOCKS | {"else", "end", "break", "continue", "define", "block", "template"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)
_LAST_CODE_POINT = 0x10FFFF


class Token(NamedTuple):
    """A word of an action; `kind` is a group of the pattern above, "text", "open" or "close"."""

    kind: str
    text: str
    at: int


class Literal(NamedTuple):
    """A string, number, true, false or nil."""

    at: int
    text: str
    value: str | int | float | bool | None


class Field(NamedTuple):
    """`.A.B` of `base`: dot when it is None; without names it is dot or `base` itself."""

    at: int
    base: Operand | None
    names: tuple[str, ...]


class Variable(NamedTuple):
    """`$name`; `$` alone is what the template was given."""

    at: int
    name: str


class Word(NamedTuple):
    """A function's name."""

    at: int
    name: str


class Command(NamedTuple):
    """A function with its arguments, or one operand."""

    at: int
    words: tuple[Operand, ...]


class Pipe(NamedTuple):
    """Commands, each given the result of the former; `names` are the variables it sets."""

    at: int
    names: tuple[str, ...]
    is_new: bool
    commands: tuple[Command, ...]


class Text(NamedTuple):
    """What is copied as it is."""

    text: str


class Block(NamedTuple):
    """`if`, `with` or `range`, its body and what follows `else`."""

    kind: str
    pipe: Pipe
    body: tuple[Node, ...]
    other: tuple[Node, ...]


class Jump(NamedTuple):
    """`break` or `continue`."""

    kind: str


Operand: TypeAlias = Literal | Field | Variable | Word | Pipe
Node: TypeAlias = Text | Pipe | Block | Jump


class Template(NamedTuple):
    """A parsed template; `name` and `text` are for the messages."""

    name: str
    text: str
    nodes: tuple[Node, ...]


def parse(name: str, text: str, functions: frozenset[str]) -> Template:
    """The template in `text`. Raises: InvalidConfig, Unsupported."""
    return Template(name, text, _Parser(name, text, functions).whole())


def shown(node: Operand | Command) -> str:
    """`node` as an error names it."""
    match node:
        case Literal():
            return node.text
        case Field():
            names = "".join(f".{name}" for name in node.names)
            if node.base is None:
                return names or "."
            return shown(node.base) + names
        case Variable() | Word():
            return node.name
        case Command():
            words = (shown(word) for word in node.words)
            return " ".join(words)
        case Pipe():
            return "(" + " | ".join(map(shown, node.commands)) + ")"


def place(template: Template, at: int) -> str:
    """Where `at` is, as Go counts: lines from one, bytes from zero."""
    before = template.text[:at]
    column = len(before.rpartition("\n")[2].encode("utf-8", "replace"))
    return f"{template.name}:{before.count(chr(10)) + 1}:{column}"


def replace_escapes(text: str, *, is_table: bool) -> str:
    r"""`\t` and `\n` outside of actions as what they mean; in a table blanks part columns."""
    parts = re.split(r"(\{\{.*?\}\})", text, flags=re.DOTALL)
    for index in range(0, len(parts), 2):
        part = parts[index].replace(r"\t", "\t").replace(r"\n", "\n")
        parts[index] = part.replace(" ", "\t") if is_table else part
    return "".join(parts)


class _Parser:
    def __init__(self, name: str, text: str, functions: frozenset[str]) -> None:
        self._name = name
        self._text = text
        self._functions = functions
        self._tokens = list(self._scan())
        self._next = 0
        self._depth = 0
        self._loops = 0
        self._variables = ["$"]

    def whole(self) -> tuple[Node, ...]:
        nodes, end = self._nodes()
        if end is not None:
            raise self._error(f"unexpected {{{{{end.text}}}}}", end.at)
        return nodes

    def _error(self, reason: str, at: int | None = None) -> InvalidConfig:
        where = self._peek().at if at is None else at
        line = self._text.count("\n", 0, where) + 1
        return InvalidConfig("", f"template: {self._name}:{line}: {reason}")

    # Words.

    def _scan(self) -> Iterator[Token]:
        text, at = self._text, 0
        while (opening := _OPEN.search(text, at)) is not None:
            before = text[at : opening.start()]
            yield Token("text", before.rstrip() if opening[1] else before, at)
            at = opening.end()
            comment = at + len(text[at:]) - len(text[at:].lstrip()) if opening[1] else at
            if text.startswith("/*", comment):
                over = _COMMENT.match(text, comment)
                if over is None:
                    raise self._error("unclosed comment", comment)
                at = over.end()
                continue
            yield Token("open", "{{", at)
            at = yield from self._scan_action(at)
        yield Token("text", text[at:], at)
        yield Token("end", "", len(text))

    def _scan_action(self, at: int) -> Generator[Token, None, int]:
        text = self._text
        while True:
            close = _CLOSE.match(text, at)
            if close is not None:
                yield Token("close", "}}", at)
                return close.end()
            token = _TOKEN.match(text, at)
            if token is None:
                raise self._error(_why_no_token(text, at), at)
            yield Token(token.lastgroup or "", token[0], at)
            at = token.end()

    def _peek(self) -> Token:
        return self._tokens[min(self._next, len(self._tokens) - 1)]

    def _take(self) -> Token:
        token = self._peek()
        self._next += 1
        return token

    def _skip_space(self) -> Token:
        while self._peek().kind == "space":
            self._next += 1
        return self._peek()

    # Blocks.

    def _nodes(self) -> tuple[tuple[Node, ...], Token | None]:
        """The nodes up to `end`, `else` (which is returned) or the end of the text."""
        nodes: list[Node] = []
        while (token := self._take()).kind != "end":
            if token.kind == "text":
                if token.text:
                    nodes.append(Text(token.text))
                continue
            word = self._skip_space()
            if word.kind != "word" or word.text not in _KEYWORDS:
                nodes.append(self._pipe("command"))
                self._close("command")
                continue
            self._take()
            if word.text in ("end", "else"):
                return tuple(nodes), word
            nodes.append(self._keyword(word))
        return tuple(nodes), None

    def _keyword(self, word: Token) -> Node:
        if word.text in _BLOCKS:
            return self._block(word)
        if word.text in ("break", "continue"):
            if not self._loops:
                raise self._error(f"{{{{{word.text}}}}} outside {{{{range}}}}", word.at)
            self._close(word.text)
            return Jump(word.text)
        raise Unsupported(f"{{{{{word.text}}}}} in a template")

    def _block(self, word: Token) -> Block:
        self._deeper()
        known = len(self._variables)
        pipe = self._pipe(word.text)
        self._close(word.text)
        self._loops += word.text == "range"
        body, end = self._nodes()
        self._loops -= word.text == "range"
        other: tuple[Node, ...] = ()
        if end is not None and end.text == "else":
            other, end = self._else(word)
        elif end is not None:
            self._close("end")
        if end is None:
            raise self._error("unexpected EOF")
        del self._variables[known:]
        self._depth -= 1
        return Block(word.text, pipe, body, other)

    def _else(self, block: Token) -> tuple[tuple[Node, ...], Token | None]:
        word = self._skip_space()
        if word.text == block.text == "if":
            # `{{else if X}}` is `{{else}}{{if X}}` with one `{{end}}` for both.
            self._take()
            return (self._block(word),), word
        self._close("else")
        nodes, end = self._nodes()
        if end is not None and end.text == "else":
            raise self._error("expected end; found {{else}}", end.at)
        if end is not None:
            self._close("end")
        return nodes, end

    def _close(self, context: str) -> None:
        token = self._skip_space()
        if token.kind != "close":
            raise self._error(f"unexpected {_quoted(token)} in {context}")
        self._take()

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error("nested too deeply")

    # Pipelines.

    def _pipe(self, context: str) -> Pipe:
        at = self._skip_space().at
        names, is_new = self._declaration(context)
        commands: list[Command] = []
        while True:
            if self._skip_space().kind == "close" or self._peek().text == ")":
                raise self._error(f"missing value for {context}")
            commands.append(self._command(context))
            first = commands[-1].words[0]
            if len(commands) > 1 and isinstance(first, Literal | Pipe):
                raise self._error(f"non executable command in pipeline stage {len(commands)}")
            if self._skip_space().text != "|":
                break
            self._take()
        if is_new:
            self._variables += names
        return Pipe(at, names, is_new, tuple(commands))

    def _declaration(self, context: str) -> tuple[tuple[str, ...], bool]:
        """`$a :=`, `$a =`, and in a range `$a, $b :=`; else nothing is taken."""
        begin, names = self._next, []
        while self._skip_space().kind == "variable":
            names.append(self._take().text)
            sign = self._skip_space()
            if sign.text == "," and context == "range" and len(names) == 1:
                self._take()
                continue
            if sign.text in (":=", "="):
                self._take()
                if sign.text == "=":
                    self._check_known(names, sign.at)
                return tuple(names), sign.text == ":="
            break
        self._next = begin
        return (), False

    def _check_known(self, names: Sequence[str], at: int) -> None:
        for name in names:
            if name not in self._variables:
                raise self._error(f'undefined variable "{name}"', at)

    def _command(self, context: str) -> Command:
        at = self._skip_space().at
        words: list[Operand] = []
        while True:
            words.append(self._operand(context))
            if self._peek().kind == "space":
                token = self._skip_space()
                if token.kind != "close" and token.text not in ("|", ")"):
                    continue
            elif self._peek().kind != "close" and self._peek().text not in ("|", ")"):
                raise self._error(f"unexpected {_quoted(self._peek())} in operand")
            return Command(at, tuple(words))

    def _operand(self, context: str) -> Operand:
        base = self._term(context)
        names, at = [], base.at
        while self._peek().kind == "field":
            token = self._take()
            names.append(token.text[1:])
            at = token.at if len(names) == 1 else at
        if not names:
            return base
        if isinstance(base, Literal) or (isinstance(base, Field) and not base.names):
            text = _go_quoted(shown(base))
            raise self._error(f"unexpected . after term {text}")
        if isinstance(base, Field):
            return Field(at, base.base, (*base.names, *names))
        return Field(at, base, tuple(names))

    def _term(self, context: str) -> Operand:
        token = self._take()
        if token.kind == "field":
            return Field(token.at, None, (token.text[1:],))
        if token.kind == "variable":
            self._check_known([token.text], token.at)
            return Variable(token.at, token.text)
        if token.kind in ("string", "number"):
            return Literal(token.at, token.text, self._constant(token))
        if token.kind == "word":
            return self._word(token)
        if token.text == ".":
            return Field(token.at, None, ())
        if token.text == "(":
            self._deeper()
            pipe = self._pipe("parenthesized pipeline")
            if self._skip_space().text != ")":
                raise self._error(f"unexpected {_quoted(self._peek())} in parenthesized pipeline")
            self._take()
            self._depth -= 1
            return pipe
        raise self._error(f"unexpected {_quoted(token)} in {context}", token.at)

    def _word(self, token: Token) -> Operand:
        if token.text in ("true", "false"):
            return Literal(token.at, token.text, token.text == "true")
        if token.text == "nil":
            return Literal(token.at, "nil", None)
        if token.text in _KEYWORDS:
            raise self._error(f"unexpected <{token.text}> in operand", token.at)
        if token.text not in self._functions:
            raise self._error(f'function "{token.text}" not defined', token.at)
        return Word(token.at, token.text)

    def _constant(self, token: Token) -> str | int | float:
        text = token.text
        if text[0] == "`":
            return text[1:-1]
        if text[0] not in "\"'":
            return self._number(token)
        try:
            value = _ESCAPE.sub(_unescape, text[1:-1])
        except ValueError:
            raise self._error("invalid syntax", token.at) from None
        if text[0] == '"':
            return value
        if len(value) != 1:
            raise self._error(f"malformed character constant: {text}", token.at)
        return ord(value)

    def _number(self, token: Token) -> int | float:
        text = token.text
        digits = text.lstrip("+-")
        is_octal = digits[0] == "0" and digits.isdecimal()
        try:
            number = int(text, 8 if is_octal else 0)
        except ValueError:
            try:
                return float(text)
            except ValueError:
                raise self._error(f"bad number syntax: {_go_quoted(text)}", token.at) from None
        if not -(1 << 63) <= number < 1 << 63:
            raise self._error(f"integer overflow: {_go_quoted(text)}", token.at)
        return number


def _unescape(found: re.Match[str]) -> str:
    code = found[1]
    if code[0] in "xuU" and len(code) > 1:
        number = int(code[1:], 16)
    elif code.isdecimal() and len(code) > 1:
        number = int(code, 8)
    elif code in _ESCAPES or code in "\\\"'":
        return _ESCAPES.get(code, code)
    else:
        raise ValueError(code)
    if number > _LAST_CODE_POINT or 0xD800 <= number < 0xE000:
        raise ValueError(code)
    return chr(number)


def _why_no_token(text: str, at: int) -> str:
    if at >= len(text):
        return "unclosed action"
    if text[at] == '"':
        return "unterminated quoted string"
    if text[at] == "`":
        return "unterminated raw quoted string"
    if text[at] == "'":
        return "unterminated character constant"
    sign = text[at] if text[at].isprintable() else f"\\x{ord(text[at]):02x}"
    return f"bad character U+{ord(text[at]):04X} '{sign}'"


def _quoted(token: Token) -> str:
    if token.kind == "end":
        return "EOF"
    if token.text == "." or (token.kind == "word" and token.text in _KEYWORDS):
        return f"<{token.text}>"
    return _go_quoted(token.text)


def _go_quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
