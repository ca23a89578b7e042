"""What a pipeline takes and what suits it, told from its configuration files before anything is loaded."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagemill.errors import UsageError

_MOST_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a pipeline takes of pictures to start from; names as in ModelInfo."""

    most_images: int = 0
    needs_images: bool = False
    needs_mask: bool = False
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class Traits:
    """What a pipeline takes."""

    num_inference_steps: int
    guidance_scale: float
    pictures: Pictures
    takes_negative_prompt: bool = True
    takes_guidance: bool = True
    per_row_guidance: bool = True
    size_factor: int = 1
    """Latent pixels that the denoiser reads as one, along a side."""
    batch_size: int = 8


STARTS = Pictures(1, strength=0.8)
"""A picture may lie under the noise."""
EDITS = Pictures(1, needs_images=True)
"""A picture is what an instruction changes."""

_DEFAULTS = {
    "StableDiffusionPipeline": (50, 7.5),
    "StableDiffusionXLPipeline": (50, 5.0),
    "StableDiffusion3Pipeline": (28, 7.0),
    "FluxPipeline": (28, 3.5),
    "StableDiffusionInstructPix2PixPipeline": (50, 7.5),
}
"""Steps and guidance, as the pipelines have them."""

_ALSO_FROM_TEXT = {
    "BriaFibo2Pipeline",
    "DreamLiteMobilePipeline",
    "DreamLitePipeline",
    "Flux2KleinKVPipeline",
    "JoyImageEditPipeline",
}
"""Pipelines that need no picture, beside those that diffusers itself lists as text to image."""

_SEVERAL_IMAGES = {
    "BriaFibo2Pipeline": 5,
    "Flux2KleinKVPipeline": _MOST_IMAGES,
    "Flux2KleinPipeline": _MOST_IMAGES,
    "Flux2Pipeline": _MOST_IMAGES,
    "GlmImagePipeline": _MOST_IMAGES,
    "QwenImage21Pipeline": _MOST_IMAGES,
    "QwenImageEditPlusPipeline": _MOST_IMAGES,
    "ZImageOmniPipeline": _MOST_IMAGES,
}
"""Pipelines for which a list of pictures is what one result comes from, and not a batch."""


def family_of(class_name: str, config: Mapping[str, Any]) -> str:
    """The pipeline whose loop of ours draws what a pipeline draws, by class and configuration; empty for none."""
    # A refiner is told how beautiful the picture shall be.
    refines = config.get("requires_aesthetics_score", False)
    name = class_name if refines else class_name.replace("Img2Img", "")
    return name if name in _DEFAULTS else ""


def traits(family: str, name: str, denoiser: Mapping[str, Any]) -> Traits:
    """What a pipeline of one of the FAMILIES takes and what suits it, by its family, name and denoiser."""
    steps, guidance = _DEFAULTS[family]
    if family == "FluxPipeline":
        guided = bool(denoiser.get("guidance_embeds"))
        return Traits(steps if guided else 4, guidance, STARTS, False, guided, size_factor=2)
    if re.search("turbo|lightning", name, re.IGNORECASE):
        # Distilled to few steps without guidance; nothing in their files says so.
        steps, guidance = 4, 0.0
    contrast = denoiser.get("time_cond_proj_dim") is None
    patch = int(denoiser.get("patch_size", 1)) if family == "StableDiffusion3Pipeline" else 1
    pictures = EDITS if family == "StableDiffusionInstructPix2PixPipeline" else STARTS
    return Traits(steps, guidance, pictures, contrast, size_factor=patch)


def general_traits(pipeline: type) -> Traits:
    """What any other pipeline takes, read from its call; raises UsageError when it takes no prompt."""
    known = parameters(pipeline)
    if "prompt" not in known:
        raise UsageError(f"`{pipeline.__name__}` takes no prompt", "name a pipeline that makes images from text")
    steps, guided = known.get("num_inference_steps"), guidance_name(known)
    pictures = pictures_of(pipeline)
    return Traits(
        num_inference_steps=steps if isinstance(steps, int) else 50,
        guidance_scale=_number(known.get(guided)) or 0.0,
        pictures=pictures,
        # Where a pipeline has true guidance and another, only the true one leads away from something.
        takes_negative_prompt="negative_prompt" in known
        and ("true_cfg_scale" not in known or guided == "true_cfg_scale"),
        takes_guidance=guided in known,
        per_row_guidance=False,
        size_factor=2,
        batch_size=1 if pictures.needs_images else 8,
    )


def pictures_of(pipeline: type) -> Pictures:
    """What such a pipeline takes of pictures."""
    known, name = parameters(pipeline), pipeline.__name__
    if "image" not in known:
        sister = image_to_image(pipeline)
        return Pictures(1, strength=_number(parameters(sister).get("strength"))) if sister else Pictures()
    from_text = name in _ALSO_FROM_TEXT or (_auto_name(pipeline) and "ControlNet" not in name)
    return Pictures(
        most_images=_SEVERAL_IMAGES.get(name, 1),
        needs_images=not from_text,
        needs_mask="mask_image" in known,
        strength=_number(known.get("strength")),
    )


def image_to_image(pipeline: type) -> type | None:
    """The pipeline that starts from a picture with the parts of one that does not; None when there is none."""
    found: type | None = _auto().AUTO_IMAGE2IMAGE_PIPELINES_MAPPING.get(_auto_name(pipeline))
    return found


def parameters(pipeline: type) -> dict[str, Any]:
    """The parameters of a pipeline's call with their defaults."""
    called = inspect.signature(pipeline.__call__).parameters
    return {name: parameter.default for name, parameter in called.items()}


def guidance_name(known: Mapping[str, Any]) -> str:
    """What a pipeline calls its guidance, given its parameters with their defaults."""
    # Where it has both, one of them is turned off by default.
    true = "true_cfg_scale" in known and _number(known.get("guidance_scale")) is None
    return "true_cfg_scale" if true else "guidance_scale"


def vae_factor(config: Mapping[str, Any]) -> int:
    """Pixels that the VAE makes of one of its latents, along a side, by its configuration."""
    blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels") or [0] * 4
    return int(2 ** (len(blocks) - 1))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _auto_name(pipeline: type) -> str:
    """The name under which diffusers lists what makes images from text; empty when it does not."""
    listed = _auto().AUTO_TEXT2IMAGE_PIPELINES_MAPPING.items()
    return next((name for name, found in listed if found is pipeline), "")


def _auto() -> Any:
    return importlib.import_module("diffusers.pipelines.auto_pipeline")
