"""The datasets of an export: their images in order, their columns, and what was added to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.card import origins_of, scores_of
from imagemill.dataset.columns import read_schema
from imagemill.dataset.folder import Dataset, is_dataset
from imagemill.dataset.journal import blanks_of
from imagemill.errors import LockedError, UsageError
from imagemill.layouts.base import Picture
from imagemill.records import files_of, order_of
from imagemill.selecting.subsets import stem_of

if TYPE_CHECKING:
    import pyarrow as pa

    from imagemill.exporting.signing import Signing

_SPLITS = ("train", "validation", "test")
"""How readers order them; others follow."""


def find_datasets(source: Dataset | str | Path) -> dict[str, Dataset]:
    """The datasets to export, by split; raises UsageError."""
    if isinstance(source, Dataset):
        found = {"train": source}
    else:
        folder = Path(source)
        inside = sorted(path.parent.name for path in folder.glob("*/job.toml") if is_dataset(path.parent))
        if is_dataset(folder) or not inside:
            found = {"train": Dataset(folder)}
        else:
            order = [*(split for split in _SPLITS if split in inside), *inside]
            found = {split: Dataset(folder / split) for split in dict.fromkeys(order)}
    for split, dataset in found.items():
        if not re.fullmatch(r"\w+", split, re.ASCII):
            raise UsageError(f"`{dataset.folder}` cannot be a split of that name", "use letters, digits and `_`")
        if dataset.writer:
            raise LockedError(
                f"`{dataset.folder}` is being written by {dataset.writer}", "wait until it has finished, or stop it"
            )
        if next(iter(dataset), None) is None:
            raise UsageError(f"`{dataset.folder}` has no image yet", "generate some first")
    return found


@dataclass(frozen=True, slots=True)
class Pictures:
    """The images of a dataset in plan order, read anew each time."""

    dataset: Dataset
    kept: frozenset[str] | None

    def __iter__(self) -> Iterator[Picture]:
        for part in self.dataset.parts:
            for record in sorted(part.records(), key=lambda record: order_of(record["file_name"])):
                if self.kept is None or record["file_name"] in self.kept:
                    path, *_ = [part.path(name) for name in files_of(record)]
                    yield Picture(path, record)


@dataclass(frozen=True, slots=True)
class SubsetPictures:
    """Some of the images, read anew each time."""

    pictures: Iterable[Picture]
    stems: frozenset[str]

    def __iter__(self) -> Iterator[Picture]:
        found = (picture for picture in self.pictures if stem_of(picture.record["file_name"]) in self.stems)
        return islice(found, len(self.stems))


def schema_of(datasets: Mapping[str, Dataset]) -> pa.Schema:
    """The columns of all splits; raises UsageError when they are not the same."""
    import pyarrow as pa

    schemas = {split: _typed(dataset) for split, dataset in datasets.items()}
    (first, *others) = schemas
    for split in others:
        different = sorted(set(schemas[first].names) ^ set(schemas[split].names))
        if different:
            raise UsageError(
                f"`{first}` and `{split}` have different columns: {', '.join(f'`{name}`' for name in different)}",
                "fill the same columns in both",
            )
    try:
        return pa.unify_schemas(list(schemas.values()))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UsageError(f"the splits have columns of different types: {error}", "fill them in the same way") from None


def _typed(dataset: Dataset) -> pa.Schema:
    """The columns of a dataset; a score is a number also where there is none."""
    import pyarrow as pa

    scores = scores_of(dataset.job)
    fields = (
        pa.field(field.name, pa.float64() if field.name in scores and pa.types.is_null(field.type) else field.type)
        for field in read_schema(dataset)
    )
    return pa.schema(list(fields))


def added_steps(dataset: Dataset, signing: Signing | None = None) -> dict[str, Any]:
    """What made the images and what was added to them, for `imagemill import`; without where a model was asked."""
    signed = {"signed_by": signing.subject} if signing else {}
    steps: list[dict[str, Any]] = [{"operator": "export", "origins": origins_of(dataset.job["steps"]), **signed}]
    steps += [
        {
            **{name: value for name, value in step.items() if name != "base_url"},
            "model_parameters": {
                name: value for name, value in step.get("model_parameters", {}).items() if name != "base_url"
            },
        }
        for step in dataset.job["steps"][1:]
        if blanks_of(step)
    ]
    return {"steps": steps}
