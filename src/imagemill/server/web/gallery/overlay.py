"""What people decided of the images of a snapshot, row by row, and its columns as people have edited them."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from imagemill.dataset.edits import DECISIONS, State
from imagemill.dataset.edits.columns import CAPTION
from imagemill.dataset.index import Query
from imagemill.dataset.index.order import argsort
from imagemill.dataset.index.segments import SEARCHED
from imagemill.errors import UsageError
from imagemill.expressions import Expression
from imagemill.expressions.nodes import kind_of
from imagemill.expressions.texts import containing
from imagemill.server.web.gallery.snapshots import Snapshot

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from imagemill.dataset.index.segments import Rows

    Mask = NDArray[np.bool_]

RATING = "rating"
"""Sorts by what people gave."""


class Overlay:
    """A snapshot, and the edits as they were at one moment."""

    def __init__(self, snapshot: Snapshot, state: State) -> None:
        self.snapshot = snapshot
        self._index = snapshot.index
        self._state = state
        self.revision = state.revision

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns; every dataset has captions, which are its prompts where it has no others."""
        import pyarrow as pa

        own = self._index.schema
        return own if CAPTION in own.names or not len(own) else own.append(pa.field(CAPTION, pa.string()))

    @cached_property
    def decisions(self) -> NDArray[np.uint8]:
        """Of each row the place in `DECISIONS`."""
        return self._spread(self._state.decisions)

    @cached_property
    def ratings(self) -> NDArray[np.uint8]:
        """Of each row 1 to 5, or 0."""
        return self._spread(self._state.ratings)

    @cached_property
    def edited(self) -> Mask:
        """Of each row whether a text is another than in the dataset."""
        import numpy as np

        mask = np.zeros(len(self.snapshot), bool)
        for rows, _ in self._texts.values():
            mask[rows] = True
        return mask

    @cached_property
    def tagged(self) -> dict[str, NDArray[np.int64]]:
        """The rows with each tag."""
        import numpy as np

        keys: defaultdict[str, list[int]] = defaultdict(list)
        for key, decided in self._state.known.items():
            for tag in decided.tags:
                keys[tag].append(key)
        found = {tag: self.snapshot.find_keys(np.array(each, np.int64)) for tag, each in keys.items()}
        return {tag: rows[rows >= 0] for tag, rows in found.items()}

    def rows(self, where: str, search: str, search_column: str) -> Rows:
        """The rows that are found in the columns as people have edited them, in plan order; raises UsageError."""
        import numpy as np

        expression = Expression.parse(where) if where.strip() else None
        if expression:
            expression.check(self.schema)
        asked = {*(expression.columns if expression else ()), *([search_column] if search else ())}
        if not asked:
            return self.snapshot.all_rows
        if asked <= {*self._index.schema.names}:
            found = self._index.numbers(Query(where=where, search=search, search_column=search_column))
            again = [self._texts[name][0] for name in asked & self._texts.keys()]
            if not again:
                return found
            rows = np.unique(np.concatenate(again)).astype(np.uint32)
        else:
            found, rows = np.empty(0, np.uint32), self.snapshot.all_rows
        mask = np.zeros(len(self.snapshot), bool)
        mask[found] = True
        mask[rows] = self._found(rows, expression, search, search_column)
        return np.flatnonzero(mask).astype(np.uint32)

    def ordered(self, rows: Rows, by: str, ascending: bool) -> Rows:
        """Rows in plan order in the order of a column, those without a value last; raises UsageError."""
        import pyarrow as pa

        if not by:
            return rows
        if by == RATING:
            given = pa.array(self.ratings[rows], mask=self.ratings[rows] == 0)
            return rows[argsort(pa.chunked_array([given]), ascending)]
        if by in self._index.schema.names and by not in self._texts:
            if len(rows) == len(self.snapshot):
                return self._index.numbers(Query(by=by, ascending=ascending))
            return self._index.ordered(rows, by, ascending)
        self._check(by)
        return rows[argsort(pa.chunked_array([self.values(by, rows)]), ascending)]

    def values(self, column: str, rows: Rows) -> pa.Array:
        """A column in some rows, which stand in plan order, as people have edited it."""
        import numpy as np
        import pyarrow as pa

        self._check(column)
        values = self._index.values(column if column in self._index.schema.names else SEARCHED, rows)
        if column not in self._texts or not len(rows):
            return values
        edited, texts = self._texts[column]
        places = np.searchsorted(rows, edited).clip(max=len(rows) - 1)
        held = np.flatnonzero(rows[places] == edited)
        which = np.arange(len(rows))
        which[places[held]] = len(rows) + held
        if pa.types.is_null(values.type):
            values = values.cast(pa.string())
        return pa.concat_arrays([values, texts.cast(values.type)]).take(pa.array(which))

    def _check(self, column: str) -> None:
        if column not in self.schema.names:
            raise UsageError(f"there is no column `{column:.80}`", f"columns: {', '.join(self.schema.names)}")

    def _found(self, rows: Rows, expression: Expression | None, search: str, search_column: str) -> Mask:
        """Of which of some rows the question is true, asked of the values as people have edited them."""
        import numpy as np
        import pyarrow as pa

        mask = np.ones(len(rows), bool)
        if search:
            texts = self.values(search_column, rows)
            if kind_of(texts.type) != "text":
                raise UsageError(f"`{search_column}` is a {kind_of(texts.type)}, and no text", "search another column")
            mask &= containing(texts, search.casefold())
        if expression:
            table = pa.table({name: self.values(name, rows) for name in expression.columns})
            mask &= expression.mask(table).fill_null(False).to_numpy(zero_copy_only=False)
        return mask

    def _spread(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Of each row its value among those of edited images."""
        import numpy as np

        spread = np.zeros(len(self.snapshot), np.uint8)
        rows = self.snapshot.find_keys(self._state.keys)
        spread[rows[rows >= 0]] = values[rows >= 0]
        return spread

    @cached_property
    def _texts(self) -> dict[str, tuple[NDArray[np.int64], pa.Array]]:
        """By column the rows whose text was edited, in plan order, and the texts."""
        import numpy as np
        import pyarrow as pa

        found: dict[str, tuple[list[int], list[str]]] = {}
        for key, edited in self._state.pending.items():
            for column, text in edited.texts.items():
                keys, texts = found.setdefault(column, ([], []))
                keys.append(key)
                texts.append(text)
        arrays: dict[str, tuple[NDArray[Any], pa.Array]] = {}
        for column, (keys, texts) in found.items():
            rows = self.snapshot.find_keys(np.array(keys, np.int64))
            order = np.argsort(rows, kind="stable")
            order = order[rows[order] >= 0]
            if len(order):
                arrays[column] = rows[order], pa.array(texts, pa.string()).take(pa.array(order))
        return arrays


def decision_code(decision: str) -> int:
    """Its place in `DECISIONS`; `undecided` is the name of none."""
    return DECISIONS.index("" if decision == "undecided" else decision)
