"""Tables that hold the images themselves: Parquet as Hugging Face writes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from imagemill.foreign.tables import read_tables as read_foreign_tables
from imagemill.foreign.tables import table_splits
from imagemill.layouts.base import (
    Content,
    Layout,
    Loaded,
    Picture,
    check_captions,
    is_picture,
    picture_type,
    read_tables,
    typed,
    with_text,
    without_text,
    write_tables,
)

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP_BYTES = 100_000_000
"""Bytes of images in a row group, which readers take into memory as a whole."""


class Parquet(Layout):
    """Parquet tables with the image files inside, every picture as Hugging Face's `Image`: what the hub shows."""

    shard_bytes: int = Field(500_000_000, ge=1)
    """Bytes of images in one file, at most; a file holds at least one image."""

    caption_column: str = ""
    """A column of texts that is written once more as `text`, where trainers look for captions."""

    def write(self, content: Content, folder: Path) -> None:
        """Write `data/SPLIT-00000-of-00003.parquet` and so on, and subsets in the same way."""
        if self.caption_column:
            check_captions(content.schema, self.caption_column, "parquet")
        schema = _schema(typed(content.schema), bool(self.caption_column))
        (folder / "data").mkdir()
        for split, pictures in content.splits.items():
            write_tables(self._rows(pictures), schema, folder / "data" / split, self.shard_bytes, _GROUP_BYTES)
        for name, pictures in content.subsets.items():
            (folder / "subsets").mkdir(exist_ok=True)
            write_tables(self._rows(pictures), schema, folder / "subsets" / name, self.shard_bytes, _GROUP_BYTES)
        files = {split: f"data/{split}-*.parquet" for split in content.splits}
        subsets = {
            name: {"data_files": [{"split": split, "path": f"subsets/{name}-*.parquet"} for split in files]}
            for name in content.subsets
        }
        content.write_card(folder, files, configs=subsets)

    def read(self, folder: Path, split: str) -> Iterator[Loaded]:
        """Read records and files from the tables."""
        return self._read(folder / "data", split)

    def read_subset(self, folder: Path, name: str) -> Iterator[Loaded]:
        """Read records and files from the tables."""
        return self._read(folder / "subsets", name)

    def _read(self, folder: Path, name: str) -> Iterator[Loaded]:
        keys: dict[str, str] = {}
        for row, schema in read_tables(folder, name):
            keys = keys or {field.name: _key(field) for field in schema}
            loaded = _loaded(row, keys)
            yield replace(loaded, record=without_text(loaded.record, self.caption_column))

    def _rows(self, pictures: Iterable[Picture]) -> Iterator[tuple[dict[str, Any], int]]:
        """Rows of the tables, with the bytes of their pictures."""
        for picture in pictures:
            files = {name: {"bytes": picture.read(name), "path": name} for name in picture.files}
            record = with_text(picture.record, self.caption_column)
            row = {_column(key): _filled(key, value, files) for key, value in record.items()}
            yield row, sum(len(file["bytes"]) for file in files.values())

    @classmethod
    def splits(cls, source: Path) -> list[str]:
        """The splits of Parquet or Arrow files with pictures in them."""
        return table_splits(source)

    @classmethod
    def foreign(cls, source: Path, split: str) -> Iterator[Loaded]:
        """Read a split of Parquet or Arrow files with pictures in them."""
        return read_foreign_tables(source, split)


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

    if not is_picture(field.type):
        return str(field.name)
    many = "file_names" if pa.types.is_list(field.type) else "file_name"
    return many if field.name in {"image", "images"} else f"{field.name}_{many}"


def _schema(records: pa.Schema, captions: bool) -> pa.Schema:
    """The columns of the tables."""
    import pyarrow as pa

    fields = []
    for field in records:
        kind = field.type
        if field.name.endswith("file_name"):
            kind = picture_type()
        elif field.name.endswith("file_names"):
            kind = pa.list_(picture_type())
        fields.append(pa.field(_column(field.name), kind))
    if captions and "text" not in records.names:
        fields.append(pa.field("text", pa.string()))
    return pa.schema(fields)
