"""One image of a dataset by its id, as its metadata says it now, without reading all of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from imagemill.dataset.folder import Dataset, Part
from imagemill.errors import UsageError
from imagemill.records import Record
from imagemill.server.web.workspace import IMAGE_ID, NotFound

_FIRST = re.compile(rb'\{"file_name":"prompt_(\d+)_image_(\d+)\.')
_START = 200
"""Bytes of a part's first line that surely hold its name."""


@dataclass(frozen=True, slots=True)
class Located:
    """An image of a dataset."""

    id: str
    part: Part
    record: Record

    @property
    def file_name(self) -> str:
        """The name of its file in the part."""
        return str(self.record["file_name"])


def locate(dataset: Dataset, image: str) -> Located:
    """Find an image by its id, such as `7-1`; raises NotFound, and UsageError for a damaged record.

    Parts follow one another in the order of rows, so that a few first lines tell where to look.
    """
    row, number = map(int, image.split("-")) if re.fullmatch(IMAGE_ID, image, re.ASCII) else (-1, -1)
    if image == f"{row}-{number}":
        parts = dataset.parts
        for part in parts[max(0, _last_before(parts, (row, number))) :]:
            record = _record(part, f"prompt_{row}_image_{number}")
            if record:
                return Located(image, part, record)
            # The first line of a part that is being made need not be its least one, so that one more is looked into.
            if (_first(part) or (row, number)) > (row, number):
                break
    raise NotFound(f"the dataset has no image `{image:.40}`", "it may have been removed: see the gallery")


def _last_before(parts: Sequence[Part], wanted: tuple[int, int]) -> int:
    """The place of the last part whose first line is not behind an image; -1 for none."""
    low, high = 0, len(parts)
    while low < high:
        middle = probe = (low + high) // 2
        # One that is still empty, or was emptied by a removal, says nothing: the next one does.
        while probe < high and (first := _first(parts[probe])) is None:
            probe += 1
        if probe < high and first is not None and first <= wanted:
            low = probe + 1
        else:
            high = middle
    return low - 1


def _first(part: Part) -> tuple[int, int] | None:
    try:
        with part.metadata.open("rb") as file:
            found = _FIRST.match(os.read(file.fileno(), _START))
    except FileNotFoundError:
        return None
    return (int(found[1]), int(found[2])) if found else None


def _record(part: Part, stem: str) -> Record | None:
    """The record of an image, if the part has it; no other line is parsed."""
    try:
        content = part.metadata.read_bytes()
    except FileNotFoundError:
        return None
    start = content.find(f'{{"file_name":"{stem}.'.encode())
    end = content.find(b"\n", start)
    # A last line without its end is still being written.
    if not start >= 0 <= end:
        return None
    try:
        record: Record = json.loads(content[start:end])
    except ValueError:
        raise UsageError(f"the record of `{stem}` is damaged", "`imagemill verify` tells what is wrong") from None
    return record
