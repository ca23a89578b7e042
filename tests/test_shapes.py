"""The built-in model draws what it is asked for; a verifier reads the pictures with plain arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from imagemill.dataset import Dataset
from imagemill.models.shapes import EXAMPLES, Shapes

from .conftest import Command
from .shapes_verifier import read_scene

pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("diffusers", reason="the extra `local` is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

ONE = [
    ("cross", "green", "medium", "pink"),
    ("heart", "red", "small", "blue"),
    ("square", "blue", "large", "yellow"),
    ("circle", "white", "small", "green"),
    ("cross", "black", "medium", "blue"),
    ("circle", "red", "medium", "white"),
    ("star", "yellow", "large", "black"),
    ("triangle", "purple", "large", "gray"),
    ("heart", "orange", "medium", "cyan"),
    ("square", "black", "small", "white"),
    ("triangle", "white", "large", "green"),
    ("star", "blue", "large", "white"),
]
"""Shape, color, size and background; the first five combinations were kept out of the training."""


def pictures(folder: str) -> list[np.ndarray]:
    return [np.asarray(Dataset(folder).image(record["file_name"]).convert("RGB")) for record in Dataset(folder)]


def test_one_object_comes_out_as_asked(imagemill: Command, tmp_path: Path) -> None:
    table = tmp_path / "prompts.txt"
    table.write_text("".join(f"a {size} {color} {shape} on a {back} background\n" for shape, color, size, back in ONE))
    assert imagemill("generate", table, "-o", "out", "--seed", 11, "--images-per-prompt", 2).code == 0
    scenes = [read_scene(pixels) for pixels in pictures("out")]
    asked = [wish for wish in ONE for _ in range(2)]
    right = {
        "background": sum(scene.background == wish[3] for scene, wish in zip(scenes, asked, strict=True)),
        "shape": sum([o.shape for o in scene.objects] == [wish[0]] for scene, wish in zip(scenes, asked, strict=True)),
        "color": sum([o.color for o in scene.objects] == [wish[1]] for scene, wish in zip(scenes, asked, strict=True)),
    }
    assert right["background"] >= 22, right
    assert right["color"] >= 21, right
    assert right["shape"] >= 19, right


def test_a_red_circle_on_a_white_background_is_one(imagemill: Command, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle on a white background\n")
    ran = imagemill("generate", "prompts.txt", "-o", "out", "--seed", 42)
    assert ran.code == 0
    assert "draws one or two circles, squares, triangles" in ran.err
    (pixels,) = pictures("out")
    scene = read_scene(pixels)
    assert (scene.background, [(o.shape, o.color) for o in scene.objects]) == ("white", [("circle", "red")])
    assert imagemill("reproduce", "out", "prompt_0_image_0").out.startswith("prompt_0_image_0.png: bit-exact")
    other = imagemill("generate", "prompts.txt", "-o", "other", "--seed", 42, "--model", "shapes", "--batch-size", 1)
    assert "draws one or two" not in other.err


def test_any_text_makes_a_picture(imagemill: Command, tmp_path: Path) -> None:
    texts = ["🦊", "一个红色的圆", "ثعلب", "x" * 100_000, "\u202e\u0301", "\t", "a red circle " * 50]
    lines = [json.dumps({"prompt": text}) for text in texts]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    ran = imagemill("generate", "prompts.jsonl", "-o", "out", "--seed", 1, "--num-inference-steps", 2, "--json")
    assert (ran.code, ran.json["done"] + ran.json["rows_rejected"]) == (0, len(texts)), ran.err


def test_the_demo_makes_24_images_and_a_sheet_of_them(imagemill: Command) -> None:
    ran = imagemill("demo", "-o", "show")
    assert ran.code == 0
    assert ran.out == "show\n"
    assert len(Dataset("show")) == 24
    assert {record["prompt"] for record in Dataset("show")} == set(EXAMPLES)
    assert Path("show.png").is_file()
    assert imagemill("verify", "show").code == 0


def test_the_model_is_small_free_and_in_the_true_format() -> None:
    folder = Shapes().folder()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 12 * 10**6
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".md"}
    info = Shapes().info()
    assert (info.license, info.width, info.num_inference_steps, info.scheduler) == ("cc0-1.0", 64, 20, "ddim")
