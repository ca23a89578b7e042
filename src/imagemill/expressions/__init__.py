"""Questions about records, such as `alignment > 0.28 and flat = 0`: parsed, checked against columns, and answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagemill.errors import did_you_mean
from imagemill.expressions.nodes import Cause, Node, kind_of
from imagemill.expressions.parsing import Parser, place_error

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Cause", "Expression"]


class Expression:
    """A question that is true, false or, where a value is absent, unknown of a record."""

    def __init__(self, text: str, root: Node) -> None:
        """Only for `parse`."""
        self.text = text
        self.root = root

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Read an expression; raises UsageError that shows the place."""
        return cls(text, Parser(text).whole())

    @property
    def columns(self) -> list[str]:
        """The names of the columns in it."""
        return list(dict.fromkeys(column.name for column in self.root.columns()))

    def check(self, schema: pa.Schema) -> None:
        """Raise UsageError for a column that is not there, or that is compared with something of another kind."""
        types = {field.name: kind_of(field.type) for field in schema}
        for column in self.root.columns():
            if column.name not in types:
                hint = did_you_mean(column.name, types) or f"columns: {', '.join(types)}"
                raise place_error(self.text, column.position, f"there is no column `{column.name}`", hint)
        wrong = self.root.check(types)
        if wrong:
            raise place_error(self.text, *wrong)

    def mask(self, table: pa.Table) -> pa.BooleanArray:
        """True, false or null for each row of a table with these columns."""
        import pyarrow as pa

        found = self.root.mask(table)
        return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found

    def causes(self, table: pa.Table) -> list[Cause]:
        """Why each row of a table is not true; only for tables of which none is."""
        return self.root.causes(table)
