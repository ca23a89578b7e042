"""Models to measure with: the built-in one, tiny ones, and full-size ones with random weights."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests import pipelines

FULL = ("sd15", "sdxl", "flux")


@cache
def folder(name: str, device: str) -> str:
    """What `--model` takes: `shapes`, one of the tiny pipelines, one of FULL with random weights, or a folder."""
    if name in pipelines.PIPELINES:
        return str(pipelines.save(name, Path(tempfile.mkdtemp()) / name))
    if name not in FULL:
        return name
    import torch

    path = Path(tempfile.mkdtemp()) / name
    torch.manual_seed(0)
    with torch.device(device):
        pipeline = {"sd15": _sd15, "sdxl": _sdxl, "flux": _flux}[name](path)
    pipeline.to(torch.bfloat16).save_pretrained(path)
    return str(path)


def _clip(tokenizer: Any, width: int, layers: int, heads: int, activation: str, projected: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def _vae(channels: int, **config: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=channels,
        **config,
    )


def _sd15(path: Path) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    tokenizer = pipelines.clip_tokenizer(path, 77)
    return StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=_clip(tokenizer, 768, 12, 12, "quick_gelu", False),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl(path: Path) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    tokenizer = pipelines.clip_tokenizer(path, 77)
    return StableDiffusionXLPipeline(
        vae=_vae(4, sample_size=1024),
        text_encoder=_clip(tokenizer, 768, 12, 12, "quick_gelu", False),
        text_encoder_2=_clip(tokenizer, 1280, 32, 20, "gelu", True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )


def _flux(path: Path) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizer, second = pipelines.clip_tokenizer(path, 77), pipelines.t5_tokenizer(512)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(16, shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(tokenizer, 768, 12, 12, "quick_gelu", False),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(
            T5Config(
                vocab_size=32128,
                d_model=4096,
                d_kv=64,
                d_ff=10240,
                num_layers=24,
                num_heads=64,
                feed_forward_proj="gated-gelu",
            )
        ),
        tokenizer_2=second,
        transformer=FluxTransformer2DModel(guidance_embeds=True),
    )
