"""The images of a dataset get columns of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from imagemill.annotate import annotate
from imagemill.committing import Progress, Report
from imagemill.component import Component
from imagemill.dataset.folder import Dataset
from imagemill.dataset.journal import ColumnJournal, blanks_of, count_pending
from imagemill.errors import SomeFailed, UsageError
from imagemill.executors.local import Local
from imagemill.making.added import begun, check_step, without_empty
from imagemill.making.preparation import check_devices, local_executor
from imagemill.making.scoring import find_scorers, score_images, step_of
from imagemill.scorers.base import Scorer


class Score(Component):
    """Every image of a dataset gets scores: columns of figures, texts and vectors that say what it is worth."""

    scorers: tuple[str, ...] = ("alignment",)
    """What scores, by name, each with a model of its own where wanted: `alignment`, `judge=openai:NAME`."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """One scorer at work on a dataset."""

    name: str
    scorer: Scorer
    step: dict[str, Any]
    """As `job.toml` says it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Scores that have been checked as a whole, before any model is loaded."""

    dataset: Dataset
    scorings: tuple[Scoring, ...]
    executor: Local

    def pending(self) -> list[int]:
        """How many images have no scores, for each scorer."""
        journals = [ColumnJournal(self.dataset, blanks_of(scoring.step)) for scoring in self.scorings]
        return count_pending(self.dataset, journals)


def prepare(
    dataset: Dataset, scorers: Sequence[str], parameters: Mapping[str, Any], workers: int = 1, devices: str = ""
) -> Prepared:
    """Check scorers, parameters and columns; nothing is loaded and nothing written.

    Raises UsageError, also when a column holds something else.
    """
    executor = local_executor(workers, devices)
    first = next(iter(dataset), None)
    if first is None:
        raise UsageError(f"`{dataset.folder}` has no image yet", "generate some first")
    found: list[Scoring] = []
    for name, scorer in find_scorers(scorers, parameters):
        check_devices(executor, scorer)
        scorer.check(first)
        columns = scorer.columns()
        job = without_empty(dataset, dataset.job, "score", {key: column.blank for key, column in columns.items()})
        known = begun(job, "score", next(iter(columns)))
        same = known.get("model") == scorer.to_table().get("model", "")
        resolved = scorer.resolve(known["model_parameters"] if known and same else {}, executor.workers)
        step = step_of(name, resolved)
        check_step(dataset, step, {**job, "steps": [*job["steps"], *(other.step for other in found)]})
        found.append(Scoring(name, resolved, step))
    return Prepared(dataset, tuple(found), executor)


def execute(prepared: Prepared, progress: Progress | None = None) -> Report:
    """Score the images that have no scores yet; the same call after any interruption continues.

    Raises LockedError, OutOfSpace, ModelError, and SomeFailed when a scorer could score no image of the dataset.
    """
    dataset, scorings = prepared.dataset, prepared.scorings
    for scoring in scorings:
        scoring.scorer.ready(prepared.executor.workers)
    groups = [blanks_of(scoring.step) for scoring in scorings]
    with dataset.lock():
        # Another process may have changed the dataset since this was prepared.
        job = dataset.job
        for scoring, blanks in zip(scorings, groups, strict=True):
            job = without_empty(dataset, job, "score", blanks)
            if not check_step(dataset, scoring.step, job):
                job = {**job, "steps": [*job["steps"], scoring.step]}
        dataset.write_job(dataset.folder, job)
        dataset.recover()
        task = partial(score_images, [scoring.scorer for scoring in scorings])
        report = annotate(dataset, groups, task, prepared.executor, progress)
        for scoring, blanks in zip(scorings, groups, strict=True):
            failures = ColumnJournal(dataset, blanks).failures()
            if failures and len(failures) == len(dataset):
                raise SomeFailed(
                    f"`{scoring.name}` scored no image, the first with {failures[0]['reason']}: "
                    f"{failures[0]['message']}",
                    "the same command tries them again",
                )
    return report


def score(
    dataset: Dataset | str | Path,
    scorers: str | Sequence[str] = "alignment",
    *,
    workers: int = 1,
    devices: str = "",
    progress: Progress | None = None,
    **parameters: Any,
) -> Dataset:
    """Fill columns of a dataset with scores, and return it.

    `scorers` are names as `imagemill scorers` lists them, `NAME=MODEL` where one takes a model other than its own;
    `parameters` are theirs, as on the command line. The same call again continues, and tries images again that could
    not be scored. Raises UsageError for anything that cannot be right, and SomeFailed when a scorer scored no image.
    """
    dataset = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    names = scorers.split(",") if isinstance(scorers, str) else scorers
    execute(prepare(dataset, names, parameters, workers, devices), progress)
    return dataset
