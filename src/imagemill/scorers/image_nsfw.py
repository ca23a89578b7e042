"""How likely a picture is not safe for work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal

from imagemill.classifiers import Classifier, classes_of, combined
from imagemill.pretrained import Failure
from imagemill.scorers.base import Column, Scored, Scorer, ScorerInfo, Seen

if TYPE_CHECKING:
    from PIL import Image

_HIDDEN = 2.0
"""DiffusionDB's figure for a picture that somebody has made unrecognizable before (https://arxiv.org/abs/2210.14896)."""
_SIDE = 64
"""Pixels, in both directions, of the gray picture that is looked at for details."""
_FLAT = 8.0
"""Gray values, of 255: a picture whose brightest and darkest places are nearer than this is flat."""
_SHARP = 0.2
"""Share of the range of gray values: a picture in which no two neighbors differ by more is blurred."""


class ImageNsfw(Classifier, Scorer):
    """Says how likely a picture is not safe for work, by an image classifier."""

    head: ClassVar[Literal["ImageClassification"]] = "ImageClassification"
    usual_labels: ClassVar[Sequence[Sequence[str]]] = (("nsfw",), ("NSFW",), ("hentai", "porn", "sexy"), ("unsafe",))

    model: str = "Falconsai/nsfw_image_detection"
    """An image classifier: a folder in transformers' format, or a hub id."""
    combine: Literal["max", "sum"] = "max"
    """What several classes come to: the likeliest, or all together."""

    def columns(self) -> Mapping[str, Column]:
        """One number."""
        meaning = "how likely the image is not safe for work, from 0 to 1; higher is worse; 2: it is flat or blurred"
        return {"image_nsfw": Column(None, meaning)}

    def info(self) -> ScorerInfo:
        """Read what the folder says of itself."""
        return ScorerInfo(*self.described())

    def score(self, images: Iterable[Seen]) -> Iterator[Scored]:
        """Classify what can be recognized."""
        classes, images = classes_of(self), iter(images)
        while chunk := list(islice(images, self.score_batch_size)):
            clear = []
            for seen in chunk:
                if is_unrecognizable(seen.image):
                    yield Scored(seen, {"image_nsfw": _HIDDEN})
                else:
                    clear.append(seen)
            for seen, found in zip(clear, classes.images([seen.image for seen in clear]), strict=True):
                if isinstance(found, Failure):
                    yield Scored(seen, reason=found.reason, message=found.message)
                else:
                    yield Scored(seen, {"image_nsfw": combined(found, self.labels, self.combine)})


def is_unrecognizable(image: Image.Image) -> bool:
    """Whether a picture is flat, or blurred all over by more than about 3 % of its side (the blur's deviation)."""
    import numpy as np
    from PIL import Image

    small = image.convert("L").convert("F").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    gray = np.asarray(small)
    extent = float(np.ptp(gray))
    steepest = max(float(np.abs(np.diff(gray, axis=axis)).max()) for axis in (0, 1))
    return extent < _FLAT or steepest < _SHARP * extent
