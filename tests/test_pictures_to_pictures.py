"""The whole way from pictures to a dataset with real pipelines: tiny ones of every kind, and the built-in family."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagemill.dataset import Dataset
from imagemill.dataset.verify import verify
from imagemill.environment import package_version
from imagemill.images import upright

from . import pipelines
from .conftest import Command
from .shapes_verifier import read_scene
from .test_augment import picture, table

if not package_version("diffusers"):
    pytest.skip("the extra `local` is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TINY = ("--seed", 3, "--threads", 1, "--device", "cpu", "--num-inference-steps", 4)


@pytest.mark.parametrize("name", pipelines.EDITORS)
def test_a_tiny_pipeline_makes_a_dataset_whose_records_make_it_again(
    name: str, imagemill: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = pipelines.save(name, tmp_path_factory.mktemp("models") / name)
    picture("a.png", (33, 20)), picture("b.png", (32, 32))
    masked = name == "inpaint"
    if masked:
        for path, size in (("a-mask.png", (33, 20)), ("b-mask.png", (32, 32))):
            Image.new("L", size, 255).save(path)
    rows = [
        {"image": f"{n}.png", "prompt": f"picture {n}", **({"mask": f"{n}-mask.png"} if masked else {})} for n in "ab"
    ]
    verb = "augment" if name in {"from_image", "from_image_xl", "refiner", "pag"} else "edit"
    command = (verb, table(rows), "-o", "out", "--model", folder, *TINY, *(("--mask-column", "mask") if masked else ()))
    ran = imagemill(*command)
    assert ran.code == 0, ran.err
    made = [record for record in Dataset("out") if not record.get("original")]
    assert [(record["width"], record["height"]) for record in made] == [(33, 20), (32, 32)]
    assert verify(Dataset("out")) == []
    for record in made:
        (result,) = imagemill("reproduce", "out", record["file_name"], "--json").json
        assert result["verdict"] == "bit-exact", result


def test_768_by_432_stays_768_by_432(imagemill: Command) -> None:
    rows = [{"image": picture("a.png", (768, 432)).name, "caption": "a red circle"}]
    ran = imagemill("augment", table(rows), "-o", "out", "--num-inference-steps", 1, "--seed", 1)
    assert ran.code == 0, ran.err
    assert [Dataset("out").image(r["file_name"]).size for r in Dataset("out")] == [(768, 432)] * 2


def test_generate_refuses_a_model_that_only_edits(imagemill: Command, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = pipelines.save("instruct", tmp_path_factory.mktemp("models") / "instruct")
    Path("prompts.txt").write_text("make it red\n")
    ran = imagemill("generate", "prompts.txt", "-o", "out", "--model", folder)
    assert ran.code == 2
    assert "changes pictures and makes none from text" in ran.err
    assert "imagemill edit" in ran.err


# the built-in family


def drawn(imagemill: Command, *prompts: str) -> list[str]:
    """Pictures of the built-in painter that show what their prompts say."""
    Path("prompts.txt").write_text("\n".join(prompts))
    assert imagemill("generate", "prompts.txt", "-o", "drawn", "--seed", 42).code == 0
    return [f"drawn/images/part-000001/{record['file_name']}" for record in Dataset("drawn")]


def scene(path: str | Path) -> tuple[str, list[tuple[str, str]]]:
    """Background, and shape and color of every object, as the verifier reads them."""
    read = read_scene(np.asarray(upright(Path(path).read_bytes())))
    return read.background, [(item.shape, item.color) for item in read.objects]


def test_little_strength_keeps_the_scene_and_all_of_it_follows_the_caption(imagemill: Command) -> None:
    (source,) = drawn(imagemill, "a red circle on a white background")
    assert scene(source) == ("white", [("circle", "red")])
    rows = [{"image": source, "caption": "a red star on a white background"}]
    for strength, expected in ((0.2, ("white", [("circle", "red")])), (1, ("white", [("star", "red")]))):
        out = f"out-{strength}"
        ran = imagemill(
            "augment", table(rows), "-o", out, "--strength", strength, "--drop-original", "--seed", 1,
            "--images-per-sample", 4,
        )  # fmt: skip
        assert ran.code == 0, ran.err
        seen = [scene(Path(out, "images/part-000001", record["file_name"])) for record in Dataset(out)]
        assert seen.count(expected) >= 3, seen


def test_the_editor_changes_what_it_is_told_and_leaves_the_rest(imagemill: Command) -> None:
    weights = Path(package_file(), "weights/shapes_editor/model_index.json")
    if not weights.is_file():
        pytest.skip("the weights of the built-in editor are absent")
    circle, heart = drawn(imagemill, "a blue circle on a white background", "a red heart above a blue circle on white")
    rows = [
        {"image": circle, "instruction": "make the circle red"},
        {"image": circle, "instruction": "change the background to yellow"},
        {"image": heart, "instruction": "remove the heart"},
        {"image": circle, "instruction": ["make the circle red", "change the background to green"]},
    ]
    ran = imagemill("edit", table(rows), "-o", "out", "--seed", 1)
    assert ran.code == 0, ran.err
    expected = [
        ("white", [("circle", "red")]),
        ("yellow", [("circle", "blue")]),
        ("white", [("circle", "blue")]),
        ("white", [("circle", "red")]),
        ("green", [("circle", "red")]),
    ]
    found = [scene(Path("out/images/part-000001", record["file_name"])) for record in Dataset("out")]
    assert sum(one == other for one, other in zip(found, expected, strict=True)) >= 4, found
    assert not any(record["no_op"] for record in Dataset("out"))
    assert verify(Dataset("out")) == []


def package_file() -> Path:
    import imagemill

    return Path(imagemill.__file__).parent


def test_a_row_without_a_caption_is_augmented_after_the_captioner_has_looked(imagemill: Command) -> None:
    sources = drawn(imagemill, "a red circle on a white background", "a purple heart on a pink background")
    random.Random(1).shuffle(sources)
    ran = imagemill("augment", table([{"image": path} for path in sources]), "-o", "out", "--seed", 1)
    assert ran.code == 0, ran.err
    for record in Dataset("out"):
        background, ((shape, color),) = scene(Path("drawn/images/part-000001", Path(record["source_image"]).name))
        assert record["captioner"] == "shapes_captioner"
        assert {shape, color, background} <= set(record["prompt"].split())


def test_an_edit_that_is_true_already_changes_nothing_that_can_be_seen(imagemill: Command) -> None:
    if not Path(package_file(), "weights/shapes_editor/model_index.json").is_file():
        pytest.skip("the weights of the built-in editor are absent")
    (circle,) = drawn(imagemill, "a red circle on a white background")
    rows = [{"image": circle, "instruction": f"make the circle {color}"} for color in ("red", "blue")]
    assert imagemill("edit", table(rows), "-o", "out", "--seed", 1).code == 0
    assert [record["no_op"] for record in Dataset("out")] == [True, False]
