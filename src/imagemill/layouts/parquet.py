"""Tables that hold the images themselves: Parquet as Hugging Face writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from imagemill.layouts.base import Content, Layout, Loaded, Picture, table_of, typed

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP_BYTES = 100_000_000
"""Bytes of images in a row group, which readers take into memory as a whole."""


class Parquet(Layout):
    """Parquet tables with the image files inside, every picture as Hugging Face's `Image`: what the hub shows."""

    shard_bytes: int = Field(500_000_000, ge=1)
    """Bytes of images in one file, at most; a file holds at least one image."""

    def write(self, content: Content, folder: Path) -> None:
        """Write `data/SPLIT-00000-of-00003.parquet` and so on."""
        (folder / "data").mkdir()
        for split, pictures in content.splits.items():
            shards = self._write_split(pictures, typed(content.schema), folder / "data" / split)
            for number, shard in enumerate(shards):
                shard.rename(folder / "data" / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")
        content.write_card(folder, {split: f"data/{split}-*.parquet" for split in content.splits})

    def read(self, folder: Path, split: str) -> Iterator[Loaded]:
        """Read records and files from the tables."""
        import pyarrow.parquet as pq

        for path in sorted((folder / "data").glob(f"{split}-*.parquet")):
            with pq.ParquetFile(path) as file:
                keys = {field.name: _key(field) for field in file.schema_arrow}
                for number in range(file.num_row_groups):
                    for row in file.read_row_group(number).to_pylist():
                        yield _loaded(row, keys)

    def _write_split(self, pictures: Iterable[Picture], records: pa.Schema, start: Path) -> list[Path]:
        import pyarrow.parquet as pq

        schema = _schema(records)
        leaves = {leaf: field.type for field in schema for leaf in _leaves(field)}
        pixels = {leaf for field in schema for leaf in _leaves(field) if _is_picture(field.type)}
        options: dict[str, Any] = {
            "compression": {leaf: "none" if leaf in pixels else "snappy" for leaf in leaves},
            "use_dictionary": [leaf for leaf in leaves if leaf not in pixels],
            "write_statistics": [leaf for leaf in leaves if leaf not in pixels],
            "write_page_index": True,
        }
        shards: list[Path] = []
        writer: pq.ParquetWriter | None = None
        room = 0
        try:
            for rows, size in _groups(pictures, min(_GROUP_BYTES, self.shard_bytes)):
                if writer is None or size > room:
                    if writer:
                        writer.close()
                    shards.append(start.with_name(f"{start.name}-{len(shards):05d}.parquet"))
                    writer = pq.ParquetWriter(shards[-1], schema, **options)
                    room = self.shard_bytes
                writer.write_table(table_of(rows, schema))
                room -= size
        finally:
            if writer:
                writer.close()
        return shards


def _groups(pictures: Iterable[Picture], most: int) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Rows that make a row group together, with the bytes of their images."""
    rows: list[dict[str, Any]] = []
    held = 0
    for picture in pictures:
        files = {name: {"bytes": picture.read(name), "path": name} for name in picture.files}
        row = {_column(key): _filled(key, value, files) for key, value in picture.record.items()}
        size = sum(len(file["bytes"]) for file in files.values())
        if rows and held + size > most:
            yield rows, held
            rows, held = [], 0
        rows.append(row)
        held += size
    if rows:
        yield rows, held


def _filled(key: str, value: Any, files: dict[str, dict[str, Any]]) -> Any:
    """The value of a column, pictures in the place of their names."""
    if key.endswith("file_name"):
        return files[value]
    return [files[name] for name in value] if key.endswith("file_names") else value


def _loaded(row: dict[str, Any], keys: dict[str, str]) -> Loaded:
    """The same backwards; `keys` are those of the record, by column."""
    record: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    for column, value in row.items():
        key = keys[column]
        found = [value] if key.endswith("file_name") else value if key.endswith("file_names") else []
        files.update((file["path"], file["bytes"]) for file in found)
        names = [file["path"] for file in found]
        record[key] = names[0] if key.endswith("file_name") else names if key.endswith("file_names") else value
    return Loaded(record, files)


def _column(key: str) -> str:
    """What `load_dataset` calls a key of a record that names files."""
    if key in {"file_name", "file_names"}:
        return "image" if key == "file_name" else "images"
    return key.removesuffix("_file_name").removesuffix("_file_names")


def _key(field: pa.Field) -> str:
    """The key of a record that a column stands for."""
    import pyarrow as pa

    if not _is_picture(field.type):
        return str(field.name)
    many = "file_names" if pa.types.is_list(field.type) else "file_name"
    return many if field.name in {"image", "images"} else f"{field.name}_{many}"


def _schema(records: pa.Schema) -> pa.Schema:
    """The columns of the tables, with what `datasets` reads its own types from."""
    import pyarrow as pa

    # In this order and with these types, or `datasets` sees a dictionary.
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = []
    for field in records:
        kind = field.type
        if field.name.endswith("file_name"):
            kind = picture
        elif field.name.endswith("file_names"):
            kind = pa.list_(picture)
        fields.append(pa.field(_column(field.name), kind))
    told = {"info": {"features": {field.name: _feature(field.type) for field in fields}}}
    return pa.schema(fields, {"huggingface": json.dumps(told)})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A type in the words of `datasets`."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {"_type": "Image"}
    return {"dtype": "float64" if pa.types.is_float64(kind) else str(kind), "_type": "Value"}


def _is_picture(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind.value_type if pa.types.is_list(kind) else kind))


def _leaves(field: pa.Field) -> list[str]:
    """The columns of Parquet that hold a column."""
    import pyarrow as pa

    path, kind = field.name, field.type
    while pa.types.is_list(kind):
        path, kind = f"{path}.list.element", kind.value_type
    return [f"{path}.bytes", f"{path}.path"] if pa.types.is_struct(kind) else [path]
