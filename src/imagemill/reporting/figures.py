"""What a report needs of a dataset's records, read in one pass into arrays."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.errors import UsageError, did_you_mean
from imagemill.records import Record, order_of, to_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imagemill.dataset import Dataset

_EDIT_SCORES = {
    "difference": "mean absolute difference between before and after, from 0 to 1",
    "changed_area": "share of the area that has changed, from 0 to 1",
}
_AGREES = "_agrees"
_MOST_VALUES = 100_000
"""Of an attribute, or of what images are grouped by."""


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """A column of figures, and where they come from."""

    name: str
    meaning: str
    scorer: str
    model: str
    revision: str


@dataclass(slots=True)
class Texts:
    """Texts of images, each kept once."""

    known: list[str] = field(default_factory=list)
    of: array[int] = field(default_factory=lambda: array("q"))
    """The place in `known` of each image's text."""
    _places: dict[str, int] = field(default_factory=dict)

    def add(self, text: str) -> int:
        """Take the text of the next image."""
        place = self._places.setdefault(text, len(self.known))
        if place == len(self.known):
            self.known.append(text)
        self.of.append(place)
        return place

    @property
    def places(self) -> NDArray[np.int64]:
        """The same as `of`, as an array."""
        import numpy as np

        return np.array(self.of, np.int64)


@dataclass(slots=True)
class Agreement:
    """Whether images show what their rows say, for one value of an attribute."""

    planned: int = 0
    answered: int = 0
    agreed: int = 0


@dataclass(slots=True)
class Collected:
    """The records of a dataset, column by column."""

    dataset: Dataset
    columns: list[ScoreColumn]
    """The scores that records have."""
    files: list[str] = field(default_factory=list)
    parts: array[int] = field(default_factory=lambda: array("q"))
    """The number of each image's part."""
    before: dict[int, str] = field(default_factory=dict)
    """Files of pictures before an edit, by image."""
    prompts: Texts = field(default_factory=Texts)
    rows: array[int] = field(default_factory=lambda: array("q"))
    """The table's row of each image."""
    scores: dict[str, array[float]] = field(default_factory=dict)
    """By column; a score that there is none of is not a number."""
    perceptual: array[int] = field(default_factory=lambda: array("Q"))
    """Perceptual hashes of the images in `hashed`."""
    hashed: array[int] = field(default_factory=lambda: array("q"))
    embedded: bytearray = field(default_factory=bytearray)
    """Of each image, whether it has a vector."""
    pixels: Counter[str] = field(default_factory=Counter)
    """How many images have the same pixels, by their hash."""
    tries: Counter[int] = field(default_factory=Counter)
    """How many images were accepted at which try of a quota."""
    agreements: dict[str, dict[str, Agreement]] = field(default_factory=dict)
    """By attribute and value."""
    groups: Texts = field(default_factory=Texts)
    """Values of the column that images are grouped by."""

    def __len__(self) -> int:
        return len(self.files)

    def path(self, image: int) -> Path:
        """The file of an image."""
        return self.dataset.part(self.parts[image]).folder / self.files[image]

    def before_path(self, image: int) -> Path | None:
        """The file of what an edited image was before."""
        name = self.before.get(image)
        return self.dataset.part(self.parts[image]).folder / name if name else None

    def prompt(self, image: int) -> str:
        """What was asked for."""
        return self.prompts.known[self.prompts.of[image]]

    def values(self, column: str) -> NDArray[np.float64]:
        """The scores of a column, one for each image."""
        import numpy as np

        return np.array(self.scores[column], np.float64)


def collect(dataset: Dataset, by: str = "") -> Collected:
    """Read the records once; raises UsageError for a column `by` that they do not have."""
    first = next(iter(dataset), None)
    declared = list(_declared(dataset.job["steps"], first or {}))
    if by and first is None:
        raise UsageError(f"`{dataset.folder}` has no image yet", "leave `--by` out")
    if first is not None and by and by not in first:
        raise UsageError(f"the dataset has no column `{by}`", did_you_mean(by, first) or f"columns: {', '.join(first)}")
    answers = (column.name.removesuffix(_AGREES) for column in declared if _is_answer(column))
    attributes = [name for name in answers if first and name in first]
    asked = {name + _AGREES for name in attributes}
    collected = Collected(dataset, [column for column in declared if column.name not in asked])
    collected.scores = {column.name: array("d") for column in collected.columns}
    collected.agreements = {name: {} for name in attributes}
    for part in dataset.parts:
        for record in part.records():
            _add(collected, record, part.number, by)
    return collected


def _declared(steps: list[dict[str, Any]], first: Mapping[str, Any]) -> Iterator[ScoreColumn]:
    """The columns of scores that steps say they have filled, and those that edits come with."""
    for name, meaning in _EDIT_SCORES.items():
        if name in first and "edited_image_file_name" in first:
            yield ScoreColumn(name, meaning, "", "", "")
    for step in steps:
        if step["operator"] == "score":
            for name, meaning in step.get("scores", {}).items():
                if name in first:
                    model, revision = step.get("model", ""), step.get("model_revision", "")
                    yield ScoreColumn(name, meaning, step["scorer"], model, revision)


def _is_answer(column: ScoreColumn) -> bool:
    return column.scorer == "attributes" and column.name.endswith(_AGREES)


def _add(collected: Collected, record: Record, part: int, by: str) -> None:
    image = len(collected.files)
    collected.files.append(record["file_name"])
    collected.parts.append(part)
    collected.prompts.add(record["prompt"])
    collected.rows.append(order_of(record["file_name"])[0])
    if "input_image_file_name" in record:
        collected.before[image] = record["input_image_file_name"]
    for name, scores in collected.scores.items():
        value = record.get(name)
        # A yes or no is a number to Python.
        known = isinstance(value, int | float) and not isinstance(value, bool)
        scores.append(float(value) if known and value is not None else float("nan"))
    if "tries" in record:
        collected.tries[record["tries"]] += 1
    collected.embedded.append(bool(record.get("embedding")))
    if record.get("perceptual_hash"):
        collected.perceptual.append(int(record["perceptual_hash"], 16))
        collected.hashed.append(image)
    if record.get("pixels_sha256"):
        collected.pixels[record["pixels_sha256"]] += 1
    for name, agreements in collected.agreements.items():
        value = shown(record[name])
        if value not in agreements and len(agreements) == _MOST_VALUES:
            continue
        agreement = agreements.setdefault(value, Agreement())
        agreement.planned += 1
        answer = record.get(name + _AGREES)
        agreement.answered += answer is not None
        agreement.agreed += answer == 1
    if by:
        collected.groups.add(shown(record.get(by)))


def shown(value: object) -> str:
    """A value of a column as people read it."""
    if isinstance(value, str):
        return value
    return "" if value is None else to_json(value)


def reasons(path: Path) -> Counter[str]:
    """Count the lines of a file by their `reason`, without keeping them."""
    return Counter(str(line.get("reason", "unknown")) for line in lines(path))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines, none where it is absent; a line that is being written is left out."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            with suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value
