"""What every layout is: a dataset written as other tools read it, and read back."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from imagemill.component import Component, find_component
from imagemill.errors import ImagemillError, UsageError, did_you_mean
from imagemill.records import Record, files_of, to_json

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Picture:
    """One image to export."""

    path: Path
    """Its file; other pictures that its record names lie beside it."""
    record: Record

    @property
    def files(self) -> list[str]:
        """The names of its file and of those beside it."""
        return files_of(self.record)

    def read(self, name: str) -> bytes:
        """What one of its files holds; raises ImagemillError."""
        path = self.path.with_name(name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ImagemillError(
                f"`{path}` cannot be read: {error.strerror}", "`imagemill verify --repair` gives up what is lost"
            ) from None

    def place(self, name: str, target: Path) -> None:
        """Give one of its files a second name; copy it where the file system has no links. Raises ImagemillError."""
        try:
            os.link(self.path.with_name(name), target)
        except OSError:
            target.write_bytes(self.read(name))


@dataclass(frozen=True, slots=True)
class Loaded:
    """One image as it is read back."""

    record: Record
    """As it was before the export."""
    files: Mapping[str, bytes]
    """What the files that the record names hold."""
    problem: str = ""
    """Why it cannot be used, where that is known without its file."""
    left_out: Sequence[str] = ()
    """What of a foreign one is neither a value nor a picture, by kind."""


@dataclass(frozen=True, slots=True)
class Content:
    """What there is to export."""

    splits: Mapping[str, Iterable[Picture]]
    """By name; each can be gone through more than once."""
    schema: pa.Schema
    """The columns of all records; one that has no value anywhere is of type `null`."""
    front: str
    """Of the card's front matter all that does not depend on the layout, as lines of YAML."""
    text: str
    """The card itself."""
    fingerprint: str
    """A hash of everything."""
    subsets: Mapping[str, Iterable[Picture]] = field(default_factory=dict)
    """Some of the pictures of the only split, in its order, by the name of the subset."""

    def write_card(
        self,
        folder: Path,
        files: Mapping[str, str | Sequence[str]],
        features: Sequence[Mapping[str, Any]] = (),
        configs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write `README.md`, which tells readers the files of each split by patterns; without any, they look.

        `features` are the columns with their types as a card says them, for readers that would guess; `configs` are
        further ones by name, each with its `data_files` and what else its reader takes.
        """
        more = configs or {}
        splits = "".join(
            f"  - split: {split}\n    path: {patterns if isinstance(patterns, str) else to_json(patterns)}\n"
            for split, patterns in files.items()
        )
        # With these lines `load_dataset` knows what it has cached by them and by the folder's name alone, so that
        # another export would be taken for the first; the description tells them apart.
        told = f"configs:\n- config_name: default\n  description: {self.fingerprint}\n  data_files:\n{splits}"
        told = told if files else ""
        # JSON is YAML.
        told += "".join(
            f"- {to_json({'config_name': name, 'description': self.fingerprint, **config})}\n"
            for name, config in more.items()
        )
        if features:
            infos = [{"config_name": name, "features": features} for name in ("default", *more)]
            told += f"dataset_info: {to_json(infos)}\n"
        text = self.text + (_section_of_subsets(self.subsets) if self.subsets else "")
        (folder / "README.md").write_text(f"---\n{self.front}{told}---\n{text}", encoding="utf-8")


class Layout(Component, ABC):
    """Writes a dataset as other tools read it."""

    @abstractmethod
    def write(self, content: Content, folder: Path) -> None:
        """Write into an empty folder; the same content gives the same bytes.

        Raises UsageError for content that the layout cannot hold as it is, and OSError when it cannot be written.
        """

    def exported(self, record: Record) -> Record:
        """What a record becomes where it may not leave as it is; by default itself."""
        return record

    @property
    def hidden(self) -> frozenset[str]:
        """Columns whose values nobody may learn from an export."""
        return frozenset()

    def check_conversion(self, image_format: str | None, quality: int | None) -> None:
        """Raise UsageError for a format of pictures, or its quality, that this layout cannot hold."""
        return

    def notes(self, content: Content) -> list[str]:
        """What this layout holds only beside its usual place, a sentence each."""
        return []

    @abstractmethod
    def read(self, folder: Path, split: str) -> Iterator[Loaded]:
        """Read a split back in order, from what other tools read."""

    def read_subset(self, folder: Path, name: str) -> Iterator[Loaded]:
        """Read a subset back in order, as `read` does; a layout that writes none has none."""
        raise UsageError(f"the layout `{self.component_name()}` has no subsets", "leave out `subsets`")

    @classmethod
    def splits(cls, source: Path) -> list[str]:
        """The splits of a folder, or a file, in this layout, whoever wrote it; none where it is in another one."""
        return []

    @classmethod
    def foreign(cls, source: Path, split: str) -> Iterator[Loaded]:
        """Read a split as anyone may have written it, in order, with the columns that it has there.

        `file_name` is the picture; reading a file raises KeyError, OSError or ValueError where that cannot be.
        """
        raise NotImplementedError


def find_layout(name: str, parameters: Mapping[str, Any]) -> Layout:
    """Make the layout of a name; raises UsageError with a suggestion when there is none."""
    found = find_component("layouts", name)
    if not issubclass(found, Layout):
        raise TypeError(f"`{found.__name__}` is no Layout")
    return found.parse(parameters, f"layout {name}")


def renamed(record: Record, change: Callable[[str], str]) -> Record:
    """A record with other names for its files."""
    changed = dict(record)
    for key, value in record.items():
        if key.endswith("file_name"):
            changed[key] = change(value)
        elif key.endswith("file_names"):
            changed[key] = [change(name) for name in value]
    return changed


def chosen(whole: Iterable[tuple[T, Picture]], some: Iterable[Picture]) -> Iterator[tuple[T, Picture]]:
    """Some of the pictures, in the order of all, each with what it stands with there."""
    waiting = iter(some)
    wanted = next(waiting, None)
    for place, picture in whole:
        if wanted is None:
            return
        if picture.record["file_name"] == wanted.record["file_name"]:
            yield place, picture
            wanted = next(waiting, None)


def typed(schema: pa.Schema) -> pa.Schema:
    """The same with numbers for columns without any value, which only scores can be."""
    import pyarrow as pa

    return pa.schema(
        [pa.field(field.name, pa.float64()) if pa.types.is_null(field.type) else field for field in schema]
    )


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; raises ImagemillError where a value is not of its column's type."""
    import pyarrow as pa

    try:
        return pa.Table.from_pylist(rows, schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ImagemillError(
            f"a value is not of its column's type: {error}", "`imagemill verify` tells which"
        ) from None


def check_captions(schema: pa.Schema, column: str, layout: str, adds_text: bool = True) -> None:
    """Raise UsageError where a column cannot be captions, or not stand once more as `text`, where trainers look."""
    import pyarrow as pa

    if adds_text and "text" in schema.names and column != "text":
        raise UsageError(f"{layout}: `caption_column`: there is a column `text` already", "give `text`, or rename it")
    names = [found.name for found in schema if pa.types.is_string(found.type)]
    if column not in names:
        said = f"`{column}` holds no texts" if column in schema.names else f"there is no column `{column}`"
        hint = did_you_mean(column, names) or f"columns of texts: {', '.join(names)}"
        raise UsageError(f"{layout}: `caption_column`: {said}", hint)


def with_text(record: Record, column: str) -> Record:
    """A record with the texts of a column once more as `text`, where trainers look for them."""
    return {**record, "text": record[column] or ""} if column not in {"", "text"} else record


def without_text(record: Record, column: str) -> Record:
    """The same backwards; raises ImagemillError where `text` says something else."""
    if column in {"", "text"}:
        return record
    found = {name: value for name, value in record.items() if name != "text"}
    if record["text"] != (found[column] or ""):
        raise ImagemillError(f"`text` is not the `{column}` of `{record['file_name']}`", "export it again")
    return found


def write_tables(
    rows: Iterable[tuple[dict[str, Any], int]], schema: pa.Schema, start: Path, shard_bytes: int, group_bytes: int
) -> None:
    """Write rows as Parquet, each with the bytes of its pictures, into `START-00000-of-00003.parquet` and so on.

    Columns of pictures, of `picture_type`, are not compressed a second time. A row group holds at most
    `group_bytes` of pictures, a file `shard_bytes`, and each at least one row.
    """
    import pyarrow.parquet as pq

    fields = [(leaf, is_picture(found.type)) for found in schema for leaf in _leaves(found)]
    options: dict[str, Any] = {
        "compression": {leaf: "none" if pixels else "snappy" for leaf, pixels in fields},
        "use_dictionary": [leaf for leaf, pixels in fields if not pixels],
        "write_statistics": [leaf for leaf, pixels in fields if not pixels],
        "write_page_index": True,
    }
    told = {"info": {"features": {found.name: _feature(found.type) for found in schema}}}
    schema = schema.with_metadata({"huggingface": json.dumps(told)})
    shards: list[Path] = []
    writer: pq.ParquetWriter | None = None
    room = 0
    try:
        for group, size in _groups(rows, min(group_bytes, shard_bytes)):
            if writer is None or size > room:
                if writer:
                    writer.close()
                shards.append(start.with_name(f"{start.name}-{len(shards):05d}.parquet"))
                writer = pq.ParquetWriter(shards[-1], schema, **options)
                room = shard_bytes
            writer.write_table(table_of(group, schema))
            room -= size
    finally:
        if writer:
            writer.close()
    for number, shard in enumerate(shards):
        shard.rename(start.with_name(f"{start.name}-{number:05d}-of-{len(shards):05d}.parquet"))


def read_tables(folder: Path, name: str) -> Iterator[tuple[dict[str, Any], pa.Schema]]:
    """Read rows that `write_tables` has written, each with the columns of its file."""
    import pyarrow.parquet as pq

    for path in sorted(folder.glob(f"{name}-[0-9]*-of-*.parquet")):
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                for row in file.read_row_group(number).to_pylist():
                    yield row, file.schema_arrow


def picture_type() -> pa.DataType:
    """What `datasets` reads as a picture: in this order and with these types, or it sees a dictionary."""
    import pyarrow as pa

    return pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def is_picture(kind: pa.DataType) -> bool:
    """Whether a column holds pictures, or lists of them."""
    import pyarrow as pa

    return bool(pa.types.is_struct(kind.value_type if pa.types.is_list(kind) else kind))


def _section_of_subsets(names: Iterable[str]) -> str:
    """What the card says of subsets."""
    said = ", ".join(f"`{name}`" for name in names)
    (first, *_) = names
    return (
        f"\n## Subsets\n\n{said}: each holds exactly so many of the images, the first ones or some that were drawn.\n\n"
        f'```python\ndataset = load_dataset("path/to/this/folder", "{first}", split="train")\n```\n'
    )


def _groups(rows: Iterable[tuple[dict[str, Any], int]], most: int) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Rows that make a row group together, with the bytes of their pictures."""
    group: list[dict[str, Any]] = []
    held = 0
    for row, size in rows:
        if group and held + size > most:
            yield group, held
            group, held = [], 0
        group.append(row)
        held += size
    if group:
        yield group, held


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A type in the words of `datasets`."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {"_type": "Image"}
    names = {"double": "float64", "float": "float32"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}


def _leaves(field: pa.Field) -> list[str]:
    """The columns of Parquet that hold a column."""
    import pyarrow as pa

    path, kind = field.name, field.type
    while pa.types.is_list(kind):
        path, kind = f"{path}.list.element", kind.value_type
    return [f"{path}.bytes", f"{path}.path"] if pa.types.is_struct(kind) else [path]
