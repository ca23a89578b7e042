"""What can be imported: an export of ours, a layout as others write it, pictures alone, a dataset of the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from imagemill.component import component_names, find_component
from imagemill.dataset.folder import is_dataset
from imagemill.dataset.manifest import MANIFEST, MARK, check_manifest, read_mark
from imagemill.environment import means_path
from imagemill.errors import ImagemillError, MissingExtra, UsageError, did_you_mean
from imagemill.foreign.splits import in_order
from imagemill.foreign.tables import is_table, read_batches
from imagemill.hub import license_of
from imagemill.layouts.base import Layout, Loaded, find_layout

_FORMAT = 1
"""Of what an export says of itself."""
_PLAINEST = "imagefolder"
"""Tried last: there are pictures in files of the others too."""
_HUB = "hf://datasets/"
_DAMAGED = (
    f"get the export again, or copy it without its files `{MARK}` and `{MANIFEST}`: the copy is imported as it is"
)
_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet")


@dataclass(frozen=True, slots=True)
class Importable:
    """A source that has been recognised."""

    name: str
    """What records of it may say: never where it lies on this machine."""
    layout: str
    """Its layout; `huggingface` for a dataset of the hub."""
    splits: Mapping[str, Callable[[], Iterator[Loaded]]]
    """What reads each split from its start."""
    divided: bool
    """Whether its splits become a folder of datasets."""
    exact: bool = False
    """Whether it is an export of ours, whose files must be those that were exported."""
    steps: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    """What was added to the images of each split, where it is an export of ours."""
    license: str = "unknown"
    """As its card says it."""


def open_source(source: str | Path, layout: str | None = None, configuration: str = "") -> Importable:
    """Recognise a source, or take it for one in the layout that is named; raises UsageError."""
    if layout is not None and layout not in component_names("layouts"):
        known = component_names("layouts")
        raise UsageError(
            f"import: `layout`: there is no `{layout}` in layouts",
            did_you_mean(layout, known) or f"known: {', '.join(known)}",
        )
    path = Path(source)
    if not path.exists():
        if repository := _repository(str(source)):
            if layout:
                raise UsageError("import: `layout` has no meaning for a dataset of the hub", "leave it out")
            return _from_hub(repository, configuration)
        raise UsageError(f"there is no `{source}`", "check the path; a dataset of the hub is `hf://datasets/user/name`")
    if configuration:
        raise UsageError("import: `configuration` is for datasets of the hub", "leave it out")
    if any(map(is_dataset, (path, *path.glob("*/")))):
        raise UsageError(f"`{source}` is a dataset already", "copy the folder, or `imagemill select` from it")
    name = path.resolve().name or "source"
    told = license_of(path)
    if layout is None and (mark := read_mark(path)):
        return _from_export(path, mark, name, told)
    names = [layout] if layout else sorted(component_names("layouts"), key=lambda one: (one == _PLAINEST, one))
    for one in names:
        found = find_component("layouts", one)
        if issubclass(found, Layout) and (splits := found.splits(path)):
            return Importable(
                name=name,
                layout=one,
                splits={split: partial(found.foreign, path, split) for split in splits},
                divided=len(splits) > 1,
                license=told,
            )
    if layout:
        raise UsageError(f"`{source}` is not in the layout `{layout}`, or has no picture", "leave `--layout` out")
    if path.is_file() and re.search(r"\.(t?gz|bz2|xz|zst)$", path.name.lower()):
        raise UsageError(f"`{source}` is packed twice, or in a way that cannot be read by place", "unpack it first")
    if path.is_file() and path.suffix.lower() in {".parquet", ".arrow"} and not is_table(path):
        raise UsageError(f"`{source}` cannot be read as a table: it is damaged, or none", "download it again")
    if path.is_file() and path.suffix.lower() in _TABLES:
        raise UsageError(
            f"`{source}` is a table without pictures",
            "`imagemill augment`, `edit` or `caption` read those that it names",
        )
    raise UsageError(
        f"`{source}` holds no picture", "name a folder or an archive of PNG, JPEG or WebP files, or an export"
    )


def _from_export(path: Path, mark: Mapping[str, Any], name: str, told: str) -> Importable:
    """An export of ours, read back as it was compared when it was written; raises UsageError where it has changed."""
    try:
        layout, splits = str(mark["layout"]), dict(mark["splits"])
        parameters = dict(mark["parameters"])
        steps = {split: [dict(step) for step in found.get("steps", ())] for split, found in splits.items()}
        if not all(re.fullmatch(r"\w+", split, re.ASCII) for split in splits):
            raise ValueError("a split becomes a folder")
        if mark["format"] != _FORMAT or not all("operator" in step for found in steps.values() for step in found):
            raise ValueError("another version has written it")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(f"`{path / MARK}` cannot be read", "name the layout with `--layout`") from None
    check_manifest(path, _DAMAGED)
    known = find_component("layouts", layout).model_fields
    found = find_layout(layout, {key: value for key, value in parameters.items() if key in known})
    return Importable(
        name=name,
        layout=layout,
        splits={split: partial(found.read, path, split) for split in splits},
        divided=list(splits) != ["train"],
        exact=True,
        steps=steps,
        license=told,
    )


def _repository(source: str) -> str:
    """The name of a dataset of the hub, with `@` and a revision; empty where it can be none."""
    name = source.removeprefix(_HUB)
    if name == source and (source.startswith("hf://") or means_path(source)):
        return ""
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name) else ""


def _from_hub(repository: str, configuration: str) -> Importable:
    """A dataset of the hub, as the package `datasets` brings it here."""
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "datasets") from None
    name, _, revision = repository.partition("@")
    quiet = not datasets.utils.logging.is_progress_bar_enabled()
    try:
        datasets.disable_progress_bars()
        found = datasets.load_dataset(name, configuration or None, revision=revision or None)
    except ValueError as error:
        raise UsageError(
            f"`{repository}` cannot be loaded: {error}", "give `configuration` where it has several"
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever its many readers raise
        text = f"`{repository}` cannot be loaded: {type(error).__name__}: {error}"
        raise ImagemillError(text, "check its name and the network; `hf auth login` for one that is private") from None
    finally:
        if not quiet:
            datasets.enable_progress_bars()
    schemas = {split: one.features.arrow_schema for split, one in found.items()}
    for split, schema in schemas.items():
        if not any(isinstance(feature, datasets.Image) for feature in found[split].features.values()):
            raise UsageError(f"`{repository}` has no column of images in `{split}`: {', '.join(schema.names)}", "")

    def rows(split: str) -> Iterator[Loaded]:
        features = found[split].features.items()
        one = found[split]
        for column, feature in features:
            if isinstance(feature, datasets.Image):
                one = one.cast_column(column, datasets.Image(decode=False))
        batches = (
            batch for table in one.with_format("arrow").iter(32) for batch in table.combine_chunks().to_batches()
        )
        yield from read_batches(one.features.arrow_schema, batches, split, Path(datasets.config.HF_CACHE_HOME))

    return Importable(
        name=repository,
        layout="huggingface",
        splits={split: partial(rows, split) for split in in_order(found)},
        divided=len(found) > 1,
        license=str(next(iter(found.values())).info.license or "unknown"),
    )
