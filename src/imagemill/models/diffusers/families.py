"""What sets the families of pipelines with a loop of ours apart from each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imagemill.models.diffusers.family import Encoder, Family, Text
from imagemill.models.diffusers.latent import Latent
from imagemill.models.diffusers.traits import EDITS
from imagemill.records import Request

if TYPE_CHECKING:
    from torch import Tensor


class StableDiffusion(Latent):
    """Stable Diffusion 1.x and 2.x."""

    @property
    def guides_by_contrast(self) -> bool:
        """Not where the guidance itself is embedded, as in latent consistency models."""
        return self.denoiser.config.time_cond_proj_dim is None

    def encode(self, texts: Sequence[str]) -> list[Text]:
        """Embeddings of the tokens."""
        embedded, _ = self.pipeline.encode_prompt(list(texts), self.device, 1, False)
        return [(row,) for row in embedded]

    def conditions(self, requests: Sequence[Request], text: Sequence[Tensor]) -> dict[str, Any]:
        """Embeddings, and the guidance where that is embedded."""
        import torch

        embedded = None
        if not self.guides_by_contrast:
            scales = torch.tensor([request.guidance_scale - 1 for request in requests])
            size = self.denoiser.config.time_cond_proj_dim
            embedded = self.pipeline.get_guidance_scale_embedding(scales, embedding_dim=size).to(text[0])
        return {"encoder_hidden_states": text[0], "timestep_cond": embedded}

    def guess(self, latents: Tensor, time: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """Ask the UNet."""
        guess: Tensor = self.denoiser(latents, time, **conditions, return_dict=False)[0]
        return guess


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL and its Turbo."""

    def encode(self, texts: Sequence[str]) -> list[Text]:
        """Embeddings of the tokens, and one of the whole."""
        embedded, _, whole, _ = self.pipeline.encode_prompt(
            list(texts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return list(zip(embedded, whole, strict=True))

    def negatives(self, requests: Sequence[Request], texts: Sequence[Text], encoded: Encoder) -> list[Text]:
        """Zeros where there is no negative prompt, as these models were trained."""
        import torch

        found = super().negatives(requests, texts, encoded)
        if self.pipeline.config.force_zeros_for_empty_prompt:
            empty = tuple(torch.zeros_like(part) for part in texts[0])
            found = [text if r.negative_prompt else empty for r, text in zip(requests, found, strict=True)]
        return found

    def conditions(self, requests: Sequence[Request], text: Sequence[Tensor]) -> dict[str, Any]:
        """Also the size, which these models are told."""
        import torch

        first = requests[0]
        size = torch.tensor([[first.height, first.width, 0, 0, first.height, first.width]]).to(text[0])
        added = {"text_embeds": text[1], "time_ids": size.expand(len(text[0]), -1)}
        return {**super().conditions(requests, text), "added_cond_kwargs": added}


class InstructPix2Pix(StableDiffusion):
    """Stable Diffusion that sees a picture at every step, and changes it as it is told."""

    pictures = EDITS

    @property
    def channels(self) -> int:
        """The others are the picture's."""
        return int(self.pipeline.vae.config.latent_channels)

    def encode(self, texts: Sequence[str]) -> list[Text]:
        """Embeddings of the tokens."""
        return [(row,) for row in self.pipeline._encode_prompt(list(texts), self.device, 1, False)]

    def needs_starts(self, request: Request) -> bool:
        """Always."""
        del request
        return True

    def begin(self, request: Request, noise: Tensor, starts: Tensor | None) -> tuple[Tensor, int]:
        """Everything is drawn anew."""
        del starts
        return super().begin(request, noise, None)

    def contrasts(self, negatives: Sequence[Text], texts: Sequence[Text]) -> list[Text]:
        """With prompt and picture, with the picture, with neither."""
        return [*texts, *negatives, *negatives]

    def guided(self, guesses: Sequence[Tensor], scale: Tensor) -> Tensor:
        """Each difference has its own scale."""
        prompted, seen, without = guesses
        return without + scale * (prompted - seen) + self.image_guidance_scale * (seen - without)

    def shown(self, starts: Tensor, guesses: int) -> dict[str, Any]:
        """The picture for each guess but the last."""
        import torch

        seen = starts.to(self.denoiser.dtype)
        return {"seen": torch.cat([seen, seen, torch.zeros_like(seen)]) if guesses > 1 else seen}

    def guess(self, latents: Tensor, time: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """Show the picture as more channels."""
        import torch

        others = {name: value for name, value in conditions.items() if name != "seen"}
        return super().guess(torch.cat([latents, conditions["seen"]], 1), time, others)


class StableDiffusion3(Latent):
    """Stable Diffusion 3.x."""

    _LENGTH = 256
    """Tokens that the T5 encoder reads, as the pipeline has it."""

    @property
    def size_factor(self) -> int:
        """The side of a patch."""
        return int(self.denoiser.config.patch_size)

    def left_out(self, request: Request) -> int:
        """Rounded down, as the pipeline does."""
        return _left_out(request)

    def encode(self, texts: Sequence[str]) -> list[Text]:
        """Embeddings of the tokens, and one of the whole."""
        embedded, _, whole, _ = self.pipeline.encode_prompt(
            list(texts),
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._LENGTH,
        )
        return list(zip(embedded, whole, strict=True))

    def tokenizers(self) -> list[tuple[Any, int]]:
        """The T5 tokenizer reads most, where there is one."""
        third = self.pipeline.tokenizer_3 if self.pipeline.text_encoder_3 is not None else None
        return [*super().tokenizers(), *([(third, self._LENGTH)] if third is not None else [])]

    def schedule(self, scheduler: Any, request: Request) -> None:
        """Shift the times by the size of the picture where the model wants that."""
        factor = self.pipeline.vae_scale_factor * self.denoiser.config.patch_size
        shift = {"mu": _shift(scheduler, request, factor)} if scheduler.config.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(request.num_inference_steps, device="cpu", **shift)

    def conditions(self, requests: Sequence[Request], text: Sequence[Tensor]) -> dict[str, Any]:
        """Embeddings."""
        del requests
        return {"encoder_hidden_states": text[0], "pooled_projections": text[1]}

    def guess(self, latents: Tensor, time: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """Ask the transformer."""
        times = time.expand(len(latents))
        guess: Tensor = self.denoiser(hidden_states=latents, timestep=times, **conditions, return_dict=False)[0]
        return guess


class Flux(Latent):
    """FLUX.1, whose guidance is a number it is told."""

    _LENGTH = 512
    """Tokens that the T5 encoder reads, as the pipeline has it."""

    @property
    def size_factor(self) -> int:
        """The transformer reads two by two latent pixels as one."""
        return 2

    @property
    def channels(self) -> int:
        """Those of four latent pixels are one's."""
        return int(self.denoiser.config.in_channels) // 4

    def left_out(self, request: Request) -> int:
        """Rounded down, as the pipeline does."""
        return _left_out(request)

    @property
    def guides_by_contrast(self) -> bool:
        """Never."""
        return False

    def encode(self, texts: Sequence[str]) -> list[Text]:
        """Embeddings of the tokens, and one of the whole."""
        embedded, whole, _ = self.pipeline.encode_prompt(
            list(texts), None, device=self.device, max_sequence_length=self._LENGTH
        )
        return list(zip(embedded, whole, strict=True))

    def tokenizers(self) -> list[tuple[Any, int]]:
        """The T5 tokenizer reads the prompt; the other one only gives a summary."""
        return [(self.pipeline.tokenizer_2, self._LENGTH)]

    def schedule(self, scheduler: Any, request: Request) -> None:
        """Even steps, shifted by the size of the picture."""
        import numpy as np

        steps = request.num_inference_steps
        shift = _shift(scheduler, request, 2 * self.pipeline.vae_scale_factor)
        scheduler.set_timesteps(steps, device="cpu", sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)

    def packed(self, latents: Tensor) -> Tensor:
        """Two by two latent pixels become one token: [requests, tokens, 4 × channels]."""
        count, channels, height, width = latents.shape
        tokens = latents.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return tokens.reshape(count, height * width // 4, channels * 4)

    def unpacked(self, latents: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Tokens become latent pixels."""
        _, channels, height, width = shape
        tokens = latents.view(-1, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return tokens.reshape(-1, channels, height, width)

    def conditions(self, requests: Sequence[Request], text: Sequence[Tensor]) -> dict[str, Any]:
        """Embeddings, places of the tokens, and the guidance where the model knows it."""
        import torch

        first, factor = requests[0], 2 * self.pipeline.vae_scale_factor
        height, width = first.height // factor, first.width // factor
        places = torch.zeros(height, width, 3)
        places[..., 1] = torch.arange(height)[:, None]
        places[..., 2] = torch.arange(width)[None, :]
        guidance = None
        if self.denoiser.config.guidance_embeds:
            guidance = torch.tensor([request.guidance_scale for request in requests]).to(self.device)
        return {
            "encoder_hidden_states": text[0],
            "pooled_projections": text[1],
            "txt_ids": torch.zeros(text[0].shape[1], 3).to(text[0]),
            "img_ids": places.view(-1, 3).to(text[0]),
            "guidance": guidance,
        }

    def guess(self, latents: Tensor, time: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """Ask the transformer, in whose eyes time goes from 0 to 1."""
        times = time.expand(len(latents)).to(latents.dtype) / 1000
        guess: Tensor = self.denoiser(hidden_states=latents, timestep=times, **conditions, return_dict=False)[0]
        return guess


FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "StableDiffusionInstructPix2PixPipeline": InstructPix2Pix,
}
"""Pipelines with loops of our own; every other one is General."""


def _left_out(request: Request) -> int:
    """Steps left out by the pipelines of models that learned a flow."""
    return int(request.num_inference_steps - request.num_inference_steps * request.strength)


def _shift(scheduler: Any, request: Request, factor: int) -> float:
    """How far the times move towards noise, a line through two sizes (SD 3 and FLUX pipelines)."""
    config = scheduler.config
    tokens = (request.height // factor) * (request.width // factor)
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(least + (most - least) * (tokens - low) / (high - low))
