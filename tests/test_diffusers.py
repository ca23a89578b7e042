"""Any pipeline folder goes through one path: a tiny Stable Diffusion with random weights, saved in the real format."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from imagemill.dataset import Dataset
from imagemill.dataset.verify import verify

from .conftest import Command

pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("diffusers", reason="the extra `local` is not installed")
pytest.importorskip("transformers", reason="the extra `local` is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def tiny_pipeline(folder: Path) -> None:
    """Save a Stable Diffusion pipeline of a few thousand random weights; 32×32 pixels."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    (folder / "source").mkdir(parents=True)
    (folder / "source" / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (folder / "source" / "merges.txt").write_text("#version: 0.2\n")
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            layers_per_block=1,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=24,
                bos_token_id=len(vocabulary) - 2,
                eos_token_id=len(vocabulary) - 1,
                pad_token_id=len(vocabulary) - 1,
            )
        ),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "source", model_max_length=24),
        unet=UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            norm_num_groups=4,
            layers_per_block=1,
            attention_head_dim=4,
        ),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline(folder)
    return folder


def common(model: Path) -> tuple[object, ...]:
    return ("--model", model, "--seed", 1, "--num-inference-steps", 3, "--threads", 1, "--device", "cpu")


def test_a_pipeline_folder_makes_a_dataset_and_its_records_can_be_reproduced(
    imagemill: Command, model: Path, prompts: Path
) -> None:
    ran = imagemill("generate", prompts, "-o", "out", *common(model), "--limit", 3, "--images-per-prompt", 2)
    assert ran.code == 0, ran.err
    records = list(Dataset("out"))
    assert [(record["width"], record["height"], record["scheduler"]) for record in records] == [(32, 32, "ddim")] * 6
    assert len({record["sha256"] for record in records}) == 6
    parameters: dict[str, Any] = json.loads(records[0]["model_parameters"])
    assert (parameters["dtype"], parameters["threads"], parameters["device"]) == ("float32", 1, "cpu")
    assert verify(Dataset("out")) == []
    (result,) = imagemill("reproduce", "out", "prompt_1_image_1", "--json").json
    assert result["verdict"] == "bit-exact", result


def test_an_image_depends_on_its_request_and_not_on_its_neighbors_or_workers(
    imagemill: Command, model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "prompts.csv"
    rows = [f"row-{number},picture number {number}" for number in range(6)]
    table.write_text("\n".join(["id,prompt", *rows]))
    turned = tmp_path / "turned.csv"
    turned.write_text("\n".join(["id,prompt", *reversed(rows)]))
    arguments = (*common(model), "--batch-size", 4)
    imagemill("generate", table, "-o", "whole", *arguments)
    imagemill("generate", turned, "-o", "turned", *arguments)
    imagemill("generate", table, "-o", "part", *arguments, "--limit", 1)
    imagemill("generate", table, "-o", "two", *arguments, "--workers", 2)
    whole, turned_, part, two = (
        {record["id"]: record["sha256"] for record in Dataset(name)} for name in ("whole", "turned", "part", "two")
    )
    assert len(whole) == 6
    assert whole == turned_ == two
    assert part == {"row-0": whole["row-0"]}


def test_rows_of_different_sizes_steps_and_schedulers_share_a_job(
    imagemill: Command, model: Path, tmp_path: Path
) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text(
        "prompt,width,num_inference_steps,scheduler,negative_prompt\n"
        "a,32,2,euler,\nb,48,3,dpmpp_2m,blue\nc,32,2,unipc,\nd,32,2,euler_ancestral,\n"
    )
    ran = imagemill("generate", table, "-o", "out", *common(model), "--per-row")
    assert ran.code == 0, ran.err
    assert [(record["width"], record["scheduler"]) for record in Dataset("out")] == [
        (32, "euler"),
        (48, "dpmpp_2m"),
        (32, "unipc"),
        (32, "euler_ancestral"),
    ]
    for record in list(Dataset("out"))[1::2]:
        assert "bit-exact" in imagemill("reproduce", "out", record["file_name"]).out


def test_what_the_model_cannot_do_is_said_before_it_is_loaded(imagemill: Command, model: Path, prompts: Path) -> None:
    ran = imagemill("generate", prompts, "-o", "out", *common(model), "--width", 33)
    assert ran.code == 2
    assert "`width`: 33 is not a multiple of 8" in ran.err
    assert "the nearest are 32 and 40" in ran.err
    ran = imagemill("generate", prompts, "-o", "out", *common(model), "--scheduler", "eular")
    assert ran.err.endswith("hint: did you mean `euler`?\n")
    assert not Path("out").exists()


def test_other_weights_are_another_model(imagemill: Command, model: Path, prompts: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    imagemill("generate", prompts, "-o", "out", *common(copy), "--limit", 1)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    ran = imagemill("generate", prompts, "-o", "out", *common(copy), "--limit", 2)
    assert ran.code == 2
    assert "`model_revision` was" in ran.err
    assert "cannot: the model is now" in imagemill("reproduce", "out", "prompt_0_image_0").out


def test_a_damaged_or_missing_model_is_explained(
    imagemill: Command, model: Path, prompts: Path, tmp_path: Path
) -> None:
    import shutil

    (tmp_path / "empty").mkdir()
    ran = imagemill("generate", prompts, "-o", "out", "--model", tmp_path / "empty")
    assert ran.code == 2
    assert "holds no diffusers pipeline" in ran.err
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    ran = imagemill("generate", prompts, "-o", "out", *common(copy))
    assert ran.code == 1
    assert "cannot be loaded" in ran.err
    assert "Traceback" not in ran.err
    weights.unlink()
    (weights.with_suffix(".bin")).write_bytes(hashlib.sha256(b"a pickle").digest())
    assert imagemill("generate", prompts, "-o", "two", *common(copy)).code == 1
