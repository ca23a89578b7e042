"""Image files with their metadata beside them: the imagefolder of Hugging Face."""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imagemill.errors import UsageError
from imagemill.layouts.base import Content, Layout, Loaded, Picture, renamed, table_of, typed
from imagemill.records import Record, files_of, to_json

if TYPE_CHECKING:
    import pyarrow as pa

_FOLDER_SIZE = 1_000
"""Files in a folder; the hub takes 10,000."""
_PIECE = 10 << 20
"""Bytes of JSON lines that `load_dataset` reads at once, and guesses types from."""
_SPLITS = {"train", "validation", "test"}
"""Folders that every reader takes for splits."""
_ROWS = 10_000
"""Records in a row group of Parquet."""


class Imagefolder(Layout):
    """Image files in folders, and the records of each split in one file: what `load_dataset` and trainers read."""

    metadata: Literal["jsonl", "parquet"] = "jsonl"
    """The file with the records; Parquet keeps the types of columns that readers of JSON lines would guess wrong."""

    def write(self, content: Content, folder: Path) -> None:
        """Write `SPLIT/metadata.jsonl` and link the files into `SPLIT/00000` and so on."""
        for split, pictures in content.splits.items():
            (folder / split).mkdir()
            path = self._metadata(folder, split)
            records = (renamed(picture.record, partial(posixpath.join, place)) for place, picture in _placed(pictures))
            if self.metadata == "jsonl":
                with path.open("w", encoding="utf-8") as lines:
                    lines.writelines(f"{to_json(record)}\n" for record in records)
                _check_types(path, split, content.schema)
            else:
                _write_parquet(path, records, typed(content.schema))
        for split, pictures in content.splits.items():
            for place, picture in _placed(pictures):
                (folder / split / place).mkdir(exist_ok=True)
                for name in picture.files:
                    picture.place(name, folder / split / place / name)
        # Readers find these by themselves. Told where they are, `load_dataset` would look for the image files of an
        # export that was moved where they were before: what it has cached, it knows by the card alone.
        found = _SPLITS.issuperset(content.splits)
        content.write_card(folder, {} if found else {split: f"{split}/**" for split in content.splits})

    def read(self, folder: Path, split: str) -> Iterator[Loaded]:
        """Read the records and the files that they name."""
        path = self._metadata(folder, split)
        for record in _read_lines(path) if self.metadata == "jsonl" else _read_parquet(path):
            files = {posixpath.basename(name): (path.parent / name).read_bytes() for name in files_of(record)}
            yield Loaded(renamed(record, posixpath.basename), files)

    def _metadata(self, folder: Path, split: str) -> Path:
        return folder / split / f"metadata.{self.metadata}"


def _placed(pictures: Iterable[Picture]) -> Iterator[tuple[str, Picture]]:
    """Each picture with the folder that its files go to."""
    number = held = 0
    for picture in pictures:
        files = len(picture.files)
        if held and held + files > _FOLDER_SIZE:
            number, held = number + 1, 0
        held += files
        yield f"{number:05d}", picture


def _check_types(path: Path, split: str, schema: pa.Schema) -> None:
    """Raise UsageError where `load_dataset` would take a column of JSON lines for something else.

    It reads pieces on their own, and what the first one of each split looks like decides: a column may hold only null
    there, or texts that look like dates.
    """
    import pyarrow as pa
    import pyarrow.json as pj

    with path.open("rb") as lines:
        first = True
        while piece := lines.read(_PIECE):
            piece += lines.readline()
            read = pj.read_json(io.BytesIO(piece), read_options=pj.ReadOptions(block_size=len(piece) + 1))
            for field in read.schema:
                inner = field.type.value_type if pa.types.is_list(field.type) else field.type
                meant = schema.field(field.name).type
                if field.type != meant and (first or not pa.types.is_null(inner)):
                    raise UsageError(
                        f"imagefolder: readers of JSON lines would take `{field.name}` in `{split}` for {field.type}, "
                        f"and it is {meant}",
                        "`--metadata parquet` keeps the types",
                    )
            first = False


def _read_lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _write_parquet(path: Path, records: Iterator[Record], schema: pa.Schema) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema) as writer:
        while rows := list(islice(records, _ROWS)):
            writer.write_table(table_of(rows, schema))


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield from file.read_row_group(number).to_pylist()
