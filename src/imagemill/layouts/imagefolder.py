"""Image files with their metadata beside them: the imagefolder of Hugging Face."""

from __future__ import annotations

import io
import json
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from imagemill.errors import ImagemillError, UsageError, did_you_mean
from imagemill.foreign.folders import folder_splits, read_folder
from imagemill.foreign.trees import check_name
from imagemill.layouts.base import (
    Content,
    Layout,
    Loaded,
    Picture,
    check_captions,
    chosen,
    renamed,
    table_of,
    typed,
    with_text,
    without_text,
)
from imagemill.records import Record, files_of, to_json

if TYPE_CHECKING:
    import pyarrow as pa

_FOLDER_SIZE = 1_000
"""Files in a folder; the hub takes 10,000."""
_PIECE = 10 << 20
"""Bytes of JSON lines that `load_dataset` reads at once, and guesses types from."""
_SPLITS = {"train", "validation", "test"}
"""Folders that every reader takes for splits."""
_HUB_FOLDER = 10_000
"""Files that the hub takes in a folder."""
_MISTAKEN = {
    *("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"),
    *("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))),
}
"""Names of folders that readers take for splits, or Windows for devices."""
_ROWS = 10_000
"""Records in a row group of Parquet."""


class Imagefolder(Layout):
    """Image files in folders, and the records of each split in one file: what `load_dataset` and trainers read."""

    metadata: Literal["jsonl", "parquet"] = "jsonl"
    """The file with the records; Parquet keeps the types of columns that readers of JSON lines would guess wrong."""
    caption_column: str = ""
    """A column of texts that is written once more as `text`, where trainers look for captions."""
    caption_files: bool = False
    """Write `NAME.txt` with the caption, or else the prompt, beside each image, for kohya's scripts and ai-toolkit."""
    repeats: int = Field(1, ge=1)
    """How often kohya's scripts repeat the images in an epoch; they read it in the names of folders."""
    class_column: str = ""
    """The column whose values become folders, one for each class, as torchvision's `ImageFolder` reads them."""

    def write(self, content: Content, folder: Path) -> None:
        """Write `SPLIT/metadata.jsonl` and link the files into `SPLIT/00000` and so on."""
        self._check(content)
        schema = self._schema(content.schema)
        kinds: set[str] = set()
        for split, pictures in content.splits.items():
            (folder / split).mkdir()
            path = self._metadata(folder, split)
            records = (self._written(place, picture) for place, picture in self._placed(pictures))
            if self.metadata == "jsonl":
                with path.open("w", encoding="utf-8") as lines:
                    lines.writelines(f"{to_json(record)}\n" for record in records)
                _check_types(path, split, schema)
            else:
                _write_parquet(path, records, typed(schema))
        for split, pictures in content.splits.items():
            for place, picture in self._placed(pictures):
                (folder / split / place).mkdir(exist_ok=True)
                for name in picture.files:
                    picture.place(name, folder / split / place / name)
                    kinds.add(Path(name).suffix)
                if self.caption_files:
                    path = folder / split / place / picture.record["file_name"]
                    path.with_suffix(".txt").write_text(self._caption(picture.record), encoding="utf-8")
        self._write_card(content, folder, sorted(kinds))

    def read(self, folder: Path, split: str) -> Iterator[Loaded]:
        """Read the records and the files that they name; raises ImagemillError for a caption that is another."""
        path = self._metadata(folder, split)
        yield from self._read(path, _read_lines(path) if self.metadata == "jsonl" else _read_parquet(path))

    def read_subset(self, folder: Path, name: str) -> Iterator[Loaded]:
        """Read its own records, and the files of the whole that they name."""
        path = folder / f"{name}.parquet"
        yield from self._read(path, _read_parquet(path))

    def notes(self, content: Content) -> list[str]:
        """What class folders are called where that is not what the column says, and which are large."""
        if not self.class_column:
            return []
        folders, sizes = _classes(content, self.class_column)
        notes = [f"the folder `{name}` is the class `{value}`" for value, name in folders.items() if value != name]
        most = max(sizes, key=sizes.__getitem__)
        if sizes[most] > _HUB_FOLDER:
            notes.append(f"the class `{most}` has {sizes[most]:,} images in one folder: the hub takes {_HUB_FOLDER:,}")
        return notes

    def _check(self, content: Content) -> None:
        """Raise UsageError for captions, classes and parameters that cannot be."""
        if self.repeats != 1 and not self.caption_files:
            raise UsageError("imagefolder: `repeats` has no effect without `caption_files`", "give `caption_files`")
        if self.caption_column:
            check_captions(content.schema, self.caption_column, "imagefolder")
        if not (self.caption_files or self.class_column):
            return
        if self.class_column:
            _classes(content, self.class_column)
        for picture in chain.from_iterable(content.splits.values()):
            others = [name for name in picture.files if name != picture.record["file_name"]]
            if others:
                raise UsageError(
                    f"imagefolder: `{others[0]}` would be taken for another image to train on",
                    "leave out `caption_files` and `class_column`, or export as `parquet`",
                )
            if self.caption_files and not self._caption(picture.record):
                raise UsageError(
                    f"imagefolder: `caption_files`: `{picture.record['file_name']}` has no caption",
                    f"""--where "{self.caption_column or "prompt"} != ''" leaves it out""",
                )

    def _schema(self, records: pa.Schema) -> pa.Schema:
        import pyarrow as pa

        more = self.caption_column and "text" not in records.names
        return records.append(pa.field("text", pa.string())) if more else records

    def _caption(self, record: Record) -> str:
        """In one line: readers take the first."""
        return " ".join((record[self.caption_column or "prompt"] or "").split())

    def _written(self, place: str, picture: Picture) -> Record:
        """A record with its files as they are called from where it stands."""
        return renamed(with_text(picture.record, self.caption_column), partial(posixpath.join, place))

    def _placed(self, pictures: Iterable[Picture]) -> Iterator[tuple[str, Picture]]:
        """Each picture with the folder that its files go to."""
        start = f"{self.repeats}_" if self.caption_files else ""
        if self.class_column:
            for picture in pictures:
                yield start + _folder_of(picture.record[self.class_column]), picture
            return
        number = held = 0
        for picture in pictures:
            files = len(picture.files) + self.caption_files
            if held and held + files > _FOLDER_SIZE:
                number, held = number + 1, 0
            held += files
            yield f"{start}{number:05d}", picture

    def _write_card(self, content: Content, folder: Path, kinds: Sequence[str]) -> None:
        # Readers find these by themselves. Told where they are, `load_dataset` would look for the image files of an
        # export that was moved where they were before: what it has cached, it knows by the card alone.
        found = _SPLITS.issuperset(content.splits) and not (self.caption_files or self.class_column or content.subsets)
        files: dict[str, str | list[str]] = {}
        if not found:
            files = {split: f"{split}/**" for split in content.splits}
        images = {split: [f"{split}/*/*{kind}" for kind in kinds] for split in content.splits}
        if self.caption_files:
            # As many texts as images would be read as texts alone.
            files = {split: [f"{split}/metadata.{self.metadata}", *images[split]] for split in content.splits}
        configs: dict[str, dict[str, Any]] = {}
        for name, pictures in content.subsets.items():
            ((split, whole),) = content.splits.items()
            # Types in a small part of the records may not be told by JSON lines.
            records = (
                self._written(f"{split}/{place}", picture) for place, picture in chosen(self._placed(whole), pictures)
            )
            _write_parquet(folder / f"{name}.parquet", records, typed(self._schema(content.schema)))
            paths = [f"{name}.parquet", *images[split]]
            configs[name] = {
                "data_files": [{"split": split, "path": paths}],
                "metadata_filenames": [f"{name}.parquet"],
            }
        if self.class_column:
            data_files = [{"split": split, "path": images[split]} for split in content.splits]
            configs["labels"] = {"data_files": data_files, "drop_labels": False}
        text = content.text
        if self.class_column:
            notes = "".join(f"* {note}\n" for note in self.notes(content))
            text += (
                f"\n## Classes\n\nThe folders are the values of `{self.class_column}`. `load_dataset` gives them as "
                f"`label` in the configuration `labels`, with nothing but the images.\n{notes and chr(10)}{notes}"
            )
        replace(content, text=text).write_card(folder, files, configs=configs)

    def _read(self, path: Path, records: Iterable[Record]) -> Iterator[Loaded]:
        for record in records:
            for name in files_of(record):
                check_name(name)
            files = {posixpath.basename(name): (path.parent / name).read_bytes() for name in files_of(record)}
            plain = without_text(renamed(record, posixpath.basename), self.caption_column)
            if self.caption_files:
                beside = (path.parent / record["file_name"]).with_suffix(".txt")
                if beside.read_text(encoding="utf-8") != self._caption(plain):
                    raise ImagemillError(f"`{beside}` is not the caption of its image", "export it again")
            yield Loaded(plain, files)

    def _metadata(self, folder: Path, split: str) -> Path:
        return folder / split / f"metadata.{self.metadata}"

    @classmethod
    def splits(cls, source: Path) -> list[str]:
        """The splits of pictures in a folder or a ZIP archive, with or without metadata."""
        return folder_splits(source)

    @classmethod
    def foreign(cls, source: Path, split: str) -> Iterator[Loaded]:
        """Read a split of pictures in a folder or a ZIP archive, with or without metadata."""
        return read_folder(source, split)


def _classes(content: Content, column: str) -> tuple[dict[str, str], dict[str, int]]:
    """The folder of each class and its number of images; raises UsageError for a column that cannot be classes."""
    import pyarrow as pa

    names = [
        found.name
        for found in content.schema
        if any(is_kind(found.type) for is_kind in (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean))
    ]
    if column not in names:
        said = f"`{column}` holds no classes" if column in content.schema.names else f"there is no column `{column}`"
        raise UsageError(
            f"imagefolder: `class_column`: {said}", did_you_mean(column, names) or f"known: {', '.join(names)}"
        )
    sizes: Counter[str] = Counter()
    for picture in chain.from_iterable(content.splits.values()):
        value = picture.record[column]
        if value is None or not _folder_of(value):
            raise UsageError(
                f"imagefolder: `class_column`: `{picture.record['file_name']}` has no class: `{column}` is "
                f"`{'null' if value is None else value}`",
                f"""--where "{column} != ''" leaves out what has none""",
            )
        sizes[_said(value)] += 1
    folders = {value: _folder_of(value) for value in sizes}
    by_folder: dict[str, str] = {}
    for value, name in folders.items():
        # Some file systems hold these for one.
        other = by_folder.setdefault(name.casefold(), value)
        if other != value:
            raise UsageError(
                f"imagefolder: `class_column`: `{other}` and `{value}` would be one folder, `{name}`",
                "export them apart with `--where`, or give them other names in the prompt table",
            )
    return folders, dict(sizes)


def _folder_of(value: Any) -> str:
    """A class as the name of a folder that no file system and no reader takes for something else."""
    name = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", _said(value))).strip("_")[:100]
    return f"class_{name}" if name.lower() in _MISTAKEN else name


def _said(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)


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
