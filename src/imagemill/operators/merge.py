"""Several datasets become one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imagemill.component import Component
from imagemill.dataset.folder import FORMAT, Dataset
from imagemill.errors import LockedError, UsageError
from imagemill.selecting.merging import Merging, merge_inputs, merge_step, read_inputs
from imagemill.selecting.writing import built_beside, write_dataset


class Merge(Component):
    """One dataset out of several, in their order: same images, rows numbered anew."""

    columns: Literal["all", "common"] = "all"
    """Columns of the records: `all` of them, blank where a dataset has none, or those that are `common` to all."""


class Stale(UsageError):
    """The folder holds the same merge of datasets that have changed since."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A merge that has been checked as a whole."""

    merging: Merging
    folder: Path
    step: dict[str, Any]
    """As `job.toml` says it."""
    done: bool
    """Whether the folder holds this merge."""

    @property
    def renamed(self) -> dict[str, int]:
        """How many ids have got the name of their dataset before them, by that name."""
        pairs = zip(self.merging.inputs, self.merging.ids, strict=True)
        return {own.name: len(ids) for own, ids in pairs if ids}


def prepare(
    sources: Iterable[Dataset | str | Path], output: str | Path, parameters: Mapping[str, Any] | None = None
) -> Prepared:
    """Check datasets, columns and folder; nothing is written.

    Raises UsageError, also when the folder holds something else.
    """
    options = Merge.parse(parameters or {}, "merge")
    datasets = [source if isinstance(source, Dataset) else Dataset(source) for source in sources]
    folder = Path(output)
    places = [dataset.folder.resolve() for dataset in datasets]
    if len(places) < 2:
        raise UsageError("merge: it takes two datasets at least", "name their folders")
    for place, dataset in zip(places, datasets, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"merge: `{dataset.folder}` is given twice", "name each dataset once")
    if folder.resolve() in places:
        raise UsageError(f"`{folder}` is one of the datasets that are merged", "choose another output folder")
    for dataset in datasets:
        if writer := dataset.writer:
            raise LockedError(
                f"`{dataset.folder}` is being written by {writer}", "wait until it has finished, or stop it"
            )
    inputs = read_inputs(datasets)
    merging = merge_inputs(inputs, options.columns == "common")
    step = {**merge_step(inputs), "columns_kept": options.columns}
    return Prepared(merging, folder, step, _is_done(folder, step))


def write(prepared: Prepared) -> None:
    """Write the merged dataset, whole or not at all; raises LockedError, OutOfSpace, and ImagemillError."""
    inputs = prepared.merging.inputs
    tables = dict.fromkeys(own.job["input"]["table"] for own in inputs)
    sha256 = hashlib.sha256("".join(own.sha256 for own in inputs).encode()).hexdigest()
    job = {
        "format": FORMAT,
        "input": {"table": ", ".join(tables), "sha256": sha256},
        "steps": [prepared.step, *prepared.merging.steps],
    }
    with built_beside(prepared.folder, [(own.dataset, own.sha256) for own in inputs]) as new:
        write_dataset(prepared.merging.images(), job, new)


def merge(
    datasets: Iterable[Dataset | str | Path], output: str | Path, *, columns: Literal["all", "common"] = "all"
) -> Dataset:
    """Make one dataset of several by hard links, and return it; the same call again does nothing.

    Rows are numbered on from one dataset to the next; an id that means another prompt elsewhere gets the name of its
    dataset before it. With `columns="common"` only columns that all datasets have, filled in the same way, are kept.
    Raises UsageError for datasets whose records cannot have the same columns, and for a folder that holds another one.
    """
    prepared = prepare(datasets, output, {"columns": columns})
    if not prepared.done:
        write(prepared)
    return Dataset(prepared.folder)


def _is_done(folder: Path, step: Mapping[str, Any]) -> bool:
    """Whether the folder holds this merge; raises UsageError when it holds anything else."""
    if not (folder / "job.toml").is_file():
        Dataset.check_folder(folder)
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"`{folder}` is a dataset already", "choose another output folder")
        return False
    found = Dataset(folder).job["steps"][0]
    if found["operator"] != "merge":
        raise UsageError(f"`{folder}` is a dataset already", "choose another output folder")
    old, new = ([source["name"] for source in each["sources"]] for each in (found, step))
    if old != new or found["columns_kept"] != step["columns_kept"]:
        raise UsageError(
            f"`{folder}` holds another merge: of {', '.join(old)}, with `columns` {found['columns_kept']}",
            "choose another output folder",
        )
    if [source["sha256"] for source in found["sources"]] != [source["sha256"] for source in step["sources"]]:
        raise Stale(
            f"`{folder}` holds this merge, and one of its datasets has changed since", "delete it, or choose another"
        )
    return True
