"""The built-in judge tells a picture's right words from wrong ones, as plain transformers loads it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import imagemill

pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("diffusers", reason="the extra `local` is not installed")
pytest.importorskip("transformers", reason="the extra `local` is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

FOLDER = Path(imagemill.__file__).parent / "weights" / "shapes_judge"

Compare = Callable[[list[Image.Image], list[str]], Any]


@pytest.fixture(scope="module")
def compare() -> Compare:
    """Cosines of every picture with every text."""
    import torch
    from transformers import AutoProcessor, CLIPModel

    model, loaded = CLIPModel.from_pretrained(FOLDER, dtype=torch.float32, output_loading_info=True)
    assert not loaded["missing_keys"]
    assert not loaded["unexpected_keys"]
    processor = AutoProcessor.from_pretrained(FOLDER)

    @torch.no_grad()
    def compare(pictures: list[Image.Image], texts: list[str]) -> Any:
        answer = model(**processor(images=pictures, text=texts, return_tensors="pt", padding=True, truncation=True))
        return answer.image_embeds @ answer.text_embeds.T

    return compare


def test_the_folder_is_small_and_holds_nothing_that_runs() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 4_000_000
    assert {file.suffix for file in files} == {".json", ".md", ".safetensors"}


@pytest.mark.parametrize(("side", "partly"), [(64, False), (200, False), (64, True)])
def test_held_out_pictures_and_wishes_are_told_from_changed_ones(compare: Compare, side: int, partly: bool) -> None:
    from training.evaluate_family import pixels
    from training.evaluate_judge import held_out_pairs
    from training.world import caption

    pairs = held_out_pairs(210, partly)
    rng = random.Random("words")
    right = [caption(wish, rng) for _, _, wish, _, _ in pairs]
    wrong = [caption(changed, rng) for *_, changed in pairs]
    shown = pixels([pair[1] for pair in pairs] + [pair[3] for pair in pairs], side)
    found = compare([Image.fromarray(picture) for picture in shown], right + wrong)
    n = len(pairs)
    mine = found[:n, :n].diagonal()
    assert (mine > found[:n, n:].diagonal()).float().mean() >= 0.95
    assert (mine > found[n:, :n].diagonal()).float().mean() >= 0.95


def test_a_wish_is_fulfilled_by_what_it_names_and_a_change_never_is() -> None:
    from training.train_judge import KINDS, change, contrast, forget, fulfils, tells_held_out
    from training.world import Object, Scene, complete, random_pair

    circle, square = Object("circle", "red", "small"), Object("square", "blue", "large")
    scene = Scene((circle, square), "white", "horizontal")
    assert fulfils(scene, scene)
    assert fulfils(scene, Scene((Object("square"), Object("circle", "red"))))
    assert not fulfils(scene, Scene((square, circle), None, "horizontal"))
    assert not fulfils(scene, Scene((Object("circle", "blue"), Object("square", "red"))))
    assert not fulfils(scene, Scene((circle,), "white"))
    assert not fulfils(None, scene)
    rng = random.Random("changes")
    seen = set()
    for _ in range(2000):
        _, picture = random_pair(rng)
        wish = forget(picture, rng)
        assert fulfils(picture, wish)
        assert fulfils(complete(wish, rng), wish)
        kind, changed = contrast(picture, wish, rng)
        seen.add(kind)
        assert not fulfils(picture, changed)
        assert not tells_held_out(changed)
    assert seen == set(KINDS)
    assert change(Scene((circle,), "white"), "binding", rng) is None


def test_a_step_of_training_lowers_what_the_next_one_measures() -> None:
    import torch
    from transformers import CLIPTokenizer

    from training.train_captioner import random_picture
    from training.train_judge import DRAWN, ENCODED, PAINTED, Shown, losses, make_heads, make_model, make_pairs
    from training.world import draw

    weights = FOLDER.parent
    torch.manual_seed(0)
    model = make_model(weights / "shapes", weights / "shapes_captioner")
    heads = make_heads(model)
    tokenizer = CLIPTokenizer.from_pretrained(weights / "shapes" / "tokenizer")
    rng = random.Random("step")
    scenes = [random_picture(rng) for _ in range(ENCODED + PAINTED)]
    known = [Shown(scene, scene, picture) for scene, picture in zip(scenes, draw(scenes, 64), strict=True)]
    known[-1] = Shown(None, scenes[-1], known[-1].pixels)
    pairs = list(make_pairs(rng, known[:ENCODED], known[-PAINTED:]))
    assert len(pairs) == DRAWN + ENCODED + PAINTED
    shown = [one for _, *both in pairs for one in both]
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=1e-4)
    found = []
    for _ in range(3):
        torch.manual_seed(1)
        loss, logits = losses(model, heads, tokenizer, shown, random.Random("words"))
        assert logits.shape == (len(shown), 2 * len(shown) - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[2] < found[0]
