"""Prompt tables become rows and rejects: no bad line is silent, and none takes a neighbor with it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.errors import UsageError
from imagemill.records import Reject, Row
from imagemill.tables.cells import json_text, missing
from imagemill.tables.columns import Columns, PictureTable, TableOptions
from imagemill.tables.pictures import added_columns, is_pictorial, read_pictures
from imagemill.tables.readers import read_source
from imagemill.tables.texts import RawRow, TextRows, TextTable, hash_texts, text_rows, values_of

if TYPE_CHECKING:
    import pyarrow as pa

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d)?)?(Z|[+-]\d\d(:?\d\d)?)?)?")
"""What Arrow's JSON reader takes for a time when a whole piece of a column looks like it."""


@dataclass(frozen=True, slots=True)
class Table:
    """A prompt table that has been read."""

    rows: Sequence[Row]
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
    if not isinstance(raw_rows, TextTable):
        held = {name for raw in raw_rows for name, value in raw.values.items() if is_pictorial(value)}
        columns.leave_out(held, "they hold pictures that nothing starts from")
    if pictures:
        columns.leave_out(added_columns(source), "they say what is in the source")
    columns.tell_renamed()
    rows, further = _text_rows(raw_rows, columns) if isinstance(raw_rows, TextTable) else _rows(raw_rows, columns)
    rejects = sorted([*rejects, *further], key=lambda reject: reject.line)
    if not rows:
        why = f"; the first of {len(rejects)} rejected: line {rejects[0].line}: {rejects[0].reason}" if rejects else ""
        what = "no row of the table can be used" if rejects else "the table has no rows"
        raise UsageError(f"{what}{why}", "see the formats in the guide to prompt tables")
    blobs = columns.pictures.blobs if columns.pictures else {}
    return Table(rows, rejects, _fingerprint(rows, columns.names_out, pictures), columns.talk, blobs)


def _rows(raw_rows: Iterable[RawRow], columns: Columns) -> tuple[Sequence[Row], list[Reject]]:
    """The rows that can be used, and those that cannot."""
    seen: dict[str, int] = {}
    rows: list[Row] = []
    rejects: list[Reject] = []
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
    if not columns.names_out:
        return rows, rejects
    typed = [_typed([row.columns[name] for row in rows]) for name in columns.names_out]
    values = zip(*typed, strict=True)
    return [
        replace(row, columns=dict(zip(columns.names_out, own, strict=True)))
        for row, own in zip(rows, values, strict=True)
    ], rejects


def _text_rows(table: TextTable, columns: Columns) -> tuple[Sequence[Row], list[Reject]]:
    """The same for a large table of texts, by column where its rows are nothing but texts."""
    if columns.prompt is None or not columns.only_texts:
        return _rows(table, columns)
    rows, rejects = text_rows(table, columns.prompt, columns.negative, columns.id, columns.columns)
    # Only now, since what is rejected does not count.
    typed = {name: _typed_texts(column) for name, column in rows.columns.items()}
    return rows.with_columns(typed), rejects


def _fingerprint(rows: Sequence[Row], names: Sequence[str], pictures: bool) -> str:
    """The hash of what rows say, whatever holds them: of texts column by column, and of all else by row."""
    plain = [name for name in names if isinstance(rows, TextRows) or isinstance(rows[0].columns[name], str)]
    digest = hashlib.sha256(json.dumps([len(rows), list(names), plain]).encode())
    if isinstance(rows, TextRows):
        rows.fingerprint(digest)
        return digest.hexdigest()
    digest.update(b"".join(row.index.to_bytes(8, "little") for row in rows))
    hash_texts(digest, (row.id for row in rows))
    hash_texts(digest, (row.prompt for row in rows))
    hash_texts(digest, (row.negative_prompt for row in rows))
    for name in plain:
        hash_texts(digest, [row.columns[name] for row in rows])
    for row in rows:
        other: list[Any] = [dict(row.overrides), dict(row.fields)]
        other += [[row.columns[name] for name in names if name not in plain]]
        other += [[sample.sources, sample.mask, sample.prompts] for sample in row.samples] if pictures else []
        if any(other):
            digest.update(json.dumps([row.index, *other], sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _typed(values: list[Any]) -> list[Any]:
    """Give a column one type in all rows, so that readers which guess from the first lines guess right.

    A column whose every value is a bool, an int or a number keeps that type; anything else becomes text: strings
    as they are, the rest as JSON, what is absent as an empty string.
    """
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


def _typed_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same for a column of texts alone."""
    import pyarrow.compute as pc

    times = pc.match_substring_regex(column, rf"^(?:{_TIMESTAMP.pattern})$".replace(r"\d", r"\p{Nd}"))
    if not pc.any(times).as_py() or (pc.all(times).as_py() and all(map(_is_time, values_of(column)))):
        return column
    return pc.if_else(times, pc.binary_join_element_wise(column, "", " "), column)


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
