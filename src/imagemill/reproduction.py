"""Make an image again from its record, and say how equal it is."""

from __future__ import annotations

import json
from dataclasses import dataclass

from imagemill.dataset import Dataset
from imagemill.errors import ImagemillError
from imagemill.images import EXTENSIONS, decode, embedded_recipe, encode, is_marked, open_image, psnr
from imagemill.models.base import find_model
from imagemill.output import recipe_of
from imagemill.records import NO_SEED, Batch, Maker


@dataclass(frozen=True, slots=True)
class Reproduction:
    """How an image came out the second time."""

    file_name: str
    verdict: str
    """`bit-exact`, `PSNR` or `cannot`."""
    detail: str
    """The reason, or what is equal."""
    psnr: float | None = None
    """Decibels, when the pixels differ."""


def reproduce(dataset: Dataset, name: str) -> Reproduction:
    """Make one image again from its record alone and compare; raises UsageError when there is no such image.

    Bit-exact means equal pixels; the detail says whether the file's bytes are equal too.
    """
    part, record = dataset.find(name)
    file_name = record["file_name"]
    maker = Maker(record["model"], record["model_revision"], json.loads(record["model_parameters"]))
    request = dataset.request(record, part.number)
    if request.original:
        return Reproduction(file_name, "cannot", "it is a picture that was taken in, and not made")
    if request.seed == NO_SEED:
        return Reproduction(file_name, "cannot", f"`{maker.model}` takes no seed: it draws another picture each time")
    try:
        data = (part.folder / file_name).read_bytes()
        model = find_model(maker.model, maker.model_parameters)
        revision = model.info().revision
        if revision != maker.model_revision:
            return Reproduction(file_name, "cannot", f"the model is now `{revision}`, it was `{maker.model_revision}`")
        kept = open_image(data)
        (result,) = model.make([Batch((request,), record["batch_size"])])
    except (ImagemillError, OSError, ValueError) as error:
        return Reproduction(file_name, "cannot", str(getattr(error, "message", error)))
    image_format = next(form for form, extension in EXTENSIONS.items() if file_name.endswith("." + extension))
    recipe = None
    if embedded_recipe(kept) is not None:
        recipe = recipe_of(result.request, maker, result.batch_size or record["batch_size"])
    if result.data is not None:
        again = result.data
    elif result.pixels is not None:
        again = encode(result.pixels, image_format, recipe, is_marked(kept), composite=bool(request.images))
    else:
        return Reproduction(file_name, "cannot", f"the model failed with {result.reason}: {result.message}")
    if again == data:
        return Reproduction(file_name, "bit-exact", "the file is the same, byte by byte")
    ratio = psnr(decode(data), decode(again))
    if ratio == float("inf"):
        return Reproduction(file_name, "bit-exact", "the pixels are the same; what the file says beside them differs")
    return Reproduction(file_name, "PSNR", f"{ratio:.1f} dB: other software or another processor?", ratio)
