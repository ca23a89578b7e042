"""Measures the judge on held-out scenes, drawn and painted: `python -m training.evaluate_judge FOLDER`."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoProcessor, CLIPModel

from tests.shapes_verifier import read_scene
from training.evaluate import generate, grade
from training.evaluate_family import PAINTER, pixels, table
from training.train_judge import KINDS, Kind, change, forget, fulfils
from training.world import Scene, caption, complete, held_out_wish

SEEDS = 4
Judge = Callable[[NDArray[np.uint8], Sequence[str]], NDArray[np.float64]]


def load_judge(folder: Path) -> Judge:
    """Load a folder; the function it gives compares each picture with the text at the same place: cosines."""
    processor = AutoProcessor.from_pretrained(folder)
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()

    def judge(pictures: NDArray[np.uint8], texts: Sequence[str]) -> NDArray[np.float64]:
        found = []
        for i in range(0, len(texts), 64):
            images = [Image.fromarray(picture) for picture in pictures[i : i + 64]]
            told = list(texts[i : i + 64])
            with torch.no_grad():
                answer = model(
                    **processor(images=images, text=told, return_tensors="pt", padding=True, truncation=True)
                )
            found.append((answer.image_embeds * answer.text_embeds).sum(-1).double().numpy())
        return np.concatenate(found)

    return judge


def held_out_pairs(count: int, partly: bool = False) -> list[tuple[Kind, Scene, Scene, Scene, Scene]]:
    """Draw held-out pictures with a wish each fulfils, and another wish and picture with one thing changed.

    The kinds of change come in turn; `partly` leaves some of each wish unsaid.
    """
    rng = random.Random(f"pairs {partly}")
    pairs: list[tuple[Kind, Scene, Scene, Scene, Scene]] = []
    while len(pairs) < count:
        kind = KINDS[len(pairs) % len(KINDS)]
        scene = complete(held_out_wish(rng, rng.choice((1, 2))), rng)
        wish = forget(scene, rng) if partly else scene
        changed = change(wish, kind, rng)
        if changed is None or fulfils(scene, changed):
            continue
        for _ in range(20):
            other = complete(changed, rng)
            if not fulfils(other, wish):
                pairs.append((kind, scene, wish, other, changed))
                break
    return pairs


def judge_drawn(judge: Judge, count: int, side: int = 64, partly: bool = False) -> dict[str, dict[str, float]]:
    """Tell how often the right wish of a drawn picture scores above a changed one, and the right picture likewise."""
    rng = random.Random("told")
    pairs = held_out_pairs(count, partly)
    texts = [(caption(wish, rng), caption(changed, rng)) for _, _, wish, _, changed in pairs]
    pictures, others = pixels([pair[1] for pair in pairs], side), pixels([pair[3] for pair in pairs], side)
    right = judge(pictures, [text for text, _ in texts])
    found = {
        "text changed": right > judge(pictures, [text for _, text in texts]),
        "picture changed": right > judge(others, [text for text, _ in texts]),
    }
    kinds = np.array([pair[0] for pair in pairs])
    return {
        name: {**{kind: float(won[kinds == kind].mean()) for kind in KINDS}, "all": float(won.mean())}
        for name, won in found.items()
    }


def changed_at_random(wish: Scene, rng: random.Random) -> tuple[Kind, Scene]:
    """Change one thing in a fully named wish, all kinds of change alike."""
    while True:
        kind = rng.choice(KINDS)
        changed = change(wish, kind, rng)
        if changed is not None and not fulfils(wish, changed):
            return kind, changed


@dataclass(frozen=True)
class Painted:
    """Held-out wishes, how each is told, the kind of a change, the changed wish, how that is told, and the pictures."""

    wishes: list[Scene]
    prompts: list[str]
    kinds: NDArray[np.str_]
    changed: list[Scene]
    others: list[str]
    pictures: NDArray[np.uint8]
    """[wishes, SEEDS + 1, height, width, 3]; the last of each is of the changed wish."""


def paint(count: int, file: Path | None) -> Painted:
    """Paint held-out wishes, half of them with two objects, from SEEDS seeds each and once with one thing changed.

    `file` keeps the pictures.
    """
    rng = random.Random("best")
    wishes = [held_out_wish(rng, 1 + k % 2) for k in range(count)]
    changes = [changed_at_random(wish, rng) for wish in wishes]
    changed = [other for _, other in changes]
    prompts, others = ([caption(wish, rng) for wish in some] for some in (wishes, changed))
    if file is not None and file.exists():
        pictures = np.load(file)["pictures"]
    else:
        painter = StableDiffusionPipeline.from_pretrained(PAINTER, torch_dtype=torch.float32)
        painter.set_progress_bar_config(disable=True)
        wanted = [[prompt] * SEEDS + [other] for prompt, other in zip(prompts, others, strict=True)]
        pictures = generate(painter, [prompt for some in wanted for prompt in some], 7_000_000, 20, 3.0)
        pictures = pictures.reshape(count, SEEDS + 1, *pictures.shape[1:])
        if file is not None:
            np.savez_compressed(file, pictures=pictures)
    return Painted(wishes, prompts, np.array([kind for kind, _ in changes]), changed, others, pictures)


def judge_painted(judge: Judge, count: int, file: Path | None) -> tuple[str, str]:
    """Make a table of painted pairs told apart, and one of how often the best of SEEDS pictures is right."""
    painted = paint(count, file)
    pictures = painted.pictures
    right, other_right = (
        np.array(
            [
                [grade(wish, read_scene(p))["all"] == [True] for p in some]
                for wish, some in zip(wishes, part, strict=True)
            ]
        )
        for wishes, part in ((painted.wishes, pictures[:, :SEEDS]), (painted.changed, pictures[:, SEEDS:]))
    )
    scores = np.stack([judge(pictures[:, k], painted.prompts) for k in range(SEEDS + 1)], 1)
    texts_told = scores[:, :SEEDS] > np.stack([judge(pictures[:, k], painted.others) for k in range(SEEDS)], 1)
    pictures_told = scores[:, :SEEDS] > scores[:, SEEDS:]
    told = {
        name: {
            **{kind: won[asked & (painted.kinds == kind)[:, None]].mean() for kind in KINDS},
            "all": won[asked].mean(),
            "all, right or not": won.mean(),
        }
        for name, won, asked in (
            ("text changed", texts_told, right),
            ("picture changed", pictures_told, right & other_right),
        )
    }
    best = right[np.arange(count), scores[:, :SEEDS].argmax(1)]
    rows: dict[str, dict[str, float]] = {}
    for k, name in enumerate(("one object", "two objects", "all")):
        part = slice(k % 2, None, 2) if k < 2 else slice(None)
        rows[name] = {
            "the first": right[part, 0].mean(),
            "a random one": right[part].mean(),
            "the best by the judge": best[part].mean(),
            "any of them": right[part].any(1).mean(),
        }
    mixed = right.any(1) & ~right.all(1)
    note = (
        f"\nOf {mixed.sum()} wishes with right and wrong pictures, a right one is chosen for {best[mixed].mean():.1%}\n"
    )
    return table(told), table(rows) + note


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200, help="painted wishes; drawn pairs are seven times as many")
    parser.add_argument("--pictures", type=Path, help="an .npz file that keeps the painted pictures")
    parser.add_argument("--drawn", action="store_true", help="leave the painted pictures out")
    options = parser.parse_args()
    judge = load_judge(options.folder)
    columns = {}
    for side, partly in ((64, False), (200, False), (64, True)):
        found = judge_drawn(judge, len(KINDS) * options.count, side, partly)
        columns |= {f"{name}, {'partly told' if partly else f'{side} px'}": shares for name, shares in found.items()}
    print(table(columns))
    if not options.drawn:
        for text in judge_painted(judge, options.count, options.pictures):
            print(text)


if __name__ == "__main__":
    main()
