"""Cells of CSV files, which are all texts, as the values that readers take them for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})", re.ASCII)
"""With zeros before it, it is the name of something."""
_NUMBER = re.compile(r"-?(0|[1-9]\d*)?(?<=\d)(\.\d*)?([eE][+-]?\d{1,3})?|-?\.\d+([eE][+-]?\d{1,3})?", re.ASCII)
_TRUTH = {"true": True, "false": False}
_TEXTS = {
    *("prompt", "negative_prompt", "text", "caption", "edit_prompt", "id", "class_name"),
    *("scheduler", "sampler", "sampler_name", "model", "model_name", "model_hash", "model_revision"),
}
"""Columns that are texts, whatever they look like."""


class Cells:
    """The kinds of the columns of CSV files, as they become known row by row."""

    def __init__(self) -> None:
        self._kinds: dict[str, set[str]] = {}

    def add(self, row: Mapping[str, str]) -> None:
        """Note what the cells of a row look like."""
        for name, text in row.items():
            kinds = self._kinds.setdefault(name, set())
            if "text" not in kinds:
                kinds.add(_kind(text))

    def values(self, row: Mapping[str, str]) -> dict[str, Any]:
        """A row with numbers and truth values where a whole column holds nothing else; a blank number is None."""
        return {name: self._reader(name)(text) for name, text in row.items()}

    def _reader(self, name: str) -> Callable[[str], Any]:
        kinds = self._kinds.get(name, set())
        if name in _TEXTS or name.endswith(("file_name", "file_names")) or not kinds - {"blank"}:
            return str
        if kinds == {"truth"}:
            return lambda text: _TRUTH[text.strip().lower()]
        if kinds <= {"whole", "blank"}:
            return lambda text: int(text) if text.strip() else None
        if kinds <= {"whole", "number", "blank"}:
            return lambda text: float(text) if text.strip() else None
        return str


def cells_of(rows: Iterable[Mapping[str, Any] | str]) -> Cells:
    """What the rows of CSV files are; those that are no rows are passed over."""
    cells = Cells()
    for row in rows:
        if not isinstance(row, str):
            cells.add(row)
    return cells


def _kind(text: str) -> str:
    text = text.strip()
    if not text:
        return "blank"
    if _WHOLE.fullmatch(text):
        return "whole"
    if _NUMBER.fullmatch(text):
        return "number"
    return "truth" if text.lower() in _TRUTH else "text"
