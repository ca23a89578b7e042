"""Questions about records, such as `alignment > 0.28 and not flat`: parsed, checked against columns, and answered."""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagemill.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

_TOKEN = re.compile(
    r"""(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?!\w))
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<name>`[^`]+`|[^\W\d]\w*)
      | (?P<sign><=|>=|!=|<>|==|=|<|>|\(|\)|,)""",
    re.VERBOSE,
)
_WORDS = {"and", "or", "not", "in", "is", "null", "contains", "true", "false"}
_SPELLINGS = {"==": "=", "<>": "!="}
_OPPOSITES = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "=": "!=", "!=": "="}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip
_ARROW = {"<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal", "=": "equal", "!=": "not_equal"}
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
_SHOWN = 60
"""Characters of a text that an explanation shows."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a record does not pass."""

    kind: str
    """The same for all records that fail so: `alignment <= 0.28`."""
    text: str
    """With the record's own figure: `alignment 0.181 <= 0.28`."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """`number`, `text`, `name`, `sign`, `word`, or `end`."""
    value: str
    position: int


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    position: int

    def __str__(self) -> str:
        return self.name if re.fullmatch(r"[^\W\d]\w*", self.name) else f"`{self.name}`"

    def array(self, table: pa.Table) -> Any:
        return table.column(self.name)


@dataclass(frozen=True, slots=True)
class _Constant:
    value: float | str | bool
    position: int

    def __str__(self) -> str:
        return _shown(self.value)


_Operand = _Column | _Constant
_Types = Mapping[str, str]
"""Of each column: `number`, `text`, `yes or no`, `texts`, `nothing` for only nulls, `other`."""


class _Node(ABC):
    """A part of an expression; negations stand in the leaves."""

    @abstractmethod
    def columns(self) -> Iterator[_Column]:
        """The columns in it, as often as they are named."""

    @abstractmethod
    def check(self, types: _Types) -> tuple[int, str, str] | None:
        """What cannot be: position, reason, hint."""

    @abstractmethod
    def mask(self, table: pa.Table) -> Any:
        """True, false or null for each record."""

    @abstractmethod
    def causes(self, table: pa.Table) -> list[Cause]:
        """Why each record does not pass; of those that do, nothing that makes sense."""

    @abstractmethod
    def opposite(self) -> _Node:
        """True where this is false."""


@dataclass(frozen=True, slots=True)
class _Junction(_Node):
    parts: tuple[_Node, ...]
    conjunction: bool

    def columns(self) -> Iterator[_Column]:
        for part in self.parts:
            yield from part.columns()

    def check(self, types: _Types) -> tuple[int, str, str] | None:
        return next(filter(None, (part.check(types) for part in self.parts)), None)

    def mask(self, table: pa.Table) -> Any:
        import pyarrow.compute as pc

        combine = pc.and_kleene if self.conjunction else pc.or_kleene
        found = self.parts[0].mask(table)
        for part in self.parts[1:]:
            found = combine(found, part.mask(table))
        return found

    def causes(self, table: pa.Table) -> list[Cause]:
        causes = zip(*(part.causes(table) for part in self.parts), strict=True)
        if not self.conjunction:
            return [
                Cause(" and ".join(cause.kind for cause in all_), " and ".join(cause.text for cause in all_))
                for all_ in causes
            ]
        masks = zip(*(part.mask(table).to_pylist() for part in self.parts), strict=True)
        # What is false decides, whatever else is not known.
        return [
            all_[truth.index(False) if False in truth else truth.index(None) if None in truth else 0]
            for all_, truth in zip(causes, masks, strict=True)
        ]

    def opposite(self) -> _Node:
        return _Junction(tuple(part.opposite() for part in self.parts), not self.conjunction)


@dataclass(frozen=True, slots=True)
class _Comparison(_Node):
    left: _Operand
    sign: str
    right: _Operand

    def columns(self) -> Iterator[_Column]:
        yield from (side for side in (self.left, self.right) if isinstance(side, _Column))

    def check(self, types: _Types) -> tuple[int, str, str] | None:
        left, right = _type(self.left, types), _type(self.right, types)
        for side, kind in ((self.left, left), (self.right, right)):
            if kind in {"texts", "other"}:
                return side.position, f"`{side}` holds lists and cannot be compared", "lists know only `contains`"
        if left != right and "nothing" not in {left, right}:
            first, second = (self.right, self.left) if isinstance(self.left, _Constant) else (self.left, self.right)
            kinds = f"`{first}` is a {_type(first, types)}, `{second}` a {_type(second, types)}"
            wanted = _type(first, types) == "text" and isinstance(second, _Constant)
            return second.position, kinds, f"write '{second}'" if wanted else "compare what is alike"
        if left == "yes or no" and self.sign not in {"=", "!="}:
            return self.left.position, f"a yes or no is not `{self.sign}` another", "write the column alone, or `not`"
        return None

    def mask(self, table: pa.Table) -> Any:
        import pyarrow.compute as pc

        left, right = (_values(side, table) for side in (self.left, self.right))
        left, right = _typed(left, right), _typed(right, left)
        return pc.call_function(_ARROW[self.sign], [left, right])

    def causes(self, table: pa.Table) -> list[Cause]:
        sign = _OPPOSITES[self.sign]
        kind = f"{self.left} {sign} {self.right}"
        lefts, rights = (_listed(side, table) for side in (self.left, self.right))
        causes = []
        for left, right in zip(lefts, rights, strict=True):
            if left is None or right is None:
                causes.append(_null(self.left if left is None else self.right))
                continue
            shown = [
                f"{side} {_near(value, other)}" if isinstance(side, _Column) else str(side)
                for side, value, other in ((self.left, left, right), (self.right, right, left))
            ]
            causes.append(Cause(kind, f"{shown[0]} {sign} {shown[1]}"))
        return causes

    def opposite(self) -> _Node:
        return _Comparison(self.left, _OPPOSITES[self.sign], self.right)


@dataclass(frozen=True, slots=True)
class _OneColumn(_Node):
    """What is asked of one column; `values` are what stands behind `in` or `contains`."""

    column: _Column
    question: str
    """`in`, `contains`, `null`, or `true` where it stands alone."""
    values: tuple[_Constant, ...] = ()
    negated: bool = False

    def columns(self) -> Iterator[_Column]:
        yield self.column

    def check(self, types: _Types) -> tuple[int, str, str] | None:
        kind, position = _type(self.column, types), self.column.position
        if kind == "nothing" or self.question == "null":
            return None
        if self.question == "true":
            if kind != "yes or no":
                return position, f"`{self.column}` is a {kind}, and no yes or no", f"compare it: {self.column} > 0.5"
        elif self.question == "contains":
            if kind not in {"text", "texts"}:
                return position, f"`{self.column}` is a {kind}, and no text that contains another", "compare it"
        elif kind in {"texts", "other"}:
            return position, f"`{self.column}` holds lists and cannot be compared", "lists know only `contains`"
        else:
            wrong = next((value for value in self.values if _type(value, types) != kind), None)
            if wrong:
                hint = f"write '{wrong}'" if kind == "text" else "compare what is alike"
                return wrong.position, f"`{self.column}` is a {kind}, `{wrong}` a {_type(wrong, types)}", hint
        return None

    def mask(self, table: pa.Table) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        array = self.column.array(table)
        texts = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
        if self.question == "null":
            found = pc.is_null(array)
            if texts:
                found = pc.or_(found, pc.equal(pc.fill_null(array, ""), ""))
        elif pa.types.is_null(array.type):
            return pa.nulls(len(table), pa.bool_())
        elif self.question == "true":
            found = array
        elif self.question == "contains":
            found = _containing(array, str(self.values[0].value))
        else:
            values = pa.array([value.value for value in self.values])
            if not texts and not pa.types.is_boolean(array.type):
                array, values = array.cast(pa.float64()), values.cast(pa.float64())
            found = pc.if_else(pc.is_valid(array), pc.is_in(array, values.cast(array.type)), None)
        return pc.invert(found) if self.negated else found

    def causes(self, table: pa.Table) -> list[Cause]:
        words = {
            "null": ("is null", "is not null"),
            "true": ("is true", "is false"),
            "contains": ("contains", "not contains"),
            "in": ("in", "not in"),
        }
        behind = ", ".join(map(str, self.values))
        behind = f" ({behind})" if self.question == "in" else f" {behind}" if behind else ""
        said = words[self.question][not self.negated] + behind
        kind = f"{self.column} {said}"
        unknown = _null(self.column)
        alone = self.question == "true" or (self.question == "null" and self.negated)
        return [
            unknown if value is None else Cause(kind, kind if alone else f"{self.column} {_shown(value)} {said}")
            for value in self.column.array(table).to_pylist()
        ]

    def opposite(self) -> _Node:
        return _OneColumn(self.column, self.question, self.values, not self.negated)


class Expression:
    """A question that is true, false or, where a value is absent, unknown of a record."""

    def __init__(self, text: str, root: _Node) -> None:
        """Only for `parse`."""
        self.text = text
        self._root = root

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Read an expression; raises UsageError that shows the place."""
        return cls(text, _Parser(text).whole())

    @property
    def columns(self) -> list[str]:
        """The names of the columns in it."""
        return list(dict.fromkeys(column.name for column in self._root.columns()))

    def check(self, schema: pa.Schema) -> None:
        """Raise UsageError for a column that is not there, or that is compared with something of another kind."""
        types = {field.name: _kind(field.type) for field in schema}
        for column in self._root.columns():
            if column.name not in types:
                hint = did_you_mean(column.name, types) or f"columns: {', '.join(types)}"
                raise _error(self.text, column.position, f"there is no column `{column.name}`", hint)
        wrong = self._root.check(types)
        if wrong:
            raise _error(self.text, *wrong)

    def mask(self, table: pa.Table) -> pa.BooleanArray:
        """True, false or null for each row of a table with these columns."""
        import pyarrow as pa

        found = self._root.mask(table)
        return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found

    def causes(self, table: pa.Table) -> list[Cause]:
        """Why each row of a table is not true; only for tables of which none is."""
        return self._root.causes(table)

    def explain(self, record: Mapping[str, Any]) -> str:
        """What makes it false of a record, or unknown, with the figure: `alignment 0.181 <= 0.28`; empty when true."""
        import pyarrow as pa

        table = pa.Table.from_pylist([{name: record.get(name) for name in self.columns}])
        return "" if self.mask(table)[0].as_py() else self.causes(table)[0].text


class _Parser:
    """Recursive descent: `or` binds least, then `and`, then `not`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0

    def whole(self) -> _Node:
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

    def _fail(self, reason: str, hint: str = "", position: int | None = None) -> None:
        value = self._token.value
        before = self._tokens[self._next - 1].value if self._next else ""
        hint = hint or _HINTS.get(value.casefold(), "") or _HINTS.get(before + value, "") or _HINT
        raise _error(self._text, self._token.position if position is None else position, reason, hint)

    def _or(self) -> _Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._fail(f"more than {_DEEPEST} parentheses inside of each other", "write it flatter")
        parts = [self._and()]
        while self._take("or"):
            parts.append(self._and())
        self._depth -= 1
        return parts[0] if len(parts) == 1 else _Junction(tuple(parts), conjunction=False)

    def _and(self) -> _Node:
        parts = [self._not()]
        while self._take("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else _Junction(tuple(parts), conjunction=True)

    def _not(self) -> _Node:
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

    def _predicate(self) -> _Node:
        left = self._operand()
        sign = self._token.value
        if self._take(*_OPPOSITES, *_SPELLINGS):
            right = self._operand()
            if isinstance(left, _Constant) and isinstance(right, _Constant):
                self._fail("a comparison needs a column", position=left.position)
            if self._take(*_OPPOSITES, *_SPELLINGS):
                self._next -= 1
                self._fail("comparisons cannot be chained", "write `0.1 < x and x < 0.5`")
            return _Comparison(left, _SPELLINGS.get(sign, sign), right)
        if isinstance(left, _Constant):
            self._fail(f"expected a comparison after `{left}`, got {self._got()}")
            raise AssertionError
        if self._take("is"):
            negated = self._take("not")
            if not self._take("null"):
                self._fail(f"expected `null` after `is`, got {self._got()}", "write `x is null`, or `x = 'text'`")
            return _OneColumn(left, "null", negated=negated)
        negated = self._take("not")
        if self._take("in"):
            return _OneColumn(left, "in", self._list(), negated)
        if self._take("contains"):
            sought = self._operand()
            if not isinstance(sought, _Constant) or not isinstance(sought.value, str) or not sought.value:
                self._fail("`contains` looks for a text", f"write {left} contains 'cat'", sought.position)
                raise AssertionError
            return _OneColumn(left, "contains", (sought,), negated)
        if negated:
            self._fail(f"expected `in` or `contains` after `not`, got {self._got()}")
        return _OneColumn(left, "true")

    def _list(self) -> tuple[_Constant, ...]:
        if not self._take("("):
            self._fail(f"expected `(` after `in`, got {self._got()}", "write x in ('cat', 'dog')")
        values: list[_Constant] = []
        while not values or self._take(","):
            value = self._operand()
            if isinstance(value, _Column):
                self._fail(f"`{value}` is a column", f"a text stands in quotes: '{value}'", value.position)
                raise AssertionError
            if values and type(value.value) is not type(values[0].value):
                self._fail(f"`{values[0]}` and `{value}` are of different kinds", position=value.position)
            values.append(value)
        self._close()
        return tuple(values)

    def _operand(self) -> _Operand:
        token = self._token
        self._next += 1
        if token.kind == "number":
            return _Constant(float(token.value), token.position)
        if token.kind == "text":
            quote = token.value[0]
            return _Constant(token.value[1:-1].replace(quote * 2, quote), token.position)
        if token.kind == "word" and token.value in {"true", "false"}:
            return _Constant(token.value == "true", token.position)
        if token.kind == "name":
            return _Column(token.value.strip("`"), token.position)
        self._next -= 1
        hint = "write `x is null`" if token.value == "null" else ""
        self._fail(f"expected a column or a value, got {self._got()}", hint)
        raise AssertionError


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
            raise _error(text, position, what, "close it" if sign in "'\"`" else _HINTS.get(sign, _HINT))
        kind, value = str(found.lastgroup), found[0]
        if kind == "name" and value.casefold() in _WORDS:
            kind, value = "word", value.casefold()
        yield _Token(kind, value, position)
        position = found.end()
    yield _Token("end", "", len(text))


def _error(text: str, position: int, reason: str, hint: str) -> UsageError:
    line = re.sub(r"\s", " ", text)
    return UsageError(f"in the expression: {reason}\n\n    {line}\n    {' ' * position}^", hint)


def _kind(arrow: pa.DataType) -> str:
    import pyarrow as pa

    kinds = {
        "number": (pa.types.is_integer, pa.types.is_floating),
        "text": (pa.types.is_string, pa.types.is_large_string),
        "yes or no": (pa.types.is_boolean,),
        "nothing": (pa.types.is_null,),
    }
    for kind, tests in kinds.items():
        if any(test(arrow) for test in tests):
            return kind
    return "texts" if pa.types.is_list(arrow) and _kind(arrow.value_type) == "text" else "other"


def _type(operand: _Operand, types: _Types) -> str:
    if isinstance(operand, _Column):
        return types[operand.name]
    return {bool: "yes or no", str: "text"}.get(type(operand.value), "number")


def _values(operand: _Operand, table: pa.Table) -> Any:
    import pyarrow as pa

    return operand.array(table) if isinstance(operand, _Column) else pa.scalar(operand.value)


def _typed(values: Any, other: Any) -> Any:
    """Values of which none is known have the type of what they are compared with."""
    import pyarrow as pa

    return values.cast(other.type) if pa.types.is_null(values.type) else values


def _containing(array: Any, sought: str) -> Any:
    """Whether a text, or one of a list of texts, contains another, whatever the case."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_list(array.type):
        return pc.match_substring(array, sought, ignore_case=True)
    texts = pc.match_substring(pc.list_flatten(array), sought, ignore_case=True)
    holding = pc.unique(pc.list_parent_indices(array).filter(texts))
    found = pc.is_in(pa.array(range(len(array)), holding.type), holding)
    return pc.if_else(pc.is_valid(array), found, None)


def _listed(operand: _Operand, table: pa.Table) -> list[Any]:
    return operand.array(table).to_pylist() if isinstance(operand, _Column) else [operand.value] * len(table)


def _null(operand: _Operand) -> Cause:
    return Cause(f"{operand} is null", f"{operand} is null")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…")
    if isinstance(value, float):
        return f"{value:.4g}" if float(f"{value:.4g}") == value else repr(value)
    return str(value)


def _near(value: Any, other: Any) -> str:
    """A figure with few digits, and all of them where fewer would not compare as it does."""
    if not isinstance(value, float):
        return _shown(value)
    short = f"{value:.4g}"
    same = all(compare(float(short), other) == compare(value, other) for compare in _COMPARE.values())
    return short if same else repr(value)
