"""Expressions read from text, by recursive descent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from imagemill.errors import UsageError
from imagemill.expressions.nodes import (
    OPPOSITES,
    Column,
    Comparison,
    Constant,
    Junction,
    Node,
    OneColumn,
    Operand,
    kind_of_constant,
)

_TOKEN = re.compile(
    r"""(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?!\w))
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<name>`[^`]+`|[^\W\d]\w*)
      | (?P<sign><=|>=|!=|<>|==|=|<|>|\(|\)|,)""",
    re.VERBOSE,
)
_WORDS = {"and", "or", "not", "in", "is", "null", "contains", "true", "false"}
_SPELLINGS = {"==": "=", "<>": "!="}
_HINTS = {
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not`, or `!=`",
    "=>": "write `>=`",
    "=<": "write `<=`",
    "like": "`contains` looks for a part of a text",
    "between": "write `x >= 1 and x <= 2`",
    "-": "a column whose name is more than letters, digits and `_` stands in backticks: `` `my-column` ``",
}
_HINT = "for instance: alignment > 0.28 and image_nsfw < 0.1 and prompt contains 'cat'"
_DEEPEST = 50


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """`number`, `text`, `name`, `sign`, `word`, or `end`."""
    value: str
    position: int


class Parser:
    """Recursive descent: `or` binds least, then `and`, then `not`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0

    def whole(self) -> Node:
        """The expression; raises UsageError."""
        node = self._or()
        if self._token.kind != "end":
            self._fail(f"expected `and`, `or` or the end, got `{self._token.value}`")
        return node

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *values: str) -> bool:
        """Step over a word or sign if it is one of these."""
        found = self._token.kind in {"word", "sign"} and self._token.value in values
        self._next += found
        return found

    def _fail(self, reason: str, hint: str = "", position: int | None = None) -> NoReturn:
        value = self._token.value
        before = self._tokens[self._next - 1].value if self._next else ""
        hint = hint or _HINTS.get(value.casefold(), "") or _HINTS.get(before + value, "") or _HINT
        raise place_error(self._text, self._token.position if position is None else position, reason, hint)

    def _or(self) -> Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._fail(f"more than {_DEEPEST} parentheses inside of each other", "write it flatter")
        parts = [self._and()]
        while self._take("or"):
            parts.append(self._and())
        self._depth -= 1
        return parts[0] if len(parts) == 1 else Junction(tuple(parts), conjunction=False)

    def _and(self) -> Node:
        parts = [self._not()]
        while self._take("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else Junction(tuple(parts), conjunction=True)

    def _not(self) -> Node:
        negated = False
        while self._take("not"):
            negated = not negated
        if self._take("("):
            node = self._or()
            self._close()
        else:
            node = self._predicate()
        return node.opposite() if negated else node

    def _close(self) -> None:
        if not self._take(")"):
            self._fail(f"expected `)`, got {self._got()}")

    def _got(self) -> str:
        return "the end" if self._token.kind == "end" else f"`{self._token.value}`"

    def _predicate(self) -> Node:
        left = self._operand()
        sign = self._token.value
        if self._take(*OPPOSITES, *_SPELLINGS):
            right = self._operand()
            if isinstance(left, Constant) and isinstance(right, Constant):
                self._fail("a comparison needs a column", position=left.position)
            if self._take(*OPPOSITES, *_SPELLINGS):
                self._next -= 1
                self._fail("comparisons cannot be chained", "write `0.1 < x and x < 0.5`")
            return Comparison(left, _SPELLINGS.get(sign, sign), right)
        if isinstance(left, Constant):
            self._fail(f"expected a comparison after `{left}`, got {self._got()}")
        if self._take("is"):
            negated = self._take("not")
            if not self._take("null"):
                self._fail(f"expected `null` after `is`, got {self._got()}", "write `x is null`, or `x = 'text'`")
            return OneColumn(left, "null", negated=negated)
        negated = self._take("not")
        if self._take("in"):
            return OneColumn(left, "in", self._list(), negated)
        if self._take("contains"):
            sought = self._operand()
            if not isinstance(sought, Constant) or not isinstance(sought.value, str) or not sought.value:
                self._fail("`contains` looks for a text", f"write {left} contains 'cat'", sought.position)
            return OneColumn(left, "contains", (sought,), negated)
        if negated:
            self._fail(f"expected `in` or `contains` after `not`, got {self._got()}")
        return OneColumn(left, "true")

    def _list(self) -> tuple[Constant, ...]:
        if not self._take("("):
            self._fail(f"expected `(` after `in`, got {self._got()}", "write x in ('cat', 'dog')")
        values: list[Constant] = []
        while not values or self._take(","):
            value = self._operand()
            if isinstance(value, Column):
                self._fail(f"`{value}` is a column", f"a text stands in quotes: '{value}'", value.position)
            if values and kind_of_constant(value) != kind_of_constant(values[0]):
                self._fail(f"`{values[0]}` and `{value}` are of different kinds", position=value.position)
            values.append(value)
        self._close()
        return tuple(values)

    def _operand(self) -> Operand:
        token = self._token
        self._next += 1
        if token.kind == "number":
            return Constant(_number(token.value), token.position)
        if token.kind == "text":
            quote = token.value[0]
            return Constant(token.value[1:-1].replace(quote * 2, quote), token.position)
        if token.kind == "word" and token.value in {"true", "false"}:
            return Constant(token.value == "true", token.position)
        if token.kind == "name":
            return Column(token.value.strip("`"), token.position)
        self._next -= 1
        hint = "write `x is null`" if token.value == "null" else ""
        return self._fail(f"expected a column or a value, got {self._got()}", hint)


def _number(text: str) -> int | float:
    """Whole numbers are exact, where Arrow can hold them."""
    value = float(text)
    return int(text) if re.fullmatch(r"[-+]?\d+", text) and abs(value) < 1e38 else value


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        found = _TOKEN.match(text, position)
        if not found:
            sign = text[position]
            what = "a text without its closing quote" if sign in "'\"`" else f"`{sign}` means nothing here"
            raise place_error(text, position, what, "close it" if sign in "'\"`" else _HINTS.get(sign, _HINT))
        kind, value = str(found.lastgroup), found[0]
        if kind == "name" and value.casefold() in _WORDS:
            kind, value = "word", value.casefold()
        yield _Token(kind, value, position)
        position = found.end()
    yield _Token("end", "", len(text))


def place_error(text: str, position: int, reason: str, hint: str) -> UsageError:
    """An error that shows where in an expression it is."""
    line = re.sub(r"\s", " ", text)
    return UsageError(f"in the expression: {reason}\n\n    {line}\n    {' ' * position}^", hint)
