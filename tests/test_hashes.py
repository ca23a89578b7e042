"""Hashes: equal pixels are found whatever holds them, and pictures that look alike are near each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from imagemill.hashing import distances, pairs_within, perceptual_hash, pixels_sha256
from imagemill.scorers.base import Seen, find_scorer


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def picture(number: int, size: tuple[int, int] = (192, 160)) -> Image.Image:
    """Smooth, with some structure, like photographs."""
    coarse = np.random.default_rng(number).integers(0, 255, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def reopened(image: Image.Image, kind: str, **options: int | bool) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file).convert("RGB")


def seen(images: Sequence[Image.Image]) -> list[Seen]:
    return [Seen(Path(f"{number}.png"), {}, b"", image) for number, image in enumerate(images)]


def test_equal_pixels_have_equal_hashes_in_every_lossless_file() -> None:
    image = picture(1)
    assert pixels_sha256(image) == pixels_sha256(reopened(image, "PNG"))
    assert pixels_sha256(image) == pixels_sha256(reopened(image, "WEBP", lossless=True))
    assert pixels_sha256(image) != pixels_sha256(reopened(image, "JPEG"))


def test_the_same_bytes_in_another_size_are_another_picture() -> None:
    black = [Image.new("RGB", size) for size in ((4, 2), (2, 4), (8, 1))]
    assert len({pixels_sha256(image) for image in black}) == 3


def test_pictures_that_look_alike_are_near_and_others_far() -> None:
    for number in range(20):
        image = picture(number)
        marked = image.copy()
        ImageDraw.Draw(marked).rectangle((4, 4, 12, 12), "white")
        likes = [
            reopened(image, "JPEG", quality=40),
            image.resize((96, 80)),
            ImageEnhance.Brightness(image).enhance(0.9),
            marked,
        ]
        assert max(distance(perceptual_hash(image), perceptual_hash(like)) for like in likes) <= 8
    hashes = [perceptual_hash(picture(number)) for number in range(40)]
    assert min(distance(one, other) for one, other in combinations(hashes, 2)) > 8
    assert 28 < np.mean([distance(one, other) for one, other in combinations(hashes, 2)]) < 36


def test_a_hash_is_the_one_that_zauner_defines() -> None:
    image = picture(3, (32, 32)).convert("L").convert("RGB")
    gray = np.asarray(image.convert("L"), float)
    places = np.arange(32)

    def frequency(u: int, v: int) -> float:
        rows = np.cos(np.pi * u * (2 * places + 1) / 64)
        columns = np.cos(np.pi * v * (2 * places + 1) / 64)
        return float(sum(gray[y, x] * rows[y] * columns[x] for y in places for x in places))

    values = [frequency(u, v) for u in range(8) for v in range(8)]
    bits = "".join("1" if value > np.median(values) else "0" for value in values)
    assert perceptual_hash(image) == f"{int(bits, 2):016x}"


def test_pictures_of_one_color_have_one_hash() -> None:
    gray = [perceptual_hash(Image.new("RGB", (50, 40), (level, level, level))) for level in range(1, 256)]
    assert set(gray) == {"8000000000000000"}
    assert perceptual_hash(Image.new("RGB", (1, 1))) == "0000000000000000"


def test_distances_of_arrays_are_those_of_texts() -> None:
    texts = [perceptual_hash(picture(number)) for number in range(5)]
    hashes = np.array([int(text, 16) for text in texts], np.uint64)
    wanted = [[distance(one, other) for other in texts] for one in texts]
    assert distances(hashes[:, None], hashes[None, :]).tolist() == wanted
    assert distances(hashes[:1], hashes[:1]).tolist() == [0]


@pytest.mark.parametrize("most", [0, 1, 4, 10])
def test_all_near_pairs_are_found(most: int) -> None:
    generator = np.random.default_rng(most)
    centers = generator.integers(0, 2**64, 12, np.uint64)
    flips = np.uint64(1) << generator.integers(0, 64, (12, 8, 6), np.uint64)
    hashes = np.unique(centers[:, None] ^ np.bitwise_xor.accumulate(flips, axis=2)[:, :, -1])
    near = distances(hashes[:, None], hashes[None, :]) <= most
    wanted = {(one, other) for one, other in combinations(range(len(hashes)), 2) if near[one, other]}
    found = [(int(one), int(other)) for pair in pairs_within(hashes, most) for one, other in zip(*pair, strict=True)]
    assert {(min(pair), max(pair)) for pair in found} == wanted


def test_no_hashes_have_no_pairs() -> None:
    for count in (0, 1):
        assert list(pairs_within(np.zeros(count, np.uint64), 4)) == []


def test_every_image_gets_its_own_hashes() -> None:
    images = [picture(number) for number in (1, 2, 1)]
    scorer = find_scorer("hashes", {})
    scored = list(scorer.score(seen(images)))
    assert [one.columns["pixels_sha256"] for one in scored] == [pixels_sha256(image) for image in images]
    assert scored[0].columns == scored[2].columns
    assert all(one.columns.keys() == scorer.columns().keys() for one in scored)
    assert [one.seen.path.name for one in scored] == ["0.png", "1.png", "2.png"]
    assert all(one != other for one, other in pairwise(one.columns["perceptual_hash"] for one in scored))
