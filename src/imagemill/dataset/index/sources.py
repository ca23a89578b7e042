"""What an index is made of: the parts of a dataset, or a Parquet table without images."""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.dataset.columns import PART, numbers_of, read_part, told
from imagemill.dataset.folder import Dataset
from imagemill.dataset.index.segments import Piece
from imagemill.errors import ImagemillError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 2**19
"""Of a whole segment."""


class Source(ABC):
    """Rows in pieces that are read one by one."""

    path: Path
    weight: int
    """How many rows a piece may have."""
    left_out: tuple[str, ...] = ()
    """Columns whose values cannot be asked for: images, and structures."""
    progress: Callable[[int, int], None] | None = None
    """Told how many rows have been read, and about how many there are."""

    @abstractmethod
    def places(self) -> list[Path]:
        """The folders where its index may lie, the best first."""

    @abstractmethod
    def pieces(self) -> list[Piece]:
        """What there is now, in order."""

    @abstractmethod
    def tables(self, pieces: Sequence[Piece]) -> Iterator[pa.Table]:
        """The rows of some pieces, which are in order, one table for each."""


class Parts(Source):
    """The parts of a dataset."""

    weight = 1_000

    def __init__(self, dataset: Dataset) -> None:
        # Another object may have sealed parts since this one has read which are.
        self._dataset = Dataset(dataset.folder)
        self.path = dataset.folder

    def places(self) -> list[Path]:
        """With the dataset, or else where the user's caches are."""
        return [self.path / ".imagemill" / "index", _cache(self.path)]

    def pieces(self) -> list[Piece]:
        """The parts with records."""
        images = self.path / "images"
        names = sorted(entry.name for entry in os.scandir(images)) if images.is_dir() else []
        found = []
        for name in names:
            if not re.fullmatch(r"part-\d{6,}", name):
                continue
            try:
                # Paths would take most of the time with 14,000 of them.
                state = os.stat(f"{images}/{name}/metadata.jsonl")  # noqa: PTH116
            except (FileNotFoundError, NotADirectoryError):
                continue
            seal = self._dataset.seals.get(name, {}).get("sha256", "")
            found.append(Piece(int(name[5:]), f"{state.st_size} {state.st_mtime_ns} {seal}"))
        return found

    def tables(self, pieces: Sequence[Piece]) -> Iterator[pa.Table]:
        """Their records in plan order."""
        import pyarrow as pa
        import pyarrow.compute as pc

        read = 0
        for number, piece in enumerate(pieces, start=1):
            part = self._dataset.part(piece.key)
            table = read_part(part, None)
            known = pa.schema([field.with_type(told(field.type)) for field in table.schema])
            if known != table.schema:
                table = read_part(part, known)
            if len(table) and not part.sealed:
                order = pc.sort_indices(numbers_of(table), sort_keys=[("row", "ascending"), ("image", "ascending")])
                table = table.take(order)
            read += len(table)
            if self.progress:
                self.progress(read, read * len(pieces) // number)
            numbers = pa.array([piece.key] * len(table), pa.int32())
            yield readable(table).append_column(PART, numbers)


class Table(Source):
    """A Parquet table."""

    weight = ROWS

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except pa.ArrowInvalid as error:
            raise UsageError(f"`{path}` is no Parquet table: {error}", "name a dataset, or a Parquet file") from None
        schema = self._file.schema_arrow
        self._names = [field.name for field in schema if _kept(field.type)]
        self.left_out = tuple(name for name in schema.names if name not in self._names)
        twice = {name for name in schema.names if schema.names.count(name) > 1}
        if twice or not self._names:
            reason = f"two columns `{twice.pop()}`" if twice else "no column of texts or numbers"
            raise UsageError(f"`{path}` has {reason}", "write it again with columns of different names")
        state = path.stat()
        self._stamp = f"{state.st_size} {state.st_mtime_ns}"

    def places(self) -> list[Path]:
        """Beside the table, or else where the user's caches are."""
        return [self.path.with_name(f".{self.path.name}.index"), _cache(self.path)]

    def pieces(self) -> list[Piece]:
        """Rows in order."""
        # Columns have types also where there are no rows.
        return [Piece(first // ROWS, self._stamp) for first in range(0, self._file.metadata.num_rows or 1, ROWS)]

    def tables(self, pieces: Sequence[Piece]) -> Iterator[pa.Table]:
        """The rows of these pieces."""
        import pyarrow as pa

        wanted = {piece.key for piece in pieces}
        if wanted and not self._file.metadata.num_rows:
            yield readable(self._file.read(self._names))
            return
        waiting: list[pa.RecordBatch] = []
        number = rows = 0
        try:
            for batch in self._file.iter_batches(2**16, columns=self._names):
                rest = batch
                while rest is not None:
                    head, rest = rest[: ROWS - rows], rest[ROWS - rows :] if len(rest) > ROWS - rows else None
                    waiting.append(head)
                    rows += len(head)
                    if rows == ROWS:
                        if number in wanted:
                            yield readable(pa.Table.from_batches(waiting))
                        waiting, rows, number = [], 0, number + 1
            if rows and number in wanted:
                yield readable(pa.Table.from_batches(waiting))
        except (pa.ArrowInvalid, OSError) as error:
            raise ImagemillError(f"`{self.path}` cannot be read: {error}", "is the file whole?") from None


def open_source(path: str | Path | Dataset) -> Source:
    """The source at a path; raises UsageError when there is none."""
    if isinstance(path, Dataset):
        return Parts(path)
    path = Path(path)
    if path.is_file():
        return Table(path)
    if not (path / "job.toml").is_file():
        for name in ("metadata.parquet", "metadata-large.parquet"):
            if (path / name).is_file():
                return Table(path / name)
    return Parts(Dataset(path))


def readable(table: pa.Table) -> pa.Table:
    """Columns as they are asked for: times are texts by ISO 8601, and what is not a number is null."""
    import pyarrow as pa

    columns = {}
    for name in table.column_names:
        column = table.column(name)
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
            kind = column.type
        if pa.types.is_float16(kind):
            column = column.cast(pa.float32())
        elif pa.types.is_decimal(kind):
            column = column.cast(pa.float64())
        elif pa.types.is_temporal(kind):
            column = _time(column)
        elif pa.types.is_string_view(kind):
            column = column.cast(pa.string())
        elif pa.types.is_large_list(kind):
            column = column.cast(pa.list_(kind.value_type))
        columns[name] = _numbers(column)
    return pa.table(columns)


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(column.type):
        return column
    wrong = pc.is_nan(column)
    return pc.if_else(wrong, None, column) if pc.any(wrong).as_py() else column


def _time(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as texts that stand in the order of time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_timestamp(column.type):
        return column.cast(pa.string())
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded if isinstance(encoded, pa.ChunkedArray) else pa.chunked_array([encoded])
    chunks = []
    for chunk in encoded.chunks:
        texts = pc.strftime(chunk.dictionary.cast(pa.timestamp(column.type.unit)), "%Y-%m-%dT%H:%M:%S")
        texts = pc.replace_substring_regex(texts, r"\.0+$", "")
        texts = pc.replace_substring_regex(texts, r"(\.\d*[1-9])0+$", r"\1")
        zone = "" if column.type.tz is None else "+00:00"
        chunks.append(pc.binary_join_element_wise(texts, zone, "").take(chunk.indices))
    return pa.chunked_array(chunks, pa.string())


def _kept(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _kept(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _kept(kind.value_type) and not pa.types.is_temporal(kind.value_type)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    time = pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind)
    return bool(text or number or time or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def _cache(path: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "imagemill" / "index" / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
