"""Which texts contain another, whatever the case."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


def folded(texts: pa.Array) -> pa.Array:
    """Texts as they are compared: by Unicode's case folding."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if _ascii(texts).all():
        return pc.ascii_lower(texts)
    return pa.array((text.casefold() for text in texts.to_pylist()), texts.type)


def containing(texts: pa.Array | pa.ChunkedArray, term: str) -> NDArray[np.bool_]:
    """Which texts contain a folded term; null contains nothing."""
    import numpy as np
    import pyarrow.compute as pc

    texts = texts.fill_null("")
    found = np.zeros(len(texts), bool)
    if term.isascii():
        found = pc.match_substring(texts, term, ignore_case=True).to_numpy(zero_copy_only=False).copy()
    others = np.flatnonzero(~_ascii(texts))
    found[others] = [term in text.casefold() for text in texts.take(others).to_pylist()]
    return found


def _ascii(texts: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    import pyarrow.compute as pc

    found: NDArray[np.bool_] = pc.string_is_ascii(texts).to_numpy(zero_copy_only=False)
    return found
