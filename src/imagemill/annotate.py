"""The engine of operators that add columns: parts → batches of images → columns."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass(slots=True)
class Report:
    """What one run did."""

    total: int
    """Images it had to look at."""
    done: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """By reason."""
    seconds: float = 0.0
    """Since the first images were handed out."""


Progress = Callable[[Report], None]
"""Called after every commit, from a thread of the engine."""


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


class _Committer:
    """A thread that journals what is found, as soon as it is found, and writes the columns of complete parts."""

    def __init__(
        self,
        dataset: Dataset,
        journal: ColumnJournal,
        pending: Mapping[int, int],
        report: Report,
        progress: Progress | None,
    ) -> None:
        self._dataset = dataset
        self._journal = journal
        self._left = dict(pending)
        self._found: defaultdict[int, list[Annotation]] = defaultdict(list)
        """What is journaled, by part."""
        self._report = report
        self._progress = progress
        self._queue: queue.SimpleQueue[Annotation | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="imagemill-commit", daemon=True)
        self._start = time.perf_counter()

    def __enter__(self) -> _Committer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error and kind is None:
            raise self._error

    def put(self, annotation: Annotation) -> None:
        self._queue.put(annotation)

    def until_failure(self, work: Iterable[tuple[Item, ...]]) -> Iterator[tuple[Item, ...]]:
        """Hand out work until something cannot be committed."""
        # A model in this process takes its first images when it has been loaded: from here its speed is measured.
        self._start = time.perf_counter()
        for batch in work:
            if self._error:
                return
            yield batch

    def _run(self) -> None:
        ended = False
        while not ended:
            taken = [self._queue.get()]
            # One write and one fsync for all that has come meanwhile.
            with suppress(queue.Empty):
                while True:
                    taken.append(self._queue.get_nowait())
            ended = None in taken
            annotations = [annotation for annotation in taken if annotation is not None]
            if annotations and self._error is None:
                try:
                    self._commit(annotations)
                except BaseException as error:  # noqa: BLE001 - raised again where the engine is waited for
                    self._error = error

    def _commit(self, annotations: list[Annotation]) -> None:
        self._journal.append(annotations)
        for annotation in annotations:
            self._left[annotation.part] -= 1
            if annotation.reason is None:
                self._found[annotation.part].append(annotation)
                self._report.done += 1
            else:
                self._report.failed[annotation.reason] += 1
        complete = [number for number in {annotation.part for annotation in annotations} if not self._left[number]]
        for number in complete:
            self._journal.write(self._dataset.part(number), self._found.pop(number, []))
        if complete:
            self._journal.keep(annotation for found in self._found.values() for annotation in found)
        self._report.seconds = time.perf_counter() - self._start
        if self._progress:
            self._progress(self._report)
