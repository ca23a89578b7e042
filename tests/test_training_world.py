"""The instructions of the built-in editor: what they change, what they leave and how they are told."""

import random
from dataclasses import replace

import numpy as np
import pytest

from tests.shapes_verifier import read_scene
from training.instructions import KINDS, Edit, apply_edit, held_out_change, instruct, random_changes, random_scene
from training.world import Object, Scene, draw, holds_out

PAIR = Scene(
    (Object("circle", "red", "small", 0.25, 0.5, 0.13), Object("circle", "blue", "large", 0.7, 0.5, 0.235)),
    "white",
    "horizontal",
)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (Edit("color", "red", "circle"), "make the circle red"),
        (Edit("color", "green", "circle", "red"), "make the red circle green"),
        (Edit("background", "blue"), "change the background to blue"),
        (Edit("shape", "star", "circle"), "replace the circle with a star"),
        (Edit("remove", None, "square", "orange"), "remove the orange square"),
    ],
)
def test_an_edit_is_told_plainly(edit: Edit, text: str) -> None:
    assert instruct(edit) == text


def test_an_edit_changes_what_it_names_and_nothing_else() -> None:
    first, second = PAIR.objects
    assert apply_edit(PAIR, Edit("color", "green", "circle", "red")).objects == (replace(first, color="green"), second)
    assert apply_edit(PAIR, Edit("shape", "star", "circle", "blue")).objects == (first, replace(second, shape="star"))
    assert apply_edit(PAIR, Edit("remove", None, "circle", "red")) == Scene((second,), "white", None)
    assert apply_edit(PAIR, Edit("background", "pink")) == replace(PAIR, background="pink")


def test_drawn_edits_change_one_thing_and_show_no_held_out_combination() -> None:
    rng = random.Random("edits")
    seen = set()
    for _ in range(60):
        before, changes = random_changes(rng, 2)
        for edit, after in changes:
            seen.add(edit.kind)
            assert not holds_out(before)
            assert not holds_out(after)
            assert all(o.color != after.background for o in after.objects)
            gone = len(before.objects) - len(after.objects)
            assert gone == (edit.kind == "remove")
            if not gone:
                changed = sum(a != b for a, b in zip(before.objects, after.objects, strict=True))
                assert changed + (before.background != after.background) == 1
            named = [word for word in (edit.shape, edit.color) if word]
            assert sum(all(word in (o.shape, o.color) for word in named) for o in before.objects) == 1 or not named
    assert seen == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_held_out_edit_is_of_its_kind_and_reads_right_when_drawn(kind: str, count: int) -> None:
    before, edit, after = held_out_change(random.Random(kind), kind, count)  # type: ignore[arg-type]
    assert edit.kind == kind
    assert len(before.objects) == count
    assert holds_out(before) or holds_out(after)
    picture = ((draw([after], 64)[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy().astype(np.uint8)
    read = read_scene(picture)
    assert read.background == after.background
    assert {(o.shape, o.color, o.size) for o in read.objects} == {(o.shape, o.color, o.size) for o in after.objects}


def test_the_same_seed_gives_the_same_words() -> None:
    words = [[instruct(random_changes(random.Random(k), 1)[1][0][0], random.Random(k)) for k in range(9)] for _ in "ab"]
    assert words[0] == words[1]
    assert len(set(words[0])) > 5
    assert random_scene(random.Random(1)) == random_scene(random.Random(1))
