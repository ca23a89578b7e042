"""Which texts contain a term: an inverted index from the words of texts to the texts.

A word is what stands between two spaces, so that a term without one is found among some thousand words instead of in
all texts, also one of a single letter. An index of byte trigrams would have some times as many entries, nothing for
shorter terms, and every text it finds would have to be looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imagemill.expressions.texts import folded

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Places = NDArray[np.integer[Any]]
    """Texts by their position."""

_FEW = 64
"""Words whose texts are gathered one after the other; and one text of so many is few."""
_SHORT = 3
"""Bytes of a needle that so many words hold that it is compared with all of them at once."""


class Words:
    """The words of some texts, all in small letters, and where each of them stands."""

    def __init__(self, table: pa.Table, count: int) -> None:
        """Of what `build` has made of so many texts, mapped from a file or not."""
        import numpy as np

        self._count = count
        columns = {name: table.column(name).chunk(0) for name in table.column_names}
        self._vocabulary: bytes = columns.pop("vocabulary")[0].as_py()
        arrays = {name: column.values.to_numpy() for name, column in columns.items()}
        self._bounds, self._texts = arrays["bounds"], arrays["texts"]
        self._starts = np.cumsum(np.append(1, arrays["lengths"] + 1), dtype=np.int64)

    @staticmethod
    def build(texts: pa.Array) -> pa.Table:
        """A table of one row: the words between spaces, their lengths in bytes, and the texts of each."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        split = pc.split_pattern(folded(texts), " ")
        encoded = split.flatten().dictionary_encode()
        words = encoded.dictionary
        text = np.repeat(np.arange(len(texts)), np.diff(split.offsets.to_numpy()))
        pairs = encoded.indices.to_numpy().astype(np.int64) << 32 | text
        pairs.sort()
        pairs = pairs[np.flatnonzero(np.diff(pairs, prepend=-1))]
        counts = np.bincount(pairs >> 32, minlength=len(words))
        small = np.uint16 if len(texts) <= 2**16 else np.uint32
        arrays = {
            "lengths": pc.binary_length(words).to_numpy().astype(np.uint32),
            "bounds": np.append(0, np.cumsum(counts)).astype(np.uint32),
            "texts": (pairs & 0xFFFFFFFF).astype(small),
        }
        vocabulary = f" {' '.join(words.to_pylist())} ".encode()
        columns = {"vocabulary": pa.array([vocabulary], pa.large_binary())}
        for name, array in arrays.items():
            columns[name] = pa.LargeListArray.from_arrays([0, len(array)], pa.array(array))
        return pa.table(columns)

    def find(self, term: str) -> tuple[Places, bool]:
        """The texts that may contain a folded term, in order, and whether that is sure."""
        import numpy as np

        parts = term.split(" ")
        if len(parts) == 1:
            return self._holding(term.encode()), True
        last = len(parts) - 1
        # Where the term has a space, a word has its end.
        needles = [f"{' ' * (number > 0)}{part}{' ' * (number < last)}" for number, part in enumerate(parts) if part]
        found = np.arange(self._count)
        # The longest is in the fewest texts, and few texts are sooner looked at than divided further.
        for needle in sorted(needles, key=len, reverse=True):
            if len(found) * _FEW < self._count:
                break
            held = np.zeros(self._count, bool)
            held[self._holding(needle.encode())] = True
            found = found[held[found]]
        return found, False

    def _holding(self, needle: bytes) -> Places:
        """The texts of the words that a needle is in, in order."""
        import numpy as np

        places = self._places(needle) + needle.startswith(b" ")
        words = np.searchsorted(self._starts, places, "right") - 1
        words = words[np.flatnonzero(np.diff(words, prepend=-1))]
        if len(words) == 1:
            alone: Places = self._texts[self._bounds[words[0]] : self._bounds[words[0] + 1]]
            return alone
        holding = np.zeros(self._count, bool)
        if len(words) <= _FEW:
            for word in words.tolist():
                holding[self._texts[self._bounds[word] : self._bounds[word + 1]]] = True
        else:
            chosen = np.zeros(len(self._bounds) - 1, bool)
            chosen[words] = True
            holding[self._texts[np.repeat(chosen, np.diff(self._bounds))]] = True
        return np.flatnonzero(holding)

    def _places(self, needle: bytes) -> NDArray[np.intp]:
        """Where a needle begins in the vocabulary."""
        import numpy as np

        if len(needle) <= _SHORT:
            letters = np.frombuffer(self._vocabulary, np.uint8)
            equal = np.ones(len(letters) - len(needle) + 1, bool)
            for number, letter in enumerate(needle):
                equal &= letters[number : number + len(equal)] == letter
            return np.flatnonzero(equal)
        found = []
        at = self._vocabulary.find(needle)
        while at >= 0:
            found.append(at)
            at = self._vocabulary.find(needle, at + 1)
        return np.array(found, np.intp)
