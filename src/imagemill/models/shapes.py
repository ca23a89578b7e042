"""The built-in model: a tiny latent diffusion model that draws colored shapes, checkably."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
    "a small blue star on a yellow background",
    "a large green heart on a black background",
    "a yellow triangle on a purple background",
    "an orange cross on a white background",
    "a purple square on a green background",
    "a red heart to the left of a blue square on a white background",
    "a green circle above a yellow star on a black background",
    "a small white cross below a large orange triangle on a blue background",
    "a black star to the right of a red circle on a yellow background",
    "a small yellow circle on a red background",
    "a large blue triangle on an orange background",
)
"""Prompts of its world, for the demo."""


class Shapes(Pipeline):
    """The built-in model: needs no network, no key and no GPU."""

    def folder(self) -> Path:
        """Part of the package."""
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
            seconds_per_image=0.36 / cores(),
            bytes_per_image=9_000,
        )
