"""Columns on their way into a dataset: journaled image by image, then written into the records part by part."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.card import write_card
from imagemill.dataset.files import append_lines, encode_lines, explained, make_folder, read_lines, write_file
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
    reason: FailureReason | None = None
    message: str = ""


class ColumnJournal:
    """Files in `.imagemill/columns`: values that do not stand in the records yet, and images without one."""

    def __init__(self, dataset: Dataset, blanks: Mapping[str, Any]) -> None:
        """Take the names of the columns, the first of which names the files, with the values of images without one."""
        self._dataset = dataset
        self._blanks = blanks
        name = next(iter(blanks))
        self._folder = dataset.folder / ".imagemill" / "columns"
        self._path = self._folder / f"{name}.jsonl"
        self.failures_file = self._folder / f"{name}-failures.jsonl"

    def failures(self) -> list[dict[str, Any]]:
        """The images that were tried in vain and have no value: name, part, reason, message."""
        return read_lines(self.failures_file)

    def is_pending(self, record: Record) -> bool:
        """Whether an image has no values yet."""
        return all(record.get(name, blank) == blank for name, blank in self._blanks.items())

    def settle(self) -> Counter[int]:
        """Write all that is journaled into the records, blank values where nothing is; count by part what is pending.

        Afterwards the records of all parts have the same columns, and complete parts are sealed.
        """
        if self._folder.is_dir():
            for leftover in self._folder.glob(".*.tmp"):
                leftover.unlink()
        known: defaultdict[int, list[Annotation]] = defaultdict(list)
        for line in read_lines(self._path):
            known[line["part"]].append(Annotation(**line))
        failed = {line["name"]: line for line in self.failures()}
        pending: Counter[int] = Counter()
        still = []
        for part in self._dataset.parts:
            self.write(part, known[part.number])
            if not part.sealed and part.complete:
                part.seal()
            names = [Path(record["file_name"]).stem for record in part.records() if self.is_pending(record)]
            pending[part.number] = len(names)
            still += [failed[name] for name in names if name in failed]
        self._keep(self.failures_file, still)
        self.keep([])
        write_card(self._dataset)
        return pending

    def append(self, annotations: Iterable[Annotation]) -> None:
        """Commit what came of images."""
        make_folder(self._folder)
        values, failures = [], []
        for annotation in annotations:
            if annotation.reason is None:
                values.append(_line(annotation))
            else:
                names = ("name", "part", "reason", "message")
                failures.append({name: getattr(annotation, name) for name in names})
        for path, lines in ((self._path, values), (self.failures_file, failures)):
            if lines:
                append_lines(path, lines)

    def write(self, part: Part, annotations: Iterable[Annotation]) -> None:
        """Write values into the records of a part, atomically; does nothing when they stand there."""
        found = {(annotation.name, annotation.sha256): annotation.columns for annotation in annotations}

        def change(record: Record) -> dict[str, Any]:
            own = {name: record.get(name, blank) for name, blank in self._blanks.items()}
            return {**own, **found.get((Path(record["file_name"]).stem, record["sha256"]), {})}

        records = part.records()
        if any(record.get(name, _ABSENT) != value for record in records for name, value in change(record).items()):
            part.update(change)

    def keep(self, annotations: Iterable[Annotation]) -> None:
        """Drop from the journal all but these."""
        self._keep(self._path, [_line(annotation) for annotation in annotations])

    def _keep(self, path: Path, lines: list[dict[str, Any]]) -> None:
        content = encode_lines(lines)
        if content:
            write_file(path, content)
        else:
            with explained(path):
                path.unlink(missing_ok=True)


def _line(annotation: Annotation) -> dict[str, Any]:
    return {name: getattr(annotation, name) for name in ("part", "name", "sha256", "columns")}
