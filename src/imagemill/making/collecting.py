"""Pictures become a dataset as they are, for operators that add columns to one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from imagemill.dataset import Dataset
from imagemill.dataset.differences import check_same
from imagemill.dataset.folder import FORMAT
from imagemill.dataset.sources import Sources
from imagemill.making.execution import raise_if_all_failed
from imagemill.making.importing import STEP
from imagemill.making.intake import output_for, place_of, table_name, with_pictures
from imagemill.making.preparation import later_columns
from imagemill.models.base import ModelInfo
from imagemill.output import Output
from imagemill.plan import Plan
from imagemill.produce import pending_requests, produce
from imagemill.records import Maker, Variation
from imagemill.tables import read_table
from imagemill.tables.columns import PictureTable
from imagemill.tables.pictures import base_of
from imagemill.tables.readers import rows_of

_NOBODY = ModelInfo("", "", 1, 1, 0, 0.0, "", 1, most_images=1)
"""Stands for the model where nothing is made."""


class Pictures(PictureTable):
    """Pictures with the texts that a table may have for them."""

    text_names: ClassVar[tuple[str, ...]] = ("prompt", "text", "caption", "captions")
    text_parameter: ClassVar[str] = "prompt_column"

    prompt_column: str | None = None
    """Column with texts."""

    @property
    def texts_optional(self) -> bool:
        """A picture needs none."""
        return True

    @property
    def texts_needed(self) -> bool:
        """Nor where others have one."""
        return False


def collect(source: str | Path | Iterable[Any], output: str | Path) -> Dataset:
    """Make a dataset of pictures as they are, and return it; the same call again tries what could not be read.

    `source` is what `augment` takes. Raises UsageError, also when the folder was made by another job.
    """
    folder = Path(output)
    Dataset.check_folder(folder)
    if not isinstance(source, str | Path):
        source = rows_of(source)
    options = Pictures()
    read = read_table(source, options)
    rows = [replace(row, samples=tuple(replace(each, keep_original=True) for each in row.samples)) for row in read.rows]
    sampling = Variation.model_construct(images_per_sample=0, seed=0, num_inference_steps=0, guidance_scale=0.0)
    requests = sum(len(row.samples) for row in rows)
    job: dict[str, Any] = {
        "format": FORMAT,
        "input": {"table": table_name(source), "sha256": read.sha256},
        "steps": [{**STEP, "image_format": "png"}],
        "plan": {"rows_read": read.rows_read, "rows_accepted": len(rows), "requests": requests},
    }
    with Dataset.create(folder):
        if (folder / "job.toml").is_file():
            found = Dataset(folder).job
            check_same(folder, found, job)
            job["steps"] += found["steps"][1:]
        Dataset.write_rejects(folder, read.rejects)
        Dataset.write_job(folder, job)
        dataset = Dataset(folder)
        dataset.recover()
        # Pictures that were taken down do not come back.
        there = replace(read, rows=[row for row in rows if row.index not in dataset.removed_rows])
        found_rows = with_pictures(there, Sources(folder), base_of(source), options, _NOBODY, take=True)
        by_place = {row.index: row for row in found_rows}
        taken = [by_place.get(row.index, row) for row in rows]
        maker, later = Maker("", "", {}), later_columns(job)
        out = Output(folder, maker, "png", metadata=False, mark=False, per_row_guidance=False, later_columns=later)
        produce(dataset, pending_requests(dataset, Plan(taken, options, sampling)), None, out, None)
    return dataset


def dataset_of(source: Dataset | str | Path | Iterable[Any], output: str | Path | None, made: str) -> Dataset:
    """The dataset that a source is, or the one that its pictures become; raises UsageError.

    Without `output` a new one goes where `output_for` says.
    """
    if isinstance(source, Dataset) and output is None:
        return source
    source = place_of(source)
    if isinstance(source, str | Path) and Path(source).is_dir() and output is None:
        known = Path(source, "job.toml").is_file() or Path(source, ".imagemill").is_dir()
        if known:
            return Dataset(source)
    dataset = collect(source, output_for(source, output, made))
    raise_if_all_failed(dataset)
    return dataset
