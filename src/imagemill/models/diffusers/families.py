"""How the pipelines of each family are driven: texts to embeddings, noise to latents, latents to pictures.

The loops are ours and not the pipelines' own, so that every text is encoded once, each row has its own guidance, and
nothing in a loop waits for the device: a scheduler counts on the CPU, with numbers that never come from the device.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imagemill.models.diffusers.traits import guidance_name
from imagemill.records import Request

if TYPE_CHECKING:
    from torch import Tensor

Text = tuple["Tensor", ...]
"""What the text encoders make of one text: tensors without a batch axis."""

Encoder = Callable[[Sequence[str]], list[Text]]
"""Embeddings of texts, each made once."""

_DECODED = 8 * 2**20
"""Pixels that the VAE decodes in one pass: its memory grows with them."""


class Family(ABC):
    """Drives one loaded pipeline."""

    def __init__(self, pipeline: Any, exact: bool) -> None:
        self.pipeline = pipeline
        self.exact = exact
        self.device = pipeline._execution_device

    @abstractmethod
    def draw(self, requests: Sequence[Request], encoded: Encoder) -> Tensor:
        """Draw requests of one kind: [requests, 3, height, width], floating point, 0..1 where nothing went wrong."""

    def encode(self, texts: Sequence[str]) -> list[Text]:
        """Run the text encoders over texts, in one pass."""
        raise NotImplementedError

    def dropped_tokens(self, text: str) -> int | None:
        """How many tokens at the end of a text are not read; None where nobody can tell."""
        del text
        return None


class General(Family):
    """Any pipeline, through its own call."""

    def draw(self, requests: Sequence[Request], encoded: Encoder) -> Tensor:
        """Call the pipeline with what it takes."""
        import torch

        del encoded
        first = requests[0]
        arguments = {
            "prompt": [request.prompt for request in requests],
            "negative_prompt": [request.negative_prompt for request in requests],
            "width": first.width,
            "height": first.height,
            "num_inference_steps": first.num_inference_steps,
            "generator": _generators(requests),
            "output_type": "pt",
            # The size asked for, not one near it that is then stretched.
            "use_resolution_binning": False,
        }
        known = inspect.signature(self.pipeline.__call__).parameters
        arguments[guidance_name(known)] = first.guidance_scale
        images = self.pipeline(**{name: value for name, value in arguments.items() if name in known}).images
        return images if isinstance(images, torch.Tensor) else torch.stack(list(images))


class Latent(Family):
    """A denoiser over the latents of a VAE."""

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
        """Whether guidance is the difference between two guesses, with and without the prompt."""
        return True

    @abstractmethod
    def conditions(self, requests: Sequence[Request], text: Sequence[Tensor]) -> dict[str, Any]:
        """Arguments of the denoiser that are the same at every step.

        Rows of `text` are the requests, or their negatives and then the requests.
        """

    @abstractmethod
    def guess(self, latents: Tensor, time: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """Ask the denoiser at one time."""

    def schedule(self, scheduler: Any, request: Request) -> None:
        """Set the times of the steps, on the CPU."""
        scheduler.set_timesteps(request.num_inference_steps, device="cpu")

    def negatives(self, requests: Sequence[Request], texts: Sequence[Text], encoded: Encoder) -> list[Text]:
        """What guidance leads away from."""
        del texts
        return encoded([request.negative_prompt for request in requests])

    def draw(self, requests: Sequence[Request], encoded: Encoder) -> Tensor:
        """Encode what is new, denoise, decode."""
        texts = encoded([request.prompt for request in requests])
        if self.guides_by_contrast and requests[0].guidance_scale > 1:
            texts = [*self.negatives(requests, texts, encoded), *texts]
        return self._decode(self._denoise(requests, texts), len(requests))

    def _denoise(self, requests: Sequence[Request], texts: Sequence[Text]) -> Tensor:
        import torch

        scheduler, first = self.pipeline.scheduler, requests[0]
        factor = self.pipeline.vae_scale_factor
        generators = _generators(requests)
        shape = (1, self.channels, first.height // factor, first.width // factor)
        # In float32 on the CPU, whatever the model computes in: the same noise on every device.
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
        self.schedule(scheduler, first)
        dtype = self.denoiser.dtype
        latents = (noise * getattr(scheduler, "init_noise_sigma", 1.0)).to(self.device, dtype)
        latents = self.packed(latents)
        conditions = self.conditions(requests, [torch.stack(parts) for parts in zip(*texts, strict=True)])
        guided = len(texts) > len(requests)
        scale = torch.tensor([request.guidance_scale for request in requests]).to(self.device)
        scale = scale.view(-1, *[1] * (latents.dim() - 1))
        taken = inspect.signature(scheduler.step).parameters
        noisy = {"generator": generators} if "generator" in taken else {}
        for here, there in zip(scheduler.timesteps, scheduler.timesteps.to(self.device), strict=True):
            given = latents
            if hasattr(scheduler, "scale_model_input"):
                given = scheduler.scale_model_input(latents, here)
            guess = self.guess(torch.cat([given, given]) if guided else given, there, conditions)
            if guided:
                without, prompted = guess.chunk(2)
                guess = (without + scale * (prompted - without)).to(dtype)
            latents = scheduler.step(guess, here, latents, **noisy, return_dict=False)[0].to(dtype)
        return self.unpacked(latents, shape)

    def packed(self, latents: Tensor) -> Tensor:
        """Bring latents into the denoiser's own form."""
        return latents

    def unpacked(self, latents: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Bring latents back into the VAE's form."""
        del shape
        return latents

    def _decode(self, latents: Tensor, batch_size: int) -> Tensor:
        import torch

        vae = self.pipeline.vae
        config = vae.config
        latents = latents.to(vae.dtype)
        mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is not None and deviation is not None:
            mean, deviation = (torch.tensor(values).view(1, -1, 1, 1).to(latents) for values in (mean, deviation))
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


class StableDiffusion3(Latent):
    """Stable Diffusion 3.x."""

    _LENGTH = 256
    """Tokens that the T5 encoder reads, as the pipeline has it."""

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
    def channels(self) -> int:
        """The transformer reads two by two latent pixels as one."""
        return int(self.denoiser.config.in_channels) // 4

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
}
"""Pipelines with loops of our own; every other one is General."""


def _generators(requests: Sequence[Request]) -> list[Any]:
    """One for each row, on the CPU: the same noise on every device, whatever else is in the batch."""
    import torch

    return [torch.Generator("cpu").manual_seed(request.seed) for request in requests]


def _shift(scheduler: Any, request: Request, factor: int) -> float:
    """How far the times move towards noise, a line through two sizes (SD 3 and FLUX pipelines)."""
    config = scheduler.config
    tokens = (request.height // factor) * (request.width // factor)
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(least + (most - least) * (tokens - low) / (high - low))
