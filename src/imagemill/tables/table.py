"""Prompt tables become rows and rejects: no bad line is silent, and none takes a neighbor with it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from imagemill.errors import UsageError
from imagemill.records import Reject, Row
from imagemill.tables.cells import json_text, missing
from imagemill.tables.columns import Columns, PictureTable, TableOptions
from imagemill.tables.pictures import added_columns, is_pictorial, read_pictures
from imagemill.tables.readers import read_source

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d)?)?(Z|[+-]\d\d(:?\d\d)?)?)?")
"""What Arrow's JSON reader takes for a time when a whole piece of a column looks like it."""


@dataclass(frozen=True, slots=True)
class Table:
    """A prompt table that has been read."""

    rows: list[Row]
    rejects: list[Reject]
    sha256: str
    """Of the rows' content: the same whatever the file is called or how it is compressed."""
    talk: list[str]
    """What the user should know about how the table was read, a line each."""
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    """Pictures that came in the table itself, by the names that its rows give them."""

    @property
    def rows_read(self) -> int:
        """Rows in the table: those accepted and those rejected."""
        return len(self.rows) + len(self.rejects)


def read_table(source: str | Path | Iterable[Any], options: TableOptions) -> Table:
    """Read a prompt table, or what names pictures when the options are those of a PictureTable.

    `source` is a path (CSV, TSV, JSONL, JSON, TXT, Parquet, also .gz or .zst), `-` for standard input, a Hugging
    Face dataset, or an iterable of mappings or strings; for pictures also a dataset of ours or a folder of images.
    Raises UsageError when it cannot be read as a whole or no row of it can be used.
    """
    pictures = isinstance(options, PictureTable)
    raw_rows, rejects, names = read_pictures(source) if pictures else read_source(source)
    if not names and not rejects:
        raise UsageError(
            "there are no pictures" if pictures else "the table is empty",
            "name a folder of PNG, JPEG or WebP files, a dataset, or a table with a column of paths"
            if pictures
            else "write a prompt a line, or see the formats in the guide to prompt tables",
        )
    columns = Columns(names, options)
    if pictures:
        held = {name for raw in raw_rows for name, value in raw.values.items() if is_pictorial(value)}
        columns.leave_out(held, "they hold pictures that nothing starts from")
        columns.leave_out(added_columns(source), "they say what is in the source")
    seen: dict[str, int] = {}
    rows: list[Row] = []
    digest = hashlib.sha256()
    for raw in raw_rows:
        try:
            row = columns.row(raw)
            if row.id in seen:
                raise ValueError(f"the id `{row.id:.100}` is taken by line {seen[row.id]}")
        except (ValueError, RecursionError) as error:
            reason = "lists in lists, too many" if isinstance(error, RecursionError) else str(error)
            rejects.append(Reject(raw.line, reason, raw.start))
            continue
        seen[row.id] = row.line
        rows.append(row)
    rejects.sort(key=lambda reject: reject.line)
    if not rows:
        why = f"; the first of {len(rejects)} rejected: line {rejects[0].line}: {rejects[0].reason}" if rejects else ""
        raise UsageError(f"no row of the table can be used{why}", "see the formats in the guide to prompt tables")
    rows = [
        replace(row, columns=typed)
        for row, typed in zip(rows, _typed([row.columns for row in rows], columns.names_out), strict=True)
    ]
    for row in rows:
        content = [
            row.index,
            row.id,
            row.prompt,
            row.negative_prompt,
            dict(row.overrides),
            dict(row.fields),
            dict(row.columns),
            *([[sample.sources, sample.mask, sample.prompts] for sample in row.samples] if pictures else []),
        ]
        digest.update(json.dumps(content, sort_keys=True).encode() + b"\n")
    blobs = columns.pictures.blobs if columns.pictures else {}
    return Table(rows, rejects, digest.hexdigest(), columns.talk, blobs)


def _typed(rows: list[Mapping[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Give every column one type in all rows, so that readers which guess from the first lines guess right.

    A column whose every value is a bool, an int or a number keeps that type; anything else becomes text: strings
    as they are, the rest as JSON, what is absent as an empty string.
    """
    typed: list[dict[str, Any]] = [{} for _ in rows]
    for name in names:
        values = [row[name] for row in rows]
        for row, value in zip(typed, _typed_column(values), strict=True):
            row[name] = value
    return typed


def _typed_column(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return values
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values):
        return values
    if kinds <= {int, float} and all(abs(value) < 2**63 for value in values):
        return [float(value) for value in values]
    texts = [value if isinstance(value, str) else "" if missing(value) else json_text(value) for value in values]
    times = [bool(_TIMESTAMP.fullmatch(text)) for text in texts]
    if any(times) and not (all(times) and all(map(_is_time, texts))):
        # Arrow reads a piece of a column that holds only times as times, and then fails at the first other text.
        return [text + " " if time else text for text, time in zip(texts, times, strict=True)]
    return texts


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
