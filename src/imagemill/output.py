"""How the images of a job are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagemill.images import ImageFormat
from imagemill.models.base import Result
from imagemill.records import RECORD_KEYS, Maker, Record, Request, Size


@dataclass(frozen=True, slots=True)
class Output:
    """How images are written; everything a worker needs beside its model."""

    folder: Path
    maker: Maker
    image_format: ImageFormat
    metadata: bool
    mark: bool
    per_row_guidance: bool
    operator: str = "generate"
    several: bool = False
    """Whether an image can start from more than one picture."""
    model_columns: Mapping[str, Any] = field(default_factory=dict)
    """What the model adds to records, as it stands for images that it has not made."""
    later_columns: Mapping[str, Any] = field(default_factory=dict)
    """Columns that were added to the dataset since, as they stand for new images."""
    batch_sizes: Mapping[Size, int] = field(default_factory=dict)
    """Filled when the model has been measured."""

    def recipe(self, result: Result) -> dict[str, Any]:
        """Everything that decides the pixels of a result."""
        batch_size = result.batch_size or self.batch_sizes[result.request.size]
        return recipe_of(result.request, self.maker, batch_size)

    def part(self, number: int) -> Path:
        """The folder of a part."""
        return self.folder / "images" / f"part-{number:06d}"


def recipe_of(request: Request, maker: Maker, batch_size: int) -> dict[str, Any]:
    """Everything that decides the pixels of an image, as records and files say it."""
    return {**request.recipe, **maker.recipe, "batch_size": batch_size, **request.source_recipe}


def record_of(file_name: str, recipe: Mapping[str, Any], sha256: str) -> Record:
    """How a record begins: first what all records have."""
    known = {key: recipe[key] for key in RECORD_KEYS if key in recipe}
    return {"file_name": file_name, **known, "sha256": sha256, **recipe}
