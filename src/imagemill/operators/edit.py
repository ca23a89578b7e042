"""Pictures and instructions become edited pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from imagemill.committing import Progress
from imagemill.dataset import Dataset
from imagemill.errors import UsageError
from imagemill.making.execution import make
from imagemill.making.intake import output_for
from imagemill.making.preparation import Making
from imagemill.models.base import ModelInfo
from imagemill.records import Row, Variation
from imagemill.tables.columns import PictureTable


class Edit(Variation, PictureTable, Making):
    """Image editing: every picture and its instruction, or a conversation of instructions."""

    text_parameter: ClassVar[str] = "instruction_column"
    text_names: ClassVar[tuple[str, ...]] = ("instruction", "instructions", "edit_prompt", "edit", "prompt", "text")
    mask_parameter: ClassVar[str] = "mask_column"
    conversations: ClassVar[bool] = True
    family: ClassVar[Mapping[str, str]] = {"shapes": "shapes_editor"}

    instruction_column: str | None = None
    """Column with what is to be changed, one text or several turns; found by name, such as `instruction`."""
    mask_column: str | None = None
    """Column with paths of masks, white or transparent where the picture may change; for inpainting models."""

    def check_model(self, info: ModelInfo) -> None:
        """Refuse a model that starts from no pictures, or that a mask is wrong for."""
        if not info.most_images:
            raise UsageError(f"`{info.name}` cannot start from pictures", "name an editing model with `--model`")
        if info.needs_mask and self.mask_column is None:
            raise UsageError(f"`{info.name}` needs a mask with every picture", "name their column: `--mask-column`")
        if self.mask_column is not None and not info.takes_mask:
            raise UsageError(f"`mask_column`: `{info.name}` takes no mask", "leave it out, or name an inpainting model")

    def further(self, rows: Sequence[Row], known: Mapping[str, Any], workers: int) -> dict[str, Any]:
        """How many pictures an edit starts from, at most."""
        del known, workers
        return {"condition_images": max(len(sample.sources) for row in rows for sample in row.samples)}


def edit(
    source: str | Path | Iterable[Any],
    output: str | Path | None = None,
    *,
    workers: int = 1,
    devices: str = "",
    progress: Progress | None = None,
    **parameters: Any,
) -> Dataset:
    """Change images as instructions say, and return them as a dataset; the same call again continues.

    `source` is a table with columns of paths and instructions, a dataset, a folder, or an iterable of mappings; every
    record has the image before and after. Without `output` the dataset goes to IMAGEMILL_OUTPUT_DIR, else beside the
    source; `parameters` are those of `Edit` and of the model, as on the command line. Raises as `generate` does.
    """
    folder = output_for(source, output, "edited")
    return make(Edit, source, folder, parameters, workers, devices, progress)
