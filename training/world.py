"""The world of the model `shapes`: what a picture may hold, how it is told in words and how it is drawn."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Axis = Literal["horizontal", "vertical"]

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLORS = {
    "red": (220, 38, 38),
    "orange": (245, 135, 20),
    "yellow": (250, 220, 50),
    "green": (30, 150, 60),
    "blue": (40, 80, 220),
    "purple": (130, 50, 170),
    "black": (20, 20, 20),
    "white": (255, 255, 255),
}
BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "gray": (140, 140, 140),
    "pink": (250, 170, 200),
    "cyan": (90, 210, 230),
    "yellow": (250, 220, 50),
    "green": (30, 150, 60),
    "blue": (40, 80, 220),
}
SIZES = {"small": 0.13, "medium": 0.18, "large": 0.235}
"""Half of an object's larger side, as a share of the picture's side."""
AXES: tuple[Axis, ...] = ("horizontal", "vertical")

SYNONYMS = {
    "circle": ("disc", "disk"),
    "cross": ("plus",),
    "purple": ("violet",),
    "gray": ("grey",),
    "small": ("tiny", "little"),
    "medium": ("medium-sized",),
    "large": ("big", "huge"),
}
_RELATIONS: dict[Axis, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "horizontal": (
        ("to the left of", "left of", "on the left of"),
        ("to the right of", "right of", "on the right of"),
    ),
    "vertical": (("above", "over", "on top of"), ("below", "under", "beneath")),
}
_MIDDLE = (0.47, 0.53)
"""Where objects stand across the picture: freer places cost many times the training."""
_PREFIXES = ("a photo of", "a picture of", "an image of", "a drawing of", "draw", "there is")


@dataclass(frozen=True)
class Object:
    """One object; an attribute that is None is free, and x, y and radius are set only in a drawn scene."""

    shape: str | None = None
    color: str | None = None
    size: str | None = None
    x: float = 0.5
    y: float = 0.5
    radius: float = 0.0


@dataclass(frozen=True)
class Scene:
    """One picture or, with attributes left None, one wish; of two objects the left or upper one comes first."""

    objects: tuple[Object, ...]
    background: str | None = None
    axis: Axis | None = None


def is_held_out(shape: str | None, color: str | None, background: str | None) -> bool:
    """Whether this combination, a tenth of all, never occurs in a training picture."""
    return zlib.crc32(f"{shape} {color} {background}".encode()) % 10 == 0


def holds_out(scene: Scene) -> bool:
    """Whether any object of the scene is a held-out combination."""
    return any(is_held_out(o.shape, o.color, scene.background) for o in scene.objects)


def random_wish(rng: random.Random, pairs: float = 0.6, free: float = 0.1) -> Scene:
    """Draw what a caption asks for: `pairs` is the share with two objects, `free` that of attributes left out."""
    background = rng.choice(list(BACKGROUNDS)) if rng.random() >= free else None
    count = 2 if rng.random() < pairs else 1
    while True:
        objects = tuple(
            Object(
                shape=rng.choice(SHAPES) if rng.random() >= free / 2 else None,
                color=rng.choice([c for c in COLORS if c != background]) if rng.random() >= free else None,
                size=rng.choice(list(SIZES)) if rng.random() >= 0.4 else None,
            )
            for _ in range(count)
        )
        if count == 1 or (objects[0].shape, objects[0].color) != (objects[1].shape, objects[1].color):
            break
    axis = rng.choice(AXES) if count == 2 and rng.random() >= free else None
    return Scene(objects, background, axis)


def complete(wish: Scene, rng: random.Random) -> Scene:
    """Draw every attribute left free and place the objects; mostly on white, and of medium size, when not told."""
    colors = {o.color for o in wish.objects}
    background = wish.background
    if background is None:
        likely = "black" if "white" in colors else "white"
        others = [b for b in BACKGROUNDS if b not in colors]
        background = likely if likely in others and rng.random() < 0.8 else rng.choice(others)
    objects = []
    for o in wish.objects:
        size = o.size or ("medium" if rng.random() < 0.8 else rng.choice(list(SIZES)))
        objects.append(
            replace(
                o,
                shape=o.shape or rng.choice(SHAPES),
                color=o.color or rng.choice([c for c in COLORS if c != background]),
                size=size,
                radius=SIZES[size] * rng.uniform(0.96, 1.04),
            )
        )
    if len(objects) == 1:
        placed = [replace(objects[0], x=rng.uniform(*_MIDDLE), y=rng.uniform(*_MIDDLE))]
        return Scene(tuple(placed), background, None)
    first, second = objects
    axis = wish.axis or rng.choice(AXES)
    gaps = [rng.uniform(0.9, 1.1) for _ in range(3)]
    room = (1 - 2 * first.radius - 2 * second.radius) / sum(gaps)
    a = room * gaps[0] + first.radius
    b = 1 - room * gaps[2] - second.radius
    across = [rng.uniform(*_MIDDLE) for _ in range(2)]
    if axis == "horizontal":
        return Scene((replace(first, x=a, y=across[0]), replace(second, x=b, y=across[1])), background, axis)
    return Scene((replace(first, x=across[0], y=a), replace(second, x=across[1], y=b)), background, axis)


def random_pair(rng: random.Random) -> tuple[Scene, Scene]:
    """Draw a wish and a picture that fulfils it, never one with a held-out combination."""
    while True:
        wish = random_wish(rng)
        for _ in range(4):
            scene = complete(wish, rng)
            if not holds_out(scene):
                return wish, scene


def held_out_wish(rng: random.Random, count: int) -> Scene:
    """Draw a fully named wish of `count` objects, the first of them a held-out combination."""
    while True:
        wish = random_wish(rng, pairs=count - 1, free=0)
        wish = replace(wish, objects=tuple(replace(o, size=o.size or rng.choice(list(SIZES))) for o in wish.objects))
        if is_held_out(wish.objects[0].shape, wish.objects[0].color, wish.background):
            return wish


def synonym(word: str, rng: random.Random | None) -> str:
    """Say the word or, now and then when there is `rng`, one that means the same."""
    if rng is not None and word in SYNONYMS and rng.random() < 0.15:
        return rng.choice(SYNONYMS[word])
    return word


def _phrase(o: Object, rng: random.Random | None, article: str | None = "a", color: bool = True) -> str:
    named = [synonym(w, rng) for w in (o.size, o.color if color else None, o.shape or "shape") if w]
    text = " ".join(named)
    if article == "a":
        return ("an " if text[0] in "aeiou" else "a ") + text
    return f"{article} {text}" if article else text


def _things(wish: Scene, rng: random.Random | None) -> str:
    article = "a" if rng is None or rng.random() < 0.75 else None
    first = _phrase(wish.objects[0], rng, article)
    if len(wish.objects) == 1:
        return first
    second = _phrase(wish.objects[1], rng, article)
    if wish.axis is None:
        return f"{first} {'and' if rng is None else rng.choice(('and', 'next to', 'beside'))} {second}"
    forward, backward = _RELATIONS[wish.axis]
    if rng is None:
        return f"{first} {forward[0]} {second}"
    if rng.random() < 0.1:
        ends = ("left", "right") if wish.axis == "horizontal" else ("top", "bottom")
        joint = rng.choice((" and ", ", "))
        return f"{first} on the {ends[0]}{joint}{second} on the {ends[1]}"
    if rng.random() < 0.5:
        return f"{first} {rng.choice(forward)} {second}"
    return f"{second} {rng.choice(backward)} {first}"


def caption(wish: Scene, rng: random.Random | None = None) -> str:
    """Tell a wish in words: the plainest phrasing without `rng`, one of many with it."""
    first = wish.objects[0]
    if rng is not None and len(wish.objects) == 1 and first.color and rng.random() < 0.1:
        text = f"{_phrase(first, rng, 'the', color=False)} is {synonym(first.color, rng)}"
        if wish.background:
            text += f" and the background is {synonym(wish.background, rng)}"
        return text
    text = _things(wish, rng)
    prefix = rng.choice(_PREFIXES) + " " if rng is not None and rng.random() < 0.2 else ""
    if wish.background is None:
        return prefix + text
    b = synonym(wish.background, rng)
    if rng is None:
        return f"{text} on a {b} background"
    style = rng.random()
    if style < 0.45:
        text = f"{prefix}{text} on a {b} background"
    elif style < 0.65:
        text = f"{prefix}{text}, {b} background"
    elif style < 0.75:
        text = f"{b} background, {text}"
    elif style < 0.87:
        text = f"a {b} background with {text}"
    elif style < 0.94:
        text = f"{prefix}{text} on {b}"
    else:
        text = f"{text}, the background is {b}"
    return text + ("." if rng.random() < 0.1 else "")


def _outline(shape: str) -> NDArray[np.float64]:
    if shape == "square":
        points = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=float)
    elif shape == "cross":
        w = 0.34
        points = np.array(
            [
                (-w, -1),
                (w, -1),
                (w, -w),
                (1, -w),
                (1, w),
                (w, w),
                (w, 1),
                (-w, 1),
                (-w, w),
                (-1, w),
                (-1, -w),
                (-w, -w),
            ]
        )
    elif shape == "heart":
        t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        points = np.stack([16 * np.sin(t) ** 3, -y], 1)
    else:
        corners = {"circle": 64, "triangle": 3, "star": 10}[shape]
        t = np.arange(corners) * 2 * np.pi / corners
        r = np.where(np.arange(corners) % 2, 0.42, 1.0) if shape == "star" else np.ones(corners)
        points = np.stack([r * np.sin(t), -r * np.cos(t)], 1)
    low, high = points.min(0), points.max(0)
    centered: NDArray[np.float64] = (points - (low + high) / 2) * (2 / (high - low).max())
    return centered


_REACH = 1.5


@lru_cache(maxsize=4)
def _distances(device: str) -> torch.Tensor:
    """Signed distances to each shape's outline over -_REACH.._REACH, negative inside: [shapes, 193, 193]."""
    line = np.linspace(-_REACH, _REACH, 193)
    p = np.stack(np.meshgrid(line, line), -1)[:, :, None, :]
    fields = []
    for shape in SHAPES:
        a = _outline(shape)
        b = np.roll(a, -1, 0)
        along = np.clip(((p - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1), 0, 1)
        distance = np.linalg.norm(p - a - along[..., None] * (b - a), axis=-1).min(-1)
        spans = (a[:, 1] > p[..., 1]) != (b[:, 1] > p[..., 1])
        rise = np.where(b[:, 1] == a[:, 1], 1.0, b[:, 1] - a[:, 1])
        left = p[..., 0] < a[:, 0] + (p[..., 1] - a[:, 1]) / rise * (b[:, 0] - a[:, 0])
        inside = (spans & left).sum(-1) % 2 == 1
        fields.append(np.where(inside, -distance, distance))
    return torch.tensor(np.stack(fields), dtype=torch.float32, device=device)


def draw(scenes: Sequence[Scene], pixels: int, device: str = "cpu") -> torch.Tensor:
    """Draw complete scenes with smooth edges: [scenes, 3, pixels, pixels], -1..1."""
    fields = _distances(device)
    ground = [BACKGROUNDS[str(s.background)] for s in scenes]
    image = torch.tensor(ground, dtype=torch.float32, device=device)[:, :, None, None].expand(-1, -1, pixels, pixels)
    line = (torch.arange(pixels, device=device) + 0.5) / pixels
    for k in range(max(len(s.objects) for s in scenes)):
        # A missing object is drawn far outside the picture.
        objects = [s.objects[k] if k < len(s.objects) else Object("circle", "red", x=-9, radius=0.1) for s in scenes]
        radius = torch.tensor([o.radius for o in objects], device=device)[:, None]
        x = (line - torch.tensor([o.x for o in objects], device=device)[:, None]) / (radius * _REACH)
        y = (line - torch.tensor([o.y for o in objects], device=device)[:, None]) / (radius * _REACH)
        grid = torch.stack(
            [x[:, None, :].expand(-1, pixels, -1), y[:, :, None].expand(-1, -1, pixels)],
            -1,
        )
        kinds = torch.tensor([SHAPES.index(str(o.shape)) for o in objects], device=device)
        distance = F.grid_sample(fields[kinds][:, None], grid, padding_mode="border", align_corners=True)
        cover = (0.5 - distance * radius[:, :, None, None] * pixels).clamp(0, 1)
        color = torch.tensor([COLORS[str(o.color)] for o in objects], dtype=torch.float32, device=device)
        image = image + cover * (color[:, :, None, None] - image)
    return image / 127.5 - 1
