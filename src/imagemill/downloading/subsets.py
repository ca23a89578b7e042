"""Which images a subset of a table holds, and the table of these alone."""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.dataset.files import explained, temporary
from imagemill.errors import ImagemillError, UsageError
from imagemill.foreign.diffusiondb import PART_SIZE
from imagemill.selecting.subsets import Subset

if TYPE_CHECKING:
    import numpy as np
    import pyarrow.parquet as pq
    from numpy.typing import NDArray

_ROWS = 100_000
"""Rows of a row group."""


def choose(table: Path, subset: Subset, seed: int, parts: AbstractSet[int]) -> NDArray[np.bool_]:
    """Which rows of a table are in a subset, of those whose part is there.

    The first ones are those of the first parts. Which ones are drawn follows from the seed and the number of rows
    alone; a smaller random subset is part of a larger one of the same seed. Raises UsageError where there are fewer.
    """
    import numpy as np

    numbers = part_numbers(table)
    places = np.flatnonzero(np.isin(numbers, list(parts)))
    if len(places) < subset.count:
        raise UsageError(
            f"download: `subset`: {subset.count:,} images are wanted, and there are {len(places):,}", "ask for fewer"
        )
    keys = _draws(places, seed) if subset.random else numbers[places]
    chosen = places[np.argsort(keys, kind="stable")[: subset.count]]
    mask = np.zeros(len(numbers), np.bool_)
    mask[chosen] = True
    return mask


def part_numbers(table: Path) -> NDArray[np.int64]:
    """The part of each row; raises ImagemillError for a table of another kind."""
    import pyarrow as pa

    with opened_table(table) as file:
        if not {"image_name", "part_id"} <= set(file.schema_arrow.names):
            raise ImagemillError(f"`{table.name}` has no columns `image_name` and `part_id`", "name another repository")
        column = file.read(columns=["part_id"]).column("part_id").combine_chunks()
    places = pa.array(range(len(column)), pa.int64()) if column.null_count else None
    numbers = column.cast(pa.int64())
    if places is not None:
        # A number that does not fit its column is null there.
        import pyarrow.compute as pc

        numbers = pc.coalesce(numbers, pc.add(pc.divide(places, PART_SIZE), 1))
    found: NDArray[np.int64] = numbers.to_numpy(zero_copy_only=False)
    return found


def chosen_names(table: Path) -> dict[int, set[str]]:
    """The images of a table by part."""
    with opened_table(table) as file:
        names = file.read(columns=["image_name"]).column("image_name").to_pylist()
    found: dict[int, set[str]] = {}
    for number, name in zip(part_numbers(table).tolist(), names, strict=True):
        found.setdefault(number, set()).add(name)
    return found


def restrict(table: Path, mask: NDArray[np.bool_], target: Path) -> None:
    """Write the rows of a table that a mask chooses, with its columns and types; the file appears whole.

    Raises ImagemillError where the table has another number of rows, and OutOfSpace.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with opened_table(table) as file:
        rows = file.metadata.num_rows
        if rows != len(mask):
            raise ImagemillError(f"`{table.name}` has {rows:,} rows instead of {len(mask):,}", "tell its authors")
        new = temporary(target)
        with explained(target):
            try:
                with pq.ParquetWriter(new, file.schema_arrow) as writer:
                    waiting: list[pa.Table] = []
                    first = 0
                    for batch in file.iter_batches(_ROWS):
                        found = batch.filter(pa.array(mask[first : first + len(batch)]))
                        first += len(batch)
                        waiting.append(pa.Table.from_batches([found]))
                        if sum(map(len, waiting)) >= _ROWS:
                            writer.write_table(pa.concat_tables(waiting))
                            waiting.clear()
                    if waiting:
                        writer.write_table(pa.concat_tables(waiting))
                with new.open("rb") as written:
                    os.fsync(written.fileno())
                new.replace(target)
            except BaseException:
                new.unlink(missing_ok=True)
                raise


def opened_table(table: Path) -> pq.ParquetFile:
    """Open a table; raises ImagemillError for a file that is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(table)
    except (pa.ArrowInvalid, OSError) as error:
        raise ImagemillError(f"`{table.name}` is no Parquet: {str(error)[:200]}", "name another repository") from None


def _draws(places: NDArray[np.intp], seed: int) -> NDArray[np.uint64]:
    """A number of 64 bits for each place, another for each, by SplitMix64 (Steele, Lea and Flood 2014)."""
    import numpy as np

    mixed = (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    # The seed is mixed first: neighbours must not draw the same, moved by one.
    mixed += _mixed(np.array([seed + 1], np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return _mixed(mixed)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    import numpy as np

    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    found: NDArray[np.uint64] = numbers ^ (numbers >> np.uint64(31))
    return found
