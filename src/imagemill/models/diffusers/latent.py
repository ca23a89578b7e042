"""The loop that pipelines over the latents of a VAE share.

It is ours and not the pipelines' own, so that every text is encoded once, each row has its own guidance, and nothing in
it waits for the device: a scheduler counts on the CPU, with numbers that never come from the device.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imagemill.models.diffusers.family import Encoder, Family, Text, generators
from imagemill.models.diffusers.sources import Sources
from imagemill.models.diffusers.traits import STARTS
from imagemill.records import Request

if TYPE_CHECKING:
    from torch import Tensor

_DECODED = 8 * 2**20
"""Pixels that the VAE decodes in one pass: its memory grows with them."""
_MOST_STEPS_BACK = 4
"""As linear multistep schedulers have it."""


class Latent(Family):
    """A denoiser over the latents of a VAE; a picture to start from lies under the noise."""

    pictures = STARTS

    @property
    def size_factor(self) -> int:
        """One by one."""
        return 1

    @property
    def denoiser(self) -> Any:
        """The network that is asked at every step."""
        return getattr(self.pipeline, "unet", None) or self.pipeline.transformer

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self.denoiser.config.in_channels)

    @property
    def guides_by_contrast(self) -> bool:
        """Whether guidance is the difference between guesses, with and without the prompt."""
        return True

    @abstractmethod
    def conditions(self, requests: Sequence[Request], text: Sequence[Tensor]) -> dict[str, Any]:
        """Arguments of the denoiser that are the same at every step.

        Rows of `text` are the requests, or what `contrasts` makes of them.
        """

    def shown(self, starts: Tensor, guesses: int) -> dict[str, Any]:
        """More such arguments for so many guesses, from what the VAE makes of the pictures."""
        del starts, guesses
        return {}

    @abstractmethod
    def guess(self, latents: Tensor, time: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """Ask the denoiser at one time."""

    def schedule(self, scheduler: Any, request: Request) -> None:
        """Set the times of the steps, on the CPU."""
        scheduler.set_timesteps(request.num_inference_steps, device="cpu")

    def left_out(self, request: Request) -> int:
        """Steps at the beginning that are not made, for the picture is not to change so much."""
        return request.num_inference_steps - int(request.num_inference_steps * request.strength)

    def needs_starts(self, request: Request) -> bool:
        """Whether pictures are looked at: all that is drawn anew owes nothing to them."""
        return bool(request.images) and request.strength < 1

    def negatives(self, requests: Sequence[Request], texts: Sequence[Text], encoded: Encoder) -> list[Text]:
        """What guidance leads away from."""
        del texts
        return encoded([request.negative_prompt for request in requests])

    def contrasts(self, negatives: Sequence[Text], texts: Sequence[Text]) -> list[Text]:
        """The rows of each guess that guidance is made from, one guess after the other."""
        return [*negatives, *texts]

    def guided(self, guesses: Sequence[Tensor], scale: Tensor) -> Tensor:
        """Make one guess from those of `contrasts`; `scale` has a guidance for each request."""
        without, prompted = guesses
        return without + scale * (prompted - without)

    def draw(self, requests: Sequence[Request], encoded: Encoder, sources: Sources) -> Tensor:
        """Encode what is new, denoise, decode."""
        texts = encoded([request.prompt for request in requests])
        if self.guides_by_contrast and requests[0].guidance_scale > 1:
            texts = self.contrasts(self.negatives(requests, texts, encoded), texts)
        starts = self._encoded(requests, sources) if self.needs_starts(requests[0]) else None
        return self._decode(self._denoise(requests, texts, starts), len(requests))

    def begin(self, request: Request, noise: Tensor, starts: Tensor | None) -> tuple[Tensor, int]:
        """The latents before the first step, in float32 on the CPU, and its place among the times."""
        scheduler: Any = self.pipeline.scheduler
        if starts is None:
            return noise * getattr(scheduler, "init_noise_sigma", 1.0), 0
        latents, left_out = self._scaled(starts), self.left_out(request)
        if left_out == request.num_inference_steps:
            return latents, len(scheduler.timesteps)
        place = left_out * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(place)
        times = scheduler.timesteps[place].repeat(len(latents))
        if hasattr(scheduler, "scale_noise"):
            return scheduler.scale_noise(latents, times, noise), place
        return scheduler.add_noise(latents, noise, times), place

    def _denoise(self, requests: Sequence[Request], texts: Sequence[Text], starts: Tensor | None) -> Tensor:
        import torch

        scheduler, first = self.pipeline.scheduler, requests[0]
        factor = self.pipeline.vae_scale_factor
        seeded = generators(requests)
        shape = (1, self.channels, first.height // factor, first.width // factor)
        # In float32 on the CPU, whatever the model computes in: the same noise on every device.
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in seeded])
        self.schedule(scheduler, first)
        dtype = self.denoiser.dtype
        latents, place = self.begin(first, noise, starts)
        latents = self.packed(latents.to(self.device, dtype))
        guesses = len(texts) // len(requests)
        conditions = self.conditions(requests, [torch.stack(parts) for parts in zip(*texts, strict=True)])
        if starts is not None:
            conditions |= self.shown(starts, guesses)
        scale = torch.tensor([request.guidance_scale for request in requests]).to(self.device)
        scale = scale.view(-1, *[1] * (latents.dim() - 1))
        taken = inspect.signature(scheduler.step).parameters
        more: dict[str, Any] = {"generator": seeded} if "generator" in taken else {}
        times = scheduler.timesteps[place:]
        for number, (here, there) in enumerate(zip(times, times.to(self.device), strict=True), 1):
            if "order" in taken:
                # A later beginning has no earlier steps to look back at.
                more["order"] = min(number, _MOST_STEPS_BACK)
            given = latents
            if hasattr(scheduler, "scale_model_input"):
                given = scheduler.scale_model_input(latents, here)
            guess = self.guess(torch.cat([given] * guesses) if guesses > 1 else given, there, conditions)
            if guesses > 1:
                guess = self.guided(guess.chunk(guesses), scale).to(dtype)
            latents = scheduler.step(guess, here, latents, **more, return_dict=False)[0].to(dtype)
        return self.unpacked(latents, shape)

    def packed(self, latents: Tensor) -> Tensor:
        """Bring latents into the denoiser's own form."""
        return latents

    def unpacked(self, latents: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Bring latents back into the VAE's form."""
        del shape
        return latents

    def _encoded(self, requests: Sequence[Request], sources: Sources) -> Tensor:
        """What the VAE makes of each request's first picture, as it is."""
        import numpy as np
        import torch

        vae = self.pipeline.vae
        made: dict[str, Tensor] = {}
        for request in requests:
            path = request.images[0]
            if path not in made:
                # One at a time, so that the bits do not depend on the neighbors.
                pixels = torch.from_numpy(np.array(sources.images[path])).permute(2, 0, 1)[None]
                found = vae.encode((pixels.to(self.device).float() / 255 * 2 - 1).to(vae.dtype))
                # A tiny VAE knows no distribution.
                made[path] = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
        return torch.cat([made[request.images[0]] for request in requests])

    def _scaled(self, starts: Tensor) -> Tensor:
        """Bring what the VAE makes to the scale of the denoiser's latents; `_decode` goes back."""
        config = self.pipeline.vae.config
        scale = float(config.scaling_factor)
        # A scheduler that sees them on the device counts there from then on, in other last bits.
        starts = starts.cpu().float() - float(getattr(config, "shift_factor", None) or 0)
        if known := self._distribution(starts):
            mean, deviation = known
            return (starts - mean) * scale / deviation
        return starts * scale

    def _distribution(self, latents: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation of the VAE's channels where they are known, to compute with `latents`."""
        import torch

        config = self.pipeline.vae.config
        mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or deviation is None:
            return None
        mean, deviation = (torch.tensor(values).view(1, -1, 1, 1).to(latents) for values in (mean, deviation))
        return mean, deviation

    def _decode(self, latents: Tensor, batch_size: int) -> Tensor:
        import torch

        vae = self.pipeline.vae
        config = vae.config
        latents = latents.to(vae.dtype)
        if known := self._distribution(latents):
            mean, deviation = known
            latents = latents * deviation / config.scaling_factor + mean
        else:
            latents = latents / config.scaling_factor
        latents = latents + (getattr(config, "shift_factor", None) or 0.0)
        factor = self.pipeline.vae_scale_factor
        pixels = latents.shape[-1] * latents.shape[-2] * factor**2
        rows = max(1, min(batch_size, _DECODED // pixels))
        pictures = []
        for start in range(0, len(latents), rows):
            part = latents[start : start + rows]
            missing = rows - len(part)
            if missing and self.exact:
                part = torch.cat([part, part[-1:].expand(missing, -1, -1, -1)])
            pictures.append(vae.decode(part, return_dict=False)[0][: len(latents) - start])
        return torch.cat(pictures) / 2 + 0.5

    def dropped_tokens(self, text: str) -> int | None:
        """Of the tokenizer that reads most."""
        return min(
            max(0, len(tokenizer(text, truncation=False, verbose=False).input_ids) - limit)
            for tokenizer, limit in self.tokenizers()
        )

    def tokenizers(self) -> list[tuple[Any, int]]:
        """Tokenizers with how many tokens are read of each."""
        found = [getattr(self.pipeline, name, None) for name in ("tokenizer", "tokenizer_2")]
        return [(tokenizer, tokenizer.model_max_length) for tokenizer in found if tokenizer is not None]
