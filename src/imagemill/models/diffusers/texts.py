"""Texts encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from imagemill.models.diffusers.family import Family, Text

_MOST_BYTES = 256 * 2**20
"""Embeddings kept, on the device."""


class Texts:
    """Embeddings of texts, each made once while there is room."""

    def __init__(self, family: Family, batch_size: int) -> None:
        self._family = family
        self._batch_size = batch_size
        self._kept: OrderedDict[str, Text] = OrderedDict()
        self._bytes = 0
        self.encoded = 0
        """Texts that have gone through the encoders."""

    def __call__(self, texts: Sequence[str]) -> list[Text]:
        """Return the embeddings of texts."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
        for start in range(0, len(missing), self._batch_size):
            part = missing[start : start + self._batch_size]
            # Always at one shape, so that an embedding's bits do not depend on its neighbors.
            padded = [*part, *[""] * (self._batch_size - len(part))]
            self.encoded += len(padded)
            for text, embedding in zip(part, self._family.encode(padded), strict=False):
                self._kept[text] = tuple(tensor.clone() for tensor in embedding)
                self._bytes += _size(self._kept[text])
        found = [self._kept[text] for text in texts]
        for text in dict.fromkeys(texts):
            self._kept.move_to_end(text)
        while self._bytes > _MOST_BYTES and self._kept:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return found


def _size(text: Text) -> int:
    return sum(tensor.nbytes for tensor in text)
