"""Figures of columns: how values are spread, and what is least, greatest and usual."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imagemill.expressions.nodes import kind_of

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Bin:
    """Numbers from `low` up to `high`, which only the last bin holds."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a text column, or yes or no."""

    value: str | bool
    count: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """How the values of a column are spread: bins of numbers, or the most frequent values."""

    column: str
    bins: list[Bin]
    values: list[Value]
    others: int
    """Rows with a value that is not shown: less frequent than those, or infinite."""
    nulls: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a column holds."""

    column: str
    type: str
    count: int
    """Rows with a value."""
    nulls: int
    min: float | int | None
    """Of numbers, like the next two; None where there is none."""
    max: float | int | None
    mean: float | None
    """Of yes or no, the share of yes."""
    distinct: int | None
    """Different values of texts."""


def histogram_of(name: str, kind: pa.DataType, arrays: Iterable[pa.Array], bins: int) -> Histogram:
    """Spread the values of a column, which come in some arrays, over so many bins or most frequent values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chunks = list(arrays)
    nulls = sum(chunk.null_count for chunk in chunks)
    if kind_of(kind) == "number":
        found, others = _bins(chunks, bins, whole=pa.types.is_integer(kind))
        return Histogram(name, found, [], others, nulls)
    table = _counts(chunks)
    order = [("count", "descending"), ("value", "ascending")]
    most = table.take(pc.select_k_unstable(table, min(bins, len(table)), order)) if len(table) else table
    values = [Value(row["value"], row["count"]) for row in most.to_pylist()]
    total = pc.sum(table.column("count")).as_py() or 0
    return Histogram(name, [], values, total - sum(value.count for value in values), nulls)


def statistics_of(name: str, kind: pa.DataType, arrays: Iterable[pa.Array]) -> Statistics:
    """What the arrays of a column hold."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    held = kind_of(kind)
    rows = nulls = 0
    least: list[Any] = []
    greatest: list[Any] = []
    total = 0.0
    texts = []
    for array in arrays:
        rows += len(array)
        nulls += array.null_count
        if held == "text":
            texts.append(_used(array))
        elif held in {"number", "yes or no"} and array.null_count < len(array):
            ends = pc.min_max(array).as_py()
            least.append(ends["min"])
            greatest.append(ends["max"])
            # Of infinite numbers with both signs there is no mean.
            with np.errstate(invalid="ignore"):
                total += float(_filled(array).sum(dtype="float64"))
    count = rows - nulls
    numbers = held == "number" and count > 0
    distinct = pc.count_distinct(pa.chunked_array(texts), mode="only_valid").as_py() if texts else None
    return Statistics(
        name,
        str(kind),
        count,
        nulls,
        min(least) if numbers else None,
        max(greatest) if numbers else None,
        total / count if count and held in {"number", "yes or no"} and not math.isnan(total) else None,
        distinct,
    )


def _filled(array: pa.Array) -> NDArray[Any]:
    """The values that there are."""
    found: NDArray[Any] = array.drop_null().to_numpy(zero_copy_only=False)
    return found


def _used(array: pa.Array) -> pa.Array:
    """The different texts of an array."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(array, pa.DictionaryArray):
        used = pc.unique(array.indices).drop_null()
        return array.dictionary if len(used) == len(array.dictionary) else array.dictionary.take(used)
    return array


def _bins(chunks: list[pa.Array], bins: int, whole: bool) -> tuple[list[Bin], int]:
    import numpy as np

    ends = [(values.min(), values.max()) for values in _finite(chunks) if len(values)]
    if not ends:
        return [], sum(len(chunk) - chunk.null_count for chunk in chunks)
    low, high = min(end[0] for end in ends).item(), max(end[1] for end in ends).item()
    if whole and high - low < bins:
        edges = np.arange(low, high + 2, dtype=np.float64)
    else:
        edges = np.linspace(low, high, bins + 1) if high > low else np.array([low, high], np.float64)
    counts = np.zeros(len(edges) - 1, np.int64)
    scale = len(counts) / (edges[-1] - edges[0]) if edges[-1] > edges[0] else 0.0
    held = 0
    for values in _finite(chunks):
        held += len(values)
        wide = values.astype(np.float64)
        place = np.minimum(((wide - edges[0]) * scale).astype(np.int32), len(counts) - 1)
        # Rounding may have put a value beside its bin.
        place -= wide < edges[place]
        place += (wide >= edges[place + 1]) & (place < len(counts) - 1)
        counts += np.bincount(place, minlength=len(counts))
    others = sum(len(chunk) - chunk.null_count for chunk in chunks) - held
    found = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    return [Bin(*each) for each in found], others


def _finite(chunks: list[pa.Array]) -> Iterator[NDArray[Any]]:
    import numpy as np

    for chunk in chunks:
        values = _filled(chunk)
        finite = np.isfinite(values)
        yield values if finite.all() else values[finite]


def _counts(chunks: list[pa.Array]) -> pa.Table:
    """Each value with the number of rows that have it."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    values, counts = [], []
    for chunk in chunks:
        if isinstance(chunk, pa.DictionaryArray):
            found = np.bincount(chunk.indices.drop_null().to_numpy(), minlength=len(chunk.dictionary))
            used = np.flatnonzero(found)
            values.append(chunk.dictionary.take(pa.array(used)))
            counts.append(pa.array(found[used]))
        else:
            counted = pc.value_counts(chunk.drop_null())
            values.append(counted.field("values"))
            counts.append(counted.field("counts"))
    if not values:
        return pa.table({"value": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
    table = pa.table({"value": pa.chunked_array(values), "count": pa.chunked_array(counts)})
    return table.group_by("value").aggregate([("count", "sum")]).rename_columns(["value", "count"])
