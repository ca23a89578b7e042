"""Tar files of samples, as WebDataset has them: members with one key belong together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from imagemill.foreign.folders import OTHERS, PICTURES
from imagemill.foreign.splits import in_order, split_of
from imagemill.foreign.trees import Lazy, Tree, text_column
from imagemill.layouts.base import Loaded

_TEXT = 4 << 20
"""Bytes that a text member may have."""
_FIELD = re.compile(
    r"(input|edited|mask|output|target|source|before|after|control|conditioning|original|image)(_?images?)?(_?\d+)?"
)
"""What may stand between two points as the name of one of several pictures; else it belongs to the key."""
_MAIN = ("", "edited", "edited_image", "output", "target", "after", "image", "original")
"""The fields that are the picture itself, in this order; without any it is the first."""

Members = Callable[[Mapping[str, Any]], Mapping[str, str]]
"""Finds, by what stands behind the key, the files that a record of ours names."""


def tar_splits(source: Path) -> list[str]:
    """The splits of tar files with pictures in a folder, or of one; none where there is no such file."""
    return in_order(split_of(name) for name in _shards(source))


def read_tars(source: Path, split: str, members: Members) -> Iterator[Loaded]:
    """Read the samples of a split; what is neither picture nor text nor JSON is left out, and never opened.

    Members of a sample need not lie beside each other, and a key may have points in it.
    """
    for shard, path in _shards(source).items():
        if split_of(shard) == split:
            tree = Tree(path)
            for key, fields in _samples(tree).items():
                if fields:
                    yield _sample(tree, shard, key, fields, members)
            for name, problem in tree.problems.items():
                yield Loaded({"file_name": f"{shard}/{name}"}, {}, problem)


def _shards(source: Path) -> dict[str, Path]:
    """The tar files with a picture, by their names in the folder."""
    if source.is_file():
        return {source.name: source} if source.suffix.lower() == ".tar" else {}
    return {path.relative_to(source).as_posix(): path for path in sorted(source.rglob("*.tar")) if path.is_file()}


def _samples(tree: Tree) -> dict[str, dict[str, str]]:
    """The names of members by key and, in lower case, by what stands behind it."""
    samples: dict[str, dict[str, str]] = {}
    for name in tree.names:
        path = PurePosixPath(name)
        if name in tree.problems or not path.suffix or re.match(r"__[^/]*__/", name):
            continue
        stem, middle, last = path.stem, "", path.suffix[1:].lower()
        head, point, inner = stem.rpartition(".")
        if point and head and _FIELD.fullmatch(inner.lower()):
            stem, middle = head, f"{inner.lower()}."
        samples.setdefault(str(path.with_name(stem)), {}).setdefault(middle + last, name)
    return samples


def _sample(tree: Tree, shard: str, key: str, fields: Mapping[str, str], members: Members) -> Loaded:
    record: dict[str, Any] = {}
    left_out = []
    pictures: dict[str, str] = {}
    where = {"file_name": f"{shard}/{key}"}
    try:
        for field, name in fields.items():
            kind = f".{field.rpartition('.')[2]}"
            if kind in PICTURES | OTHERS:
                pictures[field] = name
            elif field == "json":
                found = json.loads(tree.read(name, _TEXT))
                if not isinstance(found, dict):
                    return Loaded(where, {}, "its JSON is no object")
                record |= found
            elif field not in {"txt", "caption", "text", "cls"}:
                left_out.append(f".{field}")
        for field in ("txt", "caption", "text"):
            if field in fields:
                record.setdefault("caption", tree.read(fields[field], _TEXT).decode("utf-8-sig").strip())
        if "cls" in fields:
            text = tree.read(fields["cls"], _TEXT).decode().strip()
            record.setdefault("cls", int(text) if re.fullmatch(r"-?\d{1,18}", text) else text)
    except (OSError, ValueError, RecursionError) as error:
        return Loaded(where, {}, f"what it tells cannot be read: {error}", left_out)
    if not pictures:
        return Loaded(where, {}, "the sample has no picture", left_out)
    readers = {field: partial(tree.read, name) for field, name in pictures.items()}
    named = _own(record, members)
    if named and named.keys() == pictures.keys():
        if record.get("caption") == record.get("prompt"):
            record.pop("caption", None)
        return Loaded(record, Lazy({named[field]: read for field, read in readers.items()}), left_out=left_out)
    record = {text_column(name): value for name, value in record.items() if name != "file_name"}
    main = next((field for wanted in _MAIN for field in pictures if field.rpartition(".")[0] == wanted), None)
    main = main or next(iter(pictures))
    record["file_name"] = f"{key}.{main}"
    for field in pictures:
        if field != main:
            word = field.rpartition(".")[0] or "other"
            record[f"{word if word.endswith(('image', 'mask')) else f'{word}_image'}_file_name"] = f"{key}.{field}"
    return Loaded(record, Lazy({f"{key}.{field}": read for field, read in readers.items()}), left_out=left_out)


def _own(record: Mapping[str, Any], members: Members) -> Mapping[str, str]:
    """The files that a record names, where it is one of ours; empty where it is not."""
    if not isinstance(record.get("file_name"), str):
        return {}
    try:
        return members(record)
    except (TypeError, AttributeError):
        return {}
