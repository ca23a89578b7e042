"""What every executor does: run one task over a stream of batches, somewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from imagemill.component import Component

Sink = Callable[[Any], None]
"""Takes what a task has finished; may be called from any thread."""

Task = Callable[[Iterable[Any], Sink], None]
"""Takes work from an iterable until it ends and hands on what is finished; can be pickled."""


class Executor(Component, ABC):
    """Runs a task over a stream of work."""

    @abstractmethod
    def run(self, task: Task, work: Iterable[Any], sink: Sink) -> None:
        """Run until the work has ended; raises what the task raises."""
