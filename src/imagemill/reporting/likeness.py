"""How alike a dataset's images are: near-duplicates, and how much those of one prompt differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagemill.dataset.vectors import Vectors
from imagemill.hashing import pairs_within, perceptual_hash
from imagemill.reporting.pictures import opened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imagemill.hashing import Hashes, Places
    from imagemill.reporting.figures import Collected

NEAR = 4
"""Bits of a perceptual hash in which near-duplicates differ at most."""
MOST, SAMPLE = 100_000, 300
"""Images that are compared, with hashes in the records and without."""
_EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class Hashed:
    """Images with their perceptual hashes."""

    images: Places
    hashes: Hashes
    sampled: bool
    """Whether they were drawn by chance out of more."""


@dataclass(frozen=True, slots=True)
class Diversity:
    """How far the images of each prompt are apart on average; prompts with one image are left out."""

    prompts: Places
    means: NDArray[np.float64]
    measure: str


def hashed(collected: Collected) -> Hashed:
    """The hashes that the records have, else those of the images themselves; of a sample where they are many."""
    import numpy as np

    if collected.hashed:
        images, hashes = np.array(collected.hashed, np.intp), np.array(collected.perceptual, np.uint64)
        chosen = _chosen(collected, images, MOST)
        return Hashed(images[chosen], hashes[chosen], len(chosen) < len(images))
    images = np.arange(len(collected))
    chosen = _chosen(collected, images, SAMPLE)
    pictures = ((int(image), opened(collected.path(int(image)))) for image in chosen)
    found = {image: int(perceptual_hash(picture), 16) for image, picture in pictures if picture}
    return Hashed(np.array(list(found), np.intp), np.array(list(found.values()), np.uint64), len(chosen) < len(images))


def _chosen(collected: Collected, images: Places, most: int) -> Places:
    """Places of `most` images, drawn by whole prompts, since images of one prompt are those that are most alike."""
    import numpy as np

    if len(images) <= most:
        return np.arange(len(images))
    rank = np.random.default_rng(0).permutation(len(collected.prompts.known))
    chosen: Places = np.sort(np.argsort(rank[collected.prompts.places[images]], kind="stable")[:most])
    return chosen


def nearest(found: Hashed) -> dict[int, int]:
    """For each image that has near-duplicates one of them."""
    import numpy as np

    unique, firsts, inverse, counts = np.unique(
        found.hashes, return_index=True, return_inverse=True, return_counts=True
    )
    near = np.full(len(unique), -1, np.intp)
    for some, others in pairs_within(unique, NEAR):
        near[some] = others
        near[others] = some
    places = np.arange(len(inverse))
    # Of equal ones the first stands for all; it has the second of them, or a similar one.
    partners = np.where(near[inverse] >= 0, firsts[near[inverse]], -1)
    equal = (counts[inverse] > 1) & (firsts[inverse] != places)
    partners[equal] = firsts[inverse[equal]]
    partners[firsts[inverse[equal]]] = places[equal]
    images = found.images
    return {int(images[place]): int(images[partners[place]]) for place in np.flatnonzero(partners >= 0)}


def diversity(collected: Collected, found: Hashed) -> Diversity:
    """Mean pairwise distance of each prompt's images: of their vectors where there are some, else of their hashes."""
    import numpy as np

    by_vectors = _by_vectors(collected)
    if by_vectors:
        prompts = np.array(list(by_vectors), np.intp)
        return Diversity(prompts, np.array(list(by_vectors.values())), "cosine distance of embeddings")
    groups = collected.prompts.places[found.images]
    order = np.argsort(groups, kind="stable")
    prompts, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    if not len(prompts):
        return Diversity(prompts, np.zeros(0), "")
    bits = np.unpackbits(found.hashes[order].astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)
    ones = np.add.reduceat(bits.astype(np.int64), starts, axis=0)
    several = counts > 1
    sizes = counts[several]
    # Of k ones among n bits in one place, k × (n - k) pairs differ.
    different = (ones[several] * (sizes[:, None] - ones[several])).sum(axis=1)
    return Diversity(prompts[several], different / (sizes * (sizes - 1) / 2), "different bits of 64")


def _by_vectors(collected: Collected) -> dict[int, float]:
    """Mean pairwise cosine distance by prompt; a prompt's sum of vectors is kept only until its last image."""
    import numpy as np

    prompts = collected.prompts.places
    left = np.bincount(prompts, minlength=len(collected.prompts.known))
    several = left > 1
    vectors = Vectors(collected.dataset.folder, _EMBEDDING)
    known: dict[str, NDArray[np.float32]] = {}
    part = -1
    sums: dict[int, tuple[NDArray[np.float64], int]] = {}
    means = {}
    for image, prompt in enumerate(prompts.tolist()):
        if collected.parts[image] != part:
            part = collected.parts[image]
            names, found = vectors.read(collected.dataset.part(part).name)
            known = dict(zip(names, found.astype(np.float32), strict=True))
        if not several[prompt]:
            continue
        # Files may still hold the vector of an image that was there before.
        vector = known.get(collected.files[image].rpartition(".")[0]) if collected.embedded[image] else None
        length = float(np.linalg.norm(vector)) if vector is not None else 0.0
        if vector is not None and length:
            total, count = sums.get(prompt, (np.zeros(len(vector)), 0))
            sums[prompt] = total + vector / length, count + 1
        left[prompt] -= 1
        if not left[prompt] and prompt in sums:
            total, count = sums.pop(prompt)
            if count > 1:
                # The squared length of a sum of unit vectors is their number and twice the cosines of all pairs.
                cosine = (float(total @ total) - count) / (count * (count - 1))
                means[prompt] = max(0.0, 1 - cosine)
    return means
