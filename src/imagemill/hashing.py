"""Hashes of what is seen in pictures: equal pixels, and pictures that look alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Hashes = NDArray[np.uint64]
    Places = NDArray[np.intp]

_SIDE, _KEPT = 32, 8
_BITS = 64
_NOISE = 6
"""Decimals that coefficients are rounded to, so that what is 0 in exact arithmetic is 0."""


def pixels_sha256(image: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB pixels: the same whatever file format holds them losslessly."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return hashlib.sha256(f"RGB {rgb.width}x{rgb.height}\n".encode() + rgb.tobytes()).hexdigest()


def perceptual_hash(image: Image.Image) -> str:
    """The 64 bits of a DCT perceptual hash as 16 hexadecimal digits.

    The gray picture at 32 × 32, its 8 × 8 lowest frequencies, a bit for each one above their median, as in Zauner,
    "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010).
    """
    import numpy as np
    from PIL import Image

    gray = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), np.float64)
    waves = np.cos(np.pi / _SIDE * np.outer(np.arange(_KEPT), np.arange(_SIDE) + 0.5))
    frequencies = np.round(waves @ gray @ waves.T, _NOISE)
    bits = frequencies > np.median(frequencies)
    return np.packbits(bits).tobytes().hex()


def distances(some: Hashes, others: Hashes) -> NDArray[np.intp]:
    """How many of 64 bits two arrays of hashes differ in, by element, after broadcasting; unrelated ones: about 32."""
    import numpy as np

    counts = np.array([byte.bit_count() for byte in range(256)], np.uint8)
    different = np.ascontiguousarray(np.atleast_1d(some ^ others))
    found: NDArray[np.intp] = counts[different[..., None].view(np.uint8)].sum(axis=-1, dtype=np.intp)
    return found


def pairs_within(hashes: Hashes, most: int) -> Iterator[tuple[Places, Places]]:
    """Yield the places of all pairs of hashes at most `most` bits apart, as pairs of arrays; a pair may come twice.

    Of hashes cut into `most + 1` pieces, two that differ in `most` bits have a piece in common. Equal hashes are best
    made one before, since they are all pairs.
    """
    import numpy as np

    edges = [_BITS * piece // (most + 1) for piece in range(most + 2)]
    for low, high in pairwise(edges):
        pieces = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(pieces, kind="stable")
        sorted_pieces = pieces[order]
        places = np.arange(len(order))
        for step in range(1, len(order)):
            places = places[places < len(order) - step]
            places = places[sorted_pieces[places] == sorted_pieces[places + step]]
            if not len(places):
                break
            one, other = order[places], order[places + step]
            near = distances(hashes[one], hashes[other]) <= most
            if near.any():
                yield one[near], other[near]
