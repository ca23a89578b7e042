"""A dataset is written in a layout that other tools read, loaded back and compared."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from imagemill.component import Component
from imagemill.dataset.card import render_card, scores_of, size_category
from imagemill.dataset.columns import fingerprint, read_schema
from imagemill.dataset.files import explained, make_folder, sync_folder
from imagemill.dataset.folder import Dataset
from imagemill.dataset.lock import locked
from imagemill.dataset.manifest import check_manifest, sync_files, write_manifest
from imagemill.errors import ImagemillError, LockedError, UsageError
from imagemill.expressions import Expression
from imagemill.images import ImageFormat
from imagemill.layouts.base import Content, Layout, Loaded, Picture, find_layout
from imagemill.making.converting import Conversion, check_whole, convert
from imagemill.records import order_of
from imagemill.selecting.where import names_where

if TYPE_CHECKING:
    import pyarrow as pa

_MARK = ".imagemill-export.json"
"""The file by which an export is known again; readers pass over its leading point."""
_CONVERTED = ".imagemill/converted"
"""Where converted pictures are until they are exported."""

_SPLITS = ("train", "validation", "test")
"""How readers order them; others follow."""


class Export(Component):
    """A dataset in a layout that other tools read: written, loaded back, compared, and only then there."""

    layout: str
    """How it is written, by name: `imagefolder`, `webdataset`, `parquet`, `diffusiondb`; see `imagemill layouts`."""
    where: str = ""
    """What is true of the images to export, such as `alignment > 0.28 and flat = 0`; all without it."""
    image_format: ImageFormat | None = None
    """The format of the exported pictures; as in the dataset when not given."""
    quality: int | None = Field(None, ge=1, le=100)
    """Of JPEG [95] and WebP [lossless]."""
    max_side: int | None = Field(None, ge=1, le=16_384)
    """Pixels that width and height may have; larger pictures are made smaller."""

    def check(self) -> None:
        """Raise UsageError for parameters that do not go together."""
        if self.quality is not None and self.image_format not in {"jpeg", "webp"}:
            raise UsageError(
                "export: `quality` has no effect without a format that has one", "give `image_format` as jpeg or webp"
            )

    @property
    def conversion(self) -> Conversion:
        """What becomes of pictures."""
        return Conversion(self.image_format, self.quality, self.max_side)


class Stale(UsageError):
    """The output is an earlier export of the same kind: from another dataset, or the dataset has changed since."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An export that has been checked before anything is written."""

    datasets: Mapping[str, Dataset]
    """By split."""
    kept: Mapping[str, frozenset[str] | None]
    """The images of each split to export, by file name; None for all."""
    options: Export
    layout: Layout
    output: Path
    schema: pa.Schema
    mark: dict[str, Any]
    """What it is an export of."""

    @property
    def images(self) -> dict[str, int]:
        """By split."""
        return {split: found["images"] for split, found in self.mark["splits"].items()}

    @property
    def done(self) -> bool:
        """Whether the output is this export already."""
        return _mark_of(self.output) == self.mark


def check_parameters(parameters: Mapping[str, Any]) -> tuple[Export, Layout]:
    """What parameters say of the export, and the layout that they name with its own; raises UsageError."""
    options = Export.parse({name: value for name, value in parameters.items() if name in Export.model_fields}, "export")
    options.check()
    if options.where:
        Expression.parse(options.where)
    others = {name: value for name, value in parameters.items() if name not in Export.model_fields}
    return options, find_layout(options.layout, others)


def prepare(source: Dataset | str | Path, output: str | Path, parameters: Mapping[str, Any]) -> Prepared:
    """Check what there is to export, how and where; nothing is written.

    Raises UsageError, Stale among them, and LockedError when another process is writing the dataset.
    """
    options, layout = check_parameters(parameters)
    datasets = _datasets(source)
    output = Path(output)
    schema = _schema(datasets)
    kept = {
        split: names_where(dataset, options.where) if options.where else None for split, dataset in datasets.items()
    }
    given = {name: value for name, value in options.to_table().items() if name != "layout" and value != ""}
    mark = {
        "format": 1,
        "layout": layout.component_name(),
        "parameters": {**given, **layout.to_table()},
        "splits": {
            split: {
                "images": len(dataset if (names := kept[split]) is None else names),
                "fingerprint": fingerprint(dataset),
            }
            for split, dataset in datasets.items()
        },
    }
    _check_output(output, mark, datasets)
    return Prepared(datasets, kept, options, layout, output, schema, mark)


def execute(prepared: Prepared) -> list[str]:
    """Write, load back, compare and publish; the same call after any interruption begins again.

    Returns what the layout could not hold in its usual place, a sentence each.

    Raises OutOfSpace, and ImagemillError when what is loaded back differs; nothing is left then.
    """
    if prepared.done:
        return []
    output = prepared.output.resolve()
    work = output.with_name(f".{output.name}.tmp")
    make_folder(output.parent)
    with locked(work):
        try:
            _clear(work)
            with explained(prepared.output):
                content = _content(prepared, work / _CONVERTED)
                prepared.layout.write(content, work)
                (work / _MARK).write_text(json.dumps(prepared.mark, indent=1) + "\n")
                write_manifest(work)
                sync_files(work)
            _compare(content, prepared.layout, work)
            notes = prepared.layout.notes(content)
            for split, dataset in prepared.datasets.items():
                if fingerprint(dataset) != prepared.mark["splits"][split]["fingerprint"]:
                    raise ImagemillError(
                        f"`{dataset.folder}` has changed while it was exported", "give the same command again"
                    )
            with explained(prepared.output):
                shutil.rmtree(work / ".imagemill")
                work.rename(output)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    sync_folder(output.parent)
    return notes


def export(dataset: Dataset | str | Path, layout: str, output: str | Path, **parameters: Any) -> Path:
    """Write a dataset in a layout that other tools read, and return its folder.

    `layout` is a name as `imagemill layouts` lists it, and `parameters` are its own and those of `Export`; a folder of
    datasets, such as `train` and `test`, becomes splits. What was written is loaded back and compared before it
    appears. The same call again does nothing while the dataset is the same. Raises UsageError for anything that cannot
    be right, LockedError and OutOfSpace.
    """
    prepared = prepare(dataset, output, {"layout": layout, **parameters})
    execute(prepared)
    return prepared.output


@dataclass(frozen=True, slots=True)
class _Pictures:
    """The images of a dataset in plan order, read anew each time."""

    dataset: Dataset
    kept: frozenset[str] | None

    def __iter__(self) -> Iterator[Picture]:
        for part in self.dataset.parts:
            for record in sorted(part.records(), key=lambda record: order_of(record["file_name"])):
                if self.kept is None or record["file_name"] in self.kept:
                    yield Picture(part.folder / record["file_name"], record)


def _datasets(source: Dataset | str | Path) -> dict[str, Dataset]:
    """The datasets to export, by split; raises UsageError."""
    if isinstance(source, Dataset):
        found = {"train": source}
    else:
        folder = Path(source)
        inside = sorted(path.parent.name for path in folder.glob("*/job.toml") if _is_dataset(path.parent))
        if _is_dataset(folder) or not inside:
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


def _is_dataset(folder: Path) -> bool:
    """Whether a folder is one; a `job.toml` alone may also be a job file."""
    return (folder / "job.toml").is_file() and (folder / ".imagemill").is_dir()


def _check_output(output: Path, mark: Mapping[str, Any], datasets: Mapping[str, Dataset]) -> None:
    """Raise UsageError for an output that is something else."""
    hint = "choose another output folder, or delete it"
    if any(map(_is_dataset, [output.resolve(), *output.resolve().parents])):
        raise UsageError(f"`{output}` is a dataset, or inside of one", "choose another output folder")
    if output.exists() and not output.is_dir():
        raise UsageError(f"`{output}` is a file", "choose another output folder")
    if any((folder / _MARK).is_file() for folder in output.resolve().parents):
        raise UsageError(f"`{output}` is inside of an export", "choose another output folder")
    before = _mark_of(output)
    if before is None and output.is_dir() and any(output.iterdir()):
        raise UsageError(f"`{output}` is not empty and holds no export", "choose another output folder")
    if before == mark:
        check_manifest(output)
    if before is None or before == mark:
        return
    if before.get("layout") != mark["layout"]:
        raise UsageError(f"`{output}` is in the layout `{before.get('layout')}`", hint)
    if before.get("parameters") != mark["parameters"]:
        raise UsageError(f"`{output}` was exported with other parameters: {_said(before.get('parameters'))}", hint)
    folders = ", ".join(f"`{dataset.folder}`" for dataset in datasets.values())
    raise Stale(f"`{output}` was exported from another dataset, or {folders} has changed since", hint)


def _said(parameters: Any) -> str:
    """Parameters as a user reads them."""
    return ", ".join(f"`{name}` {value}" for name, value in (parameters or {}).items())


def _mark_of(output: Path) -> dict[str, Any] | None:
    """What a folder is an export of; None when it is none."""
    try:
        value = json.loads((output / _MARK).read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _schema(datasets: Mapping[str, Dataset]) -> pa.Schema:
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


def _content(prepared: Prepared, converted: Path) -> Content:
    """What there is to export; pictures are converted into a folder."""
    front, text = _card(prepared)
    whole = json.dumps(prepared.mark, sort_keys=True).encode()
    splits: dict[str, Iterable[Picture]] = {
        split: _Pictures(dataset, prepared.kept[split]) for split, dataset in prepared.datasets.items()
    }
    if conversion := prepared.options.conversion:
        splits = {split: convert(pictures, conversion, converted / split) for split, pictures in splits.items()}
    return Content(
        splits=splits,
        schema=prepared.schema,
        front=front,
        text=text,
        fingerprint=hashlib.sha256(whole).hexdigest(),
    )


def _card(prepared: Prepared) -> tuple[str, str]:
    """Front matter and text of the export's card, out of those of the datasets."""
    cards = {split: render_card(dataset).split("---\n", 2) for split, dataset in prepared.datasets.items()}
    _, front, _ = next(iter(cards.values()))
    total = sum(prepared.images.values())
    front = re.sub(r"^(configs|size_categories):\n([- ].*\n)*", "", front, flags=re.MULTILINE)
    front += f"size_categories:\n- {size_category(total)}\n"
    sections = {split: _sections(card[2]) for split, card in cards.items()}
    heads = {split: found.pop("").split("\n\n") for split, found in sections.items()}
    for split, head in heads.items():
        if prepared.kept[split] is not None:
            head[1] = f"{prepared.images[split]:,} of {head[1]}"
    name, made, *loading = next(iter(heads.values()))
    if len(cards) > 1:
        rows = [f"| `{split}` | {head[1]} |" for split, head in heads.items()]
        made = "\n".join(
            [f"{total:,} images in {len(cards)} splits.\n", "| split | what it holds |", "|---|---|", *rows]
        )
    paragraphs = [name, made, *_changes(prepared.options)]
    paragraphs += [*(part.replace('split="train"', f'split="{next(iter(cards))}"') for part in loading)]
    for title in dict.fromkeys(title for found in sections.values() for title in found):
        texts = {split: found.get(title, "") for split, found in sections.items()}
        paragraphs.append(f"## {title}")
        if len(set(texts.values())) == 1:
            paragraphs.append(next(iter(texts.values())))
        else:
            paragraphs += [f"### {split}\n\n{text}" for split, text in texts.items() if text]
    return front, "\n\n".join(paragraphs) + "\n"


def _changes(options: Export) -> Iterator[str]:
    """What a card says of an export that is not the dataset as it is."""
    if options.where:
        yield f"Here are the images of which `{options.where}` is true."
    if options.conversion:
        yield (
            f"The pictures were converted: {options.conversion}. `width`, `height` and `sha256` are those of the files "
            "here; all other columns, and the recipe in each file, tell of the images as they were made."
        )


def _sections(text: str) -> dict[str, str]:
    """What a dataset's card says by title, the first "", without what it says of files that are not exported."""
    parts = text.strip().replace(", files in `.imagemill/sources`", "").split("\n\n")
    kept = [part for part in parts if not re.search(r"`job\.toml`|`\.imagemill/", part)]
    first, *others = re.split(r"^## ", "\n\n".join(kept), flags=re.MULTILINE)
    titled = (part.partition("\n") for part in others)
    return {"": first.strip(), **{title: body.strip() for title, _, body in titled if body.strip()}}


def _compare(content: Content, layout: Layout, folder: Path) -> None:
    """Raise ImagemillError when what is read back is not what was exported."""
    for split, pictures in content.splits.items():
        for picture, loaded in zip_longest(pictures, layout.read(folder, split)):
            if picture is None or loaded is None:
                raise _different(f"`{split}` has {'more' if picture is None else 'fewer'} images than the dataset")
            problem = _difference(replace(picture, record=layout.exported(picture.record)), loaded)
            if problem:
                raise _different(f"`{picture.record['file_name']}` in `{split}`: {problem}")


def _different(problem: str) -> ImagemillError:
    return ImagemillError(f"what was written is not what was exported: {problem}", "nothing is left of it; try again")


def _difference(picture: Picture, loaded: Loaded) -> str:
    """What is not the same; raises ImagemillError when the dataset's own file is damaged."""
    if loaded.record != picture.record or _types(loaded.record) != _types(picture.record):
        names = {*picture.record, *loaded.record}
        wrong = [name for name in names if repr(picture.record.get(name)) != repr(loaded.record.get(name))]
        return f"the column `{min(wrong, default='')}` differs"
    for name in picture.files:
        data = picture.read(name)
        if name == picture.record["file_name"]:
            check_whole(picture, data)
        if loaded.files.get(name) != data:
            return f"the file `{name}` differs"
    return ""


def _types(record: Mapping[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in record.items()}


def _clear(folder: Path) -> None:
    """Remove what an interrupted export has left."""
    shutil.rmtree(folder / _CONVERTED, ignore_errors=True)
    for path in folder.iterdir():
        if path.name != ".imagemill":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
