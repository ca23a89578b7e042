"""Edits of images that are taken down leave the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from imagemill.dataset.edits.images import decode, encode, id_of, key_of_name
from imagemill.dataset.edits.log import locked, path_of
from imagemill.dataset.files import encode_lines, read_lines, write_file

_KEPT = ("number", "time", "event", "of")


def forget(folder: Path, names: Iterable[str]) -> None:
    """Take images out of the log of a dataset, by their names; its events keep their numbers."""
    if not path_of(folder).exists():
        return
    gone = {*map(key_of_name, names)}
    with locked(folder):
        lines = read_lines(path_of(folder))
        kept = [_without(line, gone) for line in lines]
        # What was said of images that are all gone is not said of its undoing either.
        empty = {line["number"] for line in kept if not line.get("count", 1)}
        kept = [{**line, "what": ""} if line.get("of") in empty and "what" in line else line for line in kept]
        if kept != lines:
            write_file(path_of(folder), encode_lines(kept))
    for path in sorted((folder / ".imagemill" / "applied").glob("*/*.jsonl")):
        befores = read_lines(path)
        left = [line for line in befores if key_of_name(line["file_name"]) not in gone]
        if len(left) < len(befores):
            write_file(path, encode_lines(left))


def _without(line: dict[str, Any], gone: set[int]) -> dict[str, Any]:
    """An event without some images."""
    if line["event"] == "texts":
        ids = {id_of(key) for key in gone}
        texts: Mapping[str, str] = {image: text for image, text in line["texts"].items() if image not in ids}
        return {**line, "texts": texts, "count": len(texts)} if len(texts) < len(line["texts"]) else line
    if "images" not in line:
        return line
    keys = decode(line["images"])
    left = [key for key in keys if key not in gone]
    if len(left) == len(keys):
        return line
    said = line if left or line["event"] == "adopt" else {name: line[name] for name in _KEPT if name in line}
    return {**said, "images": encode(left), "count": len(left)}
