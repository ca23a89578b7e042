"""A dataset is written in a layout that other tools read, loaded back and compared."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from imagemill.component import Component, separated
from imagemill.dataset.card import Told, exported_card
from imagemill.dataset.columns import fingerprint
from imagemill.dataset.files import explained, make_folder, sync_folder
from imagemill.dataset.folder import Dataset
from imagemill.dataset.lock import locked
from imagemill.dataset.manifest import MARK, read_mark, sync_files, write_manifest
from imagemill.errors import ImagemillError, UsageError
from imagemill.exporting.comparing import compare, tell_sizes
from imagemill.exporting.contents import Pictures, SubsetPictures, added_steps, find_datasets, schema_of
from imagemill.exporting.converting import Conversion, convert
from imagemill.exporting.marks import check_output
from imagemill.exporting.signing import Algorithm, Signing, find_signing
from imagemill.expressions import Expression
from imagemill.images import ImageFormat
from imagemill.layouts.base import Content, Layout, Picture, find_layout
from imagemill.licenses import check_license
from imagemill.records import SEED_LIMIT
from imagemill.selecting.subsets import draw_subsets, parse_subsets
from imagemill.selecting.where import names_where

if TYPE_CHECKING:
    import pyarrow as pa

_CONVERTED = ".imagemill/converted"
"""Where converted pictures are until they are exported."""
_CHANGING = frozenset({"source_sha256", "left_out"})
"""What a selection says of its source, which may change."""


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
    subsets: tuple[str, ...] = ()
    """Smaller ones inside, such as `first_1k,random_5k,random_1m`, which `load_dataset` takes as names."""
    subset_seed: int = Field(0, ge=0, le=SEED_LIMIT - 1)
    """Decides what random subsets draw."""

    pretty_name: str = ""
    """What the card calls the dataset; made of table and model when not given."""
    license: str = ""
    """License of the dataset, by Hugging Face's id such as `cc-by-4.0`; the model's when not given."""
    license_link: str = ""
    """Where a license stands that has no such id."""
    language: tuple[str, ...] = ()
    """What the prompts are written in, such as `en` or `en,pt-BR`."""
    citation: str = ""
    """How to cite the dataset, as BibTeX; made of its name when not given."""
    sign_certificate: str | None = None
    """PEM file with the certificate chain, the signer's first, that C2PA content credentials are signed with."""
    sign_key: str | None = None
    """PEM file with its private key, as PKCS #8 without a passphrase."""
    sign_algorithm: Algorithm | None = None
    """What the key is made for [es256]."""

    _separated = field_validator("subsets", "language", mode="before")(separated)

    def check(self) -> None:
        """Raise UsageError for parameters that do not go together."""
        if self.quality is not None and self.image_format not in {"jpeg", "webp"}:
            raise UsageError(
                "export: `quality` has no effect without a format that has one", "give `image_format` as jpeg or webp"
            )
        parse_subsets(self.subsets)
        check_license(self.license, self.license_link)
        if self.citation and not re.fullmatch(r"\s*@\w+\s*\{[^,]+,.*\}\s*", self.citation, re.DOTALL):
            raise UsageError(
                f"export: `citation`: no BibTeX entry, got: `{self.citation.strip()[:60]}`",
                "write `@misc{name, title={…}, year={…}}`",
            )
        wrong = [code for code in self.language if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", code)]
        if wrong:
            raise UsageError(f"export: `language`: no code of a language: `{wrong[0]}`", "write `en`, or `pt-BR`")
        if bool(self.sign_certificate) != bool(self.sign_key):
            raise UsageError("export: `sign_certificate` and `sign_key` need each other", "give both, or neither")
        if self.sign_algorithm and not self.sign_key:
            raise UsageError("export: `sign_algorithm` has no effect without `sign_key`", "leave it out")
        self.signing()

    @property
    def conversion(self) -> Conversion:
        """What becomes of pictures."""
        return Conversion(self.image_format, self.quality, self.max_side)

    def signing(self) -> Signing | None:
        """What signs pictures; raises UsageError for a certificate or a key that cannot."""
        if not (self.sign_certificate and self.sign_key):
            return None
        return find_signing(self.sign_certificate, self.sign_key, self.sign_algorithm or "es256")


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
    subsets: Mapping[str, frozenset[str]]
    """The images of each, by file name without its extension."""
    signing: Signing | None = None
    address: str = ""
    """How readers will name it, where it does not stay in a folder."""

    @property
    def images(self) -> dict[str, int]:
        """By split."""
        return {split: found["images"] for split, found in self.mark["splits"].items()}

    def bytes(self) -> int | None:
        """About how many its pictures have, as those of a few parts tell; None where they become others."""
        if self.options.conversion:
            return None
        return round(sum(count * _bytes_each(self.datasets[split]) for split, count in self.images.items()))

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the export."""
        return hashlib.sha256(json.dumps(self.mark, sort_keys=True).encode()).hexdigest()

    @property
    def card(self) -> tuple[str, str]:
        """Front matter and text of its card, without what only the layout knows."""
        return _card(self)

    @property
    def done(self) -> bool:
        """Whether the output is this export already."""
        return read_mark(self.output) == self.mark


def check_parameters(parameters: Mapping[str, Any]) -> tuple[Export, Layout]:
    """What parameters say of the export, and the layout that they name with its own; raises UsageError."""
    options = Export.parse({name: value for name, value in parameters.items() if name in Export.model_fields}, "export")
    options.check()
    others = {name: value for name, value in parameters.items() if name not in Export.model_fields}
    layout = find_layout(options.layout, others)
    layout.check_conversion(options.image_format, options.quality)
    hidden = layout.hidden.intersection(Expression.parse(options.where).columns if options.where else ())
    if hidden:
        raise UsageError(
            f"export: `where` would tell what stands in `{min(hidden)}`, which nobody may learn from this export",
            "`imagemill select` first, and export what it has kept",
        )
    return options, layout


def prepare(source: Dataset | str | Path, output: str | Path, parameters: Mapping[str, Any]) -> Prepared:
    """Check what there is to export, how and where; nothing is written.

    Raises UsageError, Stale among them, and LockedError when another process is writing the dataset.
    """
    options, layout = check_parameters(parameters)
    datasets = find_datasets(source)
    output = Path(output)
    schema = schema_of(datasets)
    kept = {
        split: names_where(dataset, options.where) if options.where else None for split, dataset in datasets.items()
    }
    subsets = _subsets(datasets, kept, options)
    given = {name: value for name, value in options.to_table().items() if name != "layout" and value not in ("", [])}
    if subsets:
        given["subsets"] = list(subsets)
    else:
        given.pop("subset_seed")
    if signing := options.signing():
        # Whose key it is, not where it lies.
        given.pop("sign_key")
        given |= signing.parameters
    mark = {
        "format": 1,
        "layout": layout.component_name(),
        "parameters": {**given, **layout.to_table()},
        "splits": {
            split: {
                "images": len(dataset if (names := kept[split]) is None else names),
                "fingerprint": fingerprint(dataset),
                "origin": _origin(dataset),
                **added_steps(dataset, signing),
            }
            for split, dataset in datasets.items()
        },
    }
    check_output(output, mark, datasets)
    return Prepared(datasets, kept, options, layout, output, schema, mark, subsets, signing)


def _bytes_each(dataset: Dataset) -> float:
    """The bytes of an image and what belongs to it, on average of the first, the middle and the last part."""
    parts, images, total = dataset.parts, 0, 0
    for place in {0, len(parts) // 2, len(parts) - 1} if parts else ():
        images += len(parts[place].records())
        total += sum(file.stat().st_size for file in parts[place].folder.iterdir() if file.name != "metadata.jsonl")
    return total / max(1, images)


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
            sizes = compare(content, prepared.layout, work)
            with explained(prepared.output):
                if prepared.address:
                    card = work / "README.md"
                    card.write_text(card.read_text().replace("path/to/this/folder", prepared.address))
                tell_sizes(work, prepared.images, sizes)
                (work / MARK).write_text(json.dumps(prepared.mark, indent=1) + "\n")
                write_manifest(work)
                sync_files(work)
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


def _origin(dataset: Dataset) -> str:
    """A hash that stays when a dataset is scored, captioned or loses images, and that no other one has."""
    job = dataset.job
    chosen = [step for step in job["steps"][1:] if step["operator"] == "select"]
    told = [{name: step[name] for name in sorted(step) if name not in _CHANGING} for step in chosen]
    text = json.dumps([job["input"], job["steps"][0], told], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _subsets(
    datasets: Mapping[str, Dataset], kept: Mapping[str, frozenset[str] | None], options: Export
) -> dict[str, frozenset[str]]:
    """The images of each subset; raises UsageError for several splits, or too few images."""
    wanted = parse_subsets(options.subsets)
    if wanted and len(datasets) > 1:
        raise UsageError("export: `subsets` are those of a dataset without splits", "export each split alone")
    ((split, dataset),) = list(datasets.items())[:1]
    return draw_subsets(dataset, wanted, options.subset_seed, kept[split])


def _content(prepared: Prepared, converted: Path) -> Content:
    """What there is to export; pictures are converted into a folder."""
    front, text = _card(prepared)
    splits: dict[str, Iterable[Picture]] = {
        split: Pictures(dataset, prepared.kept[split]) for split, dataset in prepared.datasets.items()
    }
    conversion, signing = prepared.options.conversion, prepared.signing
    if conversion or signing:
        splits = {
            split: convert(pictures, conversion, converted / split, signing and signing.of(prepared.datasets[split]))
            for split, pictures in splits.items()
        }
    return Content(
        splits=splits,
        schema=prepared.schema,
        front=front,
        text=text,
        fingerprint=f"export {prepared.fingerprint[:16]}",
        subsets={name: SubsetPictures(next(iter(splits.values())), stems) for name, stems in prepared.subsets.items()},
    )


def _card(prepared: Prepared) -> tuple[str, str]:
    """Front matter and text of the export's card."""
    options = prepared.options
    told = Told(options.pretty_name, options.license, options.license_link, options.language, options.citation)
    changes = list(_changes(prepared))
    layout = prepared.layout
    return exported_card(
        prepared.datasets,
        prepared.images,
        told,
        changes,
        hidden=layout.hidden,
        layout=layout.component_name(),
        caption_column=str(layout.to_table().get("caption_column", "")),
        where=options.where,
    )


def _changes(prepared: Prepared) -> Iterator[str]:
    """What a card says of an export that is not the dataset as it is."""
    options, signing = prepared.options, prepared.signing
    if options.where:
        yield f"Here are the images of which `{options.where}` is true."
    if options.conversion:
        yield (
            f"The pictures were converted: {options.conversion}. `width`, `height` and `sha256` are those of the files "
            "here; all other columns, and the recipe in each file, tell of the images as they were made."
        )
    if signing:
        yield (
            f"The pictures that were made are signed by {signing.subject} (certificate SHA-256 "
            f"`{signing.certificate_sha256}`): their C2PA content credentials say that an AI made them. `sha256` is "
            "that of the signed file, whose pixels are the same; signed once more, it would have other bytes."
        )


def _clear(folder: Path) -> None:
    """Remove what an interrupted export has left."""
    shutil.rmtree(folder / _CONVERTED, ignore_errors=True)
    for path in folder.iterdir():
        if path.name != ".imagemill":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
