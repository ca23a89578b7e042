"""Makes the weights of the model `shapes` from nothing: `python -m training.train_shapes -o FOLDER`."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.world import AXES, BACKGROUNDS, COLORS, SHAPES, SIZES, Object, Scene, caption, draw, random_pair

PIXELS = 64
POSITIONS = 32
START, END = "<|startoftext|>", "<|endoftext|>"
HEADS = (len(BACKGROUNDS) + 1, 4, *(2 * (len(SHAPES) + 1, len(COLORS) + 1, len(SIZES) + 1)))
"""The number of answers of each question put to a caption; answer 0 is "not said"."""


@dataclass(frozen=True)
class Plan:
    """How long each part is trained and on how many pictures at a time."""

    text_steps: int
    vae_steps: int
    unet_steps: int
    text_batch: int
    vae_batch: int
    unet_batch: int
    unet_pool: int
    """Batches of pictures that are drawn and encoded once; captions and noise are new every time."""
    vae_rate: float
    unet_rate: float


PLANS = {
    "cpu": Plan(500, 4000, 4500, 128, 16, 64, 400, 3e-3, 1.5e-3),
    "cuda": Plan(1000, 10000, 40000, 512, 128, 256, 2000, 3e-3, 2e-3),
}


def batches(
    seed: str, steps: range, count: int, pool: int = 0
) -> Iterator[tuple[int, list[str], list[Scene], list[Scene]]]:
    """Yield step, captions, wishes and pictures; a batch depends on the seed and its step alone.

    With `pool`, pictures come again after so many steps, with new captions.
    """
    for step in steps:
        rng = random.Random(f"{seed} {step % pool if pool else step}")
        pairs = [random_pair(rng) for _ in range(count)]
        rng = random.Random(f"{seed} captions {step}")
        torch.manual_seed(rng.getrandbits(60))
        texts = [caption(wish, rng) for wish, _ in pairs]
        yield step, texts, [wish for wish, _ in pairs], [scene for _, scene in pairs]


def rate_at(step: int, steps: int, warmup: int = 200) -> float:
    """The share of the learning rate at a step: a linear start, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return float(0.5 * (1 + torch.cos(torch.tensor(torch.pi * (step - warmup) / max(1, steps - warmup)))))


class Checkpoint:
    """What a part needs to go on after an interruption: its step and everything that has a state."""

    def __init__(self, file: Path, steps: int, **states: Any) -> None:
        self.file, self.steps, self.states = file, steps, states
        self.first = 0
        if file.exists():
            saved = torch.load(file, map_location="cpu")
            self.first = saved.pop("first")
            for name, state in saved.items():
                states[name].load_state_dict(state)

    def keep(self, step: int) -> None:
        """Write the file after every 250th step and after the last."""
        if (step + 1) % 250 == 0 or step + 1 == self.steps:
            saved = {name: state.state_dict() for name, state in self.states.items()}
            new = self.file.with_suffix(".new")
            torch.save({"first": step + 1, **saved}, new)
            new.replace(self.file)


def make_tokenizer(texts: Iterable[str]) -> CLIPTokenizer:
    """Learn byte-level merges from lower-case texts, in CLIP's own layout of the vocabulary."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=800, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(m) for m in json.loads(learner.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(c + "</w>" for c in letters), *("".join(m) for m in merges), START, END]
    return CLIPTokenizer(
        vocab={t: i for i, t in enumerate(dict.fromkeys(tokens))}, merges=merges, model_max_length=POSITIONS
    )


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Encode texts as the pipeline does: [texts, POSITIONS]."""
    ids: torch.Tensor = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


def answers(wish: Scene) -> list[int]:
    """What a caption says, as one answer for each of HEADS."""

    def place(names: dict[str, tuple[int, int, int]] | dict[str, float] | tuple[str, ...], name: str | None) -> int:
        return 0 if name is None else 1 + list(names).index(name)

    found = [place(BACKGROUNDS, wish.background)]
    found.append(0 if len(wish.objects) == 1 else 1 if wish.axis is None else 2 + AXES.index(wish.axis))
    for o in (*wish.objects, Object())[:2]:
        found += [place(SHAPES, o.shape), place(COLORS, o.color), place(SIZES, o.size)]
    return found


def train_text(plan: Plan, tokenizer: CLIPTokenizer, device: str) -> CLIPTextModel:
    """Teach the text encoder to say, at every place from a caption's end on, what the caption asks for."""
    examples = (
        (texts, [answers(w) for w in wishes])
        for _, texts, wishes, _ in batches("text", range(plan.text_steps), plan.text_batch)
    )
    return teach_text(tokenizer, 128, 3, HEADS, examples, plan.text_steps, device)


def teach_text(
    tokenizer: CLIPTokenizer,
    width: int,
    layers: int,
    heads: Sequence[int],
    examples: Iterable[tuple[list[str], list[list[int]]]],
    steps: int,
    device: str,
) -> CLIPTextModel:
    """Train a text encoder from nothing on batches of texts and, for each text, an answer to each of `heads`."""
    torch.manual_seed(1)
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        **ends,
    )
    text = CLIPTextModel(config).to(device)
    judge = nn.Linear(width, sum(heads)).to(device)
    optimizer = torch.optim.AdamW([*text.parameters(), *judge.parameters()], lr=2e-3)
    for step, (texts, answered) in enumerate(examples):
        ids = token_ids(tokenizer, texts).to(device)
        asked = torch.tensor(answered, device=device)
        ended = (ids == tokenizer.eos_token_id).float()
        hidden = text(ids).last_hidden_state
        loss = torch.zeros((), device=device)
        right = []
        for k, said in enumerate(judge(hidden).split(list(heads), -1)):
            each = F.cross_entropy(said.transpose(1, 2), asked[:, k : k + 1].expand(-1, POSITIONS), reduction="none")
            loss = loss + (each * ended).sum() / ended.sum()
            right.append((said[:, -1].argmax(-1) == asked[:, k]).float().mean().item())
        optimizer.param_groups[0]["lr"] = 2e-3 * rate_at(step, steps, 50)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report("text", step, steps, loss, f"right {min(right):.3f}")
    return text


def train_vae(plan: Plan, device: str, work: Path) -> AutoencoderKL:
    """Train the autoencoder on fresh pictures and set its scaling factor from the spread of its latents."""
    torch.manual_seed(2)
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=PIXELS,
    ).to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=plan.vae_rate, weight_decay=1e-4)
    checkpoint = Checkpoint(work / "vae.pt", plan.vae_steps, vae=vae, optimizer=optimizer)
    for step, _, _, scenes in batches("vae", range(checkpoint.first, plan.vae_steps), plan.vae_batch):
        x = draw(scenes, PIXELS, device)
        if step < 0.85 * plan.vae_steps:
            # Cut-outs teach the same edges at a quarter of the cost; whole pictures come last.
            top, left = torch.randint(0, PIXELS // 2 + 1, (2,)).tolist()
            x = x[:, :, top : top + PIXELS // 2, left : left + PIXELS // 2]
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        spread = posterior.kl().mean() / posterior.mean[0].numel()
        loss = F.l1_loss(y, x) + 2 * F.mse_loss(y, x) + 1e-3 * spread
        optimizer.param_groups[0]["lr"] = plan.vae_rate * rate_at(step, plan.vae_steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        report("vae", step, plan.vae_steps, loss, f"kl {spread.item():.2f}")
        checkpoint.keep(step)
    _, _, _, scenes = next(batches("scale", range(1), 512))
    with torch.no_grad():
        level(vae, torch.cat([vae.encode(draw(part, PIXELS, device)).latent_dist.sample() for part in chunks(scenes)]))
        latents = torch.cat([vae.encode(draw(part, PIXELS, device)).latent_dist.sample() for part in chunks(scenes)])
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    return vae


def chunks(scenes: list[Scene]) -> list[list[Scene]]:
    """Cut a list into parts of 64."""
    return [scenes[i : i + 64] for i in range(0, len(scenes), 64)]


def level(vae: AutoencoderKL, latents: torch.Tensor) -> None:
    """Shift and scale each latent channel to mean 0 and deviation 1 inside the weights; pictures stay the same."""
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    n = len(mean)
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation[None, :, None, None]
    into.bias[:n] = (into.bias[:n] - mean) / deviation
    into.weight[:n] /= deviation[:, None, None, None]
    into.bias[n:] -= 2 * deviation.log()


def make_scheduler() -> DDIMScheduler:
    """The noise schedule; it ends in almost pure noise, so that a plain background can be any color."""
    return DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def train_unet(plan: Plan, tokenizer: CLIPTokenizer, device: str, work: Path) -> nn.ModuleDict:
    """Train the denoiser, which ends as a moving average."""
    torch.manual_seed(3)
    scheduler = make_scheduler()
    vae = AutoencoderKL.from_pretrained(work / "vae").to(device)
    # It stays as it is: trained along, it forgets shapes while the denoiser still learns backgrounds.
    text = CLIPTextModel.from_pretrained(work / "text_encoder").to(device).eval()
    unet = UNet2DConditionModel(
        sample_size=PIXELS // 4,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64, 128),
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text.config.hidden_size,
        attention_head_dim=4,
    ).to(device)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=plan.unet_rate, weight_decay=1e-3, fused=True)
    average = deepcopy(unet)
    parameters, averaged = list(unet.parameters()), [p.detach() for p in average.parameters()]
    checkpoint = Checkpoint(work / "unet.pt", plan.unet_steps, unet=unet, average=average, optimizer=optimizer)
    pool = min(plan.unet_pool, plan.unet_steps)
    with torch.no_grad():
        pictures = [
            vae.encode(draw(scenes, PIXELS, device)).latent_dist.sample() * vae.config.scaling_factor
            for _, _, _, scenes in batches("unet", range(pool), plan.unet_batch)
        ]
    steps = range(checkpoint.first, plan.unet_steps)
    for step, told, _, _ in batches("unet", steps, plan.unet_batch, pool):
        silent = (torch.rand(len(told)) < 0.1).tolist()
        texts = ["" if empty else t for t, empty in zip(told, silent, strict=True)]
        x = pictures[step % pool]
        noise = torch.randn_like(x)
        # More of the noisy steps, where a caption decides what is drawn.
        times = (torch.rand(len(x), device=device) ** 0.7 * scheduler.config.num_train_timesteps).long()
        with torch.no_grad():
            hidden = text(token_ids(tokenizer, texts).to(device)).last_hidden_state
        guess = unet(scheduler.add_noise(x, noise, times), times, hidden).sample
        loss = F.mse_loss(guess, scheduler.get_velocity(x, noise, times))
        optimizer.param_groups[0]["lr"] = plan.unet_rate * rate_at(step, plan.unet_steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        share = 1 - min(0.998, (1 + step) / (10 + step))
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], share)
        report("unet", step, plan.unet_steps, loss)
        checkpoint.keep(step)
    return nn.ModuleDict({"unet": average, "text_encoder": text})


def report(part: str, step: int, steps: int, loss: torch.Tensor, more: str = "") -> None:
    """Print where the training of a part stands, now and then."""
    if step % 100 == 0 or step + 1 == steps:
        print(f"{time.strftime('%H:%M:%S')} {part} {step + 1}/{steps} loss {loss.item():.4f} {more}", flush=True)


def main() -> None:
    """Train what the work folder does not hold yet and write the finished model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--device", choices=list(PLANS), default="cpu")
    parser.add_argument("--work", type=Path, default=Path("build/shapes"), help="finished parts, kept to go on from")
    for part in ("text", "vae", "unet"):
        parser.add_argument(f"--{part}-steps", type=int, help="instead of the device's own number")
    options = parser.parse_args()
    chosen = {k: v for k, v in vars(options).items() if k.endswith("_steps") and v is not None}
    plan = replace(PLANS[options.device], **chosen)
    device, work = options.device, options.work
    torch.set_float32_matmul_precision("high")
    work.mkdir(parents=True, exist_ok=True)

    # Kept beside the encoder: learned again after a change of the captions, it would number words otherwise.
    if not (work / "text_encoder").exists():
        rng = random.Random("tokenizer")
        made = make_tokenizer(caption(random_pair(rng)[0], rng).lower() for _ in range(30000))
        made.save_pretrained(work / "tokenizer")
        train_text(plan, made, device).save_pretrained(work / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    if not (work / "vae").exists():
        train_vae(plan, device, work).save_pretrained(work / "vae")
    trained = train_unet(plan, tokenizer, device, work)
    vae = AutoencoderKL.from_pretrained(work / "vae")
    pipeline = StableDiffusionPipeline(
        vae,
        trained["text_encoder"],
        tokenizer,
        trained["unet"],
        make_scheduler(),
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.to("cpu", torch.float16).save_pretrained(options.output)
    tidy(options.output)


def tidy(folder: Path) -> None:
    """Make a saved model fit to be shipped."""
    for file in folder.rglob("*config.json"):
        # Where the parts lay while they were made is nobody's business.
        settings = json.loads(file.read_text())
        for key in ("_name_or_path", "is_local", "local_files_only"):
            settings.pop(key, None)
        file.write_text(json.dumps(settings, indent=2) + "\n")
    for file in folder.rglob("tokenizer.json"):
        file.write_text(json.dumps(json.loads(file.read_text()), ensure_ascii=False, separators=(",", ":")) + "\n")
    for file in folder.rglob("*.safetensors"):
        # The library makes these readable by their owner alone, which a package must not keep.
        file.chmod(0o644)


if __name__ == "__main__":
    main()
