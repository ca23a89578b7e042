"""A prompt table becomes a dataset of images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imagemill.committing import Progress
from imagemill.dataset import Dataset
from imagemill.errors import UsageError
from imagemill.making.execution import make
from imagemill.making.preparation import Making
from imagemill.models.base import ModelInfo
from imagemill.records import Sampling
from imagemill.tables.columns import PromptTable


class Generate(Sampling, PromptTable, Making):
    """Text to image: every prompt of a table, several images each."""

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
