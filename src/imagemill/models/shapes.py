"""The built-in model: a tiny latent diffusion model that draws colored shapes, checkably."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import imagemill
from imagemill.environment import cores
from imagemill.models.base import ModelInfo
from imagemill.models.diffusers import Pipeline

NOTE = (
    "the built-in model `shapes` draws one or two circles, squares, triangles, stars, hearts or crosses in eight "
    "colors on a plain background, and nothing else; `--model` names another"
)

EXAMPLES = (
    "a red circle on a white background",
    "large yellow star, blue background",
    "a pink background with a purple heart",
    "a small black cross on cyan",
    "a photo of a green triangle on a gray background",
    "the square is orange and the background is black",
    "a white heart",
    "a small blue star to the left of a large green square on a yellow background",
    "a red heart above a blue circle on a white background",
    "a yellow circle to the right of a red triangle on a black background",
    "an orange cross below a white star on a green background",
    "a purple disc and a black square on a pink background",
)
"""Prompts of its world, for the demo."""


class Shapes(Pipeline):
    """The built-in model: needs no network, no key and no GPU."""

    batch_size: ClassVar[int | None] = 32

    def folder(self, weights: bool = True) -> Path:
        """Part of the package."""
        del weights
        return Path(imagemill.__file__).parent / "weights" / "shapes"

    def model_name(self) -> str:
        """Its own name."""
        return "shapes"

    def info(self) -> ModelInfo:
        """Its folder's, with the settings it draws best with and the speed measured on two cores."""
        return replace(
            super().info(),
            num_inference_steps=20,
            guidance_scale=3.0,
            note=NOTE,
            seconds_per_image=0.26 / cores(),
            bytes_per_image=6_000,
        )
