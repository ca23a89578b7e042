"""What was asked for, how often the same, and how alike the images are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from imagemill.hashing import distances
from imagemill.reporting.figures import Collected
from imagemill.reporting.likeness import NEAR, Diversity, Hashed, diversity, hashed, nearest
from imagemill.reporting.markup import EMPTY, Markup, cut, element, figure, joined, share, table
from imagemill.reporting.pictures import Thumbnails
from imagemill.reporting.plots import bars, histogram, quartiles
from imagemill.reporting.scores import gallery
from imagemill.terminal import number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST = 20
_WORD = re.compile(r"[^\W_][\w'’-]*")
_PLAIN = set("a an and as at by for from in into is it its of on or over that the their this to under with".split())  # noqa: SIM905
"""English words that say nothing of a picture."""


def prompts(collected: Collected) -> tuple[Markup, dict[str, Any]]:
    """How many prompts there are, how long they are, and which words and prompts come often; also as figures."""
    import numpy as np

    known = collected.prompts.known
    # A prompt counts once for a row, however many images are made of it.
    pairs = np.unique(np.stack([np.array(collected.rows, np.int64), collected.prompts.places], axis=1), axis=0)
    rows_of = np.bincount(pairs[:, 1], minlength=len(known))
    lengths = np.array([len(prompt.split()) for prompt in known], np.float64)
    spread = quartiles(lengths)
    if not spread:
        return element("p", "No image has been made yet."), {"rows": 0, "different": 0}
    words = Counter(word for prompt in known for word in set(_WORD.findall(prompt.casefold())) if word not in _PLAIN)
    often = sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST]
    repeated = sorted(np.flatnonzero(rows_of > 1).tolist(), key=lambda place: (-rows_of[place], known[place]))
    parts = [
        table(
            ("rows with images", "different prompts", "share", "images", "images a prompt", "words a prompt (median)"),
            [
                (
                    f"{len(pairs):,}",
                    f"{len(known):,}",
                    share(len(known), len(pairs)),
                    f"{len(collected):,}",
                    figure(len(collected) / len(known)),
                    figure(spread.median),
                )
            ],
            numbers=6,
        ),
        element("h3", "Length of prompts"),
        histogram(lengths, "words, as white space separates them", "prompts"),
    ]
    if often:
        notes = [(word, count, f"{count:,} · {share(count, len(known))}") for word, count in often]
        parts += [element("h3", "Words in most prompts"), bars(notes, "prompts by word")]
    if repeated:
        rows = [(cut(known[place], 200) or EMPTY, f"{rows_of[place]:,}") for place in repeated[:_MOST]]
        parts += [
            element("h3", f"{number(len(repeated), 'prompt')} of several rows"),
            table(("prompt", "rows"), rows, numbers=1),
        ]
    return joined(parts), {"rows": len(pairs), "different": len(known)}


def likeness(collected: Collected, samples: int, thumbnails: Thumbnails) -> tuple[Markup, dict[str, Any]]:
    """Near-duplicates and diversity, also as figures."""
    found = hashed(collected)
    if not len(found.images):
        return element("p", "There is no image that could be compared."), {}
    partners = nearest(found)
    apart = diversity(collected, found)
    spread = quartiles(apart.means)
    figures = {
        "compared": len(found.images),
        "near_duplicates": len(partners),
        "diversity": spread.median if spread else None,
        "diversity_measure": apart.measure if spread else "",
    }
    parts = [
        *_near_duplicates(collected, found, partners, samples, thumbnails),
        element("h3", "Diversity of each prompt's images"),
    ]
    if spread:
        parts += [
            element(
                "p",
                f"Mean pairwise distance, in {apart.measure}, of the images of {number(spread.count, 'prompt')} "
                "with several; 0 means that they look the same.",
            ),
            histogram(apart.means, f"mean pairwise distance ({apart.measure})", "prompts"),
            *_least(collected, apart, samples, thumbnails),
        ]
    else:
        parts.append(element("p", "No prompt has several images."))
    return joined(parts), figures


def _near_duplicates(
    collected: Collected, found: Hashed, partners: dict[int, int], samples: int, thumbnails: Thumbnails
) -> Iterator[Markup]:
    of_all = "images" if not found.sampled else f"images, drawn by whole prompts out of {len(collected):,}"
    yield element("h3", "Near-duplicates")
    yield element(
        "p",
        element("b", share(len(partners), len(found.images))),
        f" of {len(found.images):,} {of_all}, have another one that looks nearly the same: {len(partners):,} whose "
        f"perceptual hash differs from another one's in at most {NEAR} of 64 bits.",
        " In the whole dataset the share is higher." if found.sampled else "",
    )
    if collected.pixels:
        extra = collected.pixels.total() - len(collected.pixels)
        yield element("p", f"{number(extra, 'image')} with exactly the pixels of one before.")
    hashes = dict(zip(found.images.tolist(), found.hashes, strict=True))
    # A pair is shown once, at the first of its images.
    pairs = [(one, other) for one, other in partners.items() if one < other or partners.get(other) != one]
    shown = []
    for one, other in pairs[:samples]:
        bits = int(distances(hashes[one], hashes[other])[0])
        said = "the same hash" if not bits else f"{bits} bit{'s' * (bits > 1)} apart"
        shown.append((said, [(one, ""), (other, "")]))
    if shown:
        yield gallery(collected, shown, thumbnails)


def _least(collected: Collected, apart: Diversity, samples: int, thumbnails: Thumbnails) -> Iterator[Markup]:
    """The prompts whose images are most alike."""
    import numpy as np

    order = np.argsort(apart.means, kind="stable")[:samples]
    shown = []
    for place in order:
        images = _images_of(collected, int(apart.prompts[place]))[:3]
        shown.append((f"{figure(float(apart.means[place]))} apart", [(int(image), "") for image in images]))
    if shown:
        yield element("p", "Prompts whose images are most alike:")
        yield gallery(collected, shown, thumbnails)


def _images_of(collected: Collected, prompt: int) -> NDArray[np.intp]:
    import numpy as np

    return np.flatnonzero(collected.prompts.places == prompt)
