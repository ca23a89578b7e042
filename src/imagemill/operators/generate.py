"""A prompt table becomes a dataset of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, field_validator, model_validator

from imagemill.committing import Progress
from imagemill.dataset import Dataset
from imagemill.errors import UsageError
from imagemill.making.execution import make
from imagemill.making.preparation import Making
from imagemill.models.base import ModelInfo
from imagemill.records import Record, Sampling
from imagemill.tables.columns import PromptTable

if TYPE_CHECKING:
    from imagemill.making.quota import Quota

_TRIES = 10


class Generate(Sampling, PromptTable, Making):
    """Text to image: every prompt of a table, several images each."""

    accept: str | None = None
    """Keep only images of which this is true, such as `alignment > 0.28`, and draw others with other seeds."""
    until: int | None = Field(None, ge=1, le=10_000)
    """Accepted images wanted for each prompt: `images_per_prompt` by another name."""
    max_tries: int | None = Field(None, ge=1, le=10_000)
    """Images drawn at most for each one that is to be accepted; 10 when not given, and it may grow later."""
    score: str | None = None
    """What scores for `accept`, as in `imagemill score --with`; found by the columns asked for when not given."""

    @model_validator(mode="before")
    @classmethod
    def _wanted(cls, values: Any) -> Any:
        until = values.get("until")
        if until is not None and values.get("images_per_prompt", until) != until:
            raise ValueError("`until` and `images_per_prompt` both say how many images are wanted: leave out one")
        told = {"images_per_prompt": until} if until is not None else {}
        if values.get("accept"):
            told["max_tries"] = values.get("max_tries") or _TRIES
        return {**values, **told}

    @field_validator("accept")
    @classmethod
    def _asks_something(cls, accept: str | None) -> str | None:
        if accept is not None and not accept.strip():
            raise ValueError("it asks for nothing")
        return accept

    @model_validator(mode="after")
    def _nothing_to_accept(self) -> Self:
        if not self.accept and (self.until or self.max_tries or self.score):
            raise ValueError("`until`, `max_tries` and `score` need `accept`: what is an image to be?")
        return self

    def quota(self, expected: Record, known: Sequence[Mapping[str, Any]], workers: int) -> Quota | None:
        """What images must be to be accepted."""
        from imagemill.making.quota import find_quota

        if not (self.accept and self.max_tries):
            return None
        scorers = self.score.split(",") if self.score else []
        return find_quota(self.accept, self.max_tries, scorers, expected, known, workers)

    def check_model(self, info: ModelInfo) -> None:
        """Refuse a model that only changes pictures."""
        if info.needs_images:
            raise UsageError(f"`{info.name}` changes pictures and makes none from text", "see `imagemill edit`")


def generate(
    table: str | Path | Iterable[Any],
    output: str | Path,
    *,
    workers: int = 1,
    devices: str = "",
    progress: Progress | None = None,
    **parameters: Any,
) -> Dataset:
    """Make an image dataset from a prompt table and return it; the same call again continues.

    `table` is what `imagemill generate` takes, or an iterable of prompts or mappings; `parameters` are those of
    `Generate` and of the model, as on the command line. Raises UsageError for anything that cannot be right,
    LimitReached when `max_images` or `max_cost` has stopped it, and SomeFailed when every request of the dataset
    failed; single failures stand in `Dataset.failures()`.
    """
    return make(Generate, table, output, parameters, workers, devices, progress)
