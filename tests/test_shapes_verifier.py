from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tests.shapes_verifier import BACKGROUNDS, COLORS, SHAPES, ReadObject, ReadScene, read_scene, relation

RADII = {"small": 0.13, "medium": 0.18, "large": 0.235}


def outline(shape: str) -> list[tuple[float, float]]:
    if shape == "circle":
        points = [(math.cos(i / 10), math.sin(i / 10)) for i in range(63)]
    elif shape == "square":
        points = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    elif shape == "cross":
        quarter = [(-0.34, -1), (0.34, -1), (0.34, -0.34)]
        points = [(x * c - y * s, x * s + y * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for x, y in quarter]
    elif shape == "heart":
        turns = [i / 15 for i in range(94)]
        points = [
            (
                math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
            )
            for t in turns
        ]
    else:
        corners, inner = (3, 1.0) if shape == "triangle" else (10, 0.42)
        turns = [i * math.tau / corners for i in range(corners)]
        points = [
            (math.sin(t) * (inner if i % 2 else 1), -math.cos(t) * (inner if i % 2 else 1)) for i, t in enumerate(turns)
        ]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    scale = 2 / max(max(xs) - min(xs), max(ys) - min(ys))
    cx, cy = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    return [((x - cx) * scale, (y - cy) * scale) for x, y in points]


def draw(scene: ReadScene, pixels: int, blur: float = 0) -> NDArray[np.uint8]:
    side = pixels * 4
    image = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    for o in scene.objects:
        points = [((o.x + u * o.radius) * side, (o.y + v * o.radius) * side) for u, v in outline(o.shape)]
        ImageDraw.Draw(image).polygon(points, fill=COLORS[o.color])
    image = image.resize((pixels, pixels), Image.Resampling.BOX)
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(image)


def words(scene: ReadScene) -> tuple[str, list[tuple[str, str, str]]]:
    return scene.background, [(o.shape, o.color, o.size) for o in scene.objects]


def every_object() -> list[ReadScene]:
    rng = random.Random(3)
    scenes = []
    for shape, color, size in itertools.product(SHAPES, COLORS, RADII):
        ground = rng.choice([b for b in BACKGROUNDS if b != color])
        x, y = rng.uniform(0.38, 0.62), rng.uniform(0.38, 0.62)
        scenes.append(ReadScene(ground, (ReadObject(shape, color, size, x, y, RADII[size]),)))
    return scenes


@pytest.mark.parametrize(("pixels", "blur"), [(64, 0), (64, 0.6), (200, 0), (512, 2)])
def test_reads_every_object(pixels: int, blur: float) -> None:
    scenes = every_object() if pixels == 64 else every_object()[::5]
    assert [words(read_scene(draw(s, pixels, blur))) for s in scenes] == [words(s) for s in scenes]


def test_reads_position_and_radius() -> None:
    scene = ReadScene("gray", (ReadObject("circle", "red", "medium", 0.4, 0.6, 0.18),))
    (found,) = read_scene(draw(scene, 64)).objects
    assert (found.x, found.y, found.radius) == pytest.approx((0.4, 0.6, 0.18), abs=0.01)


def test_reads_pairs_and_their_relation() -> None:
    rng = random.Random(4)
    for _ in range(60):
        ground = rng.choice(list(BACKGROUNDS))
        low, high = (
            ReadObject(
                rng.choice(SHAPES),
                rng.choice([c for c in COLORS if c != ground]),
                size,
                0.26,
                0.5,
                RADII[size],
            )
            for size in rng.choices(list(RADII), k=2)
        )
        high = replace(high, x=0.74, y=0.55)
        beside = read_scene(draw(ReadScene(ground, (low, high)), 64))
        assert words(beside) == words(ReadScene(ground, (low, high)))
        assert relation(*beside.objects) == "left of"
        assert relation(*beside.objects[::-1]) == "right of"
        low, high = replace(low, x=0.5, y=0.26), replace(high, x=0.45, y=0.74)
        stacked = read_scene(draw(ReadScene(ground, (low, high)), 64)).objects
        assert relation(*sorted(stacked, key=lambda o: o.y)) == "above"
        assert relation(*sorted(stacked, key=lambda o: -o.y)) == "below"


def test_reads_an_empty_picture() -> None:
    assert read_scene(np.full((64, 64, 3), 255, np.uint8)) == ReadScene("white", ())


def test_a_formless_blot_has_no_known_shape() -> None:
    image = Image.new("RGB", (64, 64), BACKGROUNDS["white"])
    ImageDraw.Draw(image).rectangle((4, 30, 59, 35), fill=COLORS["red"])
    assert [o.shape for o in read_scene(np.asarray(image)).objects] == ["unknown"]
