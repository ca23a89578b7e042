"""What holds for every scorer of the registry, also for one that nobody has written a test for."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from PIL import Image

from imagemill.component import component_names
from imagemill.making.scoring import step_of
from imagemill.records import RECORD_KEYS, safe_column
from imagemill.scorers.base import Scored, Scorer, Seen, find_scorer

from .scorers_clip import save
from .test_encoders import improved_head
from .test_nsfw import image_classifier, text_classifier

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
every_scorer = pytest.mark.parametrize("name", component_names("scorers"))


def clip(folder: Path) -> dict[str, Any]:
    return {"model": str(save("clip", folder))}


def aesthetic(folder: Path) -> dict[str, Any]:
    improved_head(folder / "head")
    return {**clip(folder), "head": str(folder / "head")}


TINY: dict[str, Callable[[Path], dict[str, Any]]] = {
    "aesthetic": aesthetic,
    "alignment": clip,
    "attributes": lambda _: {"model": "fake", "attributes": ["topic"]},
    "difference": clip,
    "embedding": clip,
    "image_nsfw": lambda folder: {"model": str(image_classifier(folder, "normal", "nsfw"))},
    "judge": lambda _: {"model": "fake"},
    "prompt_nsfw": lambda folder: {"model": str(text_classifier(folder, "toxic", "obscene"))},
}
"""What a scorer needs to run here, where that is more than nothing."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Scorer]:
    made: dict[str, Scorer] = {}

    def scorer(name: str) -> Scorer:
        if name not in made:
            parameters = TINY.get(name, lambda _: {})(tmp_path_factory.mktemp(name))
            made[name] = find_scorer(name, parameters).resolve({}, 1)
        return made[name]

    return scorer


def seen(number: int, size: tuple[int, int], folder: Path) -> Seen:
    image = Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    for name in (f"{number}.png", f"{number}_input.png"):
        image.rotate(90 * ("input" in name)).save(folder / name)
    record = {
        **dict.fromkeys(RECORD_KEYS, ""),
        "file_name": f"{number}.png",
        "prompt": f"a picture with the number {number % 2}",
        "topic": "numbers",
        "edit_prompt": "turn it",
        "input_image_file_name": f"{number}_input.png",
    }
    return Seen(folder / f"{number}.png", record, (folder / f"{number}.png").read_bytes(), image)


def images(folder: Path) -> list[Seen]:
    sizes = [(64, 64), (40, 30), (30, 40), (64, 64), (200, 8), (1, 1), (64, 64)]
    return [seen(number, size, folder) for number, size in enumerate(sizes)]


def by_path(scored: Iterable[Scored]) -> dict[str, Scored]:
    found: dict[str, Scored] = {}
    for each in scored:
        assert each.seen.path.name not in found, "one result for each image"
        found[each.seen.path.name] = each
    return found


@every_scorer
def test_its_columns_have_names_and_meanings_that_datasets_can_have(name: str, opened: Any) -> None:
    columns = opened(name).columns()
    assert columns
    for key, column in columns.items():
        assert safe_column(key) == key
        assert len(column.meaning) > 10
        assert column.blank in (None, "", [""], False)
        # Of a number it must be clear which end is the good one.
        assert column.blank is not None or any(word in column.meaning for word in ("higher", "best", "share", "else 0"))


@every_scorer
def test_what_it_is_can_be_written_down_and_found_again(name: str, opened: Any) -> None:
    scorer = opened(name)
    step = step_of(name, scorer)
    assert tomllib.loads(tomli_w.dumps(step)) == step
    assert set(step["scores"]) | set(step["columns"]) == set(scorer.columns())
    if step["model"]:
        assert step["model_revision"]
    assert step_of(name, scorer.resolve(step["model_parameters"], 3)) == step


@every_scorer
def test_every_image_gets_every_column_or_a_reason(name: str, opened: Any, tmp_path: Path) -> None:
    scorer = opened(name)
    asked = images(tmp_path)
    scorer.check(asked[0].record)
    found = by_path(scorer.score(iter(asked)))
    assert len(found) == len(asked)
    kinds = {None: (float, type(None)), "": (str,), False: (bool, np.ndarray)}
    for scored in found.values():
        assert scored.reason is None, scored.message
        assert scored.columns.keys() == scorer.columns().keys()
        for key, column in scorer.columns().items():
            expected = (list,) if isinstance(column.blank, list) else kinds[column.blank]
            assert isinstance(scored.columns[key], expected), key
        values = [
            isinstance(value, np.ndarray) or value != scorer.columns()[key].blank
            for key, value in scored.columns.items()
        ]
        assert any(values) or name == "difference", "or it would be looked at again and again"


@every_scorer
def test_a_score_does_not_depend_on_what_comes_with_it(name: str, opened: Any, tmp_path: Path) -> None:
    scorer = opened(name)
    asked = images(tmp_path)
    together = by_path(scorer.score(iter(asked)))
    apart = by_path(each for one in reversed(asked) for each in scorer.score(iter([one])))
    for path, scored in together.items():
        for key, value in scored.columns.items():
            assert np.array_equal(value, apart[path].columns[key]) or value is apart[path].columns[key], key
    assert list(scorer.score(iter([]))) == []


@every_scorer
def test_it_can_be_sent_to_a_worker(name: str, opened: Any) -> None:
    import pickle

    scorer = pickle.loads(pickle.dumps(partial(step_of, name, opened(name))))
    assert scorer() == step_of(name, opened(name))
