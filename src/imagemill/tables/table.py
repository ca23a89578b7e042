"""Prompt tables become rows and rejects: no bad line is silent, and none takes a neighbor with it."""

from __future__ import annotations

import hashlib
import json
import math
import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from imagemill.component import Component
from imagemill.errors import UsageError, did_you_mean
from imagemill.readers import RawRow, read_source
from imagemill.records import Reject, Row, Sampling, safe_column

PROMPT_NAMES = ("prompt", "text", "caption")
_NO_NEGATIVE = {"", "nan", "null", "none"}
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "truth value"),
    ((int, float), "number"),
    (list, "list"),
    (dict, "object"),
    (object, "value of another kind"),
)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d)?)?(Z|[+-]\d\d(:?\d\d)?)?)?")
"""What Arrow's JSON reader takes for a time when a whole piece of a column looks like it."""


class PromptTable(Component):
    """Which rows of the table become prompts, and how."""

    prompt_column: str | None = None
    """Column with the prompts; found by name (`prompt`, `text`, `caption`) when not given."""
    negative_prompt_column: str | None = None
    """Column with what the picture should not show; `negative_prompt` when the table has it."""
    prompt_prefix: str = ""
    """Text put before every prompt, joined by one space."""
    prompt_postfix: str = ""
    """Text put after every prompt, joined by one space."""
    template: str | None = None
    """Make the prompt from columns, such as "a photo of a {animal}", in place of a prompt column."""
    vary: list[str] = []
    """Make the product over values: `guidance_scale=3,7.5`, or a name in the template; may be repeated."""
    per_row: bool = False
    """Let columns named like a sampling parameter set it for their row."""
    column: list[str] = []
    """Take a sampling parameter from a column of another name, such as `seed=se`; may be repeated."""
    limit: int | None = Field(None, ge=1)
    """Use only the first N rows; a later run without it makes the rest."""
    sample: int | None = Field(None, ge=1)
    """Use only N rows, drawn by the seed."""

    @field_validator("vary", "column")
    @classmethod
    def _name_and_value(cls, items: list[str]) -> list[str]:
        for item in items:
            name, equals, value = item.partition("=")
            if not (name and equals and value):
                raise ValueError(f"write NAME=VALUE, not `{item}`")
        return items


@dataclass(frozen=True, slots=True)
class Table:
    """A prompt table that has been read."""

    rows: list[Row]
    rejects: list[Reject]
    sha256: str
    """Of the rows' content: the same whatever the file is called or how it is compressed."""
    talk: list[str]
    """What the user should know about how the table was read, a line each."""

    @property
    def rows_read(self) -> int:
        """Rows in the table: those accepted and those rejected."""
        return len(self.rows) + len(self.rejects)


def read_table(source: str | Path | Iterable[Any], options: PromptTable) -> Table:
    """Read a prompt table.

    `source` is a path (CSV, TSV, JSONL, JSON, TXT, Parquet, also .gz or .zst), `-` for standard input, a Hugging
    Face dataset, or an iterable of mappings or strings. Raises UsageError when it cannot be read as a whole or no
    row of it can be used.
    """
    raw_rows, rejects, names = read_source(source)
    if not names and not rejects:
        raise UsageError(
            "the table is empty", "write a prompt a line, or see the formats in the guide to prompt tables"
        )
    mapping = _Mapping(names, options)
    seen: dict[str, int] = {}
    rows: list[Row] = []
    digest = hashlib.sha256()
    for raw in raw_rows:
        try:
            row = mapping.row(raw)
            if row.id in seen:
                raise ValueError(f"the id `{row.id:.100}` is taken by line {seen[row.id]}")
        except ValueError as error:
            rejects.append(Reject(raw.line, str(error), raw.start))
            continue
        seen[row.id] = row.line
        rows.append(row)
    rejects.sort(key=lambda reject: reject.line)
    if not rows:
        why = f"; the first of {len(rejects)} rejected: line {rejects[0].line}: {rejects[0].reason}" if rejects else ""
        raise UsageError(f"no row of the table can be used{why}", "see the formats in the guide to prompt tables")
    rows = [
        replace(row, columns=columns)
        for row, columns in zip(rows, _typed([row.columns for row in rows], mapping.names_out), strict=True)
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
        ]
        digest.update(json.dumps(content, sort_keys=True).encode() + b"\n")
    return Table(rows, rejects, digest.hexdigest(), mapping.talk)


class _Mapping:
    """Which column plays which part."""

    def __init__(self, names: list[str], options: PromptTable) -> None:
        self.options = options
        self.talk: list[str] = []
        self.varied = {item.partition("=")[0] for item in options.vary} - set(Sampling.model_fields)
        self.template_names = _template_names(options.template) if options.template else []
        self._check_known([name for name in self.template_names if name not in self.varied], names, "template")
        for name in sorted(self.varied):
            if name not in self.template_names:
                raise UsageError(
                    f"`vary`: `{name}` is neither a sampling parameter nor a name in the template",
                    did_you_mean(name, [*Sampling.model_fields, *self.template_names]) or "see `--help`",
                )
        if options.template and options.prompt_column:
            raise UsageError("`template` and `prompt_column` both say what the prompt is", "leave out one of them")
        self.prompt = None if options.template else self._prompt_column(names)
        self.negative = self._negative_column(names)
        self.parameters = self._parameter_columns(names)
        self.id = "id" if "id" in names else None
        used = {self.prompt, self.negative, self.id, *self.parameters.values()}
        self.columns = {name: safe_column(name) for name in names if name not in used}
        clashes = [name for name, safe in self.columns.items() if list(self.columns.values()).count(safe) > 1]
        if clashes:
            raise UsageError(f"the columns {_listed(clashes)} would get one name", "rename one of them")
        self.names_out = list(self.columns.values())
        renamed = [f"`{name}` as `{safe}`" for name, safe in self.columns.items() if name != safe]
        if renamed:
            self.talk.append(f"kept under another name, so that readers are not misled: {', '.join(renamed)}")

    def row(self, raw: RawRow) -> Row:
        """Map one raw row; raises ValueError with the reason when it cannot be used."""
        values = raw.values
        if self.prompt is not None:
            prompt = _text(values.get(self.prompt), "prompt")
            if not prompt.strip():
                raise ValueError("empty prompt")
        else:
            prompt = ""
            for name in self.template_names:
                if name not in self.varied and _missing(values.get(name)):
                    raise ValueError(f"the column `{name}` of the template is empty")
        negative = _text(values.get(self.negative), "negative prompt") if self.negative else ""
        row_id = str(raw.index)
        if self.id:
            row_id = "" if _missing(values.get(self.id)) else str(values[self.id])
            if not row_id.strip():
                raise ValueError("empty id")
        for value in (prompt, negative, row_id, *values.values()):
            _check_characters(value if isinstance(value, str) else _json_text(value))
        return Row(
            index=raw.index,
            line=raw.line,
            id=row_id,
            prompt=prompt,
            negative_prompt="" if negative.strip().lower() in _NO_NEGATIVE else negative,
            overrides=self._overrides(values),
            fields={name: _field(values[name]) for name in self.template_names if name in values},
            columns={safe: values.get(name) for name, safe in self.columns.items()},
        )

    def _overrides(self, values: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: values.get(column) for name, column in self.parameters.items()}
        given = {name: value for name, value in given.items() if not _missing(value)}
        if not given:
            return {}
        try:
            checked = Sampling.model_validate(given)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            name, reason = problem["loc"][0], problem["msg"]
            raise ValueError(f"`{name}`: {reason[:1].lower()}{reason[1:]}, got: `{given[str(name)]!s:.80}`") from None
        if checked.seed < 0:
            given.pop("seed", None)
        return {name: getattr(checked, name) for name in given}

    def _check_known(self, wanted: list[str], names: list[str], where: str) -> None:
        for name in wanted:
            if name not in names:
                hint = did_you_mean(name, names) or f"columns: {_listed(names)}"
                raise UsageError(f"`{where}`: the table has no column `{name}`", hint)

    def _prompt_column(self, names: list[str]) -> str:
        if self.options.prompt_column:
            self._check_known([self.options.prompt_column], names, "prompt_column")
            return self.options.prompt_column
        for wanted in PROMPT_NAMES:
            for name in (wanted, *names):
                if name in names and name.lower() == wanted:
                    if len(names) > 1:
                        self.talk.append(f"prompts come from the column `{name}`")
                    return name
        raise UsageError(
            f"no column is called {_listed(PROMPT_NAMES)}; there is: {_listed(names)}",
            "name it with `--prompt-column`, or make the prompt with `--template`",
        )

    def _negative_column(self, names: list[str]) -> str | None:
        if self.options.negative_prompt_column:
            self._check_known([self.options.negative_prompt_column], names, "negative_prompt_column")
            return self.options.negative_prompt_column
        if "negative_prompt" in names:
            self.talk.append("negative prompts come from the column `negative_prompt`")
            return "negative_prompt"
        return None

    def _parameter_columns(self, names: list[str]) -> dict[str, str]:
        columns: dict[str, str] = {}
        for item in self.options.column:
            parameter, _, column = item.partition("=")
            if parameter not in Sampling.model_fields or parameter == "negative_prompt":
                hint = did_you_mean(parameter, Sampling.model_fields) or f"known: {_listed(Sampling.model_fields)}"
                raise UsageError(f"`column`: there is no sampling parameter `{parameter}`", hint)
            self._check_known([column], names, "column")
            columns[parameter] = column
        alike = [name for name in names if name in Sampling.model_fields and name != "negative_prompt"]
        alike = [name for name in alike if name not in columns and name not in columns.values()]
        if self.options.per_row:
            columns.update({name: name for name in alike})
        elif alike:
            self.talk.append(f"the columns {_listed(alike)} are kept but not used; `--per-row` lets them set their row")
        return columns


def parse_template(template: str) -> list[tuple[str, str | None]]:
    """Split a template into pairs of literal text and the name of the column after it, None at the end.

    Raises ValueError for unbalanced braces and for what `str.format` would do beyond plain names.
    """
    parts = []
    for literal, name, spec, conversion in string.Formatter().parse(template):
        if spec or conversion:
            raise ValueError(f"only plain names stand in braces, not `{name}:{spec}`")
        parts.append((literal, name))
    return parts


def _template_names(template: str) -> list[str]:
    try:
        names = [name for _, name in parse_template(template) if name is not None]
    except ValueError as error:
        raise UsageError(f"`template`: {error}, got: `{template}`", "write columns as {name}") from None
    if not names or not all(names):
        raise UsageError(f"`template` names no column, got: `{template}`", "write columns as {name}")
    return names


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _missing(value: object) -> bool:
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def _text(value: object, what: str) -> str:
    """Return a text; a missing one is empty, anything else raises ValueError."""
    if _missing(value):
        return ""
    if not isinstance(value, str):
        kind = next(name for kinds, name in _KINDS if isinstance(value, kinds))
        raise ValueError(f"the {what} is not text but a {kind}")
    return value


def _field(value: object) -> str:
    return value if isinstance(value, str) else _json_text(value)


def _check_characters(text: str) -> None:
    if "\0" in text:
        raise ValueError("contains a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("contains half a surrogate pair, which is not text") from None


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
    texts = [value if isinstance(value, str) else "" if _missing(value) else _json_text(value) for value in values]
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


def _json_text(value: object) -> str:
    if value is None or isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
