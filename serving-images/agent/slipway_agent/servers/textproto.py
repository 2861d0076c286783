"""The protobuf text format, read and printed without a schema, so that what we don't know in a kept file survives.

Invariant: `parse(print_message(message)) == message` for every message that `parse` can give. Scalars stay the words
they were written in. Comments and the choice between `{}` and `<>` are not kept. Grammar: the Text Format Language
Specification of protobuf (2024). Pure; imports nothing of the agent.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias


class TextProtoError(Exception):
    """The text isn't in the format; the message says line, column and what was expected."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number, identifier (enum value, true, inf) or quoted string, as written; adjacent strings joined by a space."""

    word: str


@dataclass(frozen=True, slots=True)
class Message:
    fields: tuple["Field", ...] = ()

    def named(self, name: str) -> tuple["Field", ...]:
        return tuple(field for field in self.fields if field.name == name)

    def first(self, name: str) -> "Value | None":
        return next((field.value for field in self.fields if field.name == name), None)

    def has(self, name: str) -> bool:
        return any(field.name == name for field in self.fields)

    def without(self, *names: str) -> "Message":
        return Message(tuple(field for field in self.fields if field.name not in names))

    def replacing(self, name: str, value: "Value") -> "Message":
        """This message with exactly one field of that name, at the place of the first one there was, else last."""
        new, rest, placed = Field(name, value), [], False
        for field in self.fields:
            if field.name != name:
                rest.append(field)
            elif not placed:
                rest.append(new)
                placed = True
        return Message(tuple(rest if placed else [*rest, new]))


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    value: "Value"


Value: TypeAlias = Scalar | Message | tuple[Scalar, ...] | tuple[Message, ...]


def number(value: int) -> Scalar:
    return Scalar(str(value))


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\0": "\\000"}


def text(value: str) -> Scalar:
    """A quoted string. Escapes what the format can't hold raw; the rest stays UTF-8."""
    return Scalar('"' + "".join(_ESCAPES.get(letter, letter) for letter in value) + '"')


def message(*fields: tuple[str, "Value"]) -> Message:
    return Message(tuple(Field(name, value) for name, value in fields))


_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n\f\v]|\#[^\n]*)+)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>(?:0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)(?![A-Za-z0-9_.]))
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>[-\[\]{}<>:;,./%])""",
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}
_DEPTH_LIMIT = 100  # protobuf's own parser stops there too


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    word: str
    offset: int


def parse(source: str) -> Message:
    """Read a text-format message; TextProtoError with line and column for another text."""
    return _Parser(source).parse()


def print_message(content: Message) -> str:
    """One field a line, two spaces a level, a newline at the end; the empty message is the empty text."""
    return "".join(f"{line}\n" for line in _lines(content, ""))


def _lines(content: Message, indent: str) -> Iterator[str]:
    for field in content.fields:
        match field.value:
            case Scalar(word):
                yield f"{indent}{field.name}: {word}"
            case Message() as inner:
                yield f"{indent}{field.name} {{"
                yield from _lines(inner, indent + "  ")
                yield f"{indent}}}"
            case items if any(isinstance(item, Message) for item in items):
                yield f"{indent}{field.name}: ["
                yield from _list_lines((item for item in items if isinstance(item, Message)), indent + "  ")
                yield f"{indent}]"
            case items:
                words = ", ".join(item.word for item in items if isinstance(item, Scalar))
                yield f"{indent}{field.name}: [{words}]"


def _list_lines(items: Iterable[Message], indent: str) -> Iterator[str]:
    remaining = list(items)
    for position, item in enumerate(remaining):
        yield f"{indent}{{"
        yield from _lines(item, indent + "  ")
        yield f"{indent}}}" + ("," if position + 1 < len(remaining) else "")


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = list(self._split())
        self._next = 0

    def _split(self) -> Iterator[_Token]:
        offset = 0
        while offset < len(self._source):
            found = _TOKEN.match(self._source, offset)
            if found is None:
                found_text = self._source[offset : offset + 20]
                raise self._error(offset, f"{found_text!r} is neither a name, a number nor a string")
            if found.lastgroup != "space":
                yield _Token(found.lastgroup or "", found.group(), offset)
            offset = found.end()
        yield _Token("end", "", offset)

    def parse(self) -> Message:
        content = self._message(closing="", depth=0)
        if self._peek().kind != "end":
            raise self._expected("a field name")
        return content

    def _message(self, closing: str, depth: int) -> Message:
        if depth > _DEPTH_LIMIT:
            raise self._expected(f"at most {_DEPTH_LIMIT} levels")
        fields: list[Field] = []
        while self._peek().kind != "end" and self._peek().word != closing:
            name = self._name()
            fields.append(Field(name, self._value(depth)))
            if self._peek().word in (",", ";"):
                self._take()
        return Message(tuple(fields))

    def _name(self) -> str:
        token = self._take()
        if token.kind == "name":
            return token.word
        if token.word != "[":
            raise self._expected("a field name", token)
        words = ["["]  # an extension or an Any: a dotted name, perhaps after a domain
        while (token := self._take()).word != "]":
            if token.kind != "name" and token.word not in (".", "/", "-", "%"):
                raise self._expected("']'", token)
            words.append(token.word)
        if len(words) == 1:
            raise self._expected("a name in the brackets", token)
        return "".join([*words, "]"])

    def _value(self, depth: int) -> Value:
        colon = self._peek().word == ":"
        if colon:
            self._take()
        if self._peek().word in _CLOSING:
            return self._braced(depth)
        if self._peek().word == "[":
            return self._list(colon, depth)
        if not colon:
            raise self._expected("':' or '{'")
        return self._scalar()

    def _braced(self, depth: int) -> Message:
        opening = self._take()
        if opening.word not in _CLOSING:
            raise self._expected("'{'", opening)
        closing = _CLOSING[opening.word]
        content = self._message(closing, depth + 1)
        if (token := self._take()).word != closing:
            raise self._expected(f"'{closing}'", token)
        return content

    def _list(self, colon: bool, depth: int) -> Value:
        self._take()
        if self._peek().word == "]":
            self._take()
            return ()
        if self._peek().word in _CLOSING:
            messages = [self._braced(depth)]
            while self._comma_or_end():
                messages.append(self._braced(depth))
            return tuple(messages)
        if not colon:
            raise self._expected("'{'")
        scalars = [self._scalar()]
        while self._comma_or_end():
            scalars.append(self._scalar())
        return tuple(scalars)

    def _comma_or_end(self) -> bool:
        token = self._take()
        if token.word not in (",", "]"):
            raise self._expected("',' or ']'", token)
        return token.word == ","

    def _scalar(self) -> Scalar:
        token = self._take()
        if token.kind == "string":
            words = [token.word]
            while self._peek().kind == "string":
                words.append(self._take().word)
            return Scalar(" ".join(words))
        if token.word == "-":
            following = self._take()
            if following.kind not in ("number", "name"):
                raise self._expected("a number after '-'", following)
            return Scalar(f"-{following.word}")
        if token.kind in ("number", "name"):
            return Scalar(token.word)
        raise self._expected("a value", token)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _expected(self, what: str, token: _Token | None = None) -> TextProtoError:
        found = token or self._peek()
        return self._error(found.offset, f"expected {what}, found {repr(found.word) if found.word else 'the end'}")

    def _error(self, offset: int, what: str) -> TextProtoError:
        line = self._source.count("\n", 0, offset) + 1
        column = offset - self._source.rfind("\n", 0, offset)
        return TextProtoError(f"line {line}, column {column}: {what}")
