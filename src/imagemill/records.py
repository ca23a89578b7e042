"""The words everything else is written in: sampling parameters, row, request, record."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from imagemill.component import Component

SEED_LIMIT = 2**32
"""Seeds stay below this, so that every reader keeps them as integers."""

NO_SEED = -1
"""The seed of an image whose model takes none."""

Size = tuple[int, int]
"""Width and height in pixels."""

Record = dict[str, Any]
"""One line of `metadata.jsonl`: one image and all that is known of it."""

RECORD_KEYS = (
    "file_name",
    "prompt",
    "negative_prompt",
    "id",
    "seed",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "model",
    "model_revision",
    "model_parameters",
    "batch_size",
    "sha256",
)
"""The keys every record begins with; `sha256` is that of the file's bytes."""

FailureReason = Literal[
    "auth",
    "bad_image",
    "bad_request",
    "black_image",
    "blocked",
    "model_error",
    "model_gone",
    "moderation_blocked",
    "nan_image",
    "no_credit",
    "no_source",
    "not_accepted",
    "oom",
    "rate_limited",
    "server_error",
    "timeout",
    "unreachable",
]
"""Why a request can end without an image."""

_WITH_REQUEST = ("source_image", "captioner")
"""Those of the next that a request brings, like a table's columns."""

SOURCE_KEYS = (
    "original",
    "turn",
    "strength",
    "source_sha256",
    "mask_sha256",
    "edit_prompt",
    "input_image_file_name",
    "input_images_file_names",
    "mask_file_name",
    "edited_image_file_name",
    "difference",
    "changed_area",
    "no_op",
    *_WITH_REQUEST,
)
"""Further keys of records whose images are made from others; no table's column takes their names there."""

SOURCE_IMAGES = ("input_image", "input_images", "edited_image", "mask")
"""What `load_dataset` calls the pictures among them."""


MADE_KEYS = ("tries", "redrawn", "dropped_tokens", "revised_prompt")
"""What models add to records, and how often an image was drawn until it was accepted."""

_READER_TRAPS = {"image", "images", "label"}
"""Column names that make `load_dataset` replace or hide the picture."""


class Denoising(Component):
    """The parameters that decide an image, with diffusers' names; a table may override them by row."""

    count_name: ClassVar[str]
    """The parameter that says how many images."""

    negative_prompt: str = ""
    """What the picture should not show, for rows that do not say it themselves."""
    seed: int = Field(-1, ge=-1, le=SEED_LIMIT - 1)
    """The job's seed, from which every image's seed is derived; -1 draws one and writes it down."""
    num_inference_steps: int | None = Field(None, ge=1, le=1_000)
    """Denoising steps; the model's own when not given."""
    guidance_scale: float | None = Field(None, ge=0, le=100)
    """How strongly the prompt is followed; the model's own when not given."""
    scheduler: str | None = None
    """Sampler by its k-diffusion name, such as `euler` or `dpmpp_2m`; the model's own when not given."""


class Sampling(Denoising):
    """What decides an image that is made from text alone."""

    count_name: ClassVar[str] = "images_per_prompt"

    images_per_prompt: int = Field(1, ge=1, le=10_000)
    """Images made for each prompt, each with a seed of its own."""
    width: int | None = Field(None, ge=8, le=16_384)
    """Width in pixels; the model's own when not given."""
    height: int | None = Field(None, ge=8, le=16_384)
    """Height in pixels; the model's own when not given."""


class Variation(Denoising):
    """What decides an image that is made from another one, whose size it keeps."""

    count_name: ClassVar[str] = "images_per_sample"

    images_per_sample: int = Field(1, ge=1, le=10_000)
    """Images made from each source image and its text, each with a seed of its own."""
    strength: float | None = Field(None, ge=0, le=1)
    """How much of the source may change: 0 keeps it, 1 ignores it; the model's own when not given."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The pictures that one request, or one conversation of requests, starts from, with their texts."""

    sources: tuple[str, ...] = ()
    """As the table names them: paths, or hashes of pictures that came as bytes."""
    mask: str = ""
    prompts: tuple[str, ...] = ()
    """One for each turn; empty for the row's own."""
    keep_original: bool = False
    """Whether the first picture itself comes first."""
    images: tuple[str, ...] = ()
    """The files of the dataset that hold the pictures, when they have been taken in."""
    mask_image: str = ""
    full_size: Size = (0, 0)
    """Of the first picture."""
    size: Size | None = None
    """Of the images to be made; None for the model's own."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What records say of the source."""
    problem: tuple[FailureReason, str] | None = None
    """Why nothing can be made of it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One accepted line of a prompt table."""

    index: int
    """Position in the table, rejected rows counted."""
    line: int
    id: str
    prompt: str
    negative_prompt: str
    overrides: Mapping[str, Any]
    """Sampling parameters this row sets for itself."""
    fields: Mapping[str, str]
    """Values for the names of a prompt template."""
    columns: Mapping[str, Any]
    """The table's other columns."""
    samples: tuple[Sample, ...] = (Sample(),)
    """What is made of the row: more than one where it has several pictures."""


@dataclass(frozen=True, slots=True)
class Reject:
    """One line of a prompt table that could not be used."""

    line: int
    reason: str
    raw: str
    """How the line begins, at most 1,000 characters."""

    def to_table(self) -> dict[str, Any]:
        """As a line of `rejects.jsonl`."""
        return {"line": self.line, "reason": self.reason, "raw": self.raw}


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that decides one image, and where it will be kept."""

    row: int
    image: int
    part: int
    """The number of its part, from 1."""
    id: str
    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 1
    images: tuple[str, ...] = ()
    """Files of the pictures to start from; in a dataset each is named by the SHA-256 of its bytes."""
    mask: str = ""
    """File of the picture whose transparent or white area is to be changed; empty for all."""
    strength: float = 0.0
    """How much of the first picture may change, from 0 to 1; 0.0 also where the model takes none."""
    turn: int = 1
    """Its place among the edits of a conversation, each of which starts from what the one before has made."""
    original: bool = False
    """Whether the first picture itself is kept, and nothing made."""
    problem: tuple[FailureReason, str] | None = None
    """Why it cannot be made, where that is known before a model is asked."""

    @property
    def name(self) -> str:
        """The file name without its extension."""
        return f"prompt_{self.row}_image_{self.image}"

    @property
    def recipe(self) -> dict[str, Any]:
        """The part of the record that decides the pixels; no position, no pass-through column."""
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "id": self.id,
            "seed": self.seed,
            "width": self.width,
            "height": self.height,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": float(self.guidance_scale),
            "scheduler": self.scheduler,
        }

    @property
    def source_recipe(self) -> dict[str, Any]:
        """The part of the record that names the pictures it starts from; empty when there are none."""
        if not self.images:
            return {}
        return {
            "strength": float(self.strength),
            "source_sha256": [Path(path).stem for path in self.images],
            **({"mask_sha256": Path(self.mask).stem} if self.mask else {}),
        }

    @property
    def size(self) -> Size:
        """Width and height."""
        return self.width, self.height

    def reseeded(self, attempt: int) -> Request:
        """The same request with another seed, a function of its own."""
        digest = blake2b(f"{self.seed}\0{attempt}".encode(), digest_size=4).digest()
        return replace(self, seed=int.from_bytes(digest))

    @staticmethod
    def from_record(record: Mapping[str, Any], part: int, attempt: int = 1) -> Request:
        """Read back what made an image."""
        row, image = order_of(record["file_name"])
        own = {*RECORD_KEYS, *(set(SOURCE_KEYS).difference(_WITH_REQUEST) if "source_sha256" in record else ())}
        return Request(
            row=row,
            image=image,
            part=part,
            id=record["id"],
            prompt=record["prompt"],
            negative_prompt=record["negative_prompt"],
            seed=record["seed"],
            width=record["width"],
            height=record["height"],
            num_inference_steps=record["num_inference_steps"],
            guidance_scale=record["guidance_scale"],
            scheduler=record["scheduler"],
            columns={key: value for key, value in record.items() if key not in own},
            attempt=attempt,
            strength=record.get("strength", 0.0),
            turn=record.get("turn", 1),
            original=record.get("original", False),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that share a forward pass."""

    requests: tuple[Request, ...]
    size: int
    """How many requests the pass has room for; a shorter batch is padded, so that it makes the same bits."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Who made an image: the model with everything that decides its pixels beside request and batch size."""

    model: str
    model_revision: str
    model_parameters: Mapping[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        """As keys of the record; the parameters as one JSON text, since readers drop free-form objects."""
        return {
            "model": self.model,
            "model_revision": self.model_revision,
            "model_parameters": json.dumps(self.model_parameters, sort_keys=True),
        }


def order_of(file_name: str) -> tuple[int, int]:
    """Return (row, image) of `prompt_ROW_image_IMAGE.ext`; raises ValueError for another name."""
    found = re.match(r"prompt_(\d+)_image_(\d+)(\.|$)", file_name)
    if not found:
        raise ValueError(f"not an image of a dataset: {file_name}")
    return int(found[1]), int(found[2])


def to_json(value: Any) -> str:
    """One compact line of JSON text; floats keep their point, NaN is refused."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def safe_column(name: str, taken: Container[str] = ()) -> str:
    """Give a table's column a name that no reader of the dataset takes for something else.

    `load_dataset` turns every column ending in `file_name` into an image, and lets `image` and `label`
    replace the picture; the record's own keys, and those in `taken`, are taken.
    """
    if name in {*RECORD_KEYS, *_READER_TRAPS, "source_sha256"} or name in taken:
        name = f"table_{name}"
    return re.sub(r"file_name(s?)$", r"filename\1", name)


def columns_of(record: Record) -> list[str]:
    """The columns of a record beyond those that every record has."""
    return [name for name in record if name not in RECORD_KEYS]


def files_of(record: Record) -> list[str]:
    """The files in a part that a record names."""
    files: list[str] = []
    for key, value in record.items():
        if key.endswith("file_name"):
            files.append(str(value))
        elif key.endswith("file_names"):
            files += value
    return list(dict.fromkeys(files))
