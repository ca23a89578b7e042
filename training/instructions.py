"""The instructions of the model `shapes_editor`: what may be changed in a picture and how it is told in words."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

from training.world import BACKGROUNDS, COLORS, SHAPES, Object, Scene, complete, holds_out, random_wish, synonym

Kind = Literal["color", "background", "shape", "remove"]

KINDS: tuple[Kind, ...] = ("color", "background", "shape", "remove")

_COLOR = (
    "make {o} {v}",
    "turn {o} {v}",
    "change {o} to {v}",
    "color {o} {v}",
    "paint {o} {v}",
    "change the color of {o} to {v}",
)
_BACKGROUND = (
    "change the background to {v}",
    "make the background {v}",
    "turn the background {v}",
    "change the background color to {v}",
    "put it on a {v} background",
    "paint the background {v}",
)
_SHAPE = (
    "replace {o} with {v}",
    "turn {o} into {v}",
    "change {o} into {v}",
    "change {o} to {v}",
    "make {o} {v}",
    "swap {o} for {v}",
)
_REMOVE = ("remove {o}", "delete {o}", "take away {o}", "erase {o}", "get rid of {o}")


@dataclass(frozen=True)
class Edit:
    """One change: of the background, or of the object named by its shape and, where told, its color."""

    kind: Kind
    value: str | None = None
    shape: str | None = None
    color: str | None = None


def random_scene(rng: random.Random) -> Scene:
    """Draw a complete picture of one or two objects; sometimes one of the two is gone already."""
    scene = complete(random_wish(rng, free=0), rng)
    if len(scene.objects) == 2 and rng.random() < 0.15:
        scene = replace(scene, objects=(rng.choice(scene.objects),), axis=None)
    across, down = rng.uniform(-0.02, 0.02), rng.uniform(-0.02, 0.02)
    return replace(scene, objects=tuple(replace(o, x=o.x + across, y=o.y + down) for o in scene.objects))


def random_edit(scene: Scene, rng: random.Random) -> Edit:
    """Draw a change that can be made to a picture; an object is told by its shape where that is enough."""
    kind = rng.choices(KINDS, (35, 20, 30, 15))[0]
    if kind == "background":
        taken = {scene.background, *(o.color for o in scene.objects)}
        return Edit(kind, rng.choice([b for b in BACKGROUNDS if b not in taken]))
    o = rng.choice(scene.objects)
    alone = sum(other.shape == o.shape for other in scene.objects) == 1
    color = None if alone and rng.random() < 0.6 else o.color
    if kind == "remove":
        return Edit(kind, None, o.shape, color)
    if kind == "color":
        return Edit(kind, rng.choice([c for c in COLORS if c not in (o.color, scene.background)]), o.shape, color)
    return Edit(kind, rng.choice([s for s in SHAPES if s != o.shape]), o.shape, color)


def apply_edit(scene: Scene, edit: Edit) -> Scene:
    """Change what is told in a complete picture; everything else stays as it is."""
    if edit.kind == "background":
        return replace(scene, background=edit.value)
    objects: list[Object] = []
    for o in scene.objects:
        if o.shape != edit.shape or edit.color not in (None, o.color):
            objects.append(o)
        elif edit.kind == "color":
            objects.append(replace(o, color=edit.value))
        elif edit.kind == "shape":
            objects.append(replace(o, shape=edit.value))
    return replace(scene, objects=tuple(objects), axis=scene.axis if len(objects) == 2 else None)


def instruct(edit: Edit, rng: random.Random | None = None) -> str:
    """Tell a change in words: the plainest phrasing without `rng`, one of many with it."""
    value = synonym(edit.value, rng) if edit.value else ""
    ways = {"color": _COLOR, "background": _BACKGROUND, "shape": _SHAPE, "remove": _REMOVE}[edit.kind]
    if edit.kind == "shape":
        value = ("an " if value[0] in "aeiou" else "a ") + value
    named = [synonym(word, rng) for word in (edit.color, edit.shape) if word]
    text = (ways[0] if rng is None else rng.choice(ways)).format(o=" ".join(["the", *named]), v=value)
    if rng is None:
        return text
    return text + ("." if rng.random() < 0.1 else "")


def random_changes(rng: random.Random, count: int) -> tuple[Scene, list[tuple[Edit, Scene]]]:
    """Draw a picture and so many changes of it with the changed pictures, none with a held-out combination."""
    while holds_out(before := random_scene(rng)):
        pass
    changes: list[tuple[Edit, Scene]] = []
    while len(changes) < count:
        edit = random_edit(before, rng)
        if not holds_out(after := apply_edit(before, edit)):
            changes.append((edit, after))
    return before, changes


def held_out_change(rng: random.Random, kind: Kind, count: int) -> tuple[Scene, Edit, Scene]:
    """Draw a change of one kind to a picture of `count` objects; one of the two pictures is a held-out one."""
    while True:
        before = random_scene(rng)
        edit = random_edit(before, rng)
        after = apply_edit(before, edit)
        if len(before.objects) == count and edit.kind == kind and (holds_out(before) or holds_out(after)):
            return before, edit, after
