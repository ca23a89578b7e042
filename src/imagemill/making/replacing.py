"""A folder that follows from others alone is written anew; columns that were added to its images since go over."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imagemill.dataset.folder import Dataset
from imagemill.dataset.journal import blanks_of
from imagemill.dataset.vectors import Vectors
from imagemill.records import Record


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def restore(folder: Path) -> None:
    """Bring back what an interrupted replacement has put aside."""
    if _aside(folder).is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        _aside(folder).rename(folder)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Put a folder aside until it has been written anew; yields where it is meanwhile."""
    aside = _aside(folder)
    folder.rename(aside)
    try:
        yield aside
    except BaseException:
        restore(folder)
        raise
    shutil.rmtree(aside)


def carry(old: Dataset, new: Dataset) -> None:
    """Give the images of a selection what was added to them in the one before: scores may have cost much.

    What was added are the steps behind that of the selection; an image is the same where its bytes are.
    """
    steps = old.job["steps"]
    last = max(number for number, step in enumerate(steps) if step["operator"] == "select")
    added = steps[last + 1 :]
    if not added:
        return
    blanks = {name: blank for step in added for name, blank in blanks_of(step).items()}
    known = {record["sha256"]: record for record in old}
    with new.lock():
        new.write_job(new.folder, {**new.job, "steps": [*new.job["steps"], *added]})
        for column in [name for name, blank in blanks.items() if blank is False]:
            _carry_vectors(old, new, column)

        def values(record: Record) -> dict[str, Any]:
            before = known.get(record["sha256"], {})
            return {name: before.get(name, blank) for name, blank in blanks.items()}

        new.update(values)


def _carry_vectors(old: Dataset, new: Dataset, column: str) -> None:
    before, after = Vectors(old.folder, column), Vectors(new.folder, column)
    vectors = {name: vector for part in old.parts for name, vector in zip(*before.read(part.name), strict=True)}
    for part in new.parts:
        names = [Path(record["file_name"]).stem for record in part.records()]
        found = {name: vectors[name] for name in names if name in vectors}
        if found:
            after.write(part.name, found)
