"""Servers that speak OpenAI's images API: OpenAI's own, and every compatible one."""

from __future__ import annotations

import asyncio
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field

from imagemill.errors import UsageError, did_you_mean
from imagemill.images import mask_of
from imagemill.models.base import ModelInfo, Result
from imagemill.records import Batch, Request, Size
from imagemill.remote.batches import Batches
from imagemill.remote.client import CallFailed, Client, checked_base_url
from imagemill.remote.engine import Journal
from imagemill.remote.model import Picture, Remote, image_of
from imagemill.remote.servers import Server, known_server

_OFFICIAL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class Family:
    """What models of one name take (https://platform.openai.com/docs/api-reference/images)."""

    values: Mapping[str, tuple[str, ...]]
    """Parameters that are sent, with what they may be."""
    sizes: tuple[Size, ...] = ()
    """Empty when any is drawn."""
    size_multiple: int = 1
    n: int = 10
    """Most images of a call."""
    edits: bool = True
    prices: Mapping[tuple[str, str], float] | None = None
    """Dollars by quality and size; None where no list is known."""


_GPT_SIZES = ((1024, 1024), (1536, 1024), (1024, 1536))
_GPT = {
    "quality": ("auto", "low", "medium", "high"),
    "background": ("auto", "opaque", "transparent"),
    "output_format": ("png", "jpeg", "webp"),
}
_NEWER = {**_GPT, "quality": ("auto", "low", "medium", "high", "xhigh", "max")}
_FORMAT = ("b64_json", "url")


def _prices(**qualities: tuple[float, float]) -> dict[tuple[str, str], float]:
    """A price for square images and one for the others, by quality."""
    return {
        (quality, f"{width}x{height}"): square if width == height else other
        for quality, (square, other) in qualities.items()
        for width, height in _GPT_SIZES
    }


FAMILIES: dict[str, Family] = {
    "gpt-image-1-mini": Family(
        _GPT, _GPT_SIZES, prices=_prices(low=(0.005, 0.006), medium=(0.011, 0.015), high=(0.036, 0.052))
    ),
    "gpt-image-1.5": Family(
        _GPT, _GPT_SIZES, prices=_prices(low=(0.009, 0.013), medium=(0.034, 0.05), high=(0.133, 0.2))
    ),
    "gpt-image-1": Family(
        _GPT, _GPT_SIZES, prices=_prices(low=(0.011, 0.016), medium=(0.042, 0.063), high=(0.167, 0.25))
    ),
    "gpt-image-2.": Family(_NEWER, size_multiple=16),
    "gpt-image-2": Family(_GPT, size_multiple=16),
    "gpt-image": Family(_NEWER),
    "chatgpt-image": Family(_GPT, _GPT_SIZES),
    "dall-e-3": Family(
        {"quality": ("standard", "hd"), "style": ("vivid", "natural"), "response_format": _FORMAT},
        ((1024, 1024), (1792, 1024), (1024, 1792)),
        n=1,
        edits=False,
        prices={
            ("standard", "1024x1024"): 0.04,
            ("standard", "1792x1024"): 0.08,
            ("standard", "1024x1792"): 0.08,
            ("hd", "1024x1024"): 0.08,
            ("hd", "1792x1024"): 0.12,
            ("hd", "1024x1792"): 0.12,
        },
    ),
    "dall-e-2": Family(
        {"quality": ("standard",), "response_format": _FORMAT},
        ((1024, 1024), (512, 512), (256, 256)),
        prices={("standard", "1024x1024"): 0.02, ("standard", "512x512"): 0.018, ("standard", "256x256"): 0.016},
    ),
}
"""By the beginning of the model's name; the first that fits."""

_ANY = Family(
    {
        "quality": ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"),
        "style": ("vivid", "natural"),
        "background": ("auto", "opaque", "transparent"),
        "response_format": _FORMAT,
        "output_format": ("png", "jpeg", "webp"),
    }
)
"""A model of somebody else's server."""
_CHOICES = ("quality", "style", "background", "response_format", "output_format")
_DEFAULT_QUALITY = {"dall-e-3": "standard", "dall-e-2": "standard"}


class Openai(Remote):
    """Any server that speaks OpenAI's images API; the key comes from OPENAI_API_KEY."""

    key_variable: ClassVar[str] = "OPENAI_API_KEY"

    model: str = Field(min_length=1)
    """What the server calls the model, such as `gpt-image-2`."""
    quality: str | None = None
    """How well it is drawn, in the model's own words, such as `low` or `high`."""
    style: str | None = None
    """`vivid` or `natural`, where the model has styles."""
    background: str | None = None
    """`opaque`, `transparent` or `auto`, where the model lets you choose."""
    response_format: Literal["b64_json", "url"] | None = None
    """Whether images come in the answer or behind a URL, where the model lets you choose."""
    output_format: str | None = None
    """File format of what the server sends: `png`, `jpeg` or `webp`, where the model lets you choose."""
    batch_api: bool = Field(False, exclude=True)
    """Hand all calls in at once and fetch them within a day, at half the price, where the provider has a Batch API."""

    batch_poll: float = Field(30, gt=0, exclude=True)
    """Seconds between questions whether a batch has ended."""

    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Also refuse, before any call, what the model does not know."""
        family = self.family()
        for name in _CHOICES:
            value = getattr(self, name)
            allowed = family.values.get(name, ())
            if value is None or value in allowed:
                continue
            if not allowed:
                raise UsageError(f"`{name}`: `{self.model}` does not take it", "leave it out")
            raise UsageError(
                f"`{name}`: `{self.model}` does not know `{value}`",
                did_you_mean(value, allowed) or f"known: {', '.join(allowed)}",
            )
        if self.background == "transparent" and self.output_format == "jpeg":
            raise UsageError("`background`: JPEG has no transparency", "take `--output-format png` or `webp`")
        address = self.address()
        # What the environment says is written down, so that a retry asks the same server.
        return super(Openai, self.model_copy(update={"base_url": address})).resolve(known, workers)

    def info(self) -> ModelInfo:
        """What is known of it without a call."""
        width, height = self.own_width_and_height()
        family = self.family()
        return replace(
            super().info(),
            batch_size=family.n if "n" in self.takes and "seed" not in self.takes else 1,
            most_images=16 if "image" in self.takes else 0,
            takes_mask="image" in self.takes,
            sizes=family.sizes,
            columns={"revised_prompt": ""},
            size_multiple=family.size_multiple,
            bytes_per_image=width * height * 3 // (2 if self.output_format in {None, "png"} else 12),
        )

    def family(self) -> Family:
        """What models of this name take."""
        return next((family for name, family in FAMILIES.items() if self.model.startswith(name)), _ANY)

    def needs_key(self) -> bool:
        """Whether it is OpenAI's own."""
        return self.address() == _OFFICIAL

    def server(self) -> Server:
        """By name, for OpenAI's own models: none of them takes a seed."""
        if self.address() != _OFFICIAL:
            return known_server(self)
        family = self.family()
        takes = ["size", *(["n"] if family.n > 1 else []), *(["image"] if family.edits else [])]
        return Server(tuple(takes), "1024x1024")

    def address(self) -> str:
        """The server's address, which ends with one `/v1` unless it names another version."""
        url = checked_base_url(self.base_url or os.environ.get("OPENAI_BASE_URL", "") or _OFFICIAL)
        url = re.sub(r"(/v1)+$", "/v1", url)
        return url if re.search(r"/v\d+\w*(/|$)", urlsplit(url).path) else f"{url}/v1"

    def served_name(self) -> str:
        """As given."""
        return self.model

    def description_url(self) -> str:
        """In the list of models."""
        return f"{self.address()}/models/{self.model}"

    def chat_url(self) -> str:
        """Chat completions."""
        return f"{self.address()}/chat/completions"

    def table_price(self) -> float | None:
        """For the model's own size."""
        width, height = self.own_width_and_height()
        return self._listed(f"{width}x{height}")

    def cost(self, request: Request) -> float | None:
        """Also by the built-in table."""
        told = super().cost(request)
        return self._listed(f"{request.width}x{request.height}") if told is None else told

    def body(self, requests: Sequence[Request]) -> dict[str, Any]:
        """What a call for these requests says, images left out; only what the model takes."""
        first, takes = requests[0], self.takes
        said: dict[str, Any] = {"prompt": first.prompt, "model": self.model, "n": len(requests)}
        if "size" in takes:
            said["size"] = f"{first.width}x{first.height}"
        for name in _CHOICES:
            if (value := getattr(self, name)) is not None:
                said[name] = value
        if "seed" in takes:
            said["seed"] = first.seed
        if "negative_prompt" in takes and first.negative_prompt:
            said["negative_prompt"] = first.negative_prompt
        # Zero and nothing stand for the server's own.
        if "num_inference_steps" in takes and first.num_inference_steps:
            said["num_inference_steps"] = first.num_inference_steps
        if "guidance_scale" in takes and first.guidance_scale:
            said["guidance_scale"] = first.guidance_scale
        if "scheduler" in takes and first.scheduler:
            said["scheduler"] = first.scheduler
        return said

    async def pictures(self, client: Client, requests: Sequence[Request]) -> Sequence[Picture | CallFailed]:
        """Generate; or edit, when the requests start from images."""
        body, most = self.body(requests), self.most_bytes(requests)
        if requests[0].images:
            files = await asyncio.to_thread(_files, requests[0])
            fields = {name: str(value) for name, value in body.items()}
            url = f"{self.address()}/images/edits"
            answer = await client.call("POST", url, most, data=fields, files=files)
        else:
            answer = await client.call("POST", f"{self.address()}/images/generations", most, json=body)
        return await self.parsed(client, requests, answer.json())

    async def parsed(self, client: Client, requests: Sequence[Request], answer: Any) -> Sequence[Picture | CallFailed]:
        """The images of an answer, one for each request."""
        items = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(items, list):
            raise CallFailed("server_error", "the answer holds no `data`", again=True, paid=None)
        told = answer.get("imagemill")
        found: list[Picture | CallFailed] = []
        for request, item in zip(requests, items, strict=False):
            try:
                if not isinstance(item, dict):
                    raise CallFailed("bad_image", "the answer holds no image", again=True, paid=None)
                data = await image_of(client, item)
            except CallFailed as error:
                found.append(error)
                continue
            columns = {"revised_prompt": str(item.get("revised_prompt") or "")}
            batch_size = max(1, int(_number(item.get("batch_size"))))
            drawn = _completed(request, told if isinstance(told, dict) else {})
            found.append(Picture(drawn, data, batch_size, columns))
        missing = len(requests) - len(found)
        if missing:
            text = f"{len(found)} images came and {len(requests)} were asked for"
            found += [CallFailed("bad_image", text, again=True) for _ in range(missing)]
        return found

    def make(self, batches: Iterable[Batch], journal: Journal | None = None) -> Iterator[Result]:
        """Call the server, or hand everything in as batches."""
        if not self.batch_api or journal is None:
            yield from super().make(batches, journal)
        else:
            requests = [request for batch in batches for request in batch.requests]
            yield from Batches(self, self.body, self.looked_at, self.batch_poll, journal).make(requests)

    async def looked_at(self, client: Client, requests: Sequence[Request], answer: Any) -> list[Result | CallFailed]:
        """The images of an answer, after a look at all of them; raises CallFailed."""
        return await self.looked_through(await self.parsed(client, requests, answer))

    async def edits(self, client: Client) -> bool:
        """Whether the server has the route for images to start from; asked for nothing, with an empty form."""
        try:
            await client.call("POST", f"{self.address()}/images/edits", files={"nothing": b""})
        except CallFailed as error:
            return error.reason == "bad_request"
        return True

    def _listed(self, size: str) -> float | None:
        prices = self.family().prices or {}
        default = next((value for name, value in _DEFAULT_QUALITY.items() if self.model.startswith(name)), "auto")
        price = prices.get((self.quality or default, size))
        return price / 2 if price and self.batch_api else price


def _files(request: Request) -> list[tuple[str, tuple[str, bytes]]]:
    """The images of a form; raises CallFailed where one cannot be read."""
    name = "image" if len(request.images) == 1 else "image[]"
    try:
        files = [(name, (Path(path).name, Path(path).read_bytes())) for path in request.images]
        if request.mask:
            files.append(("mask", ("mask.png", _mask(Path(request.mask).read_bytes()))))
    except OSError as error:
        raise CallFailed("no_source", f"`{error.filename}` cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CallFailed("bad_image", str(error)) from None
    return files


def _mask(data: bytes) -> bytes:
    """A mask as this API has it: transparent where the picture may change; raises ValueError."""
    from PIL import Image, ImageChops

    mask = mask_of(data)
    image = Image.new("RGBA", mask.size, (0, 0, 0, 255))
    image.putalpha(ImageChops.invert(mask))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e6 else 0.0


def _completed(request: Request, told: Mapping[str, Any]) -> Request:
    """The request with what the server says it has used, where nothing was asked for."""
    return replace(
        request,
        num_inference_steps=request.num_inference_steps or int(_number(told.get("num_inference_steps"))),
        guidance_scale=request.guidance_scale or _number(told.get("guidance_scale")),
        scheduler=request.scheduler or str(told.get("scheduler") or ""),
    )
