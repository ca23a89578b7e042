"""A model without weights, for tests and dry runs of a pipeline: pixels are a function of the request."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from imagemill.images import mask_of, upright
from imagemill.models.base import Model, ModelInfo, Question, Reply, Result, TextModel
from imagemill.records import Batch, FailureReason, Request, to_json

if TYPE_CHECKING:
    from imagemill.images import Pixels


_WORDS = ("red", "green", "blue", "gray"), ("circle", "square", "heart", "star"), ("left", "right", "top", "middle")


class Fake(Model, TextModel):
    """Draws a pattern from a hash of the request, and can be slow, greedy or failing on purpose."""

    latency: float = Field(0.0, ge=0)
    """Seconds a batch takes, asleep."""
    memory: int = Field(0, ge=0)
    """Megabytes held while it runs."""
    fail_rate: float = Field(0.0, ge=0, le=1)
    """Share of the requests that fail, chosen by their seed."""
    fail_text: str = ""
    """Requests whose prompt contains this text fail."""
    fail_reason: FailureReason = "model_error"
    """The reason they fail with."""
    fail_attempts: int = Field(0, ge=0)
    """How many attempts of such a request fail before one succeeds; 0 for all."""

    def info(self) -> ModelInfo:
        """Describe it."""
        return ModelInfo(
            name="fake",
            revision="1",
            width=64,
            height=64,
            num_inference_steps=1,
            guidance_scale=1.0,
            scheduler="none",
            batch_size=8,
            per_row_guidance=True,
            license="cc0-1.0",
            note="draws colored squares that depend on the request and on nothing else",
            seconds_per_image=0.001 + self.latency / 8,
            bytes_per_image=2_000,
            reproducibility="row_exact",
            most_images=16,
            takes_mask=True,
            strength=0.8,
        )

    def make(self, batches: Iterable[Batch]) -> Iterator[Result]:
        """Draw each request of each batch."""
        held = bytearray(self.memory * 2**20)
        for batch in batches:
            time.sleep(self.latency)
            for request in batch.requests:
                if self._fails(request):
                    yield Result(request, reason=self.fail_reason, message=f"asked to fail, attempt {request.attempt}")
                else:
                    yield _drawn(request)
        del held

    def answer(self, questions: Iterable[Question]) -> Iterator[Reply]:
        """Name three things that are a hash of the images."""
        for question in questions:
            time.sleep(self.latency)
            digest = hashlib.shake_128(b"".join(question.images)).digest(3 * question.count)
            texts = tuple(
                " ".join(words[byte % 4] for words, byte in zip(_WORDS, digest[3 * number :], strict=False))
                for number in range(question.count)
            )
            wrong = _unreadable(question.images)
            if wrong:
                yield Reply(question, reason="bad_image", message=wrong)
            elif self.fail_text and self.fail_text in texts[0]:
                yield Reply(question, reason=self.fail_reason, message="asked to fail")
            else:
                yield Reply(question, texts)

    def _fails(self, request: Request) -> bool:
        chosen = (self.fail_text and self.fail_text in request.prompt) or request.seed < self.fail_rate * 2**32
        return bool(chosen) and (self.fail_attempts == 0 or request.attempt <= self.fail_attempts)


def _drawn(request: Request) -> Result:
    try:
        return Result(request, _pattern(request))
    except (OSError, ValueError) as error:
        return Result(request, reason="bad_image", message=f"the picture cannot be read: {error}")


def _unreadable(images: Iterable[bytes]) -> str:
    """What is wrong with images; empty when nothing is."""
    try:
        for image in images:
            upright(image)
    except ValueError as error:
        return str(error)
    return ""


def _pattern(request: Request) -> Pixels:
    """Eight by eight squares whose colors are the hash of the request, over its first picture by its strength."""
    import numpy as np

    digest = hashlib.shake_128(to_json(request.recipe).encode()).digest(192)
    squares = np.frombuffer(digest, np.uint8).reshape(8, 8, 3)
    rows = np.arange(request.height) * 8 // request.height
    columns = np.arange(request.width) * 8 // request.width
    pixels = squares[rows[:, None], columns[None, :]]
    if request.images:
        source = upright(Path(request.images[0]).read_bytes()).resize(request.size)
        share = np.full((request.height, request.width, 1), request.strength)
        if request.mask:
            share *= np.asarray(mask_of(Path(request.mask).read_bytes()).resize(request.size))[..., None] / 255
        pixels = (np.asarray(source) * (1 - share) + pixels * share).round().astype(np.uint8)
    return np.ascontiguousarray(pixels)
