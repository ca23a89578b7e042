"""How likely a prompt is not safe for work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import ClassVar, Literal

from imagemill.classifiers import Classifier, classes_of, combined
from imagemill.judging import check_column, plain_text
from imagemill.pretrained import Failure
from imagemill.records import Record
from imagemill.scorers.base import Column, Scored, Scorer, ScorerInfo, Seen

_REMEMBERED = 2**16
"""Texts whose figure is kept, since many images may share one."""


class PromptNsfw(Classifier, Scorer):
    """Says how likely a prompt is not safe for work, by a text classifier: that of its worst class."""

    head: ClassVar[Literal["SequenceClassification"]] = "SequenceClassification"
    usual_labels: ClassVar[Sequence[Sequence[str]]] = (
        ("toxicity", "sexual_explicit"),
        ("toxic", "obscene"),
        ("NSFW",),
        ("nsfw",),
        ("toxic",),
        ("toxicity",),
    )

    model: str = "unitary/toxic-bert"
    """A text classifier: a folder in transformers' format, or a hub id."""
    text_column: str = "prompt"
    """The column that is classified."""

    def columns(self) -> Mapping[str, Column]:
        """One number."""
        meaning = f"how likely the {self.text_column} is not safe for work, from 0 to 1; higher is worse"
        return {"prompt_nsfw": Column(None, meaning)}

    def info(self) -> ScorerInfo:
        """Read what the folder says of itself."""
        return ScorerInfo(*self.described())

    def check(self, record: Record) -> None:
        """Raise UsageError when there is no such column."""
        check_column(self.text_column, list(record), "text_column")

    def score(self, images: Iterable[Seen]) -> Iterator[Scored]:
        """Classify each text once; the end of one that is longer than the model can read is left out."""
        classes, images = classes_of(self), iter(images)
        known: dict[str, float] = {}
        while chunk := list(islice(images, self.score_batch_size)):
            texts = [plain_text(seen.record[self.text_column]) for seen in chunk]
            new = [text for text in dict.fromkeys(texts) if text not in known]
            found = dict(zip(new, classes.texts(new), strict=True))
            for seen, text in zip(chunk, texts, strict=True):
                likely = found.get(text)
                if isinstance(likely, Failure):
                    yield Scored(seen, reason=likely.reason, message=likely.message)
                    continue
                if likely is not None:
                    known[text] = combined(likely, self.labels, "max")
                yield Scored(seen, {"prompt_nsfw": known[text]})
            while len(known) > _REMEMBERED:
                del known[next(iter(known))]
