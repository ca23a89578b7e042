"""Reads the objects back out of a picture in the world of the model `shapes`, with plain numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

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
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
SIZE_EDGES = (("small", 0.154), ("medium", 0.206), ("large", 1.0))
SMALLEST_AREA = 0.008
"""The least share of the picture that counts as an object."""
FARTHEST = 0.5
"""The largest mismatch, as a share of the object's area, at which a shape still has a name."""
_GRID = 32
_REACH = 1.4


@dataclass(frozen=True)
class ReadObject:
    """One object found: centre in 0..1 from the top left, radius as half the larger side over the picture's side."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class ReadScene:
    """What a picture holds, its objects from left to right."""

    background: str
    objects: tuple[ReadObject, ...]


def relation(a: ReadObject, b: ReadObject) -> str:
    """Say where `a` lies as seen from `b`: "left of", "right of", "above" or "below"."""
    if abs(a.x - b.x) >= abs(a.y - b.y):
        return "left of" if a.x < b.x else "right of"
    return "above" if a.y < b.y else "below"


def read_scene(pixels: NDArray[np.uint8]) -> ReadScene:
    """Read a picture of any size from 64 to 512: [height, width, 3], 0..255."""
    picture = _shrink(pixels[..., :3].astype(np.float64))
    height, width = picture.shape[:2]
    edge = max(1, round(min(height, width) * 0.03))
    rim = np.ones((height, width), bool)
    rim[edge:-edge, edge:-edge] = False
    grounds = list(BACKGROUNDS.values())
    nearest = _nearest(picture[rim], grounds)
    ground = int(np.bincount(nearest, minlength=len(grounds)).argmax())
    background = list(BACKGROUNDS)[ground]
    seen_ground = np.median(picture[rim][nearest == ground], axis=0)

    names = [name for name in COLORS if name != background]
    classes = _nearest(picture, [tuple(seen_ground), *(COLORS[name] for name in names)])
    parts = [
        (name, part)
        for k, name in enumerate(names, 1)
        for part in _components(classes == k)
        if part.mean() >= SMALLEST_AREA and _erode(part).sum() >= 0.4 * part.sum()
    ]
    objects = []
    for name, part in parts:
        others = np.zeros_like(part)
        for _, other in parts:
            if other is not part:
                others |= _dilate(other)
        seen = np.median(picture[_erode(part)], axis=0)
        span = seen - seen_ground
        cover = np.clip((picture - seen_ground) @ span / (span @ span), 0, 1)
        cover[~_dilate(_dilate(part)) | (others & ~part)] = 0
        objects.append(_read_object(name, cover))
    return ReadScene(background, tuple(sorted(objects, key=lambda o: (o.x, o.y))))


def _read_object(color: str, cover: Floats) -> ReadObject:
    height, width = cover.shape
    area = cover.sum()
    x = float((cover.sum(0) @ (np.arange(width) + 0.5)) / area)
    y = float((cover.sum(1) @ (np.arange(height) + 0.5)) / area)
    line = (np.arange(_GRID) + 0.5) / _GRID * 2 - 1
    steps = line * _REACH * np.sqrt(area)
    found = _sample(cover, x + steps, y + steps)
    misses = {
        shape: float(np.abs(found - template).sum() / template.sum()) for shape, (template, _) in _TEMPLATES.items()
    }
    shape = min(misses, key=lambda s: misses[s])
    radius = float(np.sqrt(area / _TEMPLATES[shape][1]) / min(height, width))
    size = next(name for name, top in SIZE_EDGES if radius < top)
    return ReadObject(shape if misses[shape] <= FARTHEST else "unknown", color, size, x / width, y / height, radius)


def _shrink(picture: Floats) -> Floats:
    """Average blocks so that the smaller side is at most about 128 pixels."""
    step = max(1, min(picture.shape[:2]) // 128)
    height, width = (n // step * step for n in picture.shape[:2])
    blocks: Floats = picture[:height, :width].reshape(height // step, step, width // step, step, 3).mean((1, 3))
    return blocks


def _lab(rgb: Floats) -> Floats:
    c = rgb / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = c @ np.array([[0.4339, 0.2126, 0.0178], [0.3763, 0.7152, 0.1095], [0.1898, 0.0722, 0.8727]])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab: Floats = np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)
    return lab


def _nearest(pixels: Floats, palette: list[tuple[float, ...]] | list[tuple[int, int, int]]) -> NDArray[np.intp]:
    colors = _lab(np.array(palette, dtype=np.float64))
    found: NDArray[np.intp] = ((_lab(pixels)[..., None, :] - colors) ** 2).sum(-1).argmin(-1)
    return found


def _around(mask: Mask) -> list[Mask]:
    p = np.pad(mask, 1)
    return [p[:-2, 1:-1], p[2:, 1:-1], p[1:-1, :-2], p[1:-1, 2:]]


def _erode(mask: Mask) -> Mask:
    eroded: Mask = np.logical_and.reduce([mask, *_around(mask)])
    return eroded


def _dilate(mask: Mask) -> Mask:
    dilated: Mask = np.logical_or.reduce([mask, *_around(mask)])
    return dilated


def _components(mask: Mask) -> list[Mask]:
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        p = np.pad(labels, 1)
        grown = np.maximum.reduce([labels, p[:-2, 1:-1], p[2:, 1:-1], p[1:-1, :-2], p[1:-1, 2:]])
        grown[~mask] = 0
        if (grown == labels).all():
            return [labels == k for k in np.unique(labels) if k]
        labels = grown


def _sample(image: Floats, xs: Floats, ys: Floats) -> Floats:
    """Read an image between its pixels, 0 outside: [len(ys), len(xs)]."""
    p = np.pad(image, 1)
    x = np.clip(xs + 0.5, 0, p.shape[1] - 1.001)
    y = np.clip(ys + 0.5, 0, p.shape[0] - 1.001)
    i, j = y.astype(int), x.astype(int)
    v, u = (y - i)[:, None], (x - j)[None, :]
    i, j = i[:, None], j[None, :]
    mixed: Floats = (p[i, j] * (1 - u) + p[i, j + 1] * u) * (1 - v) + (p[i + 1, j] * (1 - u) + p[i + 1, j + 1] * u) * v
    return mixed


def _template(shape: str) -> tuple[Floats, float]:
    """Draw a shape at area 1 about its centroid; and tell its area when its larger side is 2."""
    n = 256
    line = (np.arange(n) + 0.5) / n * 2 - 1
    x, y = np.meshgrid(line, line)
    if shape == "circle":
        inside = x**2 + y**2 <= 1
    elif shape == "square":
        inside = np.ones_like(x, bool)
    elif shape == "cross":
        inside = (abs(x) <= 0.34) | (abs(y) <= 0.34)
    elif shape == "triangle":
        h = np.sqrt(3) / 2
        inside = (y <= h) & (abs(x) <= (y + h) / (2 * h))
    elif shape == "heart":
        t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
        v = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
        inside = _inside(np.stack([np.sin(t) ** 3, v - (v.max() + v.min()) / 2], 1), x, y)
    else:
        t = np.arange(10) * np.pi / 5
        r = np.where(np.arange(10) % 2, 0.42, 1.0) / np.sin(0.4 * np.pi)
        points = np.stack([r * np.sin(t), -r * np.cos(t)], 1)
        points[:, 1] -= (points[:, 1].max() + points[:, 1].min()) / 2
        inside = _inside(points, x, y)
    cover = inside.astype(np.float64)
    area = cover.sum()
    steps = ((np.arange(_GRID) + 0.5) / _GRID * 2 - 1) * _REACH * np.sqrt(area)
    cx = (cover.sum(0) @ (np.arange(n) + 0.5)) / area
    cy = (cover.sum(1) @ (np.arange(n) + 0.5)) / area
    return _sample(cover, cx + steps, cy + steps), float(area * 4 / n**2)


def _inside(points: Floats, x: Floats, y: Floats) -> Mask:
    crossed = np.zeros_like(x, bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
        if ay != by:
            crossed ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) / (by - ay) * (bx - ax))
    return crossed


_TEMPLATES = {shape: _template(shape) for shape in SHAPES}
