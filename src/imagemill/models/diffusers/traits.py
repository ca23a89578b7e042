"""What a pipeline takes and what suits it, told from its configuration files before anything is loaded."""

from __future__ import annotations

import inspect
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from imagemill.errors import UsageError


@dataclass(frozen=True, slots=True)
class Traits:
    """What a pipeline takes."""

    num_inference_steps: int
    guidance_scale: float
    takes_negative_prompt: bool = True
    takes_guidance: bool = True
    per_row_guidance: bool = True
    size_factor: int = 1
    """Latent pixels that the denoiser reads as one, along a side."""


_DEFAULTS = {
    "StableDiffusionPipeline": (50, 7.5),
    "StableDiffusionXLPipeline": (50, 5.0),
    "StableDiffusion3Pipeline": (28, 7.0),
    "FluxPipeline": (28, 3.5),
}
"""Steps and guidance, as the pipelines have them."""


def traits(class_name: str, name: str, denoiser: Mapping[str, Any]) -> Traits:
    """What a pipeline of one of the FAMILIES takes and what suits it, by its class, name and denoiser."""
    steps, guidance = _DEFAULTS[class_name]
    if class_name == "FluxPipeline":
        guided = bool(denoiser.get("guidance_embeds"))
        return Traits(steps if guided else 4, guidance, False, guided, size_factor=2)
    if re.search("turbo|lightning", name, re.IGNORECASE):
        # Distilled to few steps without guidance; nothing in their files says so.
        steps, guidance = 4, 0.0
    contrast = denoiser.get("time_cond_proj_dim") is None
    patch = int(denoiser.get("patch_size", 1)) if class_name == "StableDiffusion3Pipeline" else 1
    return Traits(steps, guidance, contrast, size_factor=patch)


def guidance_name(parameters: Container[str]) -> str:
    """What a pipeline calls its guidance, given its parameters."""
    return "true_cfg_scale" if "true_cfg_scale" in parameters else "guidance_scale"


def general_traits(pipeline: type) -> Traits:
    """What any other pipeline takes, read from its call; raises UsageError when it takes no prompt."""
    known = inspect.signature(pipeline.__call__).parameters
    if "prompt" not in known:
        raise UsageError(f"`{pipeline.__name__}` takes no prompt", "name a pipeline that makes images from text")
    said = {name: parameter.default for name, parameter in known.items()}
    steps, guidance = said.get("num_inference_steps"), said.get(guidance_name(known))
    return Traits(
        num_inference_steps=steps if isinstance(steps, int) else 50,
        guidance_scale=float(guidance) if isinstance(guidance, int | float) else 0.0,
        takes_negative_prompt="negative_prompt" in known,
        takes_guidance=guidance_name(known) in known,
        per_row_guidance=False,
        size_factor=2,
    )
