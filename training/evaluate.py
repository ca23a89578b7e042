"""Measures how well a model folder obeys held-out prompts: `python -m training.evaluate FOLDER`."""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from tests.shapes_verifier import ReadObject, ReadScene, read_scene, relation
from training.world import Scene, caption, held_out_wish

ATTRIBUTES = ("count", "background", "shape", "color", "size", "relation", "all")
BATCH = 8


def grade(wish: Scene, found: ReadScene) -> dict[str, list[bool]]:
    """Compare a picture with its fully named wish: per attribute one answer, or one for each object wished for."""
    wished, objects = wish.objects, list(found.objects)
    missing = ReadObject("missing", "missing", "missing", -1, -1, 0)
    objects += [missing] * (len(wished) - len(objects))

    def matches(object_: ReadObject, k: int) -> list[bool]:
        return [getattr(object_, name) == getattr(wished[k], name) for name in ("shape", "color", "size")]

    orders = [[a] for a in objects] if len(wished) == 1 else [[a, b] for a in objects for b in objects if a is not b]
    orders = orders or [[missing] * len(wished)]
    chosen = max(orders, key=lambda order: sum(sum(matches(o, k)) for k, o in enumerate(order)))
    answers = [matches(o, k) for k, o in enumerate(chosen)]
    result = {
        "count": [len(found.objects) == len(wished)],
        "background": [found.background == wish.background],
        "shape": [a[0] for a in answers],
        "color": [a[1] for a in answers],
        "size": [a[2] for a in answers],
    }
    if len(wished) == 2:
        expected = "left of" if wish.axis == "horizontal" else "above"
        result["relation"] = [missing not in chosen and relation(*chosen) == expected]
    result["all"] = [all(all(v) for v in result.values())]
    return result


def generate(
    pipeline: StableDiffusionPipeline, prompts: list[str], first_seed: int, steps: int, guidance: float
) -> NDArray[np.uint8]:
    """Draw one picture a prompt, each from its own seed: [prompts, height, width, 3]."""
    pictures = []
    for i in range(0, len(prompts), BATCH):
        part = prompts[i : i + BATCH]
        seeds = [torch.Generator().manual_seed(first_seed + i + k) for k in range(len(part))]
        made = pipeline(part, num_inference_steps=steps, guidance_scale=guidance, generator=seeds, output_type="np")
        pictures.append((made.images * 255).round().astype(np.uint8))
    return np.concatenate(pictures)


def sheet(pictures: NDArray[np.uint8], columns: int = 8) -> Image.Image:
    """Lay pictures out in rows with a thin dark edge."""
    framed = np.pad(pictures, ((0, -len(pictures) % columns), (1, 1), (1, 1), (0, 0)))
    n, height, width, _ = framed.shape
    rows = framed.reshape(n // columns, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(rows.reshape(n // columns * height, columns * width, 3))


def main() -> None:
    """Print a Markdown table of accuracies on held-out prompts and write a contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100, help="prompts with one object, and as many with two")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--grid", type=Path, help="write a contact sheet of the first pictures here")
    options = parser.parse_args()

    pipeline = StableDiffusionPipeline.from_pretrained(options.folder, torch_dtype=torch.float32)
    pipeline.to(options.device).set_progress_bar_config(disable=True)
    rows: dict[int, dict[str, float]] = {}
    shown = []
    start = time.perf_counter()
    for objects in (1, 2):
        rng = random.Random(f"evaluation {objects}")
        wishes = [held_out_wish(rng, objects) for _ in range(options.count)]
        prompts = [caption(wish, rng) for wish in wishes]
        pictures = generate(pipeline, prompts, objects * 100_000, options.steps, options.guidance)
        right: Counter[str] = Counter()
        asked: Counter[str] = Counter()
        for wish, picture in zip(wishes, pictures, strict=True):
            for name, answers in grade(wish, read_scene(picture)).items():
                right[name] += sum(answers)
                asked[name] += len(answers)
        rows[objects] = {name: right[name] / asked[name] for name in asked}
        shown += [*pictures[:32]]
    seconds = (time.perf_counter() - start) / (2 * options.count)
    print("| attribute | one object | two objects |\n| --- | ---: | ---: |")
    for name in ATTRIBUTES:
        cells = [f"{rows[n][name]:.1%}" if name in rows[n] else "" for n in (1, 2)]
        print(f"| {name} | {cells[0]} | {cells[1]} |")
    print(
        f"\n{options.count} held-out prompts each, {options.steps} steps, guidance {options.guidance:g}, "
        f"{seconds:.2f} s a picture"
    )
    if options.grid:
        sheet(np.stack(shown)).save(options.grid)


if __name__ == "__main__":
    main()
