"""Makes the weights of the model `shapes_captioner`: `python -m training.train_captioner -o FOLDER`."""

from __future__ import annotations

import argparse
import random
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
    GenerationConfig,
)

from training.instructions import random_scene
from training.train_shapes import PIXELS, Checkpoint, chunks, rate_at, report, tidy
from training.world import BACKGROUNDS, COLORS, SHAPES, SIZES, Scene, caption, draw, holds_out

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("a", "above", "and", "an", "background", "left", "of", "on", "the", "to")
BATCH = 64
PATCH = 8
RATE = 1.5e-3


def make_processor() -> BlipProcessor:
    """Put together what makes pictures of any size 64 pixels wide and high, and words numbers."""
    words = dict.fromkeys([*SPECIAL, *WORDS, *SHAPES, *COLORS, *BACKGROUNDS, *SIZES])
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=32)
    pictures = BlipImageProcessor(
        size={"height": PIXELS, "width": PIXELS}, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    )
    return BlipProcessor(pictures, tokenizer)


def make_model(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    """Make the untrained model."""
    vision = BlipVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        projection_dim=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=PIXELS,
        patch_size=PATCH,
        initializer_range=0.02,
    )
    text = BlipTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        projection_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        sep_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    settings = GenerationConfig(
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=24,
    )
    model.generation_config = settings
    model.text_decoder.generation_config = deepcopy(settings)
    return model


def random_picture(rng: random.Random) -> Scene:
    """Draw a scene without held-out combinations whose objects stand a little more freely than the painter's."""
    while holds_out(scene := random_scene(rng)):
        pass
    return replace(
        scene,
        objects=tuple(
            replace(
                o,
                x=o.x + rng.uniform(-0.015, 0.015),
                y=o.y + rng.uniform(-0.015, 0.015),
                radius=o.radius * rng.uniform(0.97, 1.03),
            )
            for o in scene.objects
        ),
    )


def make_pool(vae: AutoencoderKL, count: int) -> tuple[list[Scene], torch.Tensor]:
    """Pass pictures through the painter's autoencoder with a little noise, so that they look as if painted."""
    rng = random.Random("painted")
    scenes = [random_picture(rng) for _ in range(count)]
    made = []
    with torch.no_grad():
        for part in chunks(scenes):
            latents = vae.encode(draw(part, PIXELS)).latent_dist.mode()
            noise = 0.25 * torch.rand(len(part), 1, 1, 1) * torch.randn_like(latents)
            made.append(vae.decode(latents + noise).sample.clamp(-1, 1))
    return scenes, torch.cat(made)


def roughen(pictures: torch.Tensor) -> torch.Tensor:
    """Blur pictures, shift their colors and add noise in pixels and in blocks, each picture by its own measure."""

    def some(most: float) -> torch.Tensor:
        return most * torch.rand(len(pictures), 1, 1, 1) ** 2

    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = pictures + torch.rand(len(pictures), 1, 1, 1) * (soft - pictures)
    pictures = pictures + some(0.12) * torch.randn(len(pictures), 3, 1, 1)
    blocks = F.interpolate(torch.randn(len(pictures), 3, PIXELS // 4, PIXELS // 4), scale_factor=4)
    return (pictures + some(0.12) * torch.randn_like(pictures) + some(0.08) * blocks).clamp(-1, 1)


def patch_shapes(scenes: list[Scene]) -> torch.Tensor:
    """Number the shape of the object that each patch lies in, -100 where there is none: [scenes, patches]."""
    places = (torch.arange(PIXELS // PATCH) + 0.5) * PATCH / PIXELS
    found = torch.full((len(scenes), len(places), len(places)), -100)
    for k, scene in enumerate(scenes):
        for o in scene.objects:
            rows, columns = (places - o.y).abs() <= o.radius, (places - o.x).abs() <= o.radius
            found[k, rows[:, None] & columns] = SHAPES.index(str(o.shape))
    return found.flatten(1)


def train(options: argparse.Namespace, processor: BlipProcessor) -> nn.Module:
    """Train the model, which ends as a moving average."""
    torch.manual_seed(4)
    tokenizer = processor.tokenizer
    model = make_model(tokenizer).train()
    average = deepcopy(model)
    # Asked for its shape at every patch of an object, the vision part learns shapes many times sooner.
    judge = nn.Linear(model.config.vision_config.hidden_size, len(SHAPES))
    parameters, averaged = list(model.parameters()), [p.detach() for p in average.parameters()]
    optimizer = torch.optim.AdamW([*parameters, *judge.parameters()], lr=RATE, weight_decay=1e-2, fused=True)
    checkpoint = Checkpoint(
        options.work / "captioner.pt", options.steps, model=model, average=average, judge=judge, optimizer=optimizer
    )
    file = options.work / "painted.pt"
    if not file.exists():
        vae = AutoencoderKL.from_pretrained(options.painter / "vae", torch_dtype=torch.float32)
        torch.save(make_pool(vae, options.pool), file)
    scenes, painted = torch.load(file, weights_only=False)
    for step in range(checkpoint.first, options.steps):
        rng = random.Random(f"captioner {step}")
        torch.manual_seed(rng.getrandbits(60))
        drawn = [random_picture(rng) for _ in range(3 * BATCH // 4)]
        chosen = rng.sample(range(len(scenes)), BATCH - len(drawn))
        pictures = roughen(torch.cat([draw(drawn, PIXELS), painted[chosen]]))
        shown = [*drawn, *(scenes[i] for i in chosen)]
        texts = [caption(scene) for scene in shown]
        told = tokenizer(texts, padding=True, return_tensors="pt")
        labels = told.input_ids.masked_fill(told.attention_mask == 0, -100)
        answer = model(pictures, told.input_ids, told.attention_mask, labels=labels)
        named = judge(answer.image_embeds[:, 1:]).flatten(0, 1)
        asked = patch_shapes(shown).flatten()
        loss = answer.loss + F.cross_entropy(named, asked)
        optimizer.param_groups[0]["lr"] = RATE * rate_at(step, options.steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        share = 1 - min(0.998, (1 + step) / (10 + step))
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], share)
        right = (named.argmax(-1) == asked)[asked >= 0].float().mean().item()
        report("captioner", step, options.steps, answer.loss, f"patches right {right:.3f}")
        checkpoint.keep(step)
    return average


def main() -> None:
    """Train the model, going on from what the work folder holds, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the model folder to write")
    parser.add_argument(
        "--painter", type=Path, default=Path("src/imagemill/weights/shapes"), help="its autoencoder is used"
    )
    parser.add_argument("--work", type=Path, default=Path("build/captioner"), help="what to go on from")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--pool", type=int, default=1500, help="pictures passed through the autoencoder once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    processor = make_processor()
    train(options, processor).half().eval().save_pretrained(options.output)
    processor.save_pretrained(options.output)
    tidy(options.output)


if __name__ == "__main__":
    main()
