"""Which images are kept, step by step, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

from imagemill.dataset.columns import numbers_of
from imagemill.expressions import Cause, Expression

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Places = NDArray[np.intp]
    """Rows of the table."""

KeepRows = Literal["any", "all"]
_GROUP = 50_000


class Choice:
    """Begins with all images of a table in plan order; every step leaves some out, each with its cause."""

    def __init__(self, table: pa.Table) -> None:
        import numpy as np

        self.table = table
        self.causes: list[Cause | None] = [None] * len(table)
        """Of each image; None for what is kept."""
        self._kept = np.ones(len(table), bool)

    @property
    def kept(self) -> Places:
        """The images that are left."""
        import numpy as np

        return np.flatnonzero(self._kept)

    def left_out(self) -> dict[str, int]:
        """How many images were left out for each kind of cause, the most frequent first."""
        return dict(Counter(cause.kind for cause in self.causes if cause).most_common())

    def leave_out(self, places: Iterable[int], causes: Iterable[Cause]) -> None:
        """Leave images out."""
        for place, cause in zip(places, causes, strict=True):
            self._kept[place] = False
            self.causes[place] = cause

    def where(
        self, expression: Expression | None, known: Sequence[str], keep_missing: bool, keep_rows: KeepRows | None
    ) -> None:
        """Keep what an expression is true of, and what has a value in the columns of `known`.

        With `keep_missing` also that of which nobody knows; with `keep_rows` whole rows, of which any or all pass.
        """
        import numpy as np

        failed: dict[int, Cause] = {}
        if expression:
            places = np.flatnonzero(~passing(expression, self.table, keep_missing))
            failed = dict(zip(places.tolist(), expression.causes(self.table.take(places)), strict=True))
        for name in () if keep_missing else known:
            for place in np.flatnonzero(self.table.column(name).is_null().to_numpy()).tolist():
                failed.setdefault(place, absent(name))
        if keep_rows:
            failed = self._by_rows(failed, keep_rows)
        self.leave_out(failed.keys(), failed.values())

    def _by_rows(self, failed: dict[int, Cause], keep_rows: KeepRows) -> dict[int, Cause]:
        rows = numbers_of(self.table).column("row").to_pylist()
        if keep_rows == "any":
            passed = {row for place, row in enumerate(rows) if place not in failed}
            return {place: cause for place, cause in failed.items() if rows[place] not in passed}
        names = self.table.column("file_name")
        first: dict[int, int] = {}
        for place in sorted(failed):
            first.setdefault(rows[place], place)
        return {
            place: failed.get(place)
            or Cause("another image of its row", f"{names[first[row]].as_py()}: {failed[first[row]].text}")
            for place, row in enumerate(rows)
            if row in first
        }

    def by_preference(self, by: str | None, ascending: bool) -> Places:
        """The images that are left, the best first; those without a value last, equals in plan order."""
        import numpy as np

        kept = self.kept
        if by is None:
            return kept
        return kept[np.argsort(badness(self.table.column(by), ascending)[kept], kind="stable")]

    def top(self, count: int, per: str | None, by: str, ascending: bool) -> None:
        """Keep the best few, of each value of a column or of all."""
        import numpy as np

        kept = self.kept
        groups = codes(self.table.column(per).take(kept)) if per else np.zeros(len(kept), np.intp)
        ranks = ranks_in(groups, badness(self.table.column(by), ascending)[kept])
        worse = np.flatnonzero(ranks >= count)
        values = self.table.column(by).take(kept[worse]).to_pylist()
        of = f" of its {per}" if per else ""
        kind = f"not in the top {count}{of} by {by}"
        texts = (
            f"{by} {'null' if value is None else f'{value:.6g}'} is place {rank + 1}{of}"
            for value, rank in zip(values, ranks[worse].tolist(), strict=True)
        )
        self.leave_out(kept[worse].tolist(), (Cause(kind, text) for text in texts))

    def balance(self, column: str, seed: int, keep_missing: bool) -> None:
        """Keep as many images of each value of a column as the rarest one has."""
        import numpy as np

        kept = self.kept
        if not keep_missing:
            missing = kept[self.table.column(column).take(kept).is_null().to_numpy()].tolist()
            self.leave_out(missing, [absent(column)] * len(missing))
            kept = self.kept
        if not len(kept):
            return
        values = self.table.column(column).take(kept)
        groups = codes(values)
        count = int(np.bincount(groups).min())
        spare = np.flatnonzero(ranks_in(groups, draws(self.table, kept, seed, "balance")) >= count)
        kind = f"more of its {column} than of the rarest"
        texts = (
            f"{column} {value!r} has {number} images, {count} are kept"
            for value, number in zip(
                values.take(spare).to_pylist(), np.bincount(groups)[groups[spare]].tolist(), strict=True
            )
        )
        self.leave_out(kept[spare].tolist(), (Cause(kind, text) for text in texts))

    def sample(self, count: int, seed: int) -> None:
        """Keep so many, drawn by a hash of each image's identity."""
        import numpy as np

        kept = self.kept
        order = np.argsort(draws(self.table, kept, seed, "sample"), kind="stable")
        places = kept[order[count:]].tolist()
        texts = (f"place {count + number} of {len(kept)} in the draw" for number in range(1, len(places) + 1))
        self.leave_out(places, (Cause("not in the sample", text) for text in texts))

    def split(self, shares: Mapping[str, float], seed: int, equal: bool = False) -> dict[str, Places]:
        """Divide what is left; images of one prompt, or of one row of the table, stay together.

        Shares are those that are expected; where `equal`, all get the same number of such groups, but for one.
        """
        import numpy as np

        kept = self.kept
        keys = together(self.table.select(["id", "prompt"]).take(kept), seed)
        if equal:
            found, ranks = np.unique(keys, return_inverse=True)
            chosen = ranks * len(shares) // max(1, len(found))
            return {name: kept[chosen == number] for number, name in enumerate(shares)}
        bounds = np.cumsum(list(shares.values()))[:-1]
        chosen = np.searchsorted(bounds, keys / 2**64, side="right")
        return {name: kept[chosen == number] for number, name in enumerate(shares)}


def absent(column: str) -> Cause:
    """The cause of what has no value in a column."""
    return Cause(f"{column} is null", f"{column} is null")


def passing(expression: Expression, table: pa.Table, keep_missing: bool) -> NDArray[np.bool_]:
    """Of which rows an expression is true."""
    found: NDArray[np.bool_] = expression.mask(table).fill_null(keep_missing).to_numpy(zero_copy_only=False)
    return found


def codes(column: pa.ChunkedArray) -> Places:
    """The same whole number, from 0, for equal values; null is a value."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype("intp", copy=False)  # type: ignore[no-any-return]


def ranks_in(groups: Places, badness: NDArray[Any]) -> Places:
    """The place of each image in its group, from 0, the least badness first; equals stay in order."""
    import numpy as np

    order = np.lexsort((badness, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(starts, append=len(groups))
    ranks = np.empty(len(groups), np.intp)
    ranks[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return ranks


def draws(table: pa.Table, places: Places, seed: int, step: str) -> NDArray[np.uint64]:
    """A number of 64 bits for each image, from its row's id and its bytes: wherever it stands, it is the same.

    Another one in each step, or the second would prefer what the first has.
    """
    import numpy as np

    columns = table.select(["id", "sha256"])
    found = []
    # As Python's texts all of them would fill memory.
    for first in range(0, len(places), _GROUP):
        chosen = columns.take(places[first : first + _GROUP])
        pairs = zip(chosen.column("id").to_pylist(), chosen.column("sha256").to_pylist(), strict=True)
        found.append(_hashed(f"{step}\0{seed}\0{identity}\0{sha256}" for identity, sha256 in pairs))
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def together(table: pa.Table, seed: int) -> NDArray[np.uint64]:
    """A number of 64 bits for each image, the same for those that share an `id` or a `prompt`, also over others."""
    import numpy as np

    texts = table.column("prompt").combine_chunks().dictionary_encode()
    prompts, rows = texts.indices.to_numpy(), codes(table.column("id"))
    least = _hashed(f"{seed}\0{text}" for text in texts.dictionary.to_pylist())
    while True:
        of_rows = np.full(int(rows.max(initial=-1)) + 1, np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(of_rows, rows, least[prompts])
        lesser = least.copy()
        np.minimum.at(lesser, prompts, of_rows[rows])
        if np.array_equal(lesser, least):
            break
        least = lesser
    found: NDArray[np.uint64] = least[prompts]
    return found


def _hashed(texts: Iterable[str]) -> NDArray[np.uint64]:
    import numpy as np

    digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts)
    numbers: NDArray[np.uint64] = np.frombuffer(digests, ">u8").astype(np.uint64)
    return numbers


def badness(column: pa.ChunkedArray, ascending: bool) -> NDArray[np.float64]:
    """Less is better; nothing is worse than having no value."""
    import numpy as np
    import pyarrow as pa

    # Whole numbers beyond 2^53 are rounded.
    values = column.cast(pa.float64(), safe=False).to_numpy()
    return np.where(np.isnan(values), np.inf, values if ascending else -values)
