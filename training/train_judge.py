"""Makes the weights of the judge `shapes_judge`: `python -m training.train_judge -o FOLDER`."""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import nn
from transformers import (
    BlipForConditionalGeneration,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from tests.shapes_verifier import read_scene
from training.evaluate import generate
from training.evaluate_family import as_scene
from training.train_captioner import make_pool, patch_shapes, random_picture, roughen
from training.train_shapes import HEADS, PIXELS, Checkpoint, answers, rate_at, report, tidy
from training.world import (
    AXES,
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SIZES,
    Object,
    Scene,
    caption,
    complete,
    draw,
    holds_out,
    random_pair,
)

Kind = Literal["shape", "color", "background", "size", "count", "place", "binding"]

KINDS: tuple[Kind, ...] = get_args(Kind)
_OFTEN = (2, 2, 1, 4, 1, 4, 3)
"""How often each kind of change is drawn: places and sizes are the last to be learned."""
DRAWN, ENCODED, PAINTED = 14, 6, 12
"""Pairs of pictures in a batch, by where the first of a pair comes from; the second is always drawn."""
RATE = 1e-3


@dataclass(frozen=True)
class Shown:
    """A picture, by what it holds, None where that has no name, and a wish that it should or should not fulfil."""

    scene: Scene | None
    wish: Scene
    pixels: torch.Tensor | None = None


def fulfils(scene: Scene | None, wish: Scene) -> bool:
    """Whether a picture holds what a wish names; what the wish leaves free may be anything."""
    if scene is None or len(scene.objects) != len(wish.objects) or wish.background not in (None, scene.background):
        return False
    if wish.axis is not None and wish.axis != scene.axis:
        return False
    # Only with a direction does it matter which object comes first.
    orders = [wish.objects] if wish.axis else permutations(wish.objects)
    return any(
        all(
            w.shape in (None, o.shape) and w.color in (None, o.color) and w.size in (None, o.size)
            for o, w in zip(scene.objects, order, strict=True)
        )
        for order in orders
    )


def forget(scene: Scene, rng: random.Random) -> Scene:
    """Leave some of what a scene holds unsaid."""
    chances = [rng.random() for _ in range(8)]
    objects = tuple(
        Object(
            o.shape if chances[k] >= 0.05 else None,
            o.color if chances[k + 2] >= 0.1 else None,
            o.size if chances[k + 4] >= 0.4 else None,
        )
        for k, o in enumerate(scene.objects)
    )
    background = scene.background if chances[6] >= 0.15 else None
    return Scene(objects, background, scene.axis if chances[7] >= 0.15 else None)


def change(wish: Scene, kind: Kind, rng: random.Random) -> Scene | None:
    """Change one thing that a wish names; None where there is no such thing.

    `place` lets two objects change places or turns the axis, `binding` exchanges a color, shape or size between them.
    """
    objects, taken = list(wish.objects), {o.color for o in wish.objects}
    k = rng.randrange(len(objects))
    o = objects[k]
    if kind == "background":
        free = [b for b in BACKGROUNDS if b != wish.background and b not in taken]
        return replace(wish, background=rng.choice(free)) if wish.background else None
    if kind in ("shape", "color", "size"):
        if (old := getattr(o, kind)) is None:
            return None
        names = {"shape": SHAPES, "color": tuple(COLORS), "size": tuple(SIZES)}[kind]
        objects[k] = replace(o, **{kind: rng.choice([n for n in names if n not in (old, wish.background)])})
        return replace(wish, objects=tuple(objects))
    if kind == "count":
        if len(objects) == 2:
            return replace(wish, objects=(o,), axis=None)
        other = Object(rng.choice(SHAPES), rng.choice([c for c in COLORS if c != wish.background]), None)
        if rng.random() < 0.5:
            other = replace(other, size=rng.choice(list(SIZES)))
        objects.insert(rng.randrange(2), other)
        return replace(wish, objects=tuple(objects), axis=rng.choice(AXES))
    if len(objects) == 1:
        return None
    first, second = objects
    if kind == "place":
        if wish.axis is None:
            return None
        if rng.random() < 0.3:
            return replace(wish, axis=next(axis for axis in AXES if axis != wish.axis))
        return replace(wish, objects=(second, first))
    name = rng.choice(("shape", "color", "size"))
    a, b = getattr(first, name), getattr(second, name)
    return replace(wish, objects=(replace(first, **{name: b}), replace(second, **{name: a}))) if a and b else None


def tells_held_out(wish: Scene) -> bool:
    """Whether a wish names a held-out combination in full."""
    return any(o.shape and o.color and wish.background and holds_out(replace(wish, objects=(o,))) for o in wish.objects)


def contrast(scene: Scene, wish: Scene, rng: random.Random) -> tuple[Kind, Scene]:
    """Change one thing in a wish so that a picture does not fulfil it."""
    while True:
        kind = rng.choices(KINDS, _OFTEN)[0]
        changed = change(wish, kind, rng)
        if changed is not None and not fulfils(scene, changed) and not tells_held_out(changed):
            return kind, changed


def loosen(scene: Scene, rng: random.Random) -> Scene:
    """Let objects stand and be as large a little more freely than the painter's."""
    return replace(
        scene,
        objects=tuple(
            replace(
                o,
                x=o.x + rng.uniform(-0.03, 0.03),
                y=o.y + rng.uniform(-0.03, 0.03),
                radius=o.radius * rng.uniform(0.97, 1.03),
            )
            for o in scene.objects
        ),
    )


def make_painted(folder: Path, count: int) -> list[Shown]:
    """Paint wishes without held-out combinations and read the pictures; one that holds something else has no scene."""
    painter = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    painter.set_progress_bar_config(disable=True)
    rng = random.Random("painted")
    wishes = [random_pair(rng)[0] for _ in range(count)]
    pictures = generate(painter, [caption(wish, rng) for wish in wishes], 5_000_000, 20, 3.0)
    made = []
    for wish, picture in zip(wishes, pictures, strict=True):
        scene: Scene | None = as_scene(read_scene(picture))
        if scene is None or len(scene.objects) not in (1, 2) or "unknown" in str(scene):
            scene = None
        if scene is None or not holds_out(scene):
            made.append(Shown(scene, wish, torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1))
    return made


def make_pairs(rng: random.Random, encoded: list[Shown], painted: list[Shown]) -> Iterator[tuple[str, Shown, Shown]]:
    """Draw a batch of pictures two by two, each with a wish of its own that the other does not fulfil."""
    firsts = [Shown(scene, scene) for scene in (random_picture(rng) for _ in range(DRAWN))]
    firsts += rng.sample(encoded, ENCODED) + rng.sample(painted, PAINTED)
    for first in firsts:
        seed = rng.random()
        if not fulfils(first.scene, first.wish):
            # What the painter got wrong stands against what it was asked for.
            right = Shown(loosen(complete(first.wish, rng), rng), first.wish)
            while holds_out(right.scene):
                right = Shown(loosen(complete(first.wish, rng), rng), first.wish)
            yield "painted", first if first.scene is None else replace(first, wish=first.scene), right
            continue
        kind, changed = contrast(first.scene, first.scene, rng)
        other = loosen(complete(changed, rng), rng)
        if rng.random() < 0.5:
            yield kind, replace(first, wish=first.scene), Shown(other, other)
        else:
            wishes = (forget(scene, random.Random(seed)) for scene in (first.scene, other))
            yield kind, replace(first, wish=next(wishes)), Shown(other, next(wishes))


def make_model(painter: Path, captioner: Path) -> CLIPModel:
    """Put together the painter's text encoder and what the captioner sees with."""
    text = CLIPTextModel.from_pretrained(painter / "text_encoder", dtype=torch.float32)
    sight = BlipForConditionalGeneration.from_pretrained(captioner, dtype=torch.float32).vision_model
    kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    vision = CLIPVisionConfig(
        **{name: getattr(sight.config, name) for name in kept}, hidden_act="gelu", projection_dim=128
    )
    # Where the encoder lay is left out.
    told = {name: value for name, value in text.config.to_dict().items() if name != "_name_or_path"}
    model = CLIPModel(CLIPConfig(text_config=told, vision_config=vision, projection_dim=128))
    state = {k.removeprefix("text_model."): v for k, v in text.state_dict().items()}
    model.text_model.load_state_dict(state)
    state = {}
    for name, value in sight.state_dict().items():
        if ".qkv." in name:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                state[name.replace("qkv", f"{part}_proj")] = rows
        else:
            state[name.replace("self_attn.projection", "self_attn.out_proj")] = value
    # Only here a patch has no bias: it moves to the places, and the norm that follows keeps the spread as it was.
    bias = state.pop("embeddings.patch_embedding.bias")
    places = state.pop("embeddings.position_embedding")[0]
    places[1:] += bias
    state["embeddings.position_embedding.weight"] = places
    state["embeddings.class_embedding"] = state["embeddings.class_embedding"].flatten()
    lacking = model.vision_model.load_state_dict(state, strict=False)
    if lacking.unexpected_keys or any("pre_layrnorm" not in key for key in lacking.missing_keys):
        raise ValueError(lacking)
    with torch.no_grad():
        pictures = draw([random_picture(random.Random("spread")) for _ in range(64)], PIXELS)
        spread = model.vision_model.embeddings(pictures).std(-1).mean()
        model.vision_model.pre_layrnorm.weight.fill_(spread)
    return model


def make_heads(model: CLIPModel) -> nn.ModuleDict:
    """Make what asks for what a picture holds, as a whole and at every patch; so the vision part learns sooner."""
    whole = nn.Linear(model.config.projection_dim, sum(HEADS))
    return nn.ModuleDict({"whole": whole, "patch": nn.Linear(model.config.vision_config.hidden_size, len(SHAPES))})


def losses(
    model: CLIPModel, heads: nn.ModuleDict, tokenizer: CLIPTokenizer, shown: list[Shown], rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tell pictures and changed wishes in words; give what is to be made small and the logits, [pictures, texts]."""
    scenes = [one.scene for one in shown]
    drawn = iter(draw([one.scene for one in shown if one.pixels is None and one.scene], PIXELS))
    pictures = roughen(torch.stack([next(drawn) if one.pixels is None else one.pixels for one in shown]))
    wishes = [one.wish for one in shown]
    wishes += [contrast(one.scene, one.wish, rng)[1] for one in shown if one.scene is not None]
    texts = [caption(wish, rng if rng.random() < 0.75 else None) for wish in wishes]
    told = tokenizer(texts, padding=True, return_tensors="pt")
    answer = model(told.input_ids, pictures, told.attention_mask)
    named = torch.tensor([k for k, scene in enumerate(scenes) if scene is not None])
    held = torch.tensor([[fulfils(scene, wish) for wish in wishes] for scene in scenes])
    held[named, named] = False
    logits = answer.logits_per_image.masked_fill(held, -math.inf)
    loss = F.cross_entropy(logits[named], named) + F.cross_entropy(logits.T[named], named)
    whole = heads["whole"](answer.vision_model_output.pooler_output[named])
    asked = torch.tensor([answers(scene) for scene in scenes if scene is not None])
    for k, said in enumerate(whole.split(list(HEADS), -1)):
        loss = loss + F.cross_entropy(said, asked[:, k]) / len(HEADS)
    patches = heads["patch"](answer.vision_model_output.last_hidden_state[:, 1:]).flatten(0, 1)
    loss = loss + F.cross_entropy(patches, patch_shapes([scene or Scene(()) for scene in scenes]).flatten())
    return loss, answer.logits_per_image


def train(options: argparse.Namespace, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Train the model, which ends as a moving average."""
    torch.manual_seed(5)
    model = make_model(options.painter, options.captioner).train()
    average = deepcopy(model)
    heads = make_heads(model)
    parameters, averaged = list(model.parameters()), [p.detach() for p in average.parameters()]
    optimizer = torch.optim.AdamW([*parameters, *heads.parameters()], lr=RATE, weight_decay=1e-2, fused=True)
    checkpoint = Checkpoint(
        options.work / "judge.pt", options.steps, model=model, average=average, heads=heads, optimizer=optimizer
    )
    file = options.work / "pictures.pt"
    if not file.exists():
        torch.manual_seed(6)
        vae = AutoencoderKL.from_pretrained(options.painter / "vae", torch_dtype=torch.float32)
        scenes, pictures = make_pool(vae, options.encoded)
        encoded = [Shown(scene, scene, picture.clone()) for scene, picture in zip(scenes, pictures, strict=True)]
        torch.save((encoded, make_painted(options.painter, options.painted)), file)
    encoded, painted = torch.load(file, weights_only=False)
    right: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for step in range(checkpoint.first, options.steps):
        rng = random.Random(f"judge {step}")
        torch.manual_seed(rng.getrandbits(60))
        pairs = list(make_pairs(rng, encoded, painted))
        shown = [one for _, *both in pairs for one in both]
        loss, logits = losses(model, heads, tokenizer, shown, rng)
        optimizer.param_groups[0]["lr"] = RATE * rate_at(step, options.steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        share = 1 - min(0.998, (1 + step) / (10 + step))
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], share)
        # The second of a pair is drawn and told; the first is a picture that does not fulfil its wish.
        won = logits.diagonal()[1::2] > logits[::2, 1::2].diagonal()
        for (kind, _, _), better in zip(pairs, won.tolist(), strict=True):
            seen[kind] += 1
            right[kind] += better
        if step % 100 == 0 or step + 1 == options.steps:
            report("judge", step, options.steps, loss, " ".join(f"{k} {right[k] / seen[k]:.3f}" for k in sorted(seen)))
            right.clear()
            seen.clear()
        checkpoint.keep(step)
    return average


def save(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a model folder with what makes pictures of any size PIXELS wide and high."""
    model.half().eval().save_pretrained(folder)
    side = {"height": PIXELS, "width": PIXELS}
    half = [0.5, 0.5, 0.5]
    pictures = CLIPImageProcessorPil(size=side, do_center_crop=False, crop_size=side, image_mean=half, image_std=half)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    tidy(folder)


def main() -> None:
    """Train the model, going on from what the work folder holds, and write it."""
    weights = Path("src/imagemill/weights")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the model folder to write")
    parser.add_argument(
        "--painter", type=Path, default=weights / "shapes", help="it paints, and lends its text encoder"
    )
    parser.add_argument("--captioner", type=Path, default=weights / "shapes_captioner", help="it lends its vision part")
    parser.add_argument("--work", type=Path, default=Path("build/judge"), help="what to go on from")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--encoded", type=int, default=1500, help="pictures passed through the autoencoder once")
    parser.add_argument("--painted", type=int, default=1200, help="pictures painted once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer.from_pretrained(options.painter / "tokenizer")
    save(train(options, tokenizer), tokenizer, options.output)


if __name__ == "__main__":
    main()
