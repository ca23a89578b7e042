"""The built-in captioner: a tiny BLIP that was trained on drawings of colored shapes."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

import imagemill
from imagemill.models.transformers import Captioner


class ShapesCaptioner(Captioner):
    """The built-in captioner: names what it sees in the world of colored shapes."""

    max_new_tokens: int = Field(24, ge=1, le=24)
    """Most tokens of a reply; what it has to say needs no more."""
    caption_batch_size: int = Field(32, ge=1, exclude=True)
    """Images described in one pass, fewer where memory demands it; not written down."""

    def folder(self, weights: bool = True) -> Path:
        """Part of the package."""
        del weights
        return Path(imagemill.__file__).parent / "weights" / "shapes_captioner"

    def model_name(self) -> str:
        """Its own name."""
        return "shapes_captioner"
