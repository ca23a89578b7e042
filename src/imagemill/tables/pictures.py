"""Pictures to start from: in a dataset of ours, in a folder, or named by a table; and what is made of each row."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from imagemill.errors import UsageError
from imagemill.records import MADE_KEYS, SOURCE_KEYS, Reject, Sample, columns_of
from imagemill.tables.cells import check_known, listed, nothing
from imagemill.tables.readers import read_source
from imagemill.tables.texts import RawRow

if TYPE_CHECKING:
    from imagemill.tables.columns import PictureTable

IMAGE_NAMES = (
    "image", "images", "file_name", "input_image", "input_images", "source_image", "image_path", "image_file", "path",
)  # fmt: skip

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
_OTHERS = {".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl", ".svg"}
"""Pictures that are not taken, which is said of each."""
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def read_pictures(source: str | Path | Iterable[Any]) -> tuple[Sequence[RawRow], list[Reject], list[str]]:
    """Like `read_source`, also for datasets and folders: their rows have an `image`, a path relative to `base_of`.

    Raises UsageError when the source as a whole cannot be read.
    """
    if not isinstance(source, str | Path):
        return read_source([{"image": item} if _is_picture(item) else item for item in source])
    folder = Path(source)
    if folder.is_file() and folder.suffix.lower() in _SUFFIXES:
        return [RawRow(0, 1, {"image": folder.name}, folder.name)], [], ["image"]
    if not folder.is_dir():
        return read_source(source, pictures=True)
    if (folder / "job.toml").is_file():
        return _read_dataset(folder)
    for name in _METADATA:
        if (folder / name).is_file():
            return read_source(folder / name)
    return _read_folder(folder)


def added_columns(source: object) -> set[str]:
    """The columns of a dataset of ours that were added to it when its images had been made."""
    path = Path(source, "job.toml") if isinstance(source, str | Path) else Path()
    if not path.is_file():
        return set()
    try:
        steps = tomllib.loads(path.read_text())["steps"][1:]
    except (ValueError, KeyError) as error:
        raise UsageError(f"`{path}` cannot be read: {error}", "is it imagemill's?") from None
    return {name for step in steps for kind in ("columns", "scores") for name in step.get(kind, ())}


def base_of(source: str | Path | Iterable[Any]) -> Path:
    """The folder that relative paths of a source start from."""
    if not isinstance(source, str | Path) or str(source) == "-":
        return Path()
    path = Path(source)
    return path if path.is_dir() else path.parent


class Opener:
    """Reads the pictures that a table names."""

    def __init__(self, base: Path, blobs: Mapping[str, bytes]) -> None:
        """Paths start from `base`; `blobs` are pictures that came as bytes, by name."""
        self._base = base
        self._blobs = blobs

    def place(self, name: str) -> bytes | Path:
        """Where a picture is, or its bytes; raises OSError and ValueError."""
        if name in self._blobs:
            return self._blobs[name]
        try:
            path = self._base / Path(name).expanduser()
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "there is no such file", name)
        if not path.is_file():
            raise ValueError("it is not a file")
        return path

    def __call__(self, name: str) -> bytes:
        """Its bytes; raises OSError and ValueError."""
        place = self.place(name)
        return place if isinstance(place, bytes) else place.read_bytes()


def _is_picture(item: object) -> bool:
    """Whether an item given in Python is itself a picture: a path, a file's bytes, or an image of Pillow's."""
    return isinstance(item, str | PurePath | bytes) or hasattr(item, "save")


def _read_dataset(folder: Path) -> tuple[list[RawRow], list[Reject], list[str]]:
    """Every image of a dataset with its prompt and the columns that came from a table or were added later."""
    rows: list[RawRow] = []
    rejects: list[Reject] = []
    names: dict[str, None] = {}
    for metadata in sorted((folder / "images").glob("part-*/metadata.jsonl")):
        # What follows the last line's end is still being written.
        for line in metadata.read_bytes().split(b"\n")[:-1]:
            try:
                record = json.loads(line)
            except ValueError as error:
                text = line.decode(errors="replace")[:1_000]
                rejects.append(Reject(len(rows) + len(rejects) + 1, f"{metadata.parent.name}: not JSON: {error}", text))
                continue
            file = metadata.parent / record["file_name"]
            values = {"id": file.stem, "image": file.relative_to(folder).as_posix(), "prompt": record["prompt"]}
            values |= {name: record[name] for name in columns_of(record) if name not in {*MADE_KEYS, *SOURCE_KEYS}}
            names.update(dict.fromkeys(values))
            rows.append(RawRow(len(rows), len(rows) + len(rejects) + 1, values, file.name))
    return rows, rejects, list(names)


def _read_folder(folder: Path) -> tuple[list[RawRow], list[Reject], list[str]]:
    """Every picture in a folder and below, in order of names; a text file beside each may hold its caption."""
    rows: list[RawRow] = []
    rejects: list[Reject] = []
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    pictures = [path for path in files if path.suffix.lower() in _SUFFIXES | _OTHERS]
    captioned = any(path.with_suffix(".txt").is_file() for path in pictures)
    for number, path in enumerate(pictures):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in _OTHERS:
            rejects.append(Reject(number + 1, "neither a PNG nor a JPEG nor a WebP image", name[:1_000]))
            continue
        values = {"image": name}
        if captioned:
            text = path.with_suffix(".txt")
            values["caption"] = text.read_text("utf-8-sig", errors="replace").strip() if text.is_file() else ""
        rows.append(RawRow(number, number + 1, values, name[:1_000]))
    if not pictures:
        raise UsageError(
            f"`{folder}` holds no picture", "name a folder of PNG, JPEG or WebP files, a dataset, or a table"
        )
    return rows, rejects, ["image", *(["caption"] if captioned else [])]


def is_pictorial(value: object) -> bool:
    """Whether a cell holds a picture itself, and not its name."""
    if value is None or isinstance(value, str | int | float):
        return False  # at once: every cell of a table is asked
    if isinstance(value, list | tuple):
        return any(is_pictorial(item) for item in value if not isinstance(item, list | tuple))
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes)
    return isinstance(value, bytes) or hasattr(value, "save")


def _as_png(image: Any) -> bytes:
    """The file of an image of Pillow's; raises ValueError."""
    buffer = io.BytesIO()
    try:
        if image.mode not in {"1", "L", "LA", "P", "RGB", "RGBA"} and not image.mode.startswith("I;16"):
            image = image.convert("RGB")
        image.save(buffer, "PNG")
    except (OSError, ValueError) as error:
        raise ValueError(f"the image cannot be read: {error}") from None
    return buffer.getvalue()


class PictureColumns:
    """Which columns name pictures to start from, and what is made of each row."""

    def __init__(self, names: list[str], options: PictureTable, talk: list[str]) -> None:
        self._options = options
        self.blobs: dict[str, bytes] = {}
        """Pictures that came as bytes, by the name they got."""
        self.image = self._image_column(names, talk)
        self.mask: str | None = getattr(options, options.mask_parameter) if options.mask_parameter else None
        for column, parameter in ((self.image, "image_column"), (self.mask, options.mask_parameter)):
            if column is not None:
                check_known([column], names, parameter)
        self.used = {column for column in (self.image, self.mask) if column is not None}

    def _image_column(self, names: list[str], talk: list[str]) -> str:
        if self._options.image_column:
            return self._options.image_column
        for wanted in IMAGE_NAMES:
            if wanted in names:
                talk.append(f"pictures come from the column `{wanted}`")
                return wanted
        raise UsageError(
            f"no column is called {listed(IMAGE_NAMES[:3])}; there is: {listed(names)}",
            "name the column with the pictures with `--image-column`",
        )

    def samples(self, values: Mapping[str, Any], texts: list[str], wanted: bool) -> tuple[Sample, ...]:
        """What is made of a row with these texts; raises ValueError with the reason when nothing can be.

        `wanted`: the table has a column with texts, so that every row must have one.
        """
        options = self._options
        sources = self._references(values.get(self.image))
        if not sources:
            raise ValueError("no image")
        mask = ""
        if self.mask is not None:
            masks = self._references(values.get(self.mask))
            if len(masks) != 1:
                raise ValueError(f"{len(masks)} masks where one is wanted" if masks else "no mask")
            (mask,) = masks
        if options.makes_texts:
            texts = []
        elif wanted and options.texts_needed and not texts:
            raise ValueError(f"empty {options.text_parameter.removesuffix('_column')}")
        if options.conversations:
            if mask and len(texts) > 1:
                raise ValueError(f"{len(texts)} turns with one mask")
            return (Sample(tuple(sources), mask, tuple(texts)),)
        if len(texts) not in {0, 1, len(sources)}:
            raise ValueError(f"{len(sources)} images and {len(texts)} {options.text_names[0]}s")
        each = texts if len(texts) == len(sources) else texts * len(sources)
        return tuple(Sample((source,), mask, (each[number],) if each else ()) for number, source in enumerate(sources))

    def _references(self, value: Any) -> list[str]:
        """The pictures of a cell as a table names them; those that came as bytes get the hash of these as a name."""
        if nothing(value):
            return []
        if isinstance(value, list | tuple):
            return [name for item in value for name in self._references(item)]
        if isinstance(value, Mapping) and value.get("bytes") is None:
            value = value.get("path")
            if not isinstance(value, str):
                raise ValueError("the image is neither a path nor a file")
        if isinstance(value, Mapping):
            value = value["bytes"]
        if hasattr(value, "save"):
            value = _as_png(value)
        if isinstance(value, bytes):
            name = f"sha256:{hashlib.sha256(value).hexdigest()}"
            self.blobs[name] = value
            return [name]
        if isinstance(value, PurePath):
            value = str(value)
        if not isinstance(value, str):
            raise ValueError(f"the image is neither a path nor a file but a {type(value).__name__}")
        if "://" in value:
            raise ValueError("the image is behind a URL, and pictures are not fetched from the network")
        return [value]
