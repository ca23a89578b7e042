"""Measures the captioner or the editor: `python -m training.evaluate_family FOLDER`."""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.shapes_verifier import ReadScene, read_scene, relation
from training.evaluate import BATCH, generate, sheet
from training.instructions import KINDS, held_out_change, instruct
from training.train_shapes import PIXELS
from training.world import Object, Scene, caption, complete, draw, held_out_wish

FARTHEST = 0.05
"""How far an object may be from where it was, as a share of the picture's side."""
PAINTER = Path("src/imagemill/weights/shapes")


def pixels(scenes: list[Scene], side: int = PIXELS) -> NDArray[np.uint8]:
    """Draw scenes as a user's files hold them: [scenes, side, side, 3], 0..255."""
    drawn: NDArray[np.uint8] = ((draw(scenes, side) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return drawn


def as_scene(read: ReadScene) -> Scene:
    """Turn what the verifier has read into a scene that can be told in words."""
    objects = tuple(Object(o.shape, o.color, o.size, o.x, o.y, o.radius) for o in read.objects)
    if len(objects) != 2:
        return Scene(objects, read.background)
    axis = "horizontal" if relation(*read.objects) in ("left of", "right of") else "vertical"
    if axis == "vertical" and objects[0].y > objects[1].y:
        objects = objects[::-1]
    return Scene(objects, read.background, axis)


def parse_caption(text: str) -> dict[str, object]:
    """Take a plain caption apart."""
    words = text.removesuffix(" background").replace(" to the left of ", " left ").split(" on a ")
    named = words[0].replace(" above ", " | above | ").replace(" left ", " | left | ").split(" | ")
    objects = [part.split() for part in named[::2]]
    fields = [dict(zip(("article", "size", "color", "shape"), o, strict=False)) for o in objects]
    found: dict[str, object] = {name: [o.get(name) for o in fields] for name in ("shape", "color", "size")}
    return {"count": len(fields), "background": words[-1], **found, "relation": named[1::2]}


def grade_captions(texts: list[str], scenes: list[Scene]) -> dict[str, float]:
    """Tell how often captions name each attribute rightly, all objects of a picture together."""
    right: Counter[str] = Counter()
    for text, scene in zip(texts, scenes, strict=True):
        found, wished = parse_caption(text), parse_caption(caption(scene))
        right.update(name for name in wished if found[name] == wished[name])
        right["shape and color"] += all(found[name] == wished[name] for name in ("count", "shape", "color"))
        right["all"] += found == wished
    names = ("count", "background", "shape", "color", "size", "relation", "shape and color", "all")
    return {name: right[name] / len(texts) for name in names}


def evaluate_captioner(folder: Path, count: int) -> tuple[str, Image.Image]:
    """Caption drawn held-out pictures and painted ones and make a table; the painted are read by the verifier."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    def describe(pictures: NDArray[np.uint8]) -> list[str]:
        texts: list[str] = []
        for i in range(0, len(pictures), 64):
            inputs = processor(images=[Image.fromarray(p) for p in pictures[i : i + 64]], return_tensors="pt")
            texts += processor.batch_decode(model.generate(**inputs, max_new_tokens=24), skip_special_tokens=True)
        return texts

    rng = random.Random("captions")
    columns: dict[str, dict[str, float]] = {}
    shown = []
    for objects in (1, 2):
        scenes = [complete(held_out_wish(rng, objects), rng) for _ in range(count)]
        for side in (64, 200):
            pictures = pixels(scenes, side)
            columns[f"drawn, {objects}, {side} px"] = grade_captions(describe(pictures), scenes)
    painter = StableDiffusionPipeline.from_pretrained(PAINTER, torch_dtype=torch.float32)
    painter.set_progress_bar_config(disable=True)
    for objects in (1, 2):
        wishes = [held_out_wish(rng, objects) for _ in range(count // 2)]
        pictures = generate(painter, [caption(w, rng) for w in wishes], objects * 100_000, 20, 3.0)
        scenes = [as_scene(read_scene(p)) for p in pictures]
        # A picture that is none of this world, with a third or an unknown object, has no right caption.
        kept = [i for i, s in enumerate(scenes) if len(s.objects) == objects and "unknown" not in str(s)]
        texts = describe(pictures[kept])
        columns[f"painted, {objects} ({len(kept)} read)"] = grade_captions(texts, [scenes[i] for i in kept])
        shown += [*pictures[kept][:32]]
        for i, text in zip(kept[:32], texts, strict=False):
            print(f"{text}\n    {caption(scenes[i])}" if text != caption(scenes[i]) else text)
    return table(columns), sheet(np.stack(shown))


def grade_edit(picture: NDArray[np.uint8], after: Scene) -> dict[str, bool]:
    """Compare an edited picture with what it should hold, read from the drawing of it."""
    found, wished = read_scene(picture), read_scene(pixels([after])[0])
    same = len(found.objects) == len(wished.objects)
    orders = [list(zip(order, wished.objects, strict=True)) for order in permutations(found.objects)] if same else [[]]
    pairs = min(orders, key=lambda order: sum(abs(a.x - b.x) + abs(a.y - b.y) for a, b in order))
    result = {
        "count": same,
        "background": found.background == after.background,
        **{
            name: same and all(getattr(a, name) == getattr(b, name) for a, b in pairs)
            for name in ("shape", "color", "size")
        },
        "place": same and all(max(abs(a.x - b.x), abs(a.y - b.y)) <= FARTHEST for a, b in pairs),
    }
    return {**result, "all": all(result.values())}


def evaluate_editor(
    folder: Path, count: int, steps: int, guidance: float, image_guidance: float
) -> tuple[str, Image.Image]:
    """Follow held-out instructions and make a table of how often each attribute of the result is right."""
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    columns: dict[str, dict[str, float]] = {}
    shown = []
    start = time.perf_counter()
    graded: list[list[dict[str, bool]]] = []
    rng = random.Random("edits")
    for kind in KINDS:
        changes = [held_out_change(rng, kind, 1 + k % 2) for k in range(count)]
        texts = [instruct(edit, rng) for _, edit, _ in changes]
        before = pixels([scene for scene, _, _ in changes])
        made = []
        for i in range(0, count, BATCH):
            part = slice(i, min(i + BATCH, count))
            result = pipeline(
                texts[part],
                image=[Image.fromarray(p) for p in before[part]],
                num_inference_steps=steps,
                guidance_scale=guidance,
                image_guidance_scale=image_guidance,
                generator=[torch.Generator().manual_seed(k) for k in range(part.start, part.stop)],
                output_type="np",
            )
            made.append((result.images * 255).round().astype(np.uint8))
        after = np.concatenate(made)
        grades = [grade_edit(p, scene) for p, (_, _, scene) in zip(after, changes, strict=True)]
        columns[kind] = share(grades)
        graded.append(grades)
        for text, grade, p, q in list(zip(texts, grades, before, after, strict=True))[:16]:
            print(f"{'  ' if grade['all'] else 'NO'} {text}: {[n for n, right in grade.items() if not right]}")
            shown += [p, q]
    for objects, name in enumerate(("one object", "two objects")):
        columns[name] = share([grade for grades in graded for grade in grades[objects::2]])
    columns["all"] = share([grade for grades in graded for grade in grades])
    seconds = (time.perf_counter() - start) / (len(KINDS) * count)
    note = f"\n{count} held-out instructions of each kind, half of them with two objects, {steps} steps, guidance "
    note += f"{guidance:g}, image guidance {image_guidance:g}, {seconds:.2f} s a picture"
    return table(columns) + note, sheet(np.stack(shown))


def share(grades: list[dict[str, bool]]) -> dict[str, float]:
    """Tell how often each attribute is right."""
    return {name: sum(g[name] for g in grades) / len(grades) for name in grades[0]}


def table(columns: dict[str, dict[str, float]]) -> str:
    """Make a Markdown table with a row for each attribute."""
    rows: Iterable[str] = next(iter(columns.values()))
    lines = [f"| attribute | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(f'{c[name]:.1%}' for c in columns.values())} |" for name in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print a Markdown table of accuracies on held-out pictures and write a contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100, help="pictures of each sort")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--image-guidance", type=float, default=1.5)
    parser.add_argument("--grid", type=Path, help="write a contact sheet of the first pictures here")
    options = parser.parse_args()
    editor = (options.folder / "model_index.json").exists()
    if editor:
        text, grid = evaluate_editor(
            options.folder, options.count, options.steps, options.guidance, options.image_guidance
        )
    else:
        text, grid = evaluate_captioner(options.folder, options.count)
    print(text)
    if options.grid:
        grid.save(options.grid)


if __name__ == "__main__":
    main()
