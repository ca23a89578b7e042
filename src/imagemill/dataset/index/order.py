"""Orders, draws and places of rows."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_MANY = 2**16
"""Values whose order is worth some memory."""


def by_segment(bounds: NDArray[Any], ascending: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Numbers in the whole order, divided at the bounds of segments, each counted from the first row of its own."""
    import numpy as np

    ends = np.searchsorted(ascending, bounds)
    for number in np.flatnonzero(np.diff(ends)).tolist():
        yield number, ascending[ends[number] : ends[number + 1]].astype(np.int64) - bounds[number]


def comparable(columns: Sequence[pa.Array]) -> pa.ChunkedArray:
    """Columns that can be sorted: of texts that repeat, their places among all texts."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if all(isinstance(column, pa.DictionaryArray) for column in columns):
        whole = pa.chunked_array(columns).unify_dictionaries()
        values = whole.chunk(0).dictionary
        order = pc.array_sort_indices(values).to_numpy()
        ranks = np.empty(len(values), np.int32)
        ranks[order] = np.arange(len(values), dtype=np.int32)
        return pa.chunked_array([pa.array(ranks).take(chunk.indices) for chunk in whole.chunks])
    return pa.chunked_array(
        [column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column for column in columns]
    )


def argsort(values: pa.ChunkedArray, ascending: bool) -> NDArray[np.uint32]:
    """Row numbers in the order of values, those without one last, equals as they stood."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(values.type):
        return np.arange(len(values), dtype=np.uint32)
    if len(values) < _MANY or pa.types.is_boolean(values.type) or values.type.bit_width > 32:
        found = pc.sort_indices(values, sort_keys=[("", "ascending" if ascending else "descending")])
        whole: NDArray[np.uint32] = found.to_numpy().astype(np.uint32)
        return whole
    # A value and its row in one number: sorting those takes a third of the time.
    absent = values.is_null().to_numpy()
    numbers = values.fill_null(0).to_numpy()
    if numbers.dtype.kind == "f":
        bits = (numbers.astype(np.float32) + np.float32(0)).view(np.uint32)
        bits = np.where(bits >> 31, ~bits, bits | np.uint32(2**31))
    else:
        bits = (numbers.astype(np.int64) + (2**31 if numbers.dtype.kind == "i" else 0)).astype(np.uint32)
    keys = (bits if ascending else ~bits).astype(np.uint64) << np.uint64(32) | np.arange(len(bits), dtype=np.uint64)
    if absent.any():
        keys = np.append(np.sort(keys[~absent]), keys[absent])
    else:
        keys.sort()
    rows: NDArray[np.uint32] = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return rows


def drawn(count: int, total: int, seed: int) -> list[int]:
    """So many of the numbers below `total`, ascending, by a hash: the same with every version of every package."""
    if count * 2 > total:
        rest = set(drawn(total - count, total, seed)) if count < total else set()
        return [number for number in range(total) if number not in rest]
    chosen: set[int] = set()
    tries = itertools.count()
    while len(chosen) < count:
        digest = hashlib.blake2b(f"{seed}\0{next(tries)}".encode(), digest_size=16).digest()
        chosen.add(int.from_bytes(digest) % total)
    return sorted(chosen)
