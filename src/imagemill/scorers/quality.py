"""What plain arithmetic says of a picture's quality."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from imagemill.scorers.base import Column, Scored, Scorer, Seen

if TYPE_CHECKING:
    from PIL import Image

_LONGER_SIDE = 512
"""Pixels at which pictures are compared in sharpness."""
_FLAT = 0.01


class Quality(Scorer):
    """Measures sharpness, brightness and contrast, and finds pictures of practically one color."""

    def columns(self) -> Mapping[str, Column]:
        """Four numbers; the last one is a flag, and a number since there may be none."""
        return {
            "sharpness": Column(
                None,
                f"variance of the Laplacian, in squared gray levels (0 to 255), at a longer side of {_LONGER_SIDE} "
                "pixels at most; higher is sharper, or noisier",
            ),
            "brightness": Column(None, "mean luma, from 0 (black) to 1 (white); higher is brighter"),
            "contrast": Column(None, "standard deviation of luma, from 0 to 0.5; higher is more contrast"),
            "flat": Column(None, "1 where the picture is practically of one color, such as black, else 0"),
        }

    def score(self, images: Iterable[Seen]) -> Iterator[Scored]:
        """Measure each image."""
        for seen in images:
            yield Scored(seen, _measured(seen.image))


def _measured(image: Image.Image) -> dict[str, Any]:
    import numpy as np

    channels = np.asarray(image)
    luma = image.convert("L")
    levels = np.asarray(luma)
    spread = max(float(channels[..., channel].std()) for channel in range(3)) / 255
    return {
        "sharpness": _sharpness(luma),
        "brightness": float(levels.mean()) / 255,
        "contrast": float(levels.std()) / 255,
        "flat": float(spread <= _FLAT),
    }


def _sharpness(luma: Image.Image) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000)."""
    import numpy as np
    from PIL import Image

    scale = _LONGER_SIDE / max(luma.size)
    if scale < 1:
        size = max(1, round(luma.width * scale)), max(1, round(luma.height * scale))
        luma = luma.resize(size, Image.Resampling.LANCZOS)
    # Pixels beyond the border are like those at it.
    levels = np.pad(np.asarray(luma, np.int32), 1, mode="edge")
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return float((around - 4 * levels[1:-1, 1:-1]).var())
