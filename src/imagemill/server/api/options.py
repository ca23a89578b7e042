"""What a client asks for, checked: the body of a request becomes requests to a model."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from imagemill.errors import did_you_mean
from imagemill.images import ImageFormat
from imagemill.models.base import ModelInfo
from imagemill.records import NO_SEED, SEED_LIMIT, Request, Size
from imagemill.server.api.problems import Problem, wrong

if TYPE_CHECKING:
    from starlette.requests import Request as HttpRequest

MAX_JSON = 2**20
"""Bytes of a body without files."""
_MAX_SIDE = 4096
_MIN_SIDE = 8
_MOST_SAID = 10
"""Problems listed at once."""

_Options = TypeVar("_Options", bound="Body")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


Text = Annotated[str, Field(max_length=32_000)]
Prompt = Annotated[Text, AfterValidator(_not_blank)]


class Body(BaseModel):
    """What a client sends; unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Sampled(Body):
    """What decides an image beside prompt and size, with diffusers' names."""

    negative_prompt: Text | None = None
    """What the picture should not show."""
    num_inference_steps: int | None = Field(None, ge=1, le=1_000)
    """Denoising steps."""
    guidance_scale: float | None = Field(None, ge=0, le=100)
    """How strongly the prompt is followed."""
    scheduler: Text | None = None
    """Sampler by its k-diffusion name."""
    seed: int | None = Field(None, ge=-1, le=SEED_LIMIT - 1)
    """That of the first image, the next ones count up; -1 draws one."""
    strength: float | None = Field(None, ge=0, le=1)
    """How much of the image to edit may change."""


class SizedImage(Sampled):
    """The parameters of Hugging Face's text to image."""

    width: int | None = Field(None, ge=1)
    """In pixels."""
    height: int | None = Field(None, ge=1)
    """In pixels."""


class TextToImage(Body):
    """The body of Hugging Face's text to image."""

    inputs: Prompt
    """The prompt."""
    parameters: SizedImage = SizedImage()
    """Everything else."""


class ImageOptions(Sampled):
    """The body of OpenAI's images API, and what a model here understands beyond it."""

    prompt: Prompt
    """What the picture shows."""
    model: str | None = None
    """One of the models served."""
    n: int | None = Field(None, ge=1, le=10)
    """How many images."""
    size: str | None = None
    """`WIDTHxHEIGHT`, or `auto` for the model's own."""
    response_format: Literal["b64_json", "url"] | None = None
    """The image itself, or where to fetch it."""
    output_format: ImageFormat | None = None
    """The format of the file."""
    stream: bool | None = None
    """Whether to answer with events."""
    partial_images: int | None = Field(None, ge=0, le=3)
    """How many unfinished images to send at most; no model has any today."""
    background: Literal["auto", "opaque"] | None = None
    """No model makes transparent pictures."""
    # What follows is taken from clients and means nothing to a local model.
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = None
    style: Literal["vivid", "natural"] | None = None
    moderation: Literal["auto", "low"] | None = None
    complexity: Literal["low", "medium", "high"] | None = None
    input_fidelity: Literal["low", "high"] | None = None
    output_compression: int | None = Field(None, ge=0, le=100)
    user: str | None = None
    safety_identifier: str | None = None

    @property
    def count(self) -> int:
        """Images asked for."""
        return self.n or 1

    @property
    def image_format(self) -> ImageFormat:
        """The format of the files."""
        return self.output_format or "png"


async def limited(request: HttpRequest, most: int) -> AsyncGenerator[bytes, None]:
    """Yield the body of a request piece by piece; raises Problem when it is larger than `most` bytes."""
    too_large = Problem(413, f"the request has more than {most:,} bytes", "request_too_large")
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > most:
        raise too_large
    size = 0
    # What a header tells of the length, or does not tell, is not what comes.
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise too_large
        yield piece


async def read_options(request: HttpRequest, kind: type[_Options]) -> _Options:
    """Read and check a body of JSON; raises Problem that lists everything that is wrong."""
    body = b"".join([piece async for piece in limited(request, MAX_JSON)])
    try:
        # From JSON a number is a number and no text.
        return kind.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise problem_of(kind, error) from None


def form_options(fields: Mapping[str, str]) -> ImageOptions:
    """Check the texts of a form; raises Problem that lists everything that is wrong."""
    try:
        return ImageOptions.model_validate(fields)
    except ValidationError as error:
        raise problem_of(ImageOptions, error) from None


def problem_of(kind: type[Body], error: ValidationError) -> Problem:
    """Say everything that is wrong with a body, and name the first parameter."""
    said = []
    errors = error.errors(include_url=False)[:_MOST_SAID]
    for found in errors:
        name = _name(found["loc"]) or "body"
        reason = found["msg"].removeprefix("Value error, ")
        if found["type"] == "extra_forbidden":
            known = _known(kind, found["loc"])
            reason = "there is no such parameter: " + (
                did_you_mean(name.rpartition(".")[2], known) or f"known: {', '.join(known)}"
            )
        got = "" if found["type"] in {"missing", "json_invalid"} else f", got: `{found['input']!s:.80}`"
        said.append(f"`{name}`: {reason[:1].lower()}{reason[1:]}{got}")
    first = errors[0]
    codes = {
        "extra_forbidden": "unknown_parameter",
        "missing": "missing_required_parameter",
        "json_invalid": "invalid_json",
    }
    return wrong("; ".join(said), _name(first["loc"]) or None, codes.get(first["type"], "invalid_value"))


def _name(place: Sequence[int | str]) -> str:
    return ".".join(f"{part!s:.80}" for part in place)


def _known(kind: type[Body], place: Sequence[int | str]) -> list[str]:
    fields = kind.model_fields
    for name in place[:-1]:
        fields = getattr(fields[str(name)].annotation, "model_fields", {})
    return list(fields)


def size_of(text: str | None, info: ModelInfo) -> Size:
    """Read `WIDTHxHEIGHT` and check that a model can draw it; raises Problem."""
    if text is None or text == "auto":
        return info.width, info.height
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if not found:
        raise wrong(f"`size`: write it as `{info.width}x{info.height}`, or `auto`, got: `{text:.80}`", "size")
    return checked_size((int(found[1]), int(found[2])), info, "size")


def checked_size(asked: Size, info: ModelInfo, param: str) -> Size:
    """Check that a model can draw a size; raises Problem that names the nearest one."""
    step = info.size_multiple
    least, most = -(-_MIN_SIDE // step) * step, _MAX_SIDE // step * step
    width, height = (min(most, max(least, round(side / step) * step)) for side in asked)
    got = f"got: `{asked[0]}x{asked[1]}`"
    if asked != (width, height):
        rule = f"sides are multiples of {step}, from {least} to {most} pixels"
        raise wrong(f"`{param}`: {rule}, {got}; the nearest is `{width}x{height}`", param)
    if info.sizes and asked not in info.sizes:
        known = ", ".join(f"`{w}x{h}`" for w, h in info.sizes)
        raise wrong(f"`{param}`: `{info.name}` draws {known}, {got}", param)
    return asked


def requests_of(
    options: Sampled,
    prompt: str,
    size: Size,
    count: int,
    info: ModelInfo,
    images: tuple[str, ...] = (),
    mask: str = "",
) -> list[Request]:
    """Make the requests of one call; raises Problem for what the model would pay no heed to."""
    _check_taken(options, info, bool(images))
    guidance = options.guidance_scale
    if guidance is None:
        guidance = info.guidance_scale if info.takes_guidance else 0.0
    if options.negative_prompt and guidance <= info.guided_above:
        raise _unsupported("negative_prompt", f"needs a `guidance_scale` above {info.guided_above:g}")
    strength = 0.0
    if images and info.strength is not None:
        strength = info.strength if options.strength is None else options.strength
    seed = options.seed
    if seed is None or seed < 0:
        seed = secrets.randbelow(SEED_LIMIT)
    return [
        Request(
            row=0,
            image=image,
            part=1,
            id="",
            prompt=prompt,
            negative_prompt=options.negative_prompt or "",
            seed=(seed + image) % SEED_LIMIT if info.takes_seed else NO_SEED,
            width=size[0],
            height=size[1],
            num_inference_steps=options.num_inference_steps or info.num_inference_steps,
            guidance_scale=float(guidance),
            scheduler=options.scheduler or info.scheduler,
            images=images,
            mask=mask,
            strength=strength,
        )
        for image in range(count)
    ]


def _check_taken(options: Sampled, info: ModelInfo, edits: bool) -> None:
    """Raise Problem for a parameter that would have no effect."""
    given = {
        "negative_prompt": bool(options.negative_prompt) and not info.takes_negative_prompt,
        "guidance_scale": options.guidance_scale is not None and not info.takes_guidance,
        "num_inference_steps": options.num_inference_steps is not None and not info.takes_steps,
        "seed": options.seed is not None and options.seed >= 0 and not info.takes_seed,
        "strength": options.strength is not None and info.strength is None,
    }
    for name, in_vain in given.items():
        if in_vain:
            raise _unsupported(name, f"`{info.name}` takes none")
    if options.strength is not None and not edits:
        raise _unsupported("strength", "says how much of an image may change, and there is none")
    known = info.schedulers or (info.scheduler,)
    if options.scheduler and options.scheduler not in known:
        hint = did_you_mean(options.scheduler[:80], known) or f"known: {', '.join(known)}"
        raise _unsupported("scheduler", f"`{info.name}` has no `{options.scheduler:.80}`; {hint}")


def _unsupported(name: str, reason: str) -> Problem:
    return wrong(f"`{name}`: {reason}", name, "unsupported_parameter")
