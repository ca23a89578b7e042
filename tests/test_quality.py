"""Quality: blur lowers sharpness, light and contrast are what they are said to be, and flat pictures are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from imagemill.scorers.base import Seen, find_scorer


def measured(image: Image.Image) -> dict[str, Any]:
    (scored,) = find_scorer("quality", {}).score([Seen(Path("a.png"), {}, b"", image)])
    assert scored.columns.keys() == find_scorer("quality", {}).columns().keys()
    return dict(scored.columns)


def noise(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def test_blur_lowers_sharpness() -> None:
    image = noise((80, 60))
    blurred = [measured(image.filter(ImageFilter.GaussianBlur(radius)))["sharpness"] for radius in (0, 1, 2, 4)]
    assert blurred == sorted(blurred, reverse=True)
    assert blurred[0] > 100 * blurred[-1]


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    pixels = np.zeros((3, 3, 3), np.uint8)
    pixels[1, 1] = 10
    # The Laplacian: -40 at the center, 10 at its four neighbors.
    assert measured(Image.fromarray(pixels))["sharpness"] == pytest.approx((40**2 + 4 * 10**2) / 9, abs=1e-6)


def test_large_pictures_are_compared_at_one_size() -> None:
    small = noise((512, 256)).filter(ImageFilter.GaussianBlur(2))
    large = small.resize((2048, 1024), Image.Resampling.BICUBIC)
    assert measured(large)["sharpness"] == pytest.approx(measured(small)["sharpness"], rel=0.2)


def test_brightness_and_contrast_of_half_black_half_white() -> None:
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[:, 5:] = 255
    found = measured(Image.fromarray(pixels))
    assert (found["brightness"], found["contrast"], found["flat"]) == (0.5, 0.5, 0.0)


@pytest.mark.parametrize("color", ["black", "white", "#808080", "red"])
def test_one_color_is_flat(color: str) -> None:
    found = measured(Image.new("RGB", (64, 48), color))
    assert found["flat"] == 1.0
    assert (found["sharpness"], found["contrast"]) == (0.0, 0.0)
    assert all(type(found[name]) is float for name in ("sharpness", "brightness", "contrast"))


def test_colors_of_one_luma_are_not_flat() -> None:
    pixels = np.full((10, 10, 3), (160, 60, 60), np.uint8)
    pixels[5:] = (60, 111, 60)
    found = measured(Image.fromarray(pixels))
    assert found["contrast"] < 0.01
    assert found["flat"] == 0.0


def test_grain_that_nobody_sees_is_flat() -> None:
    pixels = np.random.default_rng(0).integers(20, 23, (64, 64, 3), np.uint8)
    assert measured(Image.fromarray(pixels))["flat"] == 1.0


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (3000, 2)])
def test_odd_sizes_are_measured(size: tuple[int, int]) -> None:
    assert measured(Image.new("RGB", size, "blue"))["sharpness"] == 0.0
