"""Columns on their way into a dataset: journaled image by image, then written into the records part by part."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.card import write_card
from imagemill.dataset.files import append_lines, encode_lines, explained, make_folder, read_lines, write_file
from imagemill.dataset.vectors import Vectors
from imagemill.records import FailureReason, Record

if TYPE_CHECKING:
    from imagemill.dataset.folder import Dataset, Part

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Annotation:
    """What came of looking at one image: values for its columns, or a reason."""

    part: int
    name: str
    """Its file's name without the extension."""
    sha256: str
    """Of the file that was looked at."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """A vector is an array of float16; the record only says that there is one."""
    reason: FailureReason | None = None
    message: str = ""
    group: int = 0
    """Which of several groups of columns it is for."""


def blanks_of(step: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a step of a job has added, with the values of images without them: None for a score."""
    return {**dict.fromkeys(step.get("scores", ())), **step.get("columns", {})}


class ColumnJournal:
    """Files in `.imagemill/columns`: values that do not stand in the records yet, and images without one."""

    def __init__(self, dataset: Dataset, blanks: Mapping[str, Any]) -> None:
        """Take the names of the columns, the first of which names the files, with the values of images without one."""
        self._dataset = dataset
        self._blanks = blanks
        self.name = name = next(iter(blanks))
        self._folder = dataset.folder / ".imagemill" / "columns"
        self._path = self._folder / f"{name}.jsonl"
        self.failures_file = self._folder / f"{name}-failures.jsonl"
        self._known: defaultdict[int, dict[str, Annotation]] = defaultdict(dict)
        """What is journaled, by part and name."""

    def failures(self) -> list[dict[str, Any]]:
        """The images that were tried in vain and have no value: name, part, reason, message."""
        return read_lines(self.failures_file)

    def is_begun(self) -> bool:
        """Whether values wait that do not stand in the records yet."""
        return bool(read_lines(self._path))

    def is_pending(self, record: Record) -> bool:
        """Whether the record of an image has no values yet."""
        return all(record.get(name, blank) == blank for name, blank in self._blanks.items())

    def is_open(self, part: int, record: Record) -> bool:
        """Whether an image has no values yet, neither in its record nor in the journal."""
        known = self._known.get(part, {}).get(Path(record["file_name"]).stem)
        return self.is_pending(record) and (known is None or known.sha256 != record["sha256"])

    def settle(self) -> Counter[int]:
        """Write what is journaled into the records, blank values where nothing is; count by part what is pending.

        Afterwards the records of all parts have the same columns, and complete parts are sealed.
        """
        if self._folder.is_dir():
            for leftover in self._folder.glob(".*.tmp"):
                leftover.unlink()
        self._known.clear()
        for line in read_lines(self._path):
            annotation = _read(line)
            self._known[annotation.part][annotation.name] = annotation
        failed = {line["name"]: line for line in self.failures()}
        pending: Counter[int] = Counter()
        still = []
        for part in self._dataset.parts:
            self._write(part, self._known.pop(part.number, {}))
            if not part.sealed and part.complete:
                part.seal()
            open_records = [record for record in part.records() if self.is_open(part.number, record)]
            pending[part.number] = len(open_records)
            names = (Path(record["file_name"]).stem for record in open_records)
            still += [failed[name] for name in names if name in failed]
        self._keep(self.failures_file, still)
        self._keep_known()
        write_card(self._dataset)
        return pending

    def append(self, annotations: Iterable[Annotation]) -> None:
        """Commit what came of images."""
        make_folder(self._folder)
        values, failures = [], []
        for annotation in annotations:
            if annotation.reason is None:
                values.append(_line(annotation))
                self._known[annotation.part][annotation.name] = annotation
            else:
                names = ("name", "part", "reason", "message")
                failures.append({name: getattr(annotation, name) for name in names})
        for path, lines in ((self._path, values), (self.failures_file, failures)):
            if lines:
                append_lines(path, lines)

    def complete(self, parts: Iterable[int]) -> None:
        """Write the values of parts whose images have all been looked at."""
        for number in sorted(parts):
            self._write(self._dataset.part(number), self._known.pop(number, {}))
        self._keep_known()
        write_card(self._dataset)

    def _write(self, part: Part, annotations: Mapping[str, Annotation]) -> None:
        """Write values into the records of a part, atomically; does nothing when they stand there."""
        vectors: defaultdict[str, dict[str, Any]] = defaultdict(dict)

        def change(record: Record) -> dict[str, Any]:
            name = Path(record["file_name"]).stem
            values = {column: record.get(column, blank) for column, blank in self._blanks.items()}
            found = annotations.get(name)
            if found and found.sha256 == record["sha256"]:
                values |= found.columns
            for column in [column for column, value in values.items() if hasattr(value, "dtype")]:
                vectors[column][name] = values[column]
                values[column] = True
            return values

        records = part.records()
        changes = [(record, change(record)) for record in records]
        for column, found in vectors.items():
            kept = Vectors(self._dataset.folder, column)
            # Before the records, which say that they are there.
            kept.write(part.name, {**dict(zip(*kept.read(part.name), strict=True)), **found})
        if any(record.get(name, _ABSENT) != value for record, values in changes for name, value in values.items()):
            part.update(change)

    def _keep_known(self) -> None:
        """Drop from the journal what has been written."""
        self._keep(self._path, [_line(annotation) for known in self._known.values() for annotation in known.values()])

    def _keep(self, path: Path, lines: list[dict[str, Any]]) -> None:
        content = encode_lines(lines)
        if content:
            write_file(path, content)
        else:
            with explained(path):
                path.unlink(missing_ok=True)


def count_pending(dataset: Dataset, journals: Sequence[ColumnJournal]) -> list[int]:
    """How many images have no values yet, for each journal; reads the records once."""
    counts = [0] * len(journals)
    for record in dataset if journals else ():
        for place, journal in enumerate(journals):
            counts[place] += journal.is_pending(record)
    return counts


def _line(annotation: Annotation) -> dict[str, Any]:
    """An annotation as a line of the journal."""
    line = {name: getattr(annotation, name) for name in ("part", "name", "sha256")}
    vectors = {name: value for name, value in annotation.columns.items() if hasattr(value, "dtype")}
    line["columns"] = {name: value for name, value in annotation.columns.items() if name not in vectors}
    if vectors:
        line["vectors"] = {
            name: base64.b64encode(value.astype("<f2").tobytes()).decode() for name, value in vectors.items()
        }
    return line


def _read(line: dict[str, Any]) -> Annotation:
    vectors = line.pop("vectors", {})
    annotation = Annotation(**line)
    if not vectors:
        return annotation
    import numpy as np

    decoded = {name: np.frombuffer(base64.b64decode(text), "<f2") for name, text in vectors.items()}
    return replace(annotation, columns={**annotation.columns, **decoded})
