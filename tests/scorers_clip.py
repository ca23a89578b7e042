"""Dual encoders with a few thousand random weights, saved as real model folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import text_models
from .pipelines import clip_tokenizer

SIDE = 16
"""Pixels of what they see, in both directions."""
PLACES = 24
"""Tokens of a text."""
_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def clip(folder: Path) -> None:
    """Vectors of 12 numbers; a tokenizer that ends a text with the token it pads with."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    tokenizer = clip_tokenizer(folder, PLACES)
    config = CLIPConfig(
        text_config={
            **_SIZES,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": PLACES,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**_SIZES, "image_size": SIDE, "patch_size": 8},
        projection_dim=12,
    )
    _mixed(CLIPModel(config)).save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)


def siglip(folder: Path) -> None:
    """As SigLIP 2 with a fixed resolution: a tokenizer that keeps upper case."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    tokenizer = _byte_tokenizer()
    config = SiglipConfig(
        text_config={
            **_SIZES,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": PLACES,
            "projection_size": 16,
        },
        vision_config={**_SIZES, "image_size": SIDE, "patch_size": 8},
    )
    _mixed(SiglipModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def siglip2(folder: Path) -> None:
    """As SigLIP 2 NaFlex: images in their own proportions."""
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model, Siglip2Tokenizer

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *(chr(number) for number in range(33, 127))]
    tokenizer = Siglip2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, model_max_length=PLACES, padding_side="right"
    )
    config = Siglip2Config(
        text_config={
            **_SIZES,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": PLACES,
            "projection_size": 16,
        },
        vision_config={**_SIZES, "num_patches": 16, "patch_size": 4},
    )
    _mixed(Siglip2Model(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16).save_pretrained(folder)


def llava(folder: Path) -> None:
    """Answers questions, with words for yes and no."""
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    text_models.llava(folder)
    processor = LlavaProcessor.from_pretrained(folder)
    processor.tokenizer.add_tokens(["Yes", "No", "yes"])
    processor.save_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    model.resize_token_embeddings(len(processor.tokenizer))
    model.save_pretrained(folder)


def _byte_tokenizer() -> Any:
    """A tokenizer of bytes that pads at the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=PLACES
    )


def _mixed(model: Any) -> Any:
    """Weights so large that vectors depend on what they are of."""
    from torch import nn

    for weights in model.parameters():
        if weights.ndim > 1:
            nn.init.normal_(weights, std=0.3)
    return model


MAKERS: dict[str, Callable[[Path], None]] = {"clip": clip, "siglip": siglip, "siglip2": siglip2, "llava": llava}


def save(name: str, folder: Path) -> Path:
    """Make one of the MAKERS and save it in the real format."""
    import torch

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    MAKERS[name](folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert json.loads((folder / "config.json").read_text())["model_type"] == name
    return folder
