"""What others have written becomes a dataset, and an export of ours the dataset that it was."""

from __future__ import annotations

import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagemill.component import Component
from imagemill.dataset.card import write_card
from imagemill.dataset.folder import Dataset
from imagemill.dataset.lock import locked
from imagemill.dataset.splits import write_above
from imagemill.errors import ImagemillError, SomeFailed, UsageError
from imagemill.layouts.base import Loaded
from imagemill.making.importable import Importable, open_source
from imagemill.making.importing import (
    JOURNALS,
    Settled,
    check_same,
    is_complete,
    job_of,
    settle,
    write_dataset,
)
from imagemill.making.surveying import Journal, Survey, fingerprint, readable
from imagemill.records import Reject, files_of, order_of

Progress = Callable[[str, int], None]
"""Told what is being done, `looked at` or `written`, and with how many pictures so far."""


class Import(Component):
    """Pictures with all that is told of them, in any layout or none, as a dataset."""

    layout: str | None = None
    """What the source is, by name, where it is not to be recognised: see `imagemill layouts`."""
    configuration: str = ""
    """Which configuration of a dataset on the hub; not needed where it has one."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An import that has been checked before anything is written."""

    source: Importable
    output: Path

    @property
    def folders(self) -> dict[str, Path]:
        """Where the dataset of each split goes."""
        return {split: self.output / split if self.source.divided else self.output for split in self.source.splits}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an import has done."""

    folders: Mapping[str, Path]
    """The dataset of each split."""
    taken: int
    rejected: int
    restored: bool
    """Whether records are those that were exported, with their names."""
    done_before: bool
    notes: list[str]
    """What the user should know, a sentence each."""

    @property
    def datasets(self) -> dict[str, Dataset]:
        """By split."""
        return {split: Dataset(folder) for split, folder in self.folders.items()}


def prepare(source: str | Path, output: str | Path, parameters: Mapping[str, Any]) -> Prepared:
    """Recognise the source and check where it goes; nothing is written. Raises UsageError."""
    options = Import.parse(parameters, "import")
    opened = open_source(source, options.layout, options.configuration)
    output, path = Path(output), Path(source)
    if path.is_dir() and output.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"`{output}` is inside of `{source}`, which is read", "choose another output folder")
    divided = {path.parent.name for path in output.glob("*/job.toml")}
    if not (opened.divided and divided):
        Dataset.check_folder(output)
    known = (output / "job.toml").is_file()
    if (known == opened.divided and (divided or known)) or (opened.divided and not divided <= opened.splits.keys()):
        raise UsageError(f"`{output}` holds something else than this import", "choose another output folder")
    return Prepared(opened, output)


def count(prepared: Prepared) -> dict[str, int]:
    """How many pictures there are in each split, good or bad; none is looked at."""
    return {split: sum(1 for _ in _entries(prepared.source, split)) for split in prepared.source.splits}


def execute(prepared: Prepared, progress: Progress | None = None) -> Outcome:
    """Take in what is not taken in yet; the same call after any interruption continues.

    Raises UsageError where the folder holds another import, SomeFailed when no picture can be taken in, LockedError,
    OutOfSpace, and ImagemillError when the source changes meanwhile.
    """
    source, folders = prepared.source, prepared.folders
    with locked(prepared.output):
        above = prepared.output / "README.md"
        if all(map(is_complete, folders.values())) and (above.is_file() or not source.divided):
            for split, folder in folders.items():
                check_same(folder, fingerprint(_entries(source, split)), source.name)
            if not source.divided:
                write_card(Dataset(prepared.output))
            _forget(prepared)
            return _done_before(folders)
        journals = {split: Journal(prepared.output / JOURNALS / f"{split}.jsonl") for split in source.splits}
        surveys = {
            split: journal.survey(_entries(source, split), source.exact, _counted(progress, "looked at"))
            for split, journal in journals.items()
        }
        for split, survey in surveys.items():
            check_same(folders[split], survey.sha256, source.name)
        taken = sum(survey.taken for survey in surveys.values())
        rejects = [reject for survey in surveys.values() for reject in survey.rejects]
        if not taken:
            raise _nothing(prepared, rejects)
        settled = settle(journals.values())
        kinds = {}
        for split in source.splits:
            kinds[split] = _write(prepared, split, surveys[split], settled, journals[split], progress)
        if source.divided:
            _write_above(prepared, surveys, kinds)
        _forget(prepared)
    return Outcome(folders, taken, len(rejects), settled.restored, False, _notes(surveys.values(), settled))


def import_dataset(source: str | Path, output: str | Path, **parameters: Any) -> Dataset | dict[str, Dataset]:
    """Make a dataset of an export, of pictures in any layout or none, or of a dataset on the hub, and return it.

    Of a source with splits it is the dataset of each split by its name. What cannot be taken in stands in `rejects()`.
    The same call continues after any interruption, and does nothing when all is there; `parameters` are those of
    `Import`. Raises UsageError for anything that cannot be right, SomeFailed when no picture can be taken in,
    LockedError and OutOfSpace.
    """
    prepared = prepare(source, output, parameters)
    found = execute(prepared).datasets
    return found if prepared.source.divided else next(iter(found.values()))


def _done_before(folders: Mapping[str, Path]) -> Outcome:
    datasets = [Dataset(folder) for folder in folders.values()]
    rejected = sum(len(dataset.rejects()) for dataset in datasets)
    restored = all(dataset.job["steps"][0]["restored"] for dataset in datasets)
    return Outcome(folders, sum(dataset.counts().done for dataset in datasets), rejected, restored, True, [])


def _entries(source: Importable, split: str) -> Iterator[Loaded]:
    """The pictures of a split from the start; whatever is wrong with the source as a whole is told in words."""
    import pyarrow as pa

    try:
        yield from map(readable, source.splits[split]())
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise ImagemillError(
            f"`{source.name}` cannot be read as `{source.layout}`: {type(error).__name__}: {error}",
            "is it whole? Nothing that was taken in is lost",
        ) from None


def _write(
    prepared: Prepared, split: str, survey: Survey, settled: Settled, journal: Journal, progress: Progress | None
) -> set[str]:
    """Write one dataset; the kinds of its files."""
    source, folder = prepared.source, prepared.folders[split]
    kinds: set[str] = set()
    last = -1
    for _, record, _ in settled.records(journal):
        kinds.update(Path(name).suffix for name in files_of(record))
        row, _ = order_of(record["file_name"])
        # They are in order.
        survey.rows += row != last
        last = row
    job = job_of(source.name, source.license, survey, settled, source.steps.get(split, []) if settled.restored else [])
    records, entries = settled.records(journal), _entries(source, split)
    write_dataset(folder, job, survey, records, entries, _counted(progress, "written"))
    return kinds


def _write_above(prepared: Prepared, surveys: Mapping[str, Survey], kinds: Mapping[str, set[str]]) -> None:
    """Tell `load_dataset` where the splits are."""
    datasets = {split: Dataset(folder) for split, folder in prepared.folders.items()}
    source = prepared.source
    step = {"operator": "import", "source": source.name, "sha256": [survey.sha256 for survey in surveys.values()]}
    kept = {split: range(survey.taken) for split, survey in surveys.items()}
    write_above(prepared.output, next(iter(datasets.values())), step, kept, kinds)


def _forget(prepared: Prepared) -> None:
    """Remove what only an import that goes on needs."""
    shutil.rmtree(prepared.output / JOURNALS, ignore_errors=True)
    if prepared.source.divided:
        # Readers find the splits; the folder above them is no dataset.
        shutil.rmtree(prepared.output / ".imagemill", ignore_errors=True)


def _nothing(prepared: Prepared, rejects: Sequence[Reject]) -> ImagemillError:
    """What to raise where nothing can be taken in; nothing stays behind."""
    shutil.rmtree(prepared.output / JOURNALS, ignore_errors=True)
    if not any((folder / "job.toml").is_file() for folder in prepared.folders.values()):
        # Only what this import has made: people may keep other things in the folder.
        state = prepared.output / ".imagemill"
        (state / "lock").unlink(missing_ok=True)
        with suppress(OSError):
            state.rmdir()
            prepared.output.rmdir()
    if not rejects:
        return UsageError(f"`{prepared.source.name}` holds no picture", "name a folder of pictures, or an export")
    first = rejects[0]
    return SomeFailed(
        f"none of {len(rejects):,} pictures can be taken in; the first, `{first.raw}`: {first.reason}",
        "pictures are whole PNG, JPEG or WebP files",
    )


def _notes(surveys: Iterable[Survey], settled: Settled) -> list[str]:
    notes = []
    left_out: Counter[str] = sum((survey.left_out for survey in surveys), Counter())
    if left_out:
        notes.append("left out: " + ", ".join(f"{number:,} × {kind}" for kind, number in left_out.most_common()))
    if converted := sum(survey.converted for survey in surveys):
        notes.append(f"{converted:,} × upright and without transparency, as PNG: not every reader sees the file alike")
    if large := settled.columns.large_seeds:
        notes.append(f"{large:,} × `seed` is -1, and what the source says is in `seed_str`: it is no number below 2^32")
    return notes


def _counted(progress: Progress | None, what: str) -> Callable[[int], None] | None:
    return (lambda number: progress(what, number)) if progress else None
