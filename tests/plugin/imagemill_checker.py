"""A model in a package of its own: draws checkerboards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from pydantic import Field

from imagemill.models.base import Model, ModelInfo, Result
from imagemill.records import Batch


class Checker(Model):
    """Draws a checkerboard whose light squares have the seed's brightness."""

    squares: int = Field(4, ge=1)
    """Squares along one side."""

    def info(self) -> ModelInfo:
        """Describe it."""
        return ModelInfo(
            name="checker",
            revision="1",
            width=32,
            height=32,
            num_inference_steps=1,
            guidance_scale=1.0,
            scheduler="none",
            batch_size=4,
        )

    def make(self, batches: Iterable[Batch]) -> Iterator[Result]:
        """Draw each request."""
        for batch in batches:
            for request in batch.requests:
                y = np.arange(request.height) * self.squares // request.height
                x = np.arange(request.width) * self.squares // request.width
                light = (y[:, None] + x[None, :]) % 2 * (128 + request.seed % 128)
                yield Result(request, np.repeat(light[:, :, None], 3, axis=2).astype(np.uint8))
