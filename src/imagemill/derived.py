"""What records of images made from other images say: originals that are kept, edits with their sources."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagemill.dataset.files import make_folder
from imagemill.dataset.folder import Dataset
from imagemill.dataset.sources import Sources, link
from imagemill.images import changed, decode, upright
from imagemill.models.base import Result
from imagemill.output import Output, recipe_of, record_of
from imagemill.records import Maker, Record, Request

NO_OP = 0.005
"""An edit that has changed less of the area has changed nothing: what an autoencoder alone does to edges."""

_NOBODY = Maker("", "", {})


def keep_original(output: Output, request: Request) -> Record:
    """Put the first picture of a request into its part as it is; returns its record."""
    source = Path(request.images[0])
    name = f"{request.name}{source.suffix}"
    make_folder(output.part(request.part))
    link(source, output.part(request.part) / name)
    return {
        **record_of(name, recipe_of(request, _NOBODY, 0), source.stem),
        "original": True,
        **output.model_columns,
        **request.columns,
        **output.later_columns,
    }


def edit_columns(output: Output, result: Result, name: str, data: bytes) -> dict[str, Any]:
    """Put the pictures that an edit started from beside its result, `name`, and say how far that differs."""
    import numpy as np
    from PIL import Image

    request, folder = result.request, output.part(result.request.part)
    inputs = []
    for number, image in enumerate(request.images):
        inputs.append(f"{request.name}_input_{number}{Path(image).suffix}")
        link(Path(image), folder / inputs[-1])
    after = decode(data) if result.pixels is None else result.pixels
    before = upright(Path(request.images[0]).read_bytes())
    if before.size != request.size:
        before = before.resize(request.size, Image.Resampling.LANCZOS)
    difference, area = changed(np.asarray(before), after)
    columns: dict[str, Any] = {
        "turn": request.turn,
        "edit_prompt": request.prompt,
        "input_image_file_name": inputs[0],
        "edited_image_file_name": name,
    }
    if output.several:
        columns["input_images_file_names"] = inputs
    if request.mask:
        columns["mask_file_name"] = f"{request.name}_mask{Path(request.mask).suffix}"
        link(Path(request.mask), folder / columns["mask_file_name"])
    return {**columns, "difference": difference, "changed_area": area, "no_op": area < NO_OP}


def continued(dataset: Dataset, requests: Iterable[Request]) -> list[Request]:
    """Later edits of conversations, each with what the edit before it has made as its picture."""
    made = {
        Path(record["file_name"]).stem: (part.folder / record["file_name"], record["sha256"])
        for part in dataset.parts
        for record in part.records()
    }
    sources = Sources(dataset.folder)
    found = []
    for request in requests:
        before = replace(request, image=request.image - 1).name
        if before in made:
            found.append(replace(request, images=(str(sources.adopt(*made[before])),), mask="", problem=None))
        elif request.problem is None or request.problem[0] == "no_source":
            text = f"the edit before it, `{before}`, has no image"
            found.append(replace(request, images=(), problem=("no_source", text)))
        else:
            found.append(request)
    return found
