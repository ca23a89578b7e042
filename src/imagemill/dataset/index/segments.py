"""The files of the index: some thousands of consecutive rows each, mapped into memory as they are.

They are Arrow files without compression and not Parquet, where one row costs the decoding of a row group: measured on
14 million rows, 50 scattered ones take some 10 ms so, and some seconds out of Parquet.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.files import explained
from imagemill.dataset.index.words import Words
from imagemill.errors import ImagemillError
from imagemill.expressions.nodes import Junction, Node, kind_of
from imagemill.expressions.texts import containing

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from imagemill.expressions import Expression

    Rows = NDArray[np.uint32]
    """Rows of a segment, counted from its first, ascending."""
    Mask = NDArray[np.bool_]
    """True or false for every row of a segment."""

SEARCHED = "prompt"
"""The column that has an index of its words."""
_ROWS = ".arrow"
_WORDS = ".words.arrow"
_LARGE = 2**31
"""Bytes of text that need larger offsets."""
_PROBE = 2**13
"""Texts that tell whether all of them are different."""
_OFTEN = 4
"""Values that one row in so many has are found by looking at every row; others by what rows they have."""
_SELDOM = 64
"""Rows that are fewer than one in so many are told by their numbers."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows that are read, and replaced, as one: those of a part of a dataset."""

    key: int
    """The part's number."""
    stamp: str
    """Changes whenever the rows change."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A segment as the list of segments has it."""

    name: str
    sizes: Mapping[str, int]
    """Bytes of each file, by its extension."""
    pieces: tuple[Piece, ...]
    rows: tuple[int, ...]
    """Of each piece."""

    def path(self, folder: Path, extension: str) -> Path:
        """One of its files."""
        return folder / f"{self.name}{extension}"


class Segment:
    """Consecutive rows of the whole order."""

    def __init__(self, folder: Path, entry: Entry) -> None:
        """Map a segment; raises OSError or ValueError for files that are not what was written."""
        self.entry = entry
        for extension, size in entry.sizes.items():
            if entry.path(folder, extension).stat().st_size != size:
                raise ValueError(f"`{entry.path(folder, extension)}` is not whole")
        self._table = _mapped(entry.path(folder, _ROWS))
        self._words_table = _mapped(entry.path(folder, _WORDS)) if _WORDS in entry.sizes else None
        self._columns: dict[str, pa.Array] = {}
        self.schema = plain(self._table.schema)
        """The types of its own columns, or those of the whole index once `settle` has told them."""

    def __len__(self) -> int:
        return len(self._table)

    def pieces(self, first: int, last: int) -> pa.Table:
        """The rows of its pieces from one to before another, with texts as they are."""
        before, rows = sum(self.entry.rows[:first]), sum(self.entry.rows[first:last])
        return self._table.slice(before, rows).cast(plain(self._table.schema))

    def settle(self, schema: pa.Schema) -> None:
        """Give columns the types that they have in the whole index, also those that are not in this segment."""
        self.schema = schema
        self._columns.clear()

    def column(self, name: str) -> pa.Array:
        """A column, mapped; texts that repeat are encoded by a dictionary."""
        import pyarrow as pa

        found = self._columns.get(name)
        if found is None:
            kind = self.schema.field(name).type
            if name in self._table.column_names:
                column = self._table.column(name)
                found = column.chunk(0) if column.num_chunks else pa.array([], column.type)
                own = found.type.value_type if pa.types.is_dictionary(found.type) else found.type
                found = found if own == kind else found.cast(kind)
            else:
                found = pa.nulls(len(self), kind)
            self._columns[name] = found
        return found

    def take(self, name: str, rows: NDArray[Any]) -> pa.Array:
        """Values of a column, with texts as they are."""
        import pyarrow as pa

        column = self.column(name)
        if isinstance(column, pa.DictionaryArray):
            return column.dictionary.take(column.indices.take(pa.array(rows)))
        return column.take(pa.array(rows))

    def passing(self, expression: Expression, rows: NDArray[Any] | None = None) -> Mask:
        """Of which rows, of some or of all, an expression is true."""
        found = self._mask(expression.root, rows).fill_null(False)
        mask: Mask = found.to_numpy(zero_copy_only=False)
        return mask

    def search(self, name: str, term: str) -> Rows | Mask:
        """The rows whose text contains a folded term: their numbers, or true for them where they are many."""
        import numpy as np
        import pyarrow as pa

        column = self.column(name)
        if pa.types.is_null(column.type):
            return np.empty(0, np.uint32)
        if not isinstance(column, pa.DictionaryArray):
            return containing(column, term)
        if name != SEARCHED or self._words is None:
            return self._rows_of(name, np.flatnonzero(containing(column.dictionary, term)))
        places, sure = self._words.find(term)
        if not sure and len(places):
            places = places[containing(column.dictionary.take(pa.array(places)), term)]
        return self._rows_of(name, places)

    @cached_property
    def _words(self) -> Words | None:
        if self._words_table is None:
            return None
        return Words(self._words_table, len(self.column(SEARCHED).dictionary))

    @cached_property
    def _rows_by_value(self) -> tuple[Rows, NDArray[np.int64]]:
        """The rows in the order of the values of `SEARCHED`, and where each value begins."""
        import numpy as np

        table: pa.Table = self._words_table
        rows, counts = (table.column(name).chunk(0).values.to_numpy() for name in ("rows", "row_counts"))
        return rows, np.append(0, np.cumsum(counts, dtype=np.int64))

    def _rows_of(self, name: str, places: NDArray[Any]) -> Rows | Mask:
        """The rows that have one of these values of the dictionary, as `search` tells them."""
        import numpy as np

        if not len(places):
            return np.empty(0, np.uint32)
        places = places.astype(np.intp)
        if name == SEARCHED and self._words is not None:
            rows, bounds = self._rows_by_value
            firsts, counts = bounds[places], bounds[places + 1] - bounds[places]
            total = int(counts.sum())
            if total * _OFTEN < len(self):
                shifts = np.repeat(firsts - (np.cumsum(counts) - counts), counts)
                found: Rows = rows[np.arange(total) + shifts]
                if total * _SELDOM < len(self):
                    found.sort()
                    return found
                mask = np.zeros(len(self), bool)
                mask[found] = True
                return mask
        column = self.column(name)
        chosen = np.zeros(len(column.dictionary) + 1, bool)
        chosen[places] = True
        return chosen.take(codes(column))

    def _mask(self, node: Node, rows: NDArray[Any] | None) -> pa.Array:
        """True, false or null; of a text that repeats it is asked once."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if isinstance(node, Junction):
            combine = pc.and_kleene if node.conjunction else pc.or_kleene
            return reduce(combine, (self._mask(part, rows) for part in node.parts))
        names = list(dict.fromkeys(column.name for column in node.columns()))
        column = self.column(names[0])
        repeated = isinstance(column, pa.DictionaryArray) and len(column.dictionary) < (
            len(self) if rows is None else len(rows)
        )
        if repeated and len(names) == 1:
            values = pa.concat_arrays([column.dictionary, pa.nulls(1, column.dictionary.type)])
            mask = _array(node.mask(pa.table({names[0]: values})))
            return mask.take(pa.array(codes(column) if rows is None else codes(column)[rows]))
        if rows is None:
            columns = [self.column(name) for name in names]
            columns = [array.dictionary_decode() if pa.types.is_dictionary(array.type) else array for array in columns]
        else:
            columns = [self.take(name, rows) for name in names]
        return _array(node.mask(pa.table(columns, names)))


def write_segment(folder: Path, pieces: Mapping[Piece, int], tables: Sequence[pa.Table]) -> Entry:
    """Write pieces with so many rows, which are in these tables, under a name that nobody has used yet."""
    import pyarrow as pa

    table = joined(tables)
    name = f"segment-{secrets.token_hex(8)}"
    if table.nbytes > _LARGE:
        large = [
            field.with_type(pa.large_string()) if kind_of(field.type) == "text" else field for field in table.schema
        ]
        table = table.cast(pa.schema(large))
    encoded = pa.table({name: _encoded(name, table.column(name)) for name in table.column_names})
    files = {_ROWS: encoded}
    if SEARCHED in table.column_names and len(table) and pa.types.is_dictionary(encoded.schema.field(SEARCHED).type):
        files[_WORDS] = _words_of(encoded.column(SEARCHED).chunk(0))
    sizes = {}
    for extension, content in files.items():
        path = folder / f"{name}{extension}"
        with explained(path), path.open("wb") as file:
            with pa.ipc.new_file(file, content.schema) as writer:
                writer.write_table(content)
            file.flush()
            os.fsync(file.fileno())
        sizes[extension] = path.stat().st_size
    return Entry(name, sizes, tuple(pieces), tuple(pieces.values()))


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """One table out of several; raises ImagemillError where a column holds what cannot be in one column."""
    import pyarrow as pa

    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise mixed(error) from None


def mixed(error: Exception) -> ImagemillError:
    """The error for columns that hold values of several types."""
    return ImagemillError(f"a column holds values of several types: {error}", "`imagemill verify` tells where")


def plain(schema: pa.Schema) -> pa.Schema:
    """The types of values, however they are stored."""
    import pyarrow as pa

    return pa.schema(
        [field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field for field in schema]
    )


def codes(column: pa.DictionaryArray) -> NDArray[Any]:
    """Of each row its place in the dictionary; of those without a value the place behind its end."""
    indices = column.indices
    found: NDArray[Any] = (indices.fill_null(len(column.dictionary)) if indices.null_count else indices).to_numpy()
    return found


def _words_of(column: pa.DictionaryArray) -> pa.Table:
    """The words of a column's values, and the rows of each value."""
    import numpy as np
    import pyarrow as pa

    words = Words.build(column.dictionary)
    places = codes(column)
    count = len(column.dictionary)
    arrays = {
        "rows": np.argsort(places, kind="stable").astype(np.uint32),
        "row_counts": np.bincount(places, minlength=count)[:count].astype(np.uint32),
    }
    for name, array in arrays.items():
        words = words.append_column(name, pa.LargeListArray.from_arrays([0, len(array)], pa.array(array)))
    return words


def _encoded(name: str, column: pa.ChunkedArray) -> pa.Array:
    """Texts by a dictionary where that is smaller."""
    import pyarrow as pa

    array = column.combine_chunks()
    array = array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)
    if kind_of(array.type) != "text":
        return array
    # Names of images would take a second to be found different.
    some = array.take(pa.array(range(0, len(array), max(1, len(array) // _PROBE)), pa.int64()))
    if name != SEARCHED and len(some) >= _PROBE and len(some.unique()) > 0.95 * len(some):
        return array
    encoded = array.dictionary_encode()
    return encoded if name == SEARCHED or len(encoded.dictionary) * 2 <= len(array) else array


def _array(found: Any) -> pa.Array:
    import pyarrow as pa

    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _mapped(path: Path) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
