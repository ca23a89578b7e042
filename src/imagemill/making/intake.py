"""The pictures that rows name, looked at or brought into the dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagemill.dataset import Dataset
from imagemill.dataset.sources import Sources
from imagemill.environment import means_path
from imagemill.errors import UsageError
from imagemill.making.fitting import size_for
from imagemill.models.base import ModelInfo
from imagemill.records import FailureReason, Row, Sample
from imagemill.tables import Table
from imagemill.tables.columns import PictureTable, TableOptions
from imagemill.tables.pictures import Opener


def with_pictures(
    table: Table, sources: Sources, base: Path, options: TableOptions, info: ModelInfo, take: bool = False
) -> Sequence[Row]:
    """Rows whose samples know their pictures: with `take` these are brought into the dataset, else only looked at."""
    if not isinstance(options, PictureTable):
        return table.rows
    samples = [sample for row in table.rows for sample in row.samples]
    names = list(dict.fromkeys(name for sample in samples for name in sample.sources))
    masks = list(dict.fromkeys(sample.mask for sample in samples if sample.mask))
    opener = Opener(base, table.blobs)
    look = sources.take if take else sources.look
    found, found_masks = look(names, opener), look(masks, opener, masks=True)

    def known(sample: Sample) -> Sample:
        pictures = [found[name] for name in sample.sources]
        mask = [found_masks[sample.mask]] if sample.mask else []
        named = zip((*sample.sources, sample.mask), (*pictures, *mask), strict=False)
        wrong = [(p.problem[0], f"`{_shown_name(name)}`: {p.problem[1]}") for name, p in named if p.problem]
        problem: tuple[FailureReason, str] | None = wrong[0] if wrong else None
        if problem is None and mask and mask[0].size != pictures[0].size:
            (width, height), (w, h) = mask[0].size, pictures[0].size
            problem = "bad_image", f"the mask has {width}×{height} pixels and the picture {w}×{h}"
        if problem is None and len(pictures) > info.most_images:
            problem = "bad_request", f"{len(pictures)} pictures, and `{info.name}` takes {info.most_images}"
        full = pictures[0].size
        return replace(
            sample,
            images=() if problem else tuple(picture.path for picture in pictures),
            mask_image=mask[0].path if mask and not problem else "",
            full_size=full,
            size=(info.width, info.height) if problem else size_for(full, info, options.max_side),
            columns={**sample.columns, "source_image": _shown_name(sample.sources[0])},
            problem=problem,
        )

    return [replace(row, samples=tuple(map(known, row.samples))) for row in table.rows]


def unreadable(rows: Iterable[Row]) -> list[str]:
    """Say which pictures cannot be used."""
    bad = [sample.problem[1] for row in rows for sample in row.samples if sample.problem]
    return [f"{len(bad):,} of the pictures cannot be used; the first: {bad[0]}"] if bad else []


def _shown_name(source: str) -> str:
    """What a record calls a source: as the table does, but never where it lies on this machine."""
    path = Path(source)
    return path.name if path.is_absolute() or ".." in path.parts else source


def place_of(source: Any) -> Any:
    """The folder of a dataset that is given as an object; any other source as it is."""
    return source.folder if isinstance(source, Dataset) else source


def output_for(source: object, output: str | Path | None, made: str) -> Path:
    """The folder of a dataset: as given, else IMAGEMILL_OUTPUT_DIR, else beside the source; raises UsageError."""
    source = place_of(source)
    told = output or os.environ.get("IMAGEMILL_OUTPUT_DIR")
    if told:
        inside = isinstance(source, str | Path) and Path(source).is_dir()
        if inside and Path(told).resolve().is_relative_to(Path(str(source)).resolve()):
            raise UsageError(
                f"`{told}` is inside of `{source}`, whose pictures are read", "choose another output folder"
            )
        return Path(told)
    there = isinstance(source, str | Path) and Path(source).exists()
    if isinstance(source, str | Path) and not there and (means_path(str(source)) or str(source).count("/") != 1):
        raise UsageError(f"there is no `{source}`", "check the path")
    if not isinstance(source, str | Path) or not there:
        raise UsageError("nothing says where the dataset goes", "name its folder: `-o FOLDER`")
    path = Path(source).resolve()
    return path.with_name(f"{path.name.partition('.')[0] if path.is_file() else path.name}-{made}")


def table_name(source: str | Path | Iterable[Any]) -> str:
    """What to call a table in the dataset, which may be published: never where it lies on this machine."""
    if not isinstance(source, str | Path):
        return "python"
    if str(source) == "-":
        return "stdin"
    return Path(source).resolve().name if Path(source).exists() else str(source)
