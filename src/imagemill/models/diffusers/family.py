"""What every family of pipelines does: requests to pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from imagemill.models.diffusers.sources import Sources
from imagemill.models.diffusers.traits import Pictures, vae_factor
from imagemill.records import Request, Size

if TYPE_CHECKING:
    from torch import Tensor

Text = tuple["Tensor", ...]
"""What the text encoders make of one text: tensors without a batch axis."""

Encoder = Callable[[Sequence[str]], list[Text]]
"""Embeddings of texts, each made once."""


class Family(ABC):
    """Drives one loaded pipeline."""

    pictures: Pictures
    """What it takes of them."""
    alone: bool = False
    """Whether a pass has room for one request only."""

    def __init__(self, pipeline: Any, exact: bool, image_guidance_scale: float) -> None:
        self.pipeline = pipeline
        self.exact = exact
        self.image_guidance_scale = image_guidance_scale
        self.device = pipeline._execution_device

    @property
    @abstractmethod
    def size_factor(self) -> int:
        """Latent pixels that the denoiser reads as one, along a side."""

    @abstractmethod
    def draw(self, requests: Sequence[Request], encoded: Encoder, sources: Sources) -> Tensor:
        """Draw requests of one kind, whose sizes are those of `room`.

        [requests, 3, height, width], floating point, 0..1 where nothing went wrong.
        """

    def room(self, size: Size) -> Size:
        """The next size that can be drawn."""
        vae = getattr(self.pipeline, "vae", None) or getattr(self.pipeline, "vqvae", None)
        step = max(8, vae_factor(getattr(vae, "config", {})) * self.size_factor)
        return -(-size[0] // step) * step, -(-size[1] // step) * step

    def encode(self, texts: Sequence[str]) -> list[Text]:
        """Run the text encoders over texts, in one pass."""
        raise NotImplementedError

    def dropped_tokens(self, text: str) -> int | None:
        """How many tokens at the end of a text are not read; None where nobody can tell."""
        del text
        return None


def generators(requests: Sequence[Request]) -> list[Any]:
    """One for each row, on the CPU: the same noise on every device, whatever else is in the batch."""
    import torch

    return [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
