"""A judge: a vision-language model says how well a picture fits its text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Self

from pydantic import Field, model_validator

from imagemill.asking import Asking
from imagemill.judging import (
    TEMPLATES,
    AnswerStyle,
    Judgement,
    check_column,
    check_names,
    filled,
    names_in,
    plain_text,
    read_judgement,
)
from imagemill.records import Record
from imagemill.scorers.base import Column, Scored, Seen


class Judge(Asking):
    """Asks a vision-language model how well a picture fits its text, element by element, with a reason."""

    template: str | None = None
    """What is asked: `{prompt}` is the text, `{NAME}` any column, `{lowest}` and `{highest}` the ends of the scale."""
    answer: AnswerStyle = "json"
    """Form of the answer: one `json` object, or lines that end with `Final Score: 3` (`final_score`)."""
    lowest: float = Field(1.0, allow_inf_nan=False)
    """The score of a picture that fits not at all."""
    highest: float = Field(5.0, allow_inf_nan=False)
    """The score of a picture that fits in every detail."""
    text_column: str = "prompt"
    """The column that says what the picture should show."""
    column: str = Field("judge", pattern=r"^[^\W\d]\w*$", max_length=50)
    """How the columns are called: `judge` makes `judge_score`, `judge_reason` and `judge_elements`."""

    @model_validator(mode="after")
    def _scale(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError("`lowest` must be below `highest`")
        return self

    def columns(self) -> Mapping[str, Column]:
        """Score, reason and elements; the reason is there also where no score is."""
        return {
            f"{self.column}_score": Column(
                None, f"how well the image fits its {self.text_column}, from {self.lowest:g} to {self.highest:g} (best)"
            ),
            f"{self.column}_reason": Column("", "why it has that score, or why it has none"),
            f"{self.column}_elements": Column([""], "what the text demands, with 1 where the image shows it, else 0"),
        }

    def check(self, record: Record) -> None:
        """Raise UsageError when the template names a column that is not there."""
        check_names(self._template, [*record, "prompt", "lowest", "highest"])
        if "prompt" in names_in(self._template):
            check_column(self.text_column, list(record), "text_column")

    def score(self, images: Iterable[Seen]) -> Iterator[Scored]:
        """Ask about each image; an answer that is not of the form asked for is no score."""
        named = names_in(self._template)

        def prompts_of(seen: Seen) -> list[str]:
            # Without its text there is nothing to compare the picture with.
            if "prompt" in named and not self._text(seen):
                return []
            scale = {"lowest": plain_text(self.lowest), "highest": plain_text(self.highest)}
            return [filled(self._template, {**seen.record, **scale, "prompt": self._text(seen)})]

        return self.ask(images, prompts_of, self._scored)

    @property
    def _template(self) -> str:
        return TEMPLATES[self.answer] if self.template is None else self.template

    def _text(self, seen: Seen) -> str:
        return plain_text(seen.record[self.text_column])

    def _scored(self, seen: Seen, replies: list[str]) -> Scored:
        found = Judgement(None, f"no score: the column `{self.text_column}` is empty")
        if replies:
            found = read_judgement(replies[0], self.answer, self._template, self.lowest, self.highest)
        values = found.score, found.reason, list(found.elements) or [""]
        return Scored(seen, dict(zip(self.columns(), values, strict=True)))
