"""The built-in editor: a tiny latent diffusion model that changes pictures of colored shapes as it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from imagemill.environment import cores
from imagemill.errors import UsageError
from imagemill.models.base import ModelInfo
from imagemill.models.diffusers import Pipeline

NOTE = (
    "the built-in editor `shapes_editor` changes pictures of one or two colored shapes as the built-in model draws "
    "them: their color, their shape, the background, or one of them away, and nothing else"
)


class ShapesEditor(Pipeline):
    """The built-in editor: follows instructions in the world of colored shapes."""

    batch_size: ClassVar[int | None] = 32

    def folder(self, weights: bool = True) -> Path:
        """Part of the package; raises UsageError where it has been left out."""
        del weights
        folder = Path(__file__).parents[1] / "weights" / "shapes_editor"
        if not (folder / "model_index.json").is_file():
            raise UsageError(
                "the weights of the built-in editor are not in this installation",
                "install `imagemill` from the package index, or name another model",
            )
        return folder

    def model_name(self) -> str:
        """Its own name."""
        return "shapes_editor"

    def info(self) -> ModelInfo:
        """Its folder's, with the settings it follows instructions best with and the speed measured on two cores."""
        return replace(
            super().info(),
            num_inference_steps=20,
            guidance_scale=1.5,
            note=NOTE,
            seconds_per_image=0.3 / cores(),
            bytes_per_image=6_000,
        )
