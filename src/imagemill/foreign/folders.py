"""Folders and ZIP archives of pictures, alone or with what is told of them in a table or beside each."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from imagemill.errors import UsageError
from imagemill.foreign.cells import Cells, cells_of
from imagemill.foreign.splits import TRAIN, WORDS, in_order, split_of
from imagemill.foreign.trees import Lazy, Tree, check_name, text_column
from imagemill.layouts.base import Loaded

PICTURES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"}
OTHERS = {".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl", ".svg"}
"""Pictures that are not taken, which is said of each."""
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_BESIDE = (".json", ".txt", ".caption")
"""What may stand beside a picture with its name."""
_TABLE = 8 << 30
"""Bytes that a Parquet table of metadata in an archive may have."""
_TEXT = 4 << 20
"""Bytes that a text beside a picture may have."""


def folder_splits(source: Path) -> list[str]:
    """The splits of pictures in a folder, an archive, or a file that is one picture; none where there is no picture."""
    if source.is_file() and source.suffix.lower() != ".zip":
        return [TRAIN] if source.suffix.lower() in PICTURES else []
    tree = Tree(source)
    if _tables(tree):
        return in_order(split_of(posixpath.dirname(name)) for name in _tables(tree))
    return in_order(_bare_splits([name for name in tree.names if _is_picture(name)]).values())


def read_folder(source: Path, split: str) -> Iterator[Loaded]:
    """Read the pictures of a split: in the order of its table, without one in that of their names.

    Without a table, a text file (`.txt`, `.caption`) or a JSON file with the name of a picture tells of it, and
    folders that divide all pictures are classes. Raises UsageError for tables of different kinds.
    """
    if source.is_file() and source.suffix.lower() != ".zip":
        yield Loaded({"file_name": source.name}, Lazy({source.name: partial(Tree(source.parent).read, source.name)}))
        return
    tree = Tree(source)
    tables = _tables(tree)
    if len({PurePosixPath(name).suffix for name in tables}) > 1:
        raise UsageError(
            f"`{source}` has metadata in files of different kinds: {', '.join(f'`{name}`' for name in tables)}",
            "keep those of one kind",
        )
    if not tables:
        yield from _bare(tree, split)
        return
    named: set[str] = set(tables)
    places = [posixpath.dirname(name) for name in tables if split_of(posixpath.dirname(name)) == split]
    texts = (row for table in tables if table.endswith(".csv") for row in _rows(tree, table, None))
    cells = cells_of(texts)
    last: Loaded | None = None
    for table in tables:
        if split_of(posixpath.dirname(table)) == split:
            for row in _rows(tree, table, cells):
                if last:
                    yield last
                last = _told(tree, table, row, named)
    if last:
        # Only now all rows have named theirs.
        yield replace(last, left_out=_left_out(tree, named)) if split == folder_splits(source)[0] else last
    for name in tree.names:
        # Where every table lies in the folder of a split, others are told of by theirs.
        mine = any(not place or name.startswith(f"{place}/") for place in places)
        if mine and (_is_picture(name) or name in tree.problems) and name not in named:
            yield Loaded({"file_name": name}, {}, tree.problems.get(name) or "no row of the metadata names it")


def _tables(tree: Tree) -> list[str]:
    return [name for name in tree.names if posixpath.basename(name) in _METADATA and _names_files(tree, name)]


def _names_files(tree: Tree, name: str) -> bool:
    """Whether a table is one of files: `metadata.parquet` is also what other layouts call theirs."""
    if not name.endswith(".parquet"):
        return True
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(
            io.BytesIO(tree.read(name, _TABLE)) if tree.source.is_file() else tree.source / name
        ).names
    except (pa.ArrowInvalid, OSError, ValueError):
        return False
    return any(column.endswith(("file_name", "file_names")) for column in names)


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICTURES | OTHERS


def _bare_splits(names: list[str]) -> dict[str, str]:
    """The split of each picture: where all lie in folders that readers take for splits, the one that this names."""
    heads = {name: name.partition("/")[0].lower() if "/" in name else "" for name in names}
    all_splits = set(heads.values()) <= WORDS.keys()
    return {name: WORDS[head] if all_splits else TRAIN for name, head in heads.items()}


def _bare(tree: Tree, split: str) -> Iterator[Loaded]:
    splits = _bare_splits([name for name in tree.names if _is_picture(name)])
    names = [name for name, found in splits.items() if found == split]
    folders = {name: PurePosixPath(name).parent for name in names}
    depths = {len(folder.parts) for folder in folders.values()}
    classes = len(depths) == 1 and len({folder.name for folder in folders.values()}) > 1
    # kohya's scripts read in the name how often the images are repeated.
    heads = {folder.name: re.fullmatch(r"[1-9]\d{0,2}_(.+)", folder.name) for folder in folders.values()}
    plain = {name: found[1] for name, found in heads.items() if found}
    # Where two would be one, the number says something else.
    repeated = len(set(plain.values())) == len(heads)
    told, first = False, split == in_order(splits.values())[0]
    for name in names:
        record: dict[str, Any] = {"file_name": name}
        left_out = _left_out(tree, _beside_all(splits)) if not told and first else []
        told = True
        problem = "" if PurePosixPath(name).suffix.lower() in PICTURES else "neither a PNG nor a JPEG nor a WebP image"
        if classes:
            folder = folders[name].name
            record["class_name"] = plain[folder] if repeated else folder
        try:
            record |= _beside(tree, name)
        except (OSError, ValueError, RecursionError) as error:
            problem = f"what stands beside it cannot be read: {error}"
        yield Loaded(record, Lazy({name: partial(tree.read, name)}), tree.problems.get(name, problem), left_out)
    if first:
        for name, problem in tree.problems.items():
            if name not in splits:
                yield Loaded({"file_name": name}, {}, problem)


def _beside(tree: Tree, name: str) -> dict[str, Any]:
    """What files with the name of a picture tell of it."""
    stem = name[: -len(PurePosixPath(name).suffix)]
    told: dict[str, Any] = {}
    if tree.has(f"{stem}.json"):
        found = json.loads(tree.read(f"{stem}.json", _TEXT))
        if not isinstance(found, dict):
            raise ValueError(f"`{stem}.json` holds no object")
        told |= {text_column(key): value for key, value in found.items() if key != "file_name"}
    for kind in (".txt", ".caption"):
        if tree.has(stem + kind):
            told.setdefault("caption", tree.read(stem + kind, _TEXT).decode("utf-8-sig").strip())
    return told


def _beside_all(pictures: Iterable[str]) -> set[str]:
    """The files that may tell of pictures."""
    stems = (name[: -len(PurePosixPath(name).suffix)] for name in pictures)
    return {stem + kind for stem in stems for kind in _BESIDE}


def _left_out(tree: Tree, used: Container[str]) -> list[str]:
    """What of a tree is neither a picture nor used, by kind."""
    return [
        f"`{PurePosixPath(name).suffix or posixpath.basename(name)}`"
        for name in tree.names
        if not _is_picture(name) and name not in used and name not in tree.problems
        and posixpath.basename(name).lower() != "readme.md"
    ]  # fmt: skip


def _rows(tree: Tree, table: str, cells: Cells | None) -> Iterator[Mapping[str, Any] | str]:
    """The rows of a table, or what is wrong with one; those of CSV files as their cells are."""
    if table.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            source = tree.source / table if tree.source.is_dir() else io.BytesIO(tree.read(table, _TABLE))
            with pq.ParquetFile(source) as file:
                for batch in file.iter_batches(1_000):
                    yield from batch.to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            yield f"`{table}` cannot be read: {error}"
        return
    if table.endswith(".csv"):
        with tree.lines(table, newline="") as lines:
            try:
                for row in csv.DictReader(lines, strict=True):
                    if None in row or None in row.values():
                        yield "the line has more or fewer fields than the first"
                    else:
                        yield cells.values(row) if cells else row
            except csv.Error as error:
                yield f"no CSV: {error}"
        return
    with tree.lines(table) as lines:
        for line in filter(str.strip, lines):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"not JSON: {error}: {line.rstrip():.80}"
            else:
                yield found if isinstance(found, dict) else f"no JSON object: {line.rstrip():.80}"


def _names_none(value: object) -> bool:
    """Whether a value of a column of files can be no picture."""
    return isinstance(value, str) and not _is_picture(value)


def _told(tree: Tree, table: str, row: Mapping[str, Any] | str, named: set[str]) -> Loaded:
    """A row of a table with the files that it names, by their names in the tree."""
    if isinstance(row, str):
        return Loaded({"file_name": table}, {}, row)
    # What names no picture is a text.
    record = {
        text_column(key) if key != "file_name" and _names_none(value) else key: value for key, value in row.items()
    }
    if "file_name" not in record:
        named_files = [key for key in record if key.endswith("file_name")]
        lists = [key for key in record if key.endswith("file_names") and isinstance(record[key], list) and record[key]]
        plain = [key for key in ("image", "file", "path") if isinstance(record.get(key), str)]
        if named_files:
            main = "edited_image_file_name"
            record["file_name"] = record[main if main in named_files else named_files[0]]
        elif lists:
            record["file_name"], *record[lists[0]] = record[lists[0]]
        elif plain:
            record["file_name"] = record.pop(plain[0])
    if "file_name" not in record:
        columns = ", ".join(f"`{column}`" for column in row)
        return Loaded({"file_name": table}, {}, f"no column names a file: there is no `file_name` among {columns:.200}")
    files: defaultdict[str, Any] = defaultdict()

    def placed(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("it names no file")
        check_name(value)
        name = posixpath.normpath(posixpath.join(posixpath.dirname(table), value))
        files[name] = partial(tree.read, name)
        named.add(name)
        return name

    try:
        for key, value in record.items():
            if key.endswith("file_name"):
                record[key] = placed(value)
            elif key.endswith("file_names"):
                record[key] = [placed(name) for name in value]
    except (ValueError, TypeError) as error:
        shown = str(record.get("file_name", table))
        return Loaded({"file_name": shown}, {}, f"{error}" if isinstance(error, ValueError) else "it names no files")
    return Loaded(record, Lazy(dict(files)))
