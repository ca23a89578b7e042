"""Large tables of nothing but text are kept by column: a row is made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, repeat
from typing import TYPE_CHECKING, Any, overload

from imagemill.records import Reject, Row

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

    import numpy as np
    import pyarrow as pa

    Integers = np.ndarray[tuple[int], np.dtype[np.int64]]

START = 1_000
"""Characters of a row that are shown when it is rejected."""
MAX_SPAN = 1_000
"""Lines one quoted field may run over."""
_BLOCK = 65_536
"""Values that are looked at together; the hash of a table depends on it."""
_BYTES = 2**24
"""Bytes that are looked at together."""
_NOTHING: dict[str, Any] = {}
_NO_NEGATIVE = {"", "nan", "null", "none"}


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in the file."""

    index: int
    line: int
    values: Mapping[str, Any]
    start: str
    """How the row begins in the file, at most 1,000 characters."""


class TextTable(Sequence[RawRow]):
    """The rows of a file in which every cell is text and none is a reject."""

    def __init__(self, columns: Mapping[str, pa.ChunkedArray], lines: Integers, start: Callable[[int], str]) -> None:
        """`lines` says where each row begins, and `start` how the row at a position does."""
        self.columns = columns
        self.lines = lines
        self.start = start

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, key: int) -> RawRow: ...
    @overload
    def __getitem__(self, key: slice) -> list[RawRow]: ...
    def __getitem__(self, key: int | slice) -> RawRow | list[RawRow]:
        if isinstance(key, slice):
            return [self[position] for position in range(*key.indices(len(self)))]
        position = range(len(self))[key]
        values = {name: column[position].as_py() for name, column in self.columns.items()}
        return RawRow(position, int(self.lines[position]), values, self.start(position))

    def __iter__(self) -> Iterator[RawRow]:
        names = list(self.columns)
        cells = zip(*(values_of(column) for column in self.columns.values()), strict=True)
        for position, (line, values) in enumerate(zip(self.lines.tolist(), cells, strict=True)):
            yield RawRow(position, line, dict(zip(names, values, strict=True)), self.start(position))


class TextRows(Sequence[Row]):
    """The accepted rows of a TextTable, none of which sets parameters or names pictures."""

    def __init__(
        self,
        places: Integers,
        lines: Integers,
        prompts: pa.ChunkedArray,
        negative_prompts: pa.ChunkedArray | None,
        ids: pa.ChunkedArray | None,
        columns: Mapping[str, pa.ChunkedArray],
    ) -> None:
        """`places` are positions in the table, rejected rows counted; without `ids` they are the identities."""
        self.places = places
        self.lines = lines
        self.prompts = prompts
        self.negative_prompts = negative_prompts
        self._ids = ids
        self.columns = columns

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, key: int) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> TextRows: ...
    def __getitem__(self, key: int | slice) -> Row | TextRows:
        if isinstance(key, slice):
            first, end, step = key.indices(len(self))
            if step != 1:
                raise ValueError("rows are taken one after the other")
            return self._changed(lambda values: values[first : max(first, end)])
        position = range(len(self))[key]
        return next(iter(self[position : position + 1]))

    def take(self, positions: Integers) -> TextRows:
        """The rows at these positions, which are in order."""
        return self._changed(
            lambda values: _taken(values, positions) if hasattr(values, "chunks") else values[positions]
        )

    def _changed(self, change: Callable[[Any], Any]) -> TextRows:
        return TextRows(
            change(self.places),
            change(self.lines),
            change(self.prompts),
            None if self.negative_prompts is None else change(self.negative_prompts),
            None if self._ids is None else change(self._ids),
            {name: change(column) for name, column in self.columns.items()},
        )

    def ids(self, at: Integers | None = None) -> Iterator[str]:
        """The identities of the rows, or of those at some positions, which are in order."""
        if self._ids is None:
            return map(str, (self.places if at is None else self.places[at]).tolist())
        return values_of(self._ids if at is None else _taken(self._ids, at))

    def fingerprint(self, digest: Hash) -> None:
        """Add the texts of all rows to a hash, column by column."""
        digest.update(self.places.astype("<i8").tobytes())
        hash_texts(digest, self.ids() if self._ids is None else self._ids)
        hash_texts(digest, self.prompts)
        hash_texts(digest, self.negatives() if self.negative_prompts is None else self.negative_prompts)
        for column in self.columns.values():
            hash_texts(digest, column)

    def negatives(self) -> Iterator[str]:
        """Their negative prompts."""
        return repeat("", len(self)) if self.negative_prompts is None else values_of(self.negative_prompts)

    def with_and_without_negative(self) -> list[tuple[int, int]]:
        """The first row with a negative prompt and the first without, and how many there are of each."""
        import pyarrow.compute as pc

        if self.negative_prompts is None:
            return [(0, len(self))]
        empty = pc.equal(self.negative_prompts, "").to_numpy()
        found = [(int(there.argmax()), int(there.sum())) for there in (empty, ~empty)]
        return [(place, count) for place, count in found if count]

    def with_columns(self, columns: Mapping[str, pa.ChunkedArray]) -> TextRows:
        """The rows with other columns."""
        return TextRows(self.places, self.lines, self.prompts, self.negative_prompts, self._ids, columns)

    def __iter__(self) -> Iterator[Row]:
        names = list(self.columns)
        cells = zip(*map(values_of, self.columns.values()), strict=True) if names else repeat((), len(self))
        texts = self.ids(), values_of(self.prompts), self.negatives(), cells
        for index, line, row_id, prompt, no, values in zip(
            self.places.tolist(), self.lines.tolist(), *texts, strict=True
        ):
            columns = dict(zip(names, values, strict=True)) if names else _NOTHING
            yield Row(index, line, row_id, prompt, no, _NOTHING, _NOTHING, columns)


def values_of(column: pa.ChunkedArray) -> Iterator[Any]:
    """The values of a column, of which only some are held at a time."""
    for first in range(0, len(column), _BLOCK):
        yield from column.slice(first, _BLOCK).to_pylist()


def hash_texts(digest: Hash, texts: Iterable[str] | pa.ChunkedArray) -> None:
    """Add texts to a hash, block by block: first their lengths in bytes, then themselves, whatever holds them."""
    import numpy as np

    for pieces in _blocks_of(texts):
        for ends, _ in pieces:
            digest.update(np.diff(ends).astype("<i8").tobytes())
        for ends, content in pieces:
            digest.update(memoryview(content)[int(ends[0]) : int(ends[-1])])


def _blocks_of(texts: Iterable[str] | pa.ChunkedArray) -> Iterator[list[tuple[Integers, Any]]]:
    """Texts as `_bytes_of` gives them, of which only some are held at a time."""
    import numpy as np

    if hasattr(texts, "chunks"):
        column: pa.ChunkedArray = texts
        for first in range(0, len(column), _BLOCK):
            yield list(map(_bytes_of, column.slice(first, _BLOCK).chunks))
        return
    left = iter(texts)
    while block := [text.encode() for text in islice(left, _BLOCK)]:
        yield [(np.cumsum([0, *map(len, block)], dtype=np.int64), b"".join(block))]


def _taken(column: pa.ChunkedArray, positions: Integers) -> pa.ChunkedArray:
    """The values at some positions, which are in order; `take` itself first joins all chunks, at most 2 GiB."""
    import numpy as np
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, column.chunks)])
    cuts = pairwise(positions.searchsorted(ends).tolist())
    found = [
        chunk.take(pa.array(positions[first:end] - start))
        for chunk, start, (first, end) in zip(column.chunks, ends[:-1], cuts, strict=True)
        if first < end
    ]
    return pa.chunked_array(found, column.type)


def _bytes_of(texts: pa.Array) -> tuple[Integers, Any]:
    """Where texts end in the bytes that hold them, with the start of the first; and these bytes."""
    import numpy as np

    _, ends, content = texts.buffers()
    places = np.frombuffer(ends, np.int32, len(texts) + 1, 4 * texts.offset).astype(np.int64)
    return places, content or b""


def _blank(column: pa.ChunkedArray) -> list[int]:
    """The places of texts that are empty, or nothing but white space."""
    import numpy as np

    found: list[int] = []
    first = 0
    for chunk in column.chunks:
        ends, content = _bytes_of(chunk)
        data = np.append(np.frombuffer(content, np.uint8), np.uint8(0))
        # White space begins with one of the first characters, or with one beyond ASCII.
        begins = data[ends[:-1]]
        near = np.flatnonzero((begins <= ord(" ")) | (begins > 127) | (ends[1:] == ends[:-1]))
        found += [first + place for place in near.tolist() if not chunk[place].as_py().strip()]
        first += len(chunk)
    return found


def _as_column(texts: Iterable[str]) -> pa.ChunkedArray:
    import pyarrow as pa

    left = iter(texts)
    blocks = []
    while block := list(islice(left, _BLOCK)):
        blocks.append(pa.array(block, pa.string()))
    return pa.chunked_array(blocks, pa.string())


def no_negative(text: str) -> bool:
    """Whether a negative prompt says nothing, as tables that went through other programs do."""
    return text.strip().lower() in _NO_NEGATIVE


def text_rows(
    table: TextTable,
    prompt: str,
    negative_prompt: str | None,
    row_id: str | None,
    columns: Mapping[str, str],
) -> tuple[TextRows, list[Reject]]:
    """The rows of a table whose columns have these parts, and those that cannot be used.

    `columns` are those that are kept beside them, with the names they get.
    """
    import numpy as np
    import pyarrow.compute as pc

    bad = dict.fromkeys(_blank(table.columns[prompt]), "empty prompt")
    ids = None if row_id is None else table.columns[row_id]
    if ids is not None:
        _check_ids(ids, table.lines, bad)
    negatives = None if negative_prompt is None else table.columns[negative_prompt]
    if negatives is not None:
        negatives = _as_column("" if no_negative(text) else text for text in values_of(negatives))
        if pc.all(pc.equal(negatives, "")).as_py():
            negatives = None
    kept = {safe: table.columns[name] for name, safe in columns.items()}
    rows = TextRows(np.arange(len(table)), table.lines, table.columns[prompt], negatives, ids, kept)
    rejects = [Reject(int(table.lines[place]), bad[place], table.start(place)) for place in sorted(bad)]
    if bad:
        good = np.ones(len(table), bool)
        good[list(bad)] = False
        rows = rows.take(np.flatnonzero(good))
    return rows, rejects


def _check_ids(ids: pa.ChunkedArray, lines: Integers, bad: dict[int, str]) -> None:
    """Add the rows that have no id, or that of another one."""
    import pyarrow.compute as pc

    for place in _blank(ids):
        bad.setdefault(place, "empty id")
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    seen: dict[str, int] = {}
    for place, text in enumerate(values_of(ids)):
        if place not in bad and seen.setdefault(text, place) != place:
            bad[place] = f"the id `{text:.100}` is taken by line {lines[seen[text]]}"


def clean_table(content: bytes, body: int, names: Sequence[str], delimiter: str) -> TextTable | None:
    """The rows of a CSV file from the byte `body` on, at a line's start, where all of them are as RFC 4180 wants.

    None where any is not. Lines end with a line feed alone.
    """
    import pyarrow as pa
    import pyarrow.csv

    if b"\0" in content or b"\r" in content:
        return None
    rows = _row_starts(content, body, delimiter)
    if rows is None or not len(rows[0]):
        return None
    starts, lines = rows
    blocks = []
    try:
        for first, end in _spans(starts, len(content)):
            blocks.append(
                pyarrow.csv.read_csv(
                    # From the end of the line before: Arrow takes U+FEFF for a mark where it begins to read.
                    pa.BufferReader(memoryview(content)[first - 1 : end]),
                    pyarrow.csv.ReadOptions(column_names=list(names), block_size=_BYTES // 4),
                    pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                    pyarrow.csv.ConvertOptions(
                        column_types=dict.fromkeys(names, pa.string()),
                        strings_can_be_null=False,
                        quoted_strings_can_be_null=False,
                    ),
                )
            )
    except pa.ArrowInvalid:
        return None
    table = pa.concat_tables(blocks)
    if len(table) != len(starts):
        return None

    def start(position: int) -> str:
        end = int(starts[position + 1]) if position + 1 < len(starts) else len(content)
        return content[int(starts[position]) : end].rstrip(b"\n")[: 4 * START].decode(errors="ignore")[:START]

    return TextTable(dict(zip(names, table.columns, strict=True)), lines, start)


def _row_starts(content: bytes, body: int, delimiter: str) -> tuple[Integers, Integers] | None:
    """Where each row begins, by byte and by line; None where a quote is not as RFC 4180 and we want it."""
    import numpy as np

    data = np.frombuffer(content, np.uint8)
    quote, end, separator = b'"\n'[0], b"\n"[0], ord(delimiter)
    starts, lines = [], []
    # The first row follows the header's line as others follow the row before them.
    begin, inside, line = body - 1, 0, 2
    while begin < len(data):
        block = data[begin : begin + _BYTES]
        places = np.flatnonzero((block == quote) | (block == end)) + begin
        quotes = data[places] == quote
        within = (np.cumsum(quotes) - quotes + inside) & 1
        opening, closing = places[quotes & (within == 0)], places[quotes & (within == 1)]
        before, after = data[opening - 1], data[closing[closing + 1 < len(data)] + 1]
        for beside in (before, after):
            if not np.all((beside == separator) | (beside == end) | (beside == quote)):
                return None
        ends = ~quotes
        numbers = line + np.cumsum(ends)[ends & (within == 0)] - 1
        found = places[ends & (within == 0)] + 1
        starts.append(found)
        lines.append(numbers)
        line += int(ends.sum())
        inside = int(inside + quotes.sum()) & 1
        begin += _BYTES
    if inside:
        return None
    start, number = np.concatenate(starts), np.concatenate(lines)
    if np.diff(number, append=line).max() > MAX_SPAN:
        return None
    there = start < len(data)
    there[there] = data[start[there]] != end
    return start[there], number[there]


def _spans(starts: Integers, size: int) -> Iterator[tuple[int, int]]:
    """Cut a file between rows, into pieces of some size."""
    import numpy as np

    cuts = starts[np.searchsorted(starts, np.arange(int(starts[0]), size, _BYTES)) % len(starts)]
    edges = [*np.unique(cuts).tolist(), size]
    yield from pairwise(edges)
