"""The engine of operators that add columns: parts → batches of images → columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
    wanted: tuple[int, ...] = (0,)
    """Which groups of columns have no values yet."""

    @property
    def name(self) -> str:
        """Its file's name without the extension."""
        return Path(self.path).stem

    def found(self, columns: Mapping[str, Any], group: int = 0) -> Annotation:
        """The values that were found for a group of columns."""
        return Annotation(self.part, self.name, self.record["sha256"], columns, group=group)

    def failed(self, reason: FailureReason, message: str, group: int = 0) -> Annotation:
        """Why none were found."""
        return Annotation(self.part, self.name, self.record["sha256"], reason=reason, message=message, group=group)


def annotate(
    dataset: Dataset,
    groups: Sequence[Mapping[str, Any]],
    task: Task,
    executor: Executor,
    progress: Progress | None = None,
) -> Report:
    """Fill groups of columns of a dataset, whose lock the caller holds, for every image that has only blank values.

    A group is its columns' names with those values. `task` takes batches of `Item` and hands on one `Annotation` for
    each group that an item wants; the report counts these. Raises OutOfSpace, ModelError and KeyboardInterrupt;
    whatever was found until then is kept, and every record has the columns in any case.
    """
    journals = [ColumnJournal(dataset, blanks) for blanks in groups]
    left = [journal.settle() for journal in journals]
    report = Report(sum(pending.total() for pending in left))
    try:
        with _Committer(journals, left, report, progress) as committer:
            if report.total:
                executor.run(task, committer.until_failure(_batches(dataset, journals, left)), committer.put)
    except BaseException:
        with suppress(ImagemillError):
            for journal in journals:
                journal.settle()
        raise
    unanswered = report.total - report.done - report.failed.total()
    for journal in journals:
        journal.settle()
    if unanswered:
        raise ModelError(
            f"the model ended and left {unanswered:,} of {report.total:,} images without a result",
            "the same command continues; every image must have one result",
        )
    return report


def _batches(
    dataset: Dataset, journals: Sequence[ColumnJournal], left: Sequence[Mapping[int, int]]
) -> Iterator[tuple[Item, ...]]:
    """The images to look at, part by part."""
    for number in sorted({number for pending in left for number, count in pending.items() if count}):
        part = dataset.part(number)
        items = []
        for record in part.records():
            wanted = tuple(group for group, journal in enumerate(journals) if journal.is_open(number, record))
            if wanted:
                items.append(Item(number, str(part.folder / record["file_name"]), record, wanted))
        for start in range(0, len(items), _TOGETHER):
            yield tuple(items[start : start + _TOGETHER])


class _Committer(Committer[Annotation]):
    """Journals what is found, and writes the columns of complete parts."""

    def __init__(
        self,
        journals: Sequence[ColumnJournal],
        left: Sequence[Mapping[int, int]],
        report: Report,
        progress: Progress | None,
    ) -> None:
        super().__init__(report, progress)
        self._journals = journals
        self._left = [Counter(pending) for pending in left]

    def commit(self, finished: list[Annotation]) -> None:
        """All of a group in one write, then the parts that are complete by it."""
        for group, (journal, left) in enumerate(zip(self._journals, self._left, strict=True)):
            own = [annotation for annotation in finished if annotation.group == group]
            if not own:
                continue
            journal.append(own)
            for annotation in own:
                left[annotation.part] -= 1
                if annotation.reason is None:
                    self.report.done += 1
                else:
                    self.report.failed[annotation.reason] += 1
            complete = [number for number in {annotation.part for annotation in own} if not left[number]]
            if complete:
                journal.complete(complete)
