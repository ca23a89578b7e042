"""Which images are duplicates of a better one that is kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.dataset.columns import PART
from imagemill.dataset.folder import Dataset
from imagemill.dataset.vectors import Vectors
from imagemill.environment import cores
from imagemill.errors import UsageError
from imagemill.hashing import distances, pairs_within
from imagemill.images import upright

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from PIL import Image

_BLOCK = 1024
"""Vectors that are compared at once."""
_ROUNDING = 1e-5
"""What a cosine of equal vectors may lack of 1."""

Found = Iterator[tuple[int, int, float]]
"""A duplicate, the one it is a duplicate of, and how far or how near it is; images by their place in the preference.

One is always kept: a chain of small differences does not swallow pictures that differ much.
"""


def equal(hashes: Sequence[str]) -> Found:
    """Images with equal hashes, the best first."""
    first: dict[str, int] = {}
    for place, text in enumerate(hashes):
        kept = first.setdefault(text, place)
        if kept != place:
            yield place, kept, 0.0


def similar(hashes: Sequence[str], threshold: int) -> Found:
    """Images whose hashes of 64 bits differ in so many or fewer, the best first."""
    import numpy as np

    numbers = np.array([int(text, 16) for text in hashes], np.uint64)
    # Equal hashes have the same neighbors: the best of them stands for all.
    unique, firsts, groups = np.unique(numbers, return_index=True, return_inverse=True)
    before: defaultdict[int, set[int]] = defaultdict(set)
    for some, others in pairs_within(unique, threshold):
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            better, worse = sorted((one, other), key=firsts.__getitem__)
            before[worse].add(better)
    instead: dict[int, int] = {}
    for group in np.argsort(firsts, kind="stable").tolist():
        kept = [other for other in before[group] if other not in instead]
        if kept:
            far = distances(unique[group], unique[kept]).tolist()
            instead[group] = kept[min(range(len(kept)), key=lambda number: (far[number], firsts[kept[number]]))]
    for place, group in enumerate(groups.tolist()):
        stands = instead.get(group, group)
        if firsts[stands] != place:
            yield place, int(firsts[stands]), float(distances(unique[group], unique[stands])[0])


def near(vectors: NDArray[np.float16], threshold: float) -> Found:
    """Images whose vectors have so large a cosine or a larger one, the best first."""
    import numpy as np

    kept = np.zeros(len(vectors), bool)
    units = vectors.astype(np.float32)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), np.float32(1e-12))
    least = threshold - _ROUNDING
    for start in range(0, len(units), _BLOCK):
        block = units[start : start + _BLOCK]
        best, nearest = np.full(len(block), -2.0, np.float32), np.zeros(len(block), np.intp)
        for low in range(0, start, _BLOCK):
            places = low + np.flatnonzero(kept[low : low + _BLOCK])
            if len(places):
                cosines = block @ units[places].T
                found, value = cosines.argmax(axis=1), cosines.max(axis=1)
                better = value > best
                best[better], nearest[better] = value[better], places[found[better]]
        inside = block @ block.T
        for number in range(len(block)):
            places = np.flatnonzero(kept[start : start + number])
            if len(places):
                mine = inside[number, places]
                if mine.max() > best[number]:
                    best[number], nearest[number] = mine.max(), start + places[mine.argmax()]
            if best[number] >= least:
                yield start + number, int(nearest[number]), float(best[number])
            else:
                kept[start + number] = True


def hashes_of(dataset: Dataset, table: pa.Table, column: str, compute: Callable[[Image.Image], str]) -> list[str]:
    """A hash of each image of a table: of its column, else made from the pixels; raises UsageError."""
    known = table.column(column).to_pylist() if column in table.column_names else [None] * len(table)

    def look(path: Path) -> str:
        try:
            return compute(upright(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise UsageError(f"`{path}` cannot be read: {error}", "`imagemill verify` tells what is wrong") from None

    with ThreadPoolExecutor(cores(), "imagemill-hashes") as pool:
        absent = (path for path, text in zip(paths_of(dataset, table), known, strict=True) if not text)
        made = pool.map(look, absent)
        return [text or next(made) for text in known]


def vectors_of(dataset: Dataset, table: pa.Table, column: str) -> tuple[list[int], NDArray[np.float16]]:
    """The rows of a table that have a vector, with these; raises UsageError when none has.

    Which ones have, the column of the table tells: files may still hold the vector of an image that was there before.
    """
    import numpy as np

    stored = Vectors(dataset.folder, column)
    numbers = table.column(PART).to_pylist()
    found: dict[str, NDArray[np.float16]] = {}
    for number in sorted(set(numbers)):
        names, vectors = stored.read(dataset.part(number).name)
        found.update(zip(names, vectors, strict=True))
    stems = [Path(name).stem for name in table.column("file_name").to_pylist()]
    has = table.column(column).to_pylist()
    rows = [row for row, stem in enumerate(stems) if has[row] and stem in found]
    if not rows:
        raise UsageError(f"no image has a vector in `{column}`", f"imagemill score {dataset.folder} --with {column}")
    return rows, np.stack([found[stems[row]] for row in rows])


def paths_of(dataset: Dataset, table: pa.Table) -> Iterator[Path]:
    """The files of the images of a table."""
    folders = {number: dataset.part(number).folder for number in set(table.column(PART).to_pylist())}
    for number, name in zip(table.column(PART).to_pylist(), table.column("file_name").to_pylist(), strict=True):
        yield folders[number] / name
