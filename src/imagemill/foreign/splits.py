"""What readers of datasets take for the name of a split."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

TRAIN = "train"
WORDS = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Words in the names of files and folders, as Hugging Face reads them."""


def split_of(name: str) -> str:
    """The split that the name of a file tells, by a word in it or in the names of its folders; `train` without any."""
    for part in PurePosixPath(name).parts:
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in WORDS:
                return WORDS[word]
    return TRAIN


def in_order(splits: Iterable[str]) -> list[str]:
    """Splits once each, those that everybody has first."""
    found = set(splits)
    usual = list(dict.fromkeys(WORDS.values()))
    return [*(split for split in usual if split in found), *sorted(found.difference(usual))]
