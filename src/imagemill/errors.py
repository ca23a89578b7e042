"""What can go wrong, with exit codes.

ImagemillError                  1  anything imagemill can explain
├── UsageError                  2  a parameter, a table or a folder is not what it must be
│   └── MissingExtra            2  an optional package is not installed
├── ModelError                  1  a model cannot be loaded or has stopped working
├── SomeFailed                  3  finished, but some requests ended without an image
├── LimitReached                4  stopped before a limit of the user's was crossed
├── LockedError                 5  another process is writing this dataset
└── OutOfSpace                  6  the disk is full

An interrupt is a KeyboardInterrupt and exits with 130.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class ImagemillError(Exception):
    """An error a user can understand and act on: one lower-case sentence and one hint."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take other arguments; a worker process must be able to send any of them home.
        return _restored, (type(self), self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


def _restored(kind: type[ImagemillError], message: str, hint: str) -> ImagemillError:
    error = kind.__new__(kind, message)
    ImagemillError.__init__(error, message, hint)
    return error


class UsageError(ImagemillError):
    """A parameter, a table or a folder is not what it must be."""

    exit_code = 2


class MissingExtra(UsageError):
    """An optional package is not installed."""

    def __init__(self, package: str, install: str) -> None:
        super().__init__(f"the package `{package}` is not installed", f"pip install '{install}'")


class ModelError(ImagemillError):
    """A model cannot be loaded, or stopped working as a whole."""


class SomeFailed(ImagemillError):
    """The job ended, but some requests have no image."""

    exit_code = 3


class LimitReached(ImagemillError):
    """The next step would cross a limit that the user has set; what was made until then is kept."""

    exit_code = 4


class LockedError(ImagemillError):
    """Another process is writing this dataset."""

    exit_code = 5


class OutOfSpace(ImagemillError):
    """The disk is full; what is written is safe and the same command continues."""

    exit_code = 6


def together(problems: Sequence[UsageError]) -> UsageError:
    """One error for several problems: all messages, each on its line, and what helps."""
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    return UsageError("\n".join(problem.message for problem in problems), "; ".join(hints))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean `x`?" for the closest known name, or an empty string."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    wanted = name.casefold().strip("-")
    longer = [folded for folded in by_folded if len(wanted) > 3 and wanted in folded]
    if longer:
        return f"did you mean `{by_folded[min(longer, key=len)]}`?"
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return f"did you mean `{by_folded[close[0]]}`?" if close else ""
