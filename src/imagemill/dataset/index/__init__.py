"""The derived index of a dataset, or of a Parquet table without images, and every question asked of it."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.component import Component
from imagemill.dataset.columns import PART
from imagemill.dataset.files import write_file
from imagemill.dataset.folder import Dataset
from imagemill.dataset.index.building import Opened, open_index
from imagemill.dataset.index.figures import Histogram, Statistics, histogram_of, statistics_of
from imagemill.dataset.index.found import Found
from imagemill.dataset.index.order import argsort, by_segment, comparable, drawn
from imagemill.dataset.index.segments import SEARCHED, Segment, mixed
from imagemill.dataset.index.sources import Source, open_source
from imagemill.errors import ImagemillError, UsageError, did_you_mean
from imagemill.expressions import Expression
from imagemill.expressions.nodes import kind_of
from imagemill.records import Record

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Rows = NDArray[np.uint32]
    """Rows by their number in the whole order, from 0, or in a segment."""
    Mask = NDArray[np.bool_]
    """True or false for every row of a segment."""

_ANSWERS = 64
"""Of which rows are kept for later pages."""
_KEPT = 2**28
"""Bytes of those rows."""
_AT_ONCE = 8
"""Segments that are looked into together on the way to a page that is not the first."""
_FEW = 8
"""An expression is asked of the found rows alone where they are fewer than one in so many."""
_MOST_BINS = 1_000
_FEW_SORTED = 2**17
"""Rows that are sorted by themselves, and not by the order of the whole column."""


class Query(Component):
    """Which rows, and in which order."""

    where: str = ""
    """An expression that is true of them, such as `alignment > 0.28 and image_nsfw < 0.1`."""
    search: str = ""
    """A text that their prompt contains, whatever the case, as `contains` finds it."""
    search_column: str = SEARCHED
    """The column that `search` looks into."""
    by: str = ""
    """The column to sort by, those without a value last, equals in plan order; plan order when not given."""
    ascending: bool = False
    """Sort the least first, not the greatest."""


EVERYTHING = Query()


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows."""

    records: list[Record]
    numbers: list[int]
    """Of each row its place in plan order, from 0."""
    parts: list[int]
    """Of each row the number of its part; empty for a table without images."""


class Index:
    """Answers questions of all records, as they were when it was opened.

    Opening one brings the index of the dataset, or of the Parquet table, up to date: only parts that are new or have
    changed are read. It lies in `.imagemill/index` of a dataset and beside a Parquet table, or in the folder `cache`;
    where that cannot be written, in the user's cache, or in a temporary folder. Deleting it loses nothing.
    """

    def __init__(
        self,
        path: str | Path | Dataset,
        cache: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Open one; raises UsageError for a path that is neither a dataset nor a Parquet table.

        `progress` is told how many rows have been read while it is built, and about how many there are.
        """
        source = open_source(path)
        source.progress = progress
        self._settle(source, open_index(source, None if cache is None else Path(cache)))

    def _settle(self, source: Source, opened: Opened) -> None:
        import numpy as np
        import pyarrow as pa

        self.path = source.path
        self.left_out = source.left_out
        """Columns of a Parquet table that hold images or structures, and are not here."""
        self.folder = opened.folder
        """Where it lies."""
        self._opened = opened
        self._segments = opened.segments
        try:
            whole = pa.unify_schemas(
                [pa.schema([]), *(each.schema for each in self._segments)], promote_options="permissive"
            )
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise mixed(error) from None
        for segment in self._segments:
            segment.settle(whole)
        self.schema = pa.schema([field for field in whole if field.name != PART])
        """The columns with their types."""
        self._firsts = np.append(0, np.cumsum([len(segment) for segment in self._segments], dtype=np.int64))
        self._cached: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def refreshed(self) -> Index:
        """The index as the dataset is now: this one where nothing has changed."""
        source = open_source(self.path)
        opened = open_index(source, self._opened.folder)
        if _names(opened) == _names(self._opened):
            return self
        fresh = object.__new__(Index)
        opened = replace(opened, temporary=opened.temporary or self._opened.temporary)
        fresh._settle(source, opened)
        return fresh

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def count(self, query: Query = EVERYTHING) -> int:
        """How many rows a query finds."""
        found = self._found(query)
        found.look_up(range(len(self._segments)))
        return sum(found.count(number) for number in range(len(self._segments)))

    def page(
        self, query: Query = EVERYTHING, offset: int = 0, limit: int = 50, columns: Sequence[str] | None = None
    ) -> Page:
        """Some of the rows that a query finds, in its order, from any place on; all columns when none are given."""
        if offset < 0 or limit < 1:
            raise UsageError(f"a page begins at 0 or later and has a row, got: {offset} and {limit}", "ask for others")
        if query.by:
            return self._page(self._sorted(query)[offset : offset + limit], columns)
        found = self._found(query)
        return self._page(self._between(found, offset, offset + limit), columns)

    def numbers(self, query: Query = EVERYTHING) -> Rows:
        """All rows that a query finds, by their place in plan order, in the order of the query."""
        if query.by:
            return self._sorted(query)
        return self._between(self._found(query), 0, len(self))

    def values(self, column: str, rows: Rows) -> pa.Array:
        """The values of a column in some rows, which stand in plan order; texts as they are."""
        import pyarrow as pa

        if column != PART:
            self._check_column(column)
        kind = pa.int32() if column == PART else self.schema.field(column).type
        if len(rows) == len(self):
            whole = [segment.column(column) for segment in self._segments if len(segment)]
            found = [each.dictionary_decode() if pa.types.is_dictionary(each.type) else each for each in whole]
        else:
            found = [self._segments[number].take(column, inside) for number, inside in by_segment(self._firsts, rows)]
        return pa.concat_arrays(found) if found else pa.array([], kind)

    def ordered(self, rows: Rows, by: str, ascending: bool = False) -> Rows:
        """Some rows, which stand in plan order, in the order of a column, as `Query.by` has it."""
        import numpy as np
        import pyarrow as pa

        self._check_sortable(by)
        if len(rows) <= _FEW_SORTED:
            return rows[argsort(pa.chunked_array([self.values(by, rows)]), ascending)]
        order = self._order(by, ascending)
        ranks = self._ranks(by, ascending)
        chosen = np.zeros(len(self), bool)
        chosen[ranks[rows]] = True
        return order[np.flatnonzero(chosen)]

    def records(self, numbers: Sequence[int], columns: Sequence[str] | None = None) -> Page:
        """The rows at some places of plan order, in the order given."""
        import numpy as np

        wrong = [number for number in numbers if not 0 <= number < len(self)]
        if wrong:
            raise UsageError(f"there is no row {wrong[0]:,}", f"rows are counted from 0 to {len(self) - 1:,}")
        return self._page(np.array(numbers, np.uint32), columns)

    def sample(
        self, count: int, seed: int = 0, query: Query = EVERYTHING, columns: Sequence[str] | None = None
    ) -> Page:
        """Exactly so many rows that a query finds, drawn by a seed, in plan order; raises UsageError for fewer."""
        import numpy as np

        total = self.count(query)
        if not 0 < count <= total:
            hint = f"ask for 1 to {total:,}" if total else "there are none: ask for other rows"
            raise UsageError(f"a sample of {count:,} of {total:,} rows cannot be drawn", hint)
        places = np.array(drawn(count, total, seed), np.int64)
        found = self._found(query)
        if found.everything:
            return self._page(places.astype(np.uint32), columns)
        bounds = np.cumsum([found.count(number) for number in range(len(self._segments))])
        chosen = []
        for number, inside in by_segment(np.append(0, bounds), places):
            rows = found.rows(number)
            chosen.append((inside if rows is None else rows[inside]) + self._firsts[number])
        return self._page(np.concatenate(chosen).astype(np.uint32), columns)

    def histogram(self, column: str, query: Query = EVERYTHING, bins: int = 20) -> Histogram:
        """How the values of a column are spread over equal bins; of texts, the most frequent values."""
        self._check_column(column)
        kind = self.schema.field(column).type
        if kind_of(kind) not in {"number", "text", "yes or no"}:
            raise UsageError(
                f"`{column}` holds {kind_of(kind)}, and neither numbers nor texts", "ask for another column"
            )
        if not 1 <= bins <= _MOST_BINS:
            raise UsageError(f"a histogram has 1 to {_MOST_BINS:,} bins, got: {bins:,}", "ask for others")
        return histogram_of(column, kind, self._arrays(column, self._found(query)), bins)

    def statistics(self, query: Query = EVERYTHING, columns: Sequence[str] | None = None) -> list[Statistics]:
        """What each column holds; counting the different values of a text that hardly repeats reads all of them."""
        found = self._found(query)
        names = self._columns(columns)
        return [statistics_of(name, self.schema.field(name).type, self._arrays(name, found)) for name in names]

    def _found(self, query: Query) -> Found:
        key = ("found", query.where, query.search, query.search_column if query.search else "")
        return self._remembered(key, lambda: self._look(query))  # type: ignore[no-any-return]

    def _look(self, query: Query) -> Found:
        """How to find rows; raises UsageError for a query that cannot be right."""
        expression = Expression.parse(query.where) if query.where.strip() else None
        if expression:
            expression.check(self.schema)
        term = query.search.casefold()
        if term:
            self._check_column(query.search_column)
            kind = kind_of(self.schema.field(query.search_column).type)
            if kind not in {"text", "nothing"}:
                texts = [field.name for field in self.schema if kind_of(field.type) == "text"]
                raise UsageError(f"`{query.search_column}` is a {kind}, and no text", f"texts: {', '.join(texts)}")
        if not expression and not term:
            return Found(self._segments, None)
        masks = self._masks(query.where)

        def mask(segment: Segment, number: int, asked: Expression) -> Mask:
            found = masks[number]
            if found is None:
                found = masks[number] = segment.passing(asked)
            return found

        def look(segment: Segment, number: int) -> Rows | Mask:
            if expression is None:
                return segment.search(query.search_column, term)
            if not term:
                return mask(segment, number, expression)
            found = segment.search(query.search_column, term)
            if found.dtype == bool:
                return mask(segment, number, expression) & found
            if masks[number] is None and len(found) * _FEW < len(segment):
                return found[segment.passing(expression, found)]
            return found[mask(segment, number, expression)[found]]

        return Found(self._segments, look)

    def _masks(self, where: str) -> list[Mask | None]:
        """Of each segment which rows an expression is true of; filled where it has been asked of all of them."""
        found: list[Mask | None] = self._remembered(("mask", where), lambda: [None] * len(self._segments))
        return found

    def _remembered(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made for the same question before, if that is not long ago."""
        with self._lock:
            if key in self._cached:
                self._cached.move_to_end(key)
                return self._cached[key]
        made = make()
        with self._lock:
            self._cached[key] = made
            while len(self._cached) > 1 and (
                len(self._cached) > _ANSWERS or sum(map(_bytes, self._cached.values())) > _KEPT
            ):
                self._cached.popitem(last=False)
        return made

    def _between(self, found: Found, first: int, last: int) -> Rows:
        """The rows that are found, from one place to another, in plan order."""
        import numpy as np

        chosen: list[NDArray[Any]] = [np.empty(0, np.uint32)]
        before = 0
        for number, start in enumerate(self._firsts[:-1]):
            if before >= last:
                break
            if first and number % _AT_ONCE == 0:
                found.look_up(range(number, min(number + _AT_ONCE, len(self._segments))))
            count = found.count(number)
            inside = slice(max(0, first - before), max(0, last - before))
            if inside.start < count:
                rows = found.rows(number)
                some = np.arange(*inside.indices(count)) if rows is None else rows[inside]
                chosen.append((some + start).astype(np.uint32))
            before += count
        return np.concatenate(chosen)

    def _sorted(self, query: Query) -> Rows:
        self._check_sortable(query.by)
        key = ("sorted", *query.to_table().items())
        return self._remembered(key, lambda: self._sort(query))  # type: ignore[no-any-return]

    def _sort(self, query: Query) -> Rows:
        found = self._found(query)
        if found.everything:
            return self._order(query.by, query.ascending)
        return self.ordered(self._between(found, 0, len(self)), query.by, query.ascending)

    def _order(self, by: str, ascending: bool) -> Rows:
        """All rows in the order of a column; computed once, and kept with the index."""
        import numpy as np

        key = hashlib.sha256(f"{_names(self._opened)}\0{by}\0{ascending}".encode()).hexdigest()[:16]
        path = self._opened.folder / f"order-{key}.npy"

        def made() -> Rows:
            with suppress(OSError, ValueError):
                kept: Rows = np.load(path, mmap_mode="r")
                if len(kept) == len(self):
                    return kept
            order = argsort(comparable([segment.column(by) for segment in self._segments]), ascending)
            content = io.BytesIO()
            np.save(content, order)
            # Who may not write sorts again next time.
            with suppress(OSError, ImagemillError):
                write_file(path, content.getvalue())
            return order

        return self._remembered(("order", by, ascending), made)  # type: ignore[no-any-return]

    def _ranks(self, by: str, ascending: bool) -> Rows:
        """Of each row its place in the order of a column."""
        import numpy as np

        def made() -> Rows:
            order = self._order(by, ascending)
            ranks = np.empty(len(order), np.uint32)
            ranks[order] = np.arange(len(order), dtype=np.uint32)
            return ranks

        return self._remembered(("ranks", by, ascending), made)  # type: ignore[no-any-return]

    def _page(self, numbers: Rows, columns: Sequence[str] | None) -> Page:
        names = self._columns(columns)
        order = numbers.argsort(kind="stable")
        records: list[Record] = [{}] * len(numbers)
        parts = [0] * len(numbers)
        placed = iter(order.tolist())
        for number, inside in by_segment(self._firsts, numbers[order]):
            segment = self._segments[number]
            values = [segment.take(name, inside).to_pylist() for name in names]
            of_parts = segment.take(PART, inside).to_pylist() if PART in segment.schema.names else []
            for place, row in enumerate(zip(*values, strict=True) if values else [()] * len(inside)):
                to = next(placed)
                records[to] = dict(zip(names, row, strict=True))
                if of_parts:
                    parts[to] = of_parts[place]
        return Page(records, numbers.tolist(), parts if any(parts) else [])

    def _arrays(self, name: str, found: Found) -> Iterator[pa.Array]:
        import pyarrow as pa

        for number, segment in enumerate(self._segments):
            rows = found.rows(number)
            column = segment.column(name)
            yield column if rows is None else column.take(pa.array(rows))

    def _columns(self, columns: Sequence[str] | None) -> list[str]:
        if columns is None:
            return list(self.schema.names)
        for name in columns:
            self._check_column(name)
        return list(dict.fromkeys(columns))

    def _check_sortable(self, name: str) -> None:
        self._check_column(name)
        if kind_of(self.schema.field(name).type) in {"texts", "other"}:
            raise UsageError(f"`{name}` holds lists, which have no order", "sort by another column")

    def _check_column(self, name: str) -> None:
        if name not in self.schema.names:
            hint = f"columns: {', '.join(self.schema.names)}"
            raise UsageError(f"there is no column `{name}`", did_you_mean(name, self.schema.names) or hint)


def _names(opened: Opened) -> str:
    return " ".join(segment.entry.name for segment in opened.segments)


def _bytes(made: Any) -> int:
    """What something remembered takes in memory."""
    if isinstance(made, list):
        return sum(len(mask) for mask in made if mask is not None)
    return int(made.nbytes)
