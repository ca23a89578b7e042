"""Which column of a table plays which part: texts, parameters, pictures."""

from __future__ import annotations

import string
from collections.abc import Container, Mapping
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field, ValidationError, field_validator

from imagemill.component import Component
from imagemill.errors import UsageError, did_you_mean
from imagemill.records import (
    MADE_KEYS,
    SOURCE_IMAGES,
    SOURCE_KEYS,
    Denoising,
    Row,
    Sample,
    Sampling,
    Variation,
    safe_column,
)
from imagemill.tables.cells import (
    check_characters,
    check_known,
    json_text,
    listed,
    missing,
    one_text,
    text_list,
    text_of,
)
from imagemill.tables.pictures import PictureColumns
from imagemill.tables.texts import RawRow, no_negative

PROMPT_NAMES = ("prompt", "text", "caption")


class TableOptions(Component):
    """Which rows of a table are used, and what their columns mean."""

    sampling: ClassVar[type[Denoising]] = Sampling
    """The parameters that a column may set for its row."""
    text_parameter: ClassVar[str] = "prompt_column"
    """The parameter that names the column with the texts."""
    text_names: ClassVar[tuple[str, ...]] = PROMPT_NAMES
    """What that column is called when nobody names it."""

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


class PromptTable(TableOptions):
    """Which rows of the table become prompts, and how."""

    prompt_column: str | None = None
    """Column with the prompts; found by name (`prompt`, `text`, `caption`) when not given."""


class PictureTable(TableOptions):
    """Which rows of the table become pictures to start from, and how."""

    sampling: ClassVar[type[Denoising]] = Variation
    mask_parameter: ClassVar[str] = ""
    """The parameter that names the column with masks; empty where there are none."""
    conversations: ClassVar[bool] = False
    """Whether several texts of a row are turns, and not captions of several pictures."""

    image_column: str | None = None
    """Column with paths of pictures, one or a list; found by name, such as `image` or `file_name`."""
    max_side: int | None = Field(None, ge=8)
    """Make sources smaller first whose longer side has more pixels; their proportions stay."""

    @property
    def texts_optional(self) -> bool:
        """Whether a table may have no column with texts."""
        return False

    @property
    def texts_needed(self) -> bool:
        """Whether every row must have one where a table has them."""
        return True

    @property
    def makes_texts(self) -> bool:
        """Whether texts are made even where a table has some."""
        return False


class Columns:
    """Which column plays which part."""

    def __init__(self, names: list[str], options: TableOptions) -> None:
        self.options = options
        self.sampling = options.sampling
        self.talk: list[str] = []
        self.varied = {item.partition("=")[0] for item in options.vary} - set(self.sampling.model_fields)
        pictures = isinstance(options, PictureTable)
        # Pictures differ even when one text holds for all of them.
        self.template_names = _template_names(options.template, fixed=pictures) if options.template else []
        check_known([name for name in self.template_names if name not in self.varied], names, "template")
        for name in sorted(self.varied):
            if name not in self.template_names:
                raise UsageError(
                    f"`vary`: `{name}` is neither a sampling parameter nor a name in the template",
                    did_you_mean(name, [*self.sampling.model_fields, *self.template_names]) or "see `--help`",
                )
        named = getattr(options, options.text_parameter)
        if options.template and named:
            raise UsageError(
                f"`template` and `{options.text_parameter}` both say what the prompt is", "leave out one of them"
            )
        self.pictures = PictureColumns(names, options, self.talk) if isinstance(options, PictureTable) else None
        self.prompt = None if options.template else self._prompt_column(names, named)
        self.negative = self._negative_column(names)
        self.parameters = self._parameter_columns(names)
        self.id = "id" if "id" in names else None
        used = {self.prompt, self.negative, self.id, *self.parameters.values()}
        used |= self.pictures.used if self.pictures else set()
        taken = {*MADE_KEYS, *((*SOURCE_KEYS, *SOURCE_IMAGES) if self.pictures else ())}
        self.columns = {name: safe_column(name, taken) for name in names if name not in used}
        for name, safe in self.columns.items():
            # What one operator has renamed the next one may meet again.
            while self.pictures and safe != name and list(self.columns.values()).count(safe) > 1:
                safe = f"table_{safe}"  # noqa: PLW2901
                self.columns[name] = safe
        clashes = [name for name, safe in self.columns.items() if list(self.columns.values()).count(safe) > 1]
        if clashes:
            raise UsageError(f"the columns {listed(clashes)} would get one name", "rename one of them")
        self.names_out = list(self.columns.values())

    def leave_out(self, names: Container[str], why: str) -> None:
        """Do not keep these columns, and say so."""
        left = [name for name in self.columns if name in names]
        self.columns = {name: safe for name, safe in self.columns.items() if name not in left}
        self.names_out = list(self.columns.values())
        if left:
            self.talk.append(f"not kept, since {why}: {listed(left)}")

    def tell_renamed(self) -> None:
        """Say which columns are kept under another name."""
        renamed = [f"`{name}` as `{safe}`" for name, safe in self.columns.items() if name != safe]
        if renamed:
            self.talk.append(f"kept under another name, so that readers are not misled: {', '.join(renamed)}")

    @cached_property
    def _kept(self) -> set[str | None]:
        """The columns that a row is made of."""
        return {self.prompt, self.negative, self.id, *self.columns, *self.parameters.values()}

    @property
    def only_texts(self) -> bool:
        """Whether rows give prompts and texts beside them, and nothing else."""
        return self.prompt is not None and not (self.pictures or self.template_names or self.parameters)

    def row(self, raw: RawRow) -> Row:
        """Map one raw row; raises ValueError with the reason when it cannot be used."""
        values = raw.values
        prompt = ""
        samples: tuple[Sample, ...] = (Sample(),)
        if self.pictures:
            texts = text_list(values.get(self.prompt)) if self.prompt is not None else []
            samples = self.pictures.samples(values, texts, self.prompt is not None)
            # What stands for the row as a whole; each picture and each turn has its own.
            prompt = texts[0] if texts else ""
        elif self.prompt is not None:
            prompt = one_text(values.get(self.prompt))
            if not prompt.strip():
                raise ValueError("empty prompt")
        for name in self.template_names:
            if name not in self.varied and missing(values.get(name)):
                raise ValueError(f"the column `{name}` of the template is empty")
        negative = text_of(values.get(self.negative), "negative prompt") if self.negative else ""
        row_id = str(raw.index)
        if self.id:
            row_id = "" if missing(values.get(self.id)) else str(values[self.id])
            if not row_id.strip():
                raise ValueError("empty id")
        texts = [text for sample in samples for text in (*sample.sources, sample.mask, *sample.prompts)]
        kept = (value for name, value in values.items() if name in self._kept)
        for value in (*texts, prompt, negative, row_id, *kept):
            check_characters(value if isinstance(value, str) else json_text(value))
        return Row(
            index=raw.index,
            line=raw.line,
            id=row_id,
            prompt=prompt,
            negative_prompt="" if no_negative(negative) else negative,
            overrides=self._overrides(values) if self.parameters else {},
            fields={name: _field(values[name]) for name in self.template_names if name in values},
            columns={safe: values.get(name) for name, safe in self.columns.items()},
            samples=samples,
        )

    def _overrides(self, values: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: values.get(column) for name, column in self.parameters.items()}
        given = {name: value for name, value in given.items() if not missing(value)}
        if not given:
            return {}
        try:
            checked = self.sampling.model_validate(given)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            name, reason = problem["loc"][0], problem["msg"]
            raise ValueError(f"`{name}`: {reason[:1].lower()}{reason[1:]}, got: `{given[str(name)]!s:.80}`") from None
        if checked.seed < 0:
            given.pop("seed", None)
        return {name: getattr(checked, name) for name in given}

    def _prompt_column(self, names: list[str], named: str | None) -> str | None:
        parameter, usual = self.options.text_parameter, self.options.text_names
        if named:
            check_known([named], names, parameter)
            return named
        for wanted in (*usual, "conversations"):
            for name in (wanted, *names):
                if name in names and name.lower() == wanted:
                    made = isinstance(self.options, PictureTable) and self.options.makes_texts
                    if len(names) > 1 and not made:
                        self.talk.append(f"{parameter.removesuffix('_column')}s come from the column `{name}`")
                    return name
        if isinstance(self.options, PictureTable) and self.options.texts_optional:
            return None
        raise UsageError(
            f"no column is called {listed(usual)}; there is: {listed(names)}",
            f"name it with `--{parameter.replace('_', '-')}`, or make the prompt with `--template`",
        )

    def _negative_column(self, names: list[str]) -> str | None:
        if self.options.negative_prompt_column:
            check_known([self.options.negative_prompt_column], names, "negative_prompt_column")
            return self.options.negative_prompt_column
        if "negative_prompt" in names:
            self.talk.append("negative prompts come from the column `negative_prompt`")
            return "negative_prompt"
        return None

    def _parameter_columns(self, names: list[str]) -> dict[str, str]:
        columns: dict[str, str] = {}
        for item in self.options.column:
            parameter, _, column = item.partition("=")
            known = self.sampling.model_fields
            if parameter not in known or parameter == "negative_prompt":
                hint = did_you_mean(parameter, known) or f"known: {listed(known)}"
                raise UsageError(f"`column`: there is no sampling parameter `{parameter}`", hint)
            check_known([column], names, "column")
            columns[parameter] = column
        alike = [name for name in names if name in self.sampling.model_fields and name != "negative_prompt"]
        alike = [name for name in alike if name not in columns and name not in columns.values()]
        if self.options.per_row:
            columns.update({name: name for name in alike})
        elif alike:
            self.talk.append(f"the columns {listed(alike)} are kept but not used; `--per-row` lets them set their row")
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


def _template_names(template: str, fixed: bool) -> list[str]:
    try:
        names = [name for _, name in parse_template(template) if name is not None]
    except ValueError as error:
        raise UsageError(f"`template`: {error}, got: `{template}`", "write columns as {name}") from None
    if not (names or fixed) or not all(names):
        raise UsageError(f"`template` names no column, got: `{template}`", "write columns as {name}")
    return names


def _field(value: object) -> str:
    return value if isinstance(value, str) else json_text(value)
