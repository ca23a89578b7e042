"""Makes the weights of the model `shapes_editor`: `python -m training.train_editor -o FOLDER`."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from training.instructions import KINDS, Edit, instruct, random_changes
from training.train_shapes import (
    PIXELS,
    Checkpoint,
    chunks,
    make_scheduler,
    make_tokenizer,
    rate_at,
    report,
    teach_text,
    tidy,
    token_ids,
)
from training.world import BACKGROUNDS, COLORS, SHAPES, Scene, draw

HEADS = (len(KINDS), len(COLORS) + 1, len(BACKGROUNDS) + 1, len(SHAPES) + 1, len(SHAPES) + 1, len(COLORS) + 1)
"""The number of answers of each question put to an instruction; answer 0 of all but the first is "not said"."""
CHANGES = 3
"""Changes made to each picture of the pool."""
BATCH = 64
RATE = 2e-3


def answers(edit: Edit) -> list[int]:
    """What an instruction says, as one answer for each of HEADS."""

    def place(names: tuple[str, ...], name: str | None) -> int:
        return 1 + names.index(name) if name else 0

    new = {edit.kind: edit.value}
    return [
        KINDS.index(edit.kind),
        place(tuple(COLORS), new.get("color")),
        place(tuple(BACKGROUNDS), new.get("background")),
        place(SHAPES, new.get("shape")),
        place(SHAPES, edit.shape),
        place(tuple(COLORS), edit.color),
    ]


def instructions(seed: str, steps: int, count: int) -> Iterator[tuple[list[str], list[list[int]]]]:
    """Yield batches of instructions and what each of them says."""
    for step in range(steps):
        rng = random.Random(f"{seed} {step}")
        edits = [random_changes(rng, 1)[1][0][0] for _ in range(count)]
        yield [instruct(edit, rng) for edit in edits], [answers(edit) for edit in edits]


def make_pool(vae: AutoencoderKL, pictures: int) -> tuple[torch.Tensor, torch.Tensor, list[Edit]]:
    """Encode pictures and, for each, CHANGES changed pictures."""
    rng = random.Random("pool")
    before: list[Scene] = []
    after: list[Scene] = []
    edits: list[Edit] = []
    for _ in range(pictures):
        scene, changes = random_changes(rng, CHANGES)
        before.append(scene)
        edits += [edit for edit, _ in changes]
        after += [changed for _, changed in changes]

    def encode(scenes: list[Scene]) -> torch.Tensor:
        return torch.cat([vae.encode(draw(part, PIXELS)).latent_dist.mode() for part in chunks(scenes)])

    with torch.no_grad():
        return encode(before), encode(after), edits


def make_unet(width: int) -> UNet2DConditionModel:
    """Make the untrained denoiser, which reads a text encoder of so many numbers a position."""
    return UNet2DConditionModel(
        sample_size=PIXELS // 4,
        in_channels=8,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 48, 64),
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
    )


def train_unet(
    vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer, options: argparse.Namespace
) -> nn.Module:
    """Train the denoiser, which sees the picture beside the noise and ends as a moving average."""
    torch.manual_seed(3)
    scheduler = make_scheduler()
    file = options.work / "pool.pt"
    if not file.exists():
        torch.save(make_pool(vae, options.pool), file)
    before, after, edits = torch.load(file, weights_only=False)
    report("pool", 0, 1, (after - before.repeat_interleave(CHANGES, 0)).abs().mean(), f"{len(after)} changes")
    unet = make_unet(text.config.hidden_size)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RATE, weight_decay=1e-3, fused=True)
    average = deepcopy(unet)
    parameters, averaged = list(unet.parameters()), [p.detach() for p in average.parameters()]
    checkpoint = Checkpoint(
        options.work / "unet.pt", options.unet_steps, unet=unet, average=average, optimizer=optimizer
    )
    scaling = vae.config.scaling_factor
    for step in range(checkpoint.first, options.unet_steps):
        rng = random.Random(f"editor {step}")
        torch.manual_seed(rng.getrandbits(60))
        chosen = rng.sample(range(len(edits)), BATCH)
        told = [instruct(edits[i], rng) for i in chosen]
        source = before[[i // CHANGES for i in chosen]]
        x = after[chosen] * scaling
        # The changed part of a picture is small, and it is what is to be learned.
        changed = ((after[chosen] - source).abs().amax(1, keepdim=True) > 0.3).float()
        # Pictures from elsewhere are not quite like drawn ones.
        source = source + 0.1 * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(source)
        # For guidance: a twentieth without the text, a twentieth without the picture, a twentieth without both.
        luck = torch.rand(BATCH)
        texts = [t if lot >= 0.1 else "" for t, lot in zip(told, luck.tolist(), strict=True)]
        source = source * ((luck < 0.05) | (luck >= 0.15))[:, None, None, None]
        noise = torch.randn_like(x)
        times = (torch.rand(BATCH) ** 0.7 * scheduler.config.num_train_timesteps).long()
        with torch.no_grad():
            hidden = text(token_ids(tokenizer, texts)).last_hidden_state
        guess = unet(torch.cat([scheduler.add_noise(x, noise, times), source], 1), times, hidden).sample
        weight = (1 + 3 * changed) / (1 + 3 * changed.mean((1, 2, 3), keepdim=True))
        loss = ((guess - scheduler.get_velocity(x, noise, times)) ** 2 * weight).mean()
        optimizer.param_groups[0]["lr"] = RATE * rate_at(step, options.unet_steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        share = 1 - min(0.998, (1 + step) / (10 + step))
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], share)
        report("unet", step, options.unet_steps, loss)
        checkpoint.keep(step)
    return average


def main() -> None:
    """Train what the work folder does not hold yet and write the finished model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the model folder to write")
    parser.add_argument(
        "--painter", type=Path, default=Path("src/imagemill/weights/shapes"), help="gives the autoencoder"
    )
    parser.add_argument("--work", type=Path, default=Path("build/editor"), help="finished parts, kept to go on from")
    parser.add_argument("--text-steps", type=int, default=500)
    parser.add_argument("--unet-steps", type=int, default=11000)
    parser.add_argument("--pool", type=int, default=6000, help="pictures that are drawn and encoded once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)

    vae = AutoencoderKL.from_pretrained(options.painter / "vae", torch_dtype=torch.float32)
    if not (options.work / "text_encoder").exists():
        rng = random.Random("tokenizer")
        made = make_tokenizer(instruct(random_changes(rng, 1)[1][0][0], rng).lower() for _ in range(20000))
        made.save_pretrained(options.work / "tokenizer")
        examples = instructions("text", options.text_steps, 128)
        learned = teach_text(made, 96, 2, HEADS, examples, options.text_steps, "cpu")
        learned.save_pretrained(options.work / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(options.work / "tokenizer")
    # It stays as it is, like the painter's.
    text = CLIPTextModel.from_pretrained(options.work / "text_encoder").eval()
    unet = train_unet(vae, text, tokenizer, options)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae, text, tokenizer, unet, make_scheduler(), None, None, requires_safety_checker=False
    )
    pipeline.to("cpu", torch.float16).save_pretrained(options.output)
    tidy(options.output)


if __name__ == "__main__":
    main()
