"""What every scorer is: a stream of images in, a stream of scores out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from imagemill.component import Component, component_names, find_component
from imagemill.errors import ImagemillError
from imagemill.records import FailureReason, Record

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Seen:
    """One image to score, decoded once for all scorers of a run."""

    path: Path
    """Its file; other pictures that its record names lie beside it."""
    record: Record
    data: bytes
    """What the file holds."""
    image: Image.Image
    """RGB, upright."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What came of one image: values for its columns, or a reason."""

    seen: Seen
    columns: Mapping[str, Any] = field(default_factory=dict)
    """A score that there is none of is None; a vector is an array of float16, (dimensions,)."""
    reason: FailureReason | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class ScorerInfo:
    """What is known of what scores, before it is loaded."""

    model: str = ""
    """As datasets say it; empty where plain arithmetic scores."""
    revision: str = ""
    """The exact version."""
    license: str = "unknown"


@dataclass(frozen=True, slots=True)
class Column:
    """One column that a scorer fills."""

    blank: Any
    """Of an image without it: None for a number, "" for a text, [""] for texts, False for a yes or no or a vector."""
    meaning: str
    """What it says and, of a number, what higher means; one line of the card."""


class Scorer(Component, ABC):
    """Adds columns to the records of images."""

    @abstractmethod
    def columns(self) -> Mapping[str, Column]:
        """The columns, the first of which names the scorer's files; at least one has no value but of an image seen."""

    def info(self) -> ScorerInfo:
        """Describe what scores without loading it; raises UsageError when it cannot be found."""
        return ScorerInfo()

    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Replace every `auto` by what an earlier run took (`known`), or by what this machine suggests."""
        del known, workers
        return self

    def ready(self, workers: int) -> None:
        """Raise UsageError when something is missing that a plan can do without, such as a key."""
        del workers

    def check(self, record: Record) -> None:
        """Raise UsageError when images with such records are nothing that it can score."""
        del record

    @abstractmethod
    def score(self, images: Iterable[Seen]) -> Iterator[Scored]:
        """Load, then score images, in any order; one that fails is a result with a reason, never an exception.

        A score does not depend on which images come with it. Raises ModelError when nothing can go on.
        """


def find_scorer(name: str, parameters: Mapping[str, Any]) -> Scorer:
    """Make the scorer of a name; raises UsageError with a suggestion when there is none."""
    found = find_component("scorers", name)
    if not issubclass(found, Scorer):
        raise TypeError(f"`{found.__name__}` is no Scorer")
    return found.parse(parameters, f"scorer {name}")


def scored_columns() -> dict[str, str]:
    """The columns that scorers fill when nothing is told them, each with its scorer."""
    found: dict[str, str] = {}
    for name in component_names("scorers"):
        try:
            found |= dict.fromkeys(find_scorer(name, {}).columns(), name)
        except ImagemillError:
            # It needs to be told something, or its plugin is broken: others may still have the column.
            continue
    return found
