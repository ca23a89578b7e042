"""Pictures in another format or size, for an export."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.embedded import carried
from imagemill.environment import cores
from imagemill.errors import ImagemillError, UsageError
from imagemill.images import (
    EXTENSIONS,
    ImageFormat,
    encode,
    format_of,
    mask_of,
    open_image,
    size_of,
    upright,
)
from imagemill.layouts.base import Picture, renamed
from imagemill.records import Record, to_json

if TYPE_CHECKING:
    from PIL import Image

    from imagemill.exporting.signing import Signing

_TOGETHER = 1_000
"""Pictures in a folder."""
_RECORDS = "records.jsonl"


@dataclass(frozen=True, slots=True)
class Conversion:
    """Which format and size pictures are to have; None leaves them as they are."""

    image_format: ImageFormat | None = None
    quality: int | None = None
    """Of JPEG and WebP; None for 95 and lossless."""
    max_side: int | None = None

    def __bool__(self) -> bool:
        return bool(self.image_format or self.max_side)

    def __str__(self) -> str:
        named = {None: "", "png": "PNG", "jpeg": "JPEG", "webp": "WebP"}[self.image_format]
        quality = f"of quality {self.quality}" if self.quality else ""
        side = f"at most {self.max_side:,} pixels on a side" if self.max_side else ""
        return ", ".join(filter(None, [f"{named} {quality}".strip(), side]))

    def apply(self, data: bytes, mask: bool = False) -> bytes:
        """Convert a file with its recipe and its mark; one that fits is returned as it is.

        A mask stays lossless. Raises ValueError for what is no whole picture.
        """
        from PIL import Image

        image, before = open_image(data), format_of(data)
        after: ImageFormat = "png" if mask else self.image_format or before
        size = self._size(size_of(data))
        lossy = self.quality is not None and after != "png"
        if after == before and size == size_of(data) and not lossy:
            return data
        picture = mask_of(data) if mask else upright(image)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.NEAREST if mask else Image.Resampling.LANCZOS)
        if mask:
            return _saved(picture, "png")
        return self._encoded(picture, after, image)

    def _size(self, size: tuple[int, int]) -> tuple[int, int]:
        longest = max(size)
        if self.max_side is None or longest <= self.max_side:
            return size
        width, height = (max(1, round(side * self.max_side / longest)) for side in size)
        return width, height

    def _encoded(self, picture: Image.Image, image_format: ImageFormat, original: Image.Image) -> bytes:
        import numpy as np

        pixels = np.asarray(picture)
        said = carried(original)
        if self.quality is None or image_format == "png":
            return encode(pixels, image_format, **said)
        # What a file says beside its pixels, taken from the smallest one that says it.
        beside = open_image(encode(pixels[:1, :1], image_format, **said)).info
        options: dict[str, Any] = {name: beside[name] for name in ("exif", "xmp") if name in beside}
        if image_format == "jpeg":
            options["subsampling"] = 0
        return _saved(picture, image_format, quality=self.quality, **options)


@dataclass(frozen=True, slots=True)
class Converted:
    """Pictures that have been converted into a folder, read anew each time."""

    folder: Path

    def __iter__(self) -> Iterator[Picture]:
        for place in sorted(self.folder.iterdir()):
            with (place / _RECORDS).open(encoding="utf-8") as lines:
                for record in map(json.loads, lines):
                    yield Picture(place / record["file_name"], record)


def convert(
    pictures: Iterable[Picture], conversion: Conversion, folder: Path, signing: Signing | None = None
) -> Converted:
    """Write pictures into a folder, converted, then signed; their records say name, size and hash of the new files.

    Raises OSError, ImagemillError for a picture that is damaged, and UsageError where there is nothing to sign.
    """
    waiting = iter(pictures)
    number = 0
    with ThreadPoolExecutor(cores()) as pool:
        while chunk := list(islice(waiting, _TOGETHER)):
            place = folder / f"{number:06d}"
            place.mkdir(parents=True)
            records = pool.map(partial(_convert, conversion, signing, place), chunk)
            with (place / _RECORDS).open("w", encoding="utf-8") as lines:
                lines.writelines(f"{to_json(record)}\n" for record in records)
            number += 1
    if signing and not signing.signed:
        raise UsageError(
            "there is nothing to sign: all pictures were taken in as they are, and none of them was made here",
            "leave out `sign_certificate` and `sign_key`",
        )
    return Converted(folder)


def check_whole(picture: Picture, data: bytes) -> None:
    """Raise ImagemillError when a picture's file does not hold the image that was made."""
    if hashlib.sha256(data).hexdigest() != picture.record["sha256"]:
        raise ImagemillError(
            f"`{picture.path}` is not the image that was made (sha256)",
            "`imagemill verify --repair` gives up what is damaged",
        )


def _convert(conversion: Conversion, signing: Signing | None, place: Path, picture: Picture) -> Record:
    names: dict[str, str] = {}
    facts: dict[str, Any] = {}
    for name in picture.files:
        before = picture.read(name)
        own = name == picture.record["file_name"]
        if own:
            check_whole(picture, before)
        try:
            mask = name == picture.record.get("mask_file_name")
            after = conversion.apply(before, mask) if conversion else before
            if own and signing:
                after = signing.sign(picture, before, after)
        except ValueError as error:
            raise ImagemillError(
                f"`{picture.path.with_name(name)}`: {error}", "`imagemill verify` tells what is damaged"
            ) from None
        names[name] = f"{Path(name).stem}.{EXTENSIONS[format_of(after)]}"
        if after is before:
            picture.place(name, place / names[name])
        else:
            (place / names[name]).write_bytes(after)
        if own:
            width, height = size_of(after)
            facts = {"width": width, "height": height, "sha256": hashlib.sha256(after).hexdigest()}
    return {**renamed(picture.record, names.__getitem__), **facts}


def _saved(picture: Image.Image, image_format: ImageFormat, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format.upper(), **options)
    return buffer.getvalue()
