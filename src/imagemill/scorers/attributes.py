"""Whether a picture shows what the columns of its row say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from pydantic import field_validator

from imagemill.asking import Asking
from imagemill.component import separated
from imagemill.errors import UsageError
from imagemill.judging import beginning, check_column, check_names, filled, plain_text, read_yes_or_no
from imagemill.records import Record
from imagemill.scorers.base import Column, Scored, Seen


class Attributes(Asking):
    """Asks a vision-language model, one question for each attribute, whether the picture shows what its row says."""

    reply_tokens: ClassVar[int] = 64

    attributes: tuple[str, ...]
    """Columns that declare what the picture should show, such as `traffic,weather`; may be repeated."""
    template: str = "Does this picture show the following? {attribute}: {value}\nAnswer with one word: yes or no."
    """What is asked: `{attribute}` is the column's name, `{value}` what it says."""

    _separated = field_validator("attributes", mode="before")(separated)

    def columns(self) -> Mapping[str, Column]:
        """The share that agrees, what was answered, and each attribute by itself."""
        return {
            "attributes_agree": Column(
                None, f"share of {', '.join(self.attributes)} that the image shows; higher is better"
            ),
            "attributes_answers": Column([""], "what was answered to the question for each attribute"),
            **{
                f"{name}_agrees": Column(None, f"1 where the image shows the {name} that its row says, else 0")
                for name in self.attributes
            },
        }

    def check(self, record: Record) -> None:
        """Raise UsageError when an attribute is no column, or none is named."""
        if not self.attributes:
            raise UsageError("`attributes` names no column", f"the columns are: {', '.join(record)}")
        check_names(self.template, ["attribute", "value"])
        for name in self.attributes:
            check_column(name, list(record), "attributes")

    def score(self, images: Iterable[Seen]) -> Iterator[Scored]:
        """Ask about each attribute of each image that has a value."""

        def prompts_of(seen: Seen) -> list[str]:
            declared = self._declared(seen.record)
            return [filled(self.template, {"attribute": name, "value": value}) for name, value in declared.items()]

        return self.ask(images, prompts_of, self._scored)

    def _declared(self, record: Record) -> dict[str, str]:
        texts = {name: plain_text(record[name]) for name in self.attributes}
        return {name: text for name, text in texts.items() if text}

    def _scored(self, seen: Seen, replies: list[str]) -> Scored:
        agrees: dict[str, float | None] = dict.fromkeys(self.attributes)
        answers = dict.fromkeys(self.attributes, "not asked, its row says nothing")
        for name, reply in zip(self._declared(seen.record), replies, strict=True):
            found = read_yes_or_no(reply)
            agrees[name] = None if found is None else float(found)
            answers[name] = {True: "yes", False: "no", None: f"neither yes nor no: {beginning(reply)}"}[found]
        known = [value for value in agrees.values() if value is not None]
        return Scored(
            seen,
            {
                "attributes_agree": sum(known) / len(known) if known else None,
                "attributes_answers": [f"{name}: {answer}" for name, answer in answers.items()],
                **{f"{name}_agrees": value for name, value in agrees.items()},
            },
        )
