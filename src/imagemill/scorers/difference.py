"""How well an edit did what it was asked for, and kept the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from imagemill.encoders import DualEncoder, cosine, encoder_of
from imagemill.errors import UsageError, did_you_mean
from imagemill.images import mask_of, upright
from imagemill.pretrained import Failure
from imagemill.records import Record
from imagemill.scorers.base import Column, Scored, Scorer, ScorerInfo, Seen

if TYPE_CHECKING:
    from PIL import Image

    from imagemill.encoders import Encoder, Vector

_BEFORE = "input_image_file_name"
_WHITE = 128
_SMALLEST = 1e-6
"""Length of a change that has a direction."""


class Difference(DualEncoder, Scorer):
    """Compares the images before and after an edit with each other, and their change with that of the texts."""

    before_column: str = ""
    """Column with the description of the image before the edit; with neither column, the edit's own text is compared
    with an empty one."""
    after_column: str = ""
    """Column with the description of the image after the edit."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if bool(self.before_column) != bool(self.after_column):
            raise ValueError("`before_column` and `after_column` go together")
        return self

    def columns(self) -> Mapping[str, Column]:
        """Three numbers."""
        return {
            "direction_similarity": Column(
                None,
                "cosine between the change of the image and that of the text, from -1 to 1; higher is more like what "
                "was asked for",
            ),
            "image_similarity": Column(
                None, "cosine between the images before and after the edit, from -1 to 1; higher is less changed"
            ),
            "unchanged_similarity": Column(
                None,
                "1 - mean absolute difference of the pixels before and after, from 0 to 1, outside the mask where "
                "there is one and everywhere where there is none; higher is better kept",
            ),
        }

    def info(self) -> ScorerInfo:
        """Read what the folder says of itself."""
        return ScorerInfo(*self.described())

    def check(self, record: Record) -> None:
        """Refuse records of images that are not edited."""
        if not {_BEFORE, "edit_prompt"} <= set(record):
            raise UsageError("difference: these images are no edits of others", "make some with `imagemill edit`")
        for parameter in ("before_column", "after_column"):
            name = getattr(self, parameter)
            if name and not isinstance(record.get(name), str):
                hint = did_you_mean(name, [key for key, value in record.items() if isinstance(value, str)])
                raise UsageError(f"difference: `{parameter}`: there is no column of texts `{name}`", hint)

    def score(self, images: Iterable[Seen]) -> Iterator[Scored]:
        """Encode both images of each edit, and its texts."""
        encoder, images = encoder_of(self), iter(images)
        while chunk := list(islice(images, self.score_batch_size)):
            pairs: list[tuple[Seen, Image.Image]] = []
            for seen in chunk:
                if not seen.record[_BEFORE]:
                    yield Scored(seen, dict.fromkeys(self.columns()))
                    continue
                try:
                    pairs.append((seen, upright((seen.path.parent / seen.record[_BEFORE]).read_bytes())))
                except (OSError, ValueError) as error:
                    yield Scored(seen, reason="bad_image", message=f"the image before the edit: {error}"[:500])
            if pairs:
                yield from self._compared(encoder, pairs)

    def _compared(self, encoder: Encoder, pairs: list[tuple[Seen, Image.Image]]) -> Iterator[Scored]:
        texts = [self._texts(seen.record) for seen, _ in pairs]
        rows = zip(
            pairs,
            encoder.images([before for _, before in pairs]),
            encoder.images([seen.image for seen, _ in pairs]),
            encoder.texts([before for before, _ in texts]),
            encoder.texts([after for _, after in texts]),
            (after for _, after in texts),
            strict=True,
        )
        for (seen, before), *found, asked in rows:
            vectors: list[Vector] = [one for one in found if not isinstance(one, (Failure, str))]
            if len(vectors) < len(found):
                failure = next(one for one in found if isinstance(one, Failure))
                yield Scored(seen, reason=failure.reason, message=failure.message)
                continue
            try:
                unchanged = _unchanged(seen, before)
            except (OSError, ValueError) as error:
                yield Scored(seen, reason="bad_image", message=f"the mask: {error}"[:500])
                continue
            columns: dict[str, Any] = {
                "direction_similarity": _direction(*vectors) if asked.strip() else None,
                "image_similarity": cosine(vectors[0], vectors[1]),
                "unchanged_similarity": unchanged,
            }
            yield Scored(seen, columns)

    def _texts(self, record: Record) -> tuple[str, str]:
        """What describes the images before and after the edit; of nothing but an instruction, only what it adds."""
        if self.after_column:
            return record[self.before_column], record[self.after_column]
        return "", record["edit_prompt"]


def _direction(before: Vector, after: Vector, text_before: Vector, text_after: Vector) -> float | None:
    """CLIP's directional similarity; None where an image or a text has not changed.

    Gal et al., "StyleGAN-NADA", 2021; Brooks et al., "InstructPix2Pix", 2022.
    """
    import numpy as np

    images, texts = after - before, text_after - text_before
    lengths = float(np.linalg.norm(images)), float(np.linalg.norm(texts))
    return cosine(images / lengths[0], texts / lengths[1]) if min(lengths) > _SMALLEST else None


def _unchanged(seen: Seen, before: Image.Image) -> float | None:
    """How alike the pixels are that had to stay; None where all might change.

    Raises OSError and ValueError when the mask cannot be read.
    """
    import numpy as np
    from PIL import Image

    size = seen.image.size
    if before.size != size:
        before = before.resize(size, Image.Resampling.LANCZOS)
    difference = np.abs(np.asarray(before, np.int16) - np.asarray(seen.image, np.int16)).mean(axis=2) / 255
    if name := seen.record.get("mask_file_name"):
        mask = mask_of((seen.path.parent / name).read_bytes()).resize(size, Image.Resampling.NEAREST)
        difference = difference[np.asarray(mask) < _WHITE]
    return 1 - float(difference.mean()) if difference.size else None
