"""Images of a dataset that look like one, or like each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from imagemill.dataset.edits import image_id
from imagemill.dataset.vectors import Vectors
from imagemill.errors import UsageError
from imagemill.hashing import distances
from imagemill.selecting.duplicates import similar
from imagemill.server.web.gallery.snapshots import Snapshot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imagemill.dataset.index.segments import Rows

_VECTORS = "embedding"
"""The column of the scorer of that name."""
_MOST = 200_000
"""Images that are compared with one another."""


class Unscored(UsageError):
    """A dataset without what likeness is told by."""

    status: ClassVar[int] = 409

    def __init__(self, *scorers: str) -> None:
        super().__init__(
            "nothing tells which of these images look alike", f"score them with `{'` or `'.join(scorers)}`"
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Images that look like the first of them."""

    rows: Rows
    distances: NDArray[np.intp]
    """Of each from the first."""


class Likeness:
    """Of the images of a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._hashes, self._hashed = snapshot.hashes

    @property
    def measure(self) -> str:
        """What distances are."""
        return "different bits of 64" if self._hashed.any() else "cosine distance"

    def similar(self, image: str, limit: int) -> tuple[Rows, list[float]]:
        """The images nearest to one, itself first, and how far they are; raises NotFound, and Unscored."""
        import numpy as np

        row = int(self._snapshot.rows([image])[0])
        if self._hashed.any():
            if not self._hashed[row]:
                raise Unscored("hashes")
            rows = np.flatnonzero(self._hashed)
            far = distances(self._hashes[rows], self._hashes[row]).astype(np.float64)
        else:
            rows, far = self._by_vectors(row, limit)
        far = np.where(rows == row, -1, far)
        nearest = np.argpartition(far, limit - 1)[:limit] if len(far) > limit else np.arange(len(far))
        nearest = nearest[np.lexsort((rows[nearest], far[nearest]))]
        return rows[nearest].astype(np.uint32), np.maximum(far[nearest], 0).round(4).tolist()

    def groups(self, threshold: int) -> list[Group]:
        """Groups of images at most so many bits from their first, the largest first; raises Unscored."""
        known: dict[int, list[Group]] = self._snapshot.groups
        if threshold not in known:
            known[threshold] = self._grouped(threshold)
        return known[threshold]

    def _grouped(self, threshold: int) -> list[Group]:
        import numpy as np

        rows = np.flatnonzero(self._hashed)
        if not len(rows):
            raise Unscored("hashes")
        unique, firsts, places = np.unique(self._hashes[rows], return_index=True, return_inverse=True)
        if threshold and len(unique) > _MOST:
            raise UsageError(
                f"{len(unique):,} different images are too many to compare all with all",
                "look for equal ones (0 bits), or run `imagemill select --deduplicate perceptual`",
            )
        # Images with one hash are one for the search.
        order = np.argsort(firsts)
        heads = np.arange(len(unique))
        far = np.zeros(len(unique), np.intp)
        if threshold:
            texts = [f"{number:016x}" for number in unique[order].tolist()]
            for place, kept, distance in similar(texts, threshold):
                heads[order[place]] = order[kept]
                far[order[place]] = int(distance)
        head = firsts[heads[places]]
        by_head = np.lexsort((rows, far[places], head))
        starts = np.flatnonzero(np.diff(head[by_head], prepend=-1))
        sizes = np.diff(starts, append=len(by_head))
        found = []
        for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
            group = by_head[start : start + size]
            found.append(Group(rows[group].astype(np.uint32), far[places[group]]))
        return sorted(found, key=lambda group: -len(group.rows))

    def _by_vectors(self, row: int, limit: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The rows with the nearest vectors and their distance, part by part."""
        import numpy as np

        if _VECTORS not in self._snapshot.index.schema.names:
            raise Unscored("hashes", _VECTORS)
        parts = self._snapshot.parts
        rows, units = self._units(int(parts[row]))
        if row not in rows:
            raise Unscored("hashes", _VECTORS)
        wanted = units[rows == row][0]
        best, far = np.empty(0, np.int64), np.empty(0)
        for part in np.unique(parts).tolist():
            rows, units = self._units(part)
            # The image itself stays, however many equal it.
            own = np.where(rows == row, -2, 1 - units @ wanted)
            best, far = np.append(best, rows), np.append(far, own)
            if len(best) > limit:
                nearest = np.argpartition(far, limit - 1)[:limit]
                best, far = best[nearest], far[nearest]
        return best, far

    def _units(self, part: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The rows of a part that have a vector, and these with a length of 1."""
        import numpy as np

        names, found = Vectors(self._snapshot.folder, _VECTORS).read(f"part-{part:06d}")
        vectors = found.astype(np.float32)
        rows = self._snapshot.find([image_id(f"{name}.") for name in names])
        vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12))
        has = np.flatnonzero(rows >= 0)
        # Files may still hold the vector of an image that was there before.
        has = has[self._snapshot.embedded[rows[has]]]
        return rows[has], vectors[has]
