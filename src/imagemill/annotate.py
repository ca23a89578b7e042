"""The engine of operators that add columns: parts → batches of images → columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagemill.committing import Committer, Progress, Report
from imagemill.dataset.folder import Dataset
from imagemill.dataset.journal import Annotation, ColumnJournal
from imagemill.errors import ImagemillError, ModelError
from imagemill.executors.base import Executor, Task
from imagemill.records import FailureReason, Record

_TOGETHER = 16
"""Images handed out at once."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image to look at, with all that is known of it."""

    part: int
    path: str
    """Of its file."""
    record: Record

    @property
    def name(self) -> str:
        """Its file's name without the extension."""
        return Path(self.path).stem

    def found(self, columns: Mapping[str, Any]) -> Annotation:
        """The values that were found for its columns."""
        return Annotation(self.part, self.name, self.record["sha256"], columns)

    def failed(self, reason: FailureReason, message: str) -> Annotation:
        """Why none were found."""
        return Annotation(self.part, self.name, self.record["sha256"], reason=reason, message=message)


def annotate(
    dataset: Dataset,
    columns: Mapping[str, Any],
    task: Task,
    executor: Executor,
    progress: Progress | None = None,
) -> Report:
    """Fill columns of a dataset, whose lock the caller holds, for every image that has nothing but blank values there.

    `columns` are their names with those values. `task` takes batches of `Item` and hands on one `Annotation` for each
    item. Raises OutOfSpace, ModelError and KeyboardInterrupt; whatever was found until then is kept, and every record
    has the columns in any case.
    """
    journal = ColumnJournal(dataset, columns)
    pending = journal.settle()
    report = Report(pending.total())
    try:
        with _Committer(dataset, journal, pending, report, progress) as committer:
            if report.total:
                executor.run(task, committer.until_failure(_batches(dataset, journal, pending)), committer.put)
    except BaseException:
        with suppress(ImagemillError):
            journal.settle()
        raise
    journal.settle()
    unanswered = report.total - report.done - report.failed.total()
    if unanswered:
        raise ModelError(
            f"the model ended and left {unanswered:,} of {report.total:,} images without a result",
            "the same command continues; every image must have one result",
        )
    return report


def _batches(dataset: Dataset, journal: ColumnJournal, pending: Mapping[int, int]) -> Iterator[tuple[Item, ...]]:
    """The images to look at, part by part."""
    for number in [number for number, count in pending.items() if count]:
        part = dataset.part(number)
        items = [
            Item(number, str(part.folder / record["file_name"]), record)
            for record in part.records()
            if journal.is_pending(record)
        ]
        for start in range(0, len(items), _TOGETHER):
            yield tuple(items[start : start + _TOGETHER])


class _Committer(Committer[Annotation]):
    """Journals what is found, and writes the columns of complete parts."""

    def __init__(
        self,
        dataset: Dataset,
        journal: ColumnJournal,
        pending: Mapping[int, int],
        report: Report,
        progress: Progress | None,
    ) -> None:
        super().__init__(report, progress)
        self._dataset = dataset
        self._journal = journal
        self._left = dict(pending)
        self._found: defaultdict[int, list[Annotation]] = defaultdict(list)
        """What is journaled, by part."""

    def commit(self, finished: list[Annotation]) -> None:
        """All in one write, then the parts that are complete by it."""
        self._journal.append(finished)
        for annotation in finished:
            self._left[annotation.part] -= 1
            if annotation.reason is None:
                self._found[annotation.part].append(annotation)
                self.report.done += 1
            else:
                self.report.failed[annotation.reason] += 1
        complete = [number for number in {annotation.part for annotation in finished} if not self._left[number]]
        for number in complete:
            self._journal.write(self._dataset.part(number), self._found.pop(number, []))
        if complete:
            self._journal.keep(annotation for found in self._found.values() for annotation in found)
