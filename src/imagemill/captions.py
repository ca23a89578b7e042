"""Texts that describe one image: which of several stay."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

Keep = Literal["random", "similar", "all"]


def kept(texts: Sequence[str], how: Keep, seed: int, near: str) -> tuple[str, ...]:
    """Choose among texts: one by the seed, the one whose words are nearest to `near`, or all of them."""
    if how == "all":
        return tuple(texts)
    if how == "random":
        return (texts[seed % len(texts)],)
    return (max(texts, key=lambda text: similarity(text, near)),)


def said(texts: Sequence[str]) -> list[str]:
    """Texts as they can be written down, without those that say nothing; half a character becomes a question mark."""
    found = (text.encode(errors="replace").decode().strip() for text in texts)
    return [text for text in found if text]


def similarity(one: str, other: str) -> float:
    """Cosine of the word counts of two texts, from 0 to 1."""
    a, b = _words(one), _words(other)
    shared = sum(count * b[word] for word, count in a.items())
    return shared / math.sqrt(_square(a) * _square(b)) if shared else 0.0


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.casefold()))


def _square(counts: Counter[str]) -> int:
    return sum(count * count for count in counts.values())
