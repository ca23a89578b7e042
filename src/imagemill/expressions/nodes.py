"""What expressions are made of: how each part is checked, answered, and explained."""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from imagemill.expressions.texts import containing

if TYPE_CHECKING:
    import pyarrow as pa

OPPOSITES = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "=": "!=", "!=": "="}
_COMPARE: tuple[Callable[[Any, Any], bool], ...] = (operator.lt, operator.eq, operator.gt)
_ARROW = {"<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal", "=": "equal", "!=": "not_equal"}
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
class Column:
    """A column, and where the expression names it."""

    name: str
    position: int

    def __str__(self) -> str:
        return self.name if re.fullmatch(r"[^\W\d]\w*", self.name) else f"`{self.name}`"

    def array(self, table: pa.Table) -> Any:
        """Its values."""
        return table.column(self.name)


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that stands in the expression."""

    value: int | float | str | bool
    position: int

    def __str__(self) -> str:
        return _shown(self.value)


Operand = Column | Constant
Types = Mapping[str, str]
"""Of each column: `number`, `text`, `yes or no`, `texts`, `nothing` for only nulls, `other`."""


class Node(ABC):
    """A part of an expression; negations stand in the leaves."""

    @abstractmethod
    def columns(self) -> Iterator[Column]:
        """The columns in it, as often as they are named."""

    @abstractmethod
    def check(self, types: Types) -> tuple[int, str, str] | None:
        """What cannot be: position, reason, hint."""

    @abstractmethod
    def mask(self, table: pa.Table) -> Any:
        """True, false or null for each record."""

    @abstractmethod
    def causes(self, table: pa.Table) -> list[Cause]:
        """Why each record does not pass; of those that do, nothing that makes sense."""

    @abstractmethod
    def opposite(self) -> Node:
        """True where this is false."""


@dataclass(frozen=True, slots=True)
class Junction(Node):
    """Parts joined by `and`, or by `or`."""

    parts: tuple[Node, ...]
    conjunction: bool

    def columns(self) -> Iterator[Column]:
        """The columns in it."""
        for part in self.parts:
            yield from part.columns()

    def check(self, types: Types) -> tuple[int, str, str] | None:
        """What cannot be."""
        return next(filter(None, (part.check(types) for part in self.parts)), None)

    def mask(self, table: pa.Table) -> Any:
        """True, false or null for each record."""
        import pyarrow.compute as pc

        combine = pc.and_kleene if self.conjunction else pc.or_kleene
        return reduce(combine, (part.mask(table) for part in self.parts))

    def causes(self, table: pa.Table) -> list[Cause]:
        """Why each record does not pass."""
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

    def opposite(self) -> Node:
        """The negation."""
        return Junction(tuple(part.opposite() for part in self.parts), not self.conjunction)


@dataclass(frozen=True, slots=True)
class Comparison(Node):
    """Two operands and the sign between them."""

    left: Operand
    sign: str
    right: Operand

    def columns(self) -> Iterator[Column]:
        """The columns in it."""
        yield from (side for side in (self.left, self.right) if isinstance(side, Column))

    def check(self, types: Types) -> tuple[int, str, str] | None:
        """What cannot be."""
        left, right = _type(self.left, types), _type(self.right, types)
        for side, kind in ((self.left, left), (self.right, right)):
            if kind in {"texts", "other"}:
                return side.position, f"`{side}` holds lists and cannot be compared", "lists know only `contains`"
        if left != right and "nothing" not in {left, right}:
            first, second = (self.right, self.left) if isinstance(self.left, Constant) else (self.left, self.right)
            kinds = f"`{first}` is a {_type(first, types)}, `{second}` a {_type(second, types)}"
            wanted = _type(first, types) == "text" and isinstance(second, Constant)
            return second.position, kinds, f"write '{second}'" if wanted else "compare what is alike"
        if left == "yes or no" and self.sign not in {"=", "!="}:
            return self.left.position, f"a yes or no is not `{self.sign}` another", "write the column alone, or `not`"
        return None

    def mask(self, table: pa.Table) -> Any:
        """True, false or null for each record."""
        import pyarrow.compute as pc

        left, right = (_values(side, table) for side in (self.left, self.right))
        left, right = _typed(left, right.type), _typed(right, left.type)
        return pc.call_function(_ARROW[self.sign], [left, right])

    def causes(self, table: pa.Table) -> list[Cause]:
        """Why each record does not pass."""
        sign = OPPOSITES[self.sign]
        kind = f"{self.left} {sign} {self.right}"
        lefts, rights = (_listed(side, table) for side in (self.left, self.right))
        causes = []
        for left, right in zip(lefts, rights, strict=True):
            if left is None or right is None:
                causes.append(_null(self.left if left is None else self.right))
                continue
            shown = [
                f"{side} {_near(value, other)}" if isinstance(side, Column) else str(side)
                for side, value, other in ((self.left, left, right), (self.right, right, left))
            ]
            causes.append(Cause(kind, f"{shown[0]} {sign} {shown[1]}"))
        return causes

    def opposite(self) -> Node:
        """The negation."""
        return Comparison(self.left, OPPOSITES[self.sign], self.right)


@dataclass(frozen=True, slots=True)
class OneColumn(Node):
    """What is asked of one column; `values` are what stands behind `in` or `contains`."""

    column: Column
    question: str
    """`in`, `contains`, `null`, or `true` where it stands alone."""
    values: tuple[Constant, ...] = ()
    negated: bool = False

    def columns(self) -> Iterator[Column]:
        """The columns in it."""
        yield self.column

    def check(self, types: Types) -> tuple[int, str, str] | None:
        """What cannot be."""
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
        """True, false or null for each record."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        array = self.column.array(table)
        if self.question == "null":
            found = pc.is_null(array)
            if kind_of(array.type) == "text":
                found = pc.or_(found, pc.equal(pc.fill_null(array, ""), ""))
        elif pa.types.is_null(array.type):
            return pa.nulls(len(table), pa.bool_())
        elif self.question == "true":
            found = array
        elif self.question == "contains":
            found = _containing(array, str(self.values[0].value))
        else:
            values: list[Any] = [value.value for value in self.values]
            if any(isinstance(value, float) for value in values):
                array = _typed(array, pa.float64())
            if pa.types.is_integer(array.type):
                held = np.iinfo(array.type.to_pandas_dtype())
                values = [value for value in values if held.min <= value <= held.max]
            if pa.types.is_floating(array.type):
                values = [float(value) for value in values]
            found = pc.if_else(pc.is_valid(array), pc.is_in(array, pa.array(values, array.type)), None)
        return pc.invert(found) if self.negated else found

    def causes(self, table: pa.Table) -> list[Cause]:
        """Why each record does not pass."""
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

    def opposite(self) -> Node:
        """The negation."""
        return OneColumn(self.column, self.question, self.values, not self.negated)


def kind_of(arrow: pa.DataType) -> str:
    """What a column of this type holds, as `Types` says it."""
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
    return "texts" if pa.types.is_list(arrow) and kind_of(arrow.value_type) == "text" else "other"


def kind_of_constant(constant: Constant) -> str:
    """What a constant is, as `Types` says it of columns."""
    return {bool: "yes or no", str: "text"}.get(type(constant.value), "number")


def _type(operand: Operand, types: Types) -> str:
    return types[operand.name] if isinstance(operand, Column) else kind_of_constant(operand)


def _values(operand: Operand, table: pa.Table) -> Any:
    import pyarrow as pa

    if isinstance(operand, Column):
        return operand.array(table)
    large = isinstance(operand.value, int) and not -(2**63) <= operand.value < 2**63
    return pa.scalar(operand.value, pa.decimal128(38, 0) if large else None)


def _typed(values: Any, other: pa.DataType) -> Any:
    """Values that can be compared with those of another type: nulls only, or whole numbers beside others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(values.type):
        return values.cast(other)
    if pa.types.is_integer(values.type) and pa.types.is_floating(other):
        # Beyond 2^53 they are rounded.
        return pc.cast(values, other, safe=False)
    if pa.types.is_uint64(values.type) and values.type != other:
        # Arrow would have them fit into 63 bits.
        return pc.cast(values, pa.decimal128(20, 0))
    return values


def _containing(array: Any, sought: str) -> Any:
    """Whether a text, or one of a list of texts, contains another, whatever the case."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    term = sought.casefold()
    if pa.types.is_list(array.type):
        found = np.zeros(len(array), bool)
        found[pc.list_parent_indices(array).to_numpy()[containing(pc.list_flatten(array), term)]] = True
    else:
        found = containing(array, term)
    return pc.if_else(pc.is_valid(array), pa.array(found), None)


def _listed(operand: Operand, table: pa.Table) -> list[Any]:
    return operand.array(table).to_pylist() if isinstance(operand, Column) else [operand.value] * len(table)


def _null(operand: Operand) -> Cause:
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
    same = all(compare(float(short), other) == compare(value, other) for compare in _COMPARE)
    return short if same else repr(value)
