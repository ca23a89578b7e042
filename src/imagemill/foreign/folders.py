"""Folders and ZIP archives of pictures, alone or with what is told of them in a table or beside each."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from imagemill.errors import UsageError
from imagemill.foreign.splits import TRAIN, WORDS, in_order, split_of
from imagemill.foreign.trees import Lazy, Tree, check_name
from imagemill.layouts.base import Loaded

PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
OTHERS = {".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl", ".svg"}
"""Pictures that are not taken, which is said of each."""
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
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
    named: set[str] = set()
    places = [posixpath.dirname(name) for name in tables if split_of(posixpath.dirname(name)) == split]
    for table in tables:
        if split_of(posixpath.dirname(table)) == split:
            for row in _rows(tree, table):
                yield _told(tree, table, row, named)
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
    for name in names:
        record: dict[str, Any] = {"file_name": name}
        problem = "" if PurePosixPath(name).suffix.lower() in PICTURES else "neither a PNG nor a JPEG nor a WebP image"
        if classes:
            record["class_name"] = folders[name].name
        try:
            record |= _beside(tree, name)
        except (OSError, ValueError, RecursionError) as error:
            problem = f"what stands beside it cannot be read: {error}"
        yield Loaded(record, Lazy({name: partial(tree.read, name)}), tree.problems.get(name, problem))
    if split == in_order(splits.values())[0]:
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
        told |= {key: value for key, value in found.items() if not key.endswith(("file_name", "file_names"))}
    for kind in (".txt", ".caption"):
        if tree.has(stem + kind):
            told.setdefault("caption", tree.read(stem + kind, _TEXT).decode("utf-8-sig").strip())
    return told


def _rows(tree: Tree, table: str) -> Iterator[Mapping[str, Any] | str]:
    """The rows of a table, or what is wrong with one."""
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
                    wrong = None in row or None in row.values()
                    yield "the line has more or fewer fields than the first" if wrong else row
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


def _told(tree: Tree, table: str, row: Mapping[str, Any] | str, named: set[str]) -> Loaded:
    """A row of a table with the files that it names, by their names in the tree."""
    if isinstance(row, str):
        return Loaded({"file_name": table}, {}, row)
    record = dict(row)
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
