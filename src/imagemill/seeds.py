"""A seed for every image: a hash of the job's seed and the image's identity, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Any

from imagemill.records import SEED_LIMIT, Row
from imagemill.tables.texts import TextRows

if TYPE_CHECKING:
    import numpy as np

    from imagemill.tables.texts import Integers

    Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]
    Values = np.ndarray[tuple[int], np.dtype[np.uint32]]

_BLOCK = 65_536
"""Rows that are drawn for together."""
_LOOK = 2**18
"""Seeds that are looked at together."""
_ALL = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15


def derive_seed(job_seed: int, row_id: str, image: int, attempt: int = 0) -> int:
    """Derive a seed of 64 bits from the job's seed and an image's identity; its upper 32 bits are the seed used.

    That of a row's first image is a hash; from it SplitMix64 (Steele, Lea and Flood, 2014) draws those of the others.
    """
    text = f"{job_seed}\0{row_id}\0{0}\0{attempt}"
    first = int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
    return _drawn(first + image * _STEP & _ALL) if image else first


def _drawn(state: Any) -> Any:
    """What SplitMix64 makes of its state, one or an array of them."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _ALL
    state = (state ^ state >> 27) * 0x94D049BB133111EB & _ALL
    return state ^ state >> 31


class Seeds:
    """The seeds of all images of a table, no two the same.

    Where two meet in 32 bits the one with the larger hash is drawn again, and so is one that meets a seed that a row
    tells: that depends on what is in the table and not on its order.
    """

    def __init__(self, rows: Sequence[Row], counts: Sequence[int], job_seed: int) -> None:
        """`counts` says how many images are made of each row, or of all if it is one number."""
        import numpy as np

        self._rows = rows
        self._job_seed = job_seed
        self._firsts = _first_hashes(rows, job_seed)
        number = np.broadcast_to(np.array(counts, np.int64), len(rows)).copy()
        told: list[Values] = []
        if not isinstance(rows, TextRows):
            for place, row in enumerate(rows):
                if (seed := row.overrides.get("seed")) is not None:
                    told.append(((seed + np.arange(number[place])) % SEED_LIMIT).astype(np.uint32))
                    number[place] = 0
        self._ends: Integers = np.cumsum(number)
        self._values: Values = np.empty(int(self._ends[-1]), np.uint32)
        for first in range(0, len(rows), _BLOCK):
            block = slice(first, first + _BLOCK)
            start, end = (int(self._ends[place - 1]) if place else 0 for place in (first, min(block.stop, len(rows))))
            hashes = np.repeat(self._firsts[block], number[block])
            images = np.arange(start, end) - np.repeat(self._ends[block] - number[block], number[block])
            self._values[start:end] = _hashes(hashes, images) >> 32
        self._draw_again(np.unique(np.concatenate(told)) if told else np.empty(0, np.uint32))

    def of(self, place: int) -> Values:
        """The seeds of the row at a place in the table."""
        return self._values[self._ends[place - 1] if place else 0 : self._ends[place]]

    def hashes(self, image: int) -> Hashes:
        """The seeds of 64 bits of one image of each row, whether or not it is made."""
        return _hashes(self._firsts, image)

    def _draw_again(self, told: Values) -> None:
        """Draw again what meets another one."""
        import numpy as np

        drawn = np.sort(self._values)
        twice = np.unique(np.concatenate([drawn[1:][drawn[1:] == drawn[:-1]], told]))
        if not len(twice):
            return
        places = np.fromiter(self._those_in(twice), np.int64)
        rows = self._ends.searchsorted(places, "right")
        images = places - np.where(rows > 0, self._ends[rows - 1], 0)
        ids = self._rows.ids(rows) if isinstance(self._rows, TextRows) else (self._rows[row].id for row in rows)
        doubtful = [
            (derive_seed(self._job_seed, row_id, image), row_id, image, place)
            for row_id, image, place in zip(ids, images.tolist(), places.tolist(), strict=True)
        ]
        taken = set(told.tolist())
        again = []
        for digest, row_id, image, place in sorted(doubtful):
            seed = digest >> 32
            if seed not in taken:
                taken.add(seed)
            else:
                again.append((row_id, image, place))
        for row_id, image, place in again:
            attempt = 1
            while (seed := derive_seed(self._job_seed, row_id, image, attempt) >> 32) in taken or _holds(drawn, seed):
                attempt += 1
            taken.add(seed)
            self._values[place] = seed

    def _those_in(self, wanted: Values) -> Iterator[int]:
        """The places of seeds that are among a few."""
        import numpy as np

        # By the upper bits first, which is a look into a table that a processor's cache holds.
        coarse = np.zeros(2**20, bool)
        coarse[wanted >> 12] = True
        for first in range(0, len(self._values), _LOOK):
            block = self._values[first : first + _LOOK]
            near = np.flatnonzero(coarse[block >> 12])
            seeds = block[near]
            yield from (first + near[wanted[wanted.searchsorted(seeds) % len(wanted)] == seeds]).tolist()


def _holds(drawn: Values, seed: int) -> bool:
    # Of its type, or the whole array would be converted for the search.
    place = int(drawn.searchsorted(drawn.dtype.type(seed)))
    return place < len(drawn) and int(drawn[place]) == seed


def _first_hashes(rows: Sequence[Row], job_seed: int) -> Hashes:
    import numpy as np

    ids = rows.ids() if isinstance(rows, TextRows) else (row.id for row in rows)
    before, after = f"{job_seed}\0".encode(), f"\0{0}\0{0}".encode()
    hashes = []
    while block := list(islice(ids, _BLOCK)):
        digests = b"".join([blake2b(before + row.encode() + after, digest_size=8).digest() for row in block])
        hashes.append(np.frombuffer(digests, ">u8").astype(np.uint64))
    return np.concatenate(hashes)


def _hashes(firsts: Hashes, images: Any) -> Hashes:
    """What `derive_seed` makes of the hashes of first images, for images by number."""
    import numpy as np

    drawn: Hashes = _drawn(firsts + np.asarray(images).astype(np.uint64) * np.uint64(_STEP))
    return np.where(np.asarray(images) == 0, firsts, drawn)
