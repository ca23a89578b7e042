"""What the engines share: a thread that commits what workers finish, and the report of a run."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

T = TypeVar("T")
Work = TypeVar("Work")


@dataclass(slots=True)
class Report:
    """What one run did."""

    total: int
    """Images it had to make, or to look at."""
    done: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """By reason."""
    seconds: float = 0.0
    """Since the first of them were handed out."""


Progress = Callable[[Report], None]
"""Called after every commit, from a thread of the engine."""


class Committer(ABC, Generic[T]):
    """A thread that commits what is finished as soon as it is finished, all that has come meanwhile at once."""

    def __init__(self, report: Report, progress: Progress | None) -> None:
        self.report = report
        self._progress = progress
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="imagemill-commit", daemon=True)
        self._start = time.perf_counter()
        self._before = report.seconds

    @abstractmethod
    def commit(self, finished: list[T]) -> None:
        """Write down what is finished, and count it in the report."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error and kind is None:
            raise self._error

    def put(self, finished: T) -> None:
        """Hand over what is finished, from any thread."""
        self._queue.put(finished)

    def until_failure(self, work: Iterable[Work]) -> Iterator[Work]:
        """Hand out work until something cannot be committed."""
        # A model in this process takes its first batch when it has been loaded: from here its speed is measured.
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
            finished = [item for item in taken if item is not None]
            if finished and self._error is None:
                try:
                    self.commit(finished)
                    self.report.seconds = self._before + time.perf_counter() - self._start
                    if self._progress:
                        self._progress(self.report)
                except BaseException as error:  # noqa: BLE001 - raised again where the engine is waited for
                    self._error = error
