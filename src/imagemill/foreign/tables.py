"""Tables that hold the pictures themselves: Parquet and Arrow files, as `datasets` writes them or not quite."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from imagemill.foreign.splits import in_order, split_of
from imagemill.foreign.trees import Lazy, Tree, check_name, text_column
from imagemill.layouts.base import Loaded

if TYPE_CHECKING:
    import pyarrow as pa

_SUFFIXES = {".parquet", ".arrow"}
_BATCH = 32
"""Rows with their pictures that are in memory at once."""
_NAMES = ("image", "img", "picture", "jpg", "png", "webp", "edited_image", "output_image", "target_image")
"""Columns that are the picture itself, in this order; without any it is the first that holds pictures."""


def table_splits(source: Path) -> list[str]:
    """The splits of tables with pictures in a folder, or of one; none where there is no such table."""
    return in_order(split_of(name) for name in _tables(source))


def read_tables(source: Path, split: str) -> Iterator[Loaded]:
    """Read the rows of a split; a table that is damaged is a problem of its own."""
    import pyarrow as pa

    for name, path in _tables(source).items():
        if split_of(name) != split:
            continue
        try:
            schema, batches = _opened(path)
            yield from read_batches(schema, batches, name, path.parent)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            yield Loaded({"file_name": name}, {}, f"the table cannot be read: {error}")


def read_batches(schema: pa.Schema, batches: Iterable[pa.RecordBatch], where: str, folder: Path) -> Iterator[Loaded]:
    """Read the rows of a table by their pictures.

    A picture of which there is only a path is a file in `folder`, or below.
    """
    pictures = _pictures(schema)
    main = next((name for name in _NAMES if name in pictures), next(iter(pictures)))
    labels = _labels(schema)
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            yield _loaded(row, pictures, main, labels, f"{where}:{number}", folder)
            number += 1


def _tables(source: Path) -> dict[str, Path]:
    """The tables that have a column of pictures, by their names in the folder."""
    import pyarrow as pa

    if source.is_file():
        found = [source] if source.suffix.lower() in _SUFFIXES else []
        base = source.parent
    else:
        # `save_to_disk` says which files are the dataset: others are what `map` and `filter` have kept.
        states = sorted(source.rglob("state.json"))
        found = [state.parent / entry["filename"] for state in states for entry in _state(state)]
        found = found or sorted(path for path in source.rglob("*") if path.suffix.lower() in _SUFFIXES)
        base = source
    tables = {}
    for path in found:
        name = path.relative_to(base).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in PurePosixPath(name).parts):
            try:
                schema, _ = _opened(path)
            except (pa.ArrowInvalid, OSError):
                # Seen as one of pictures only where it is the only one; a damaged shard among others must be told.
                if not source.is_file() and path.name != "metadata.parquet":
                    tables[name] = path
                continue
            if _pictures(schema):
                tables[name] = path
    # The hub's own place for tables; others beside it say the same again.
    tables = {name: path for name, path in tables.items() if name.startswith("data/")} or tables
    return tables if any(is_table(path) for path in tables.values()) else {}


def is_table(path: Path) -> bool:
    """Whether a file can be read as a table, as far as its head and its end tell."""
    import pyarrow as pa

    try:
        _opened(path)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def _state(path: Path) -> list[dict[str, str]]:
    try:
        found = list(json.loads(path.read_bytes())["_data_files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    named = (entry for entry in found if isinstance(entry, dict) and isinstance(entry.get("filename"), str))
    return [entry for entry in named if "/" not in entry["filename"]]


def _opened(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema of a table, and its rows a few at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() == ".parquet":
        return pq.read_schema(path), _parquet(path)
    try:
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_stream(file).schema, _arrow(path, pa.ipc.open_stream)
    except pa.ArrowInvalid:
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).schema, _arrow(path, pa.ipc.open_file)


def _parquet(path: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(_BATCH)


def _arrow(path: Path, opened: Callable[[Any], Any]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        reader = opened(file)
        count = getattr(reader, "num_record_batches", None)
        batches = reader if count is None else (reader.get_batch(number) for number in range(count))
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH):
                yield batch.slice(start, _BATCH)


def _pictures(schema: pa.Schema) -> dict[str, bool]:
    """The columns that hold pictures, and whether several in each row.

    Besides what `datasets` writes these are structs in another order and with larger kinds of texts and bytes, and
    bytes alone under a name that says what they are.
    """
    import pyarrow as pa

    found = {}
    for field in schema:
        kind = field.type
        many = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        inner = kind.value_type if many else kind
        struct = pa.types.is_struct(inner) and {inner.field(n).name for n in range(inner.num_fields)} == {
            "bytes",
            "path",
        }
        struct = struct and (
            pa.types.is_binary(kind_of := inner.field("bytes").type) or pa.types.is_large_binary(kind_of)
        )
        alone = (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)) and field.name.lower() in _NAMES
        if struct or alone:
            found[str(field.name)] = many
    return found


def _labels(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of classes that a column holds as numbers, as `datasets` writes them down."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {
            name: list(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
        return {}


def _loaded(
    row: Mapping[str, Any],
    pictures: Mapping[str, bool],
    main: str,
    labels: Mapping[str, list[str]],
    where: str,
    folder: Path,
) -> Loaded:
    record: dict[str, Any] = {}
    files: dict[str, Callable[[], bytes]] = {}
    blobs: dict[str, bytes | None] = {}

    def held(value: Any, name: str) -> str:
        """Note the reader of a picture under a name of its own."""
        data, path = (value, None) if isinstance(value, bytes) else (value.get("bytes"), value.get("path"))
        wanted = path if path and blobs.setdefault(path, data) == data else f"{where}:{name}"
        files[wanted] = partial(_bytes, data) if data is not None else partial(_file, folder, path)
        return str(wanted)

    for column, value in row.items():
        if column in labels and isinstance(value, int) and 0 <= value < len(labels[column]):
            record[column] = labels[column][value]
        elif column not in pictures:
            record[text_column(column)] = value
        elif column == main:
            items = (value or [None]) if pictures[column] else [value]
            if items[0] is None:
                return Loaded({"file_name": where}, {}, "the row has no picture")
            record["file_name"] = held(items[0], column)
            if column == "edited_image":
                record["edited_image_file_name"] = record["file_name"]
            for number, item in enumerate(items[1:], 1):
                if item is not None:
                    record[f"{column}_{number}_file_name"] = held(item, f"{column}_{number}")
        elif pictures[column]:
            record[f"{column}_file_names"] = [held(item, f"{column}_{n}") for n, item in enumerate(value or ())]
        elif value is not None:
            record[f"{column}_file_name"] = held(value, column)
    return Loaded(record, Lazy(files))


def _bytes(data: bytes) -> bytes:
    return data


def _file(folder: Path, path: str | None) -> bytes:
    if not path:
        raise ValueError("the row has neither a picture nor the path of one")
    try:
        inside = Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else path
        check_name(inside)
    except ValueError:
        raise ValueError("the row has only the path of a picture, and that leads elsewhere") from None
    return Tree.file(folder, inside)
