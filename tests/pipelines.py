"""Pipelines of each family with a few thousand random weights, saved as real model folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def clip_tokenizer(folder: Path, length: int = 24) -> Any:
    """A byte-level tokenizer without merges, in CLIP's format."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def t5_tokenizer(length: int = 24) -> Any:
    """A tokenizer of letters, in T5's format."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((chr(n), -3.0) for n in range(97, 123))]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


def _clip_text(tokenizer: Any, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def _t5_text(tokenizer: Any, width: int = 16) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).eval()


def _vae(channels: int = 4, **config: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        **config,
    )


def _unet(text: int, **config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text,
        norm_num_groups=4,
        layers_per_block=1,
        attention_head_dim=4,
        **config,
    )


def _unet_xl(told: int, **config: Any) -> Any:
    return _unet(
        32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=told,
        transformer_layers_per_block=1,
        **config,
    )


def stable_diffusion(folder: Path) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    tokenizer = clip_tokenizer(folder)
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_clip_text(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(16),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(folder: Path) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = clip_tokenizer(folder)
    return StableDiffusionXLPipeline(
        vae=_vae(force_upcast=True),
        text_encoder=_clip_text(tokenizer),
        text_encoder_2=_clip_text(tokenizer, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet_xl(6 * 8 + 16),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )


def stable_diffusion_3(folder: Path) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer, third = clip_tokenizer(folder), t5_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=32,
            out_channels=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(shift_factor=0.06),
        text_encoder=_clip_text(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=_clip_text(tokenizer, projected=True),
        tokenizer_2=tokenizer,
        text_encoder_3=_t5_text(third, 32),
        tokenizer_3=third,
    )


def flux(folder: Path, guided: bool = True) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer, second = clip_tokenizer(folder), t5_tokenizer()
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guided),
        vae=_vae(shift_factor=0.1),
        text_encoder=_clip_text(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=_t5_text(second),
        tokenizer_2=second,
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guided,
        ),
    )


def pixart(folder: Path) -> Any:
    """One that has no loop of ours."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    del folder
    tokenizer = t5_tokenizer()
    return PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5_text(tokenizer),
        vae=_vae(),
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            cross_attention_dim=16,
            sample_size=16,
            caption_channels=16,
            norm_num_groups=4,
            use_additional_conditions=False,
        ),
        scheduler=DPMSolverMultistepScheduler(),
    )


PIPELINES: dict[str, Callable[[Path], Any]] = {
    "stable_diffusion": stable_diffusion,
    "stable_diffusion_xl": stable_diffusion_xl,
    "stable_diffusion_3": stable_diffusion_3,
    "flux": flux,
    "flux_schnell": lambda folder: flux(folder, guided=False),
    "pixart": pixart,
}


def from_image(folder: Path) -> Any:
    from diffusers import StableDiffusionImg2ImgPipeline

    return StableDiffusionImg2ImgPipeline(**stable_diffusion(folder).components, requires_safety_checker=False)


def from_image_xl(folder: Path, refines: bool = False) -> Any:
    from diffusers import StableDiffusionXLImg2ImgPipeline

    parts = stable_diffusion_xl(folder).components
    if refines:
        # It is told one number less.
        parts["unet"] = _unet_xl(5 * 8 + 16)
    return StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=refines)


def instruct(folder: Path) -> Any:
    from diffusers import StableDiffusionInstructPix2PixPipeline

    parts = {**stable_diffusion(folder).components, "unet": _unet(16, in_channels=8)}
    return StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)


def instruct_xl(folder: Path) -> Any:
    from diffusers import StableDiffusionXLInstructPix2PixPipeline

    parts = {**stable_diffusion_xl(folder).components, "unet": _unet_xl(6 * 8 + 16, in_channels=8)}
    del parts["image_encoder"], parts["feature_extractor"]
    return StableDiffusionXLInstructPix2PixPipeline(**parts)


def inpaint(folder: Path) -> Any:
    from diffusers import StableDiffusionInpaintPipeline

    parts = {**stable_diffusion(folder).components, "unet": _unet(16, in_channels=9)}
    return StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)


def kontext(folder: Path) -> Any:
    from diffusers import FluxKontextPipeline

    return FluxKontextPipeline(**flux(folder).components)


def pag(folder: Path) -> Any:
    """One of text to image that has no loop of ours, with a sister that starts from a picture."""
    from diffusers import StableDiffusionPAGPipeline

    parts = stable_diffusion(folder).components
    return StableDiffusionPAGPipeline(**parts, requires_safety_checker=False, pag_applied_layers="mid")


EDITORS: dict[str, Callable[[Path], Any]] = {
    "from_image": from_image,
    "from_image_xl": from_image_xl,
    "refiner": lambda folder: from_image_xl(folder, refines=True),
    "instruct": instruct,
    "instruct_xl": instruct_xl,
    "inpaint": inpaint,
    "kontext": kontext,
    "pag": pag,
}
"""What starts from pictures."""


def save(name: str, folder: Path) -> Path:
    """Make one of the PIPELINES or EDITORS and save it in the real format."""
    import torch

    torch.manual_seed(0)
    made = {**PIPELINES, **EDITORS}[name](folder.with_name(f"{folder.name}-source"))
    made.save_pretrained(folder, safe_serialization=True)
    return folder
