"""Images as edits name them: `ROW-IMAGE`, one number for each, and many of them in little space."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from imagemill.errors import UsageError
from imagemill.records import order_of

IMAGE_ID = re.compile(r"(0|[1-9]\d{0,9})-(0|[1-9]\d{0,7})", re.ASCII)
"""The row and the image of a file name."""
_IDS = re.compile(rf"(?:{IMAGE_ID.pattern},)*".replace("(0", "(?:0"), re.ASCII)
ROW_BITS = 29
"""By which the row stands above the image in a number."""
_ROW = 1 << ROW_BITS


def key_of(image: str) -> int:
    """The number of an image, which grows in plan order; raises UsageError for what is no id."""
    found = IMAGE_ID.fullmatch(image)
    if not found:
        raise UsageError(f"`{image:.40}` is not the id of an image", "ids look like `7-1`: row 7, image 1")
    row, number = found.groups()
    return int(row) << ROW_BITS | int(number)


def id_of(key: int) -> str:
    """The id of the image with such a number."""
    return f"{key >> ROW_BITS}-{key % _ROW}"


def image_id(file_name: str) -> str:
    """The id of the image in a file; raises ValueError for another name."""
    row, number = order_of(file_name)
    return f"{row}-{number}"


def key_of_name(file_name: str) -> int:
    """The number of the image in a file; raises ValueError for another name."""
    row, number = order_of(file_name)
    return row << ROW_BITS | number


def keys_of_ids(images: Iterable[str]) -> list[int]:
    """The numbers of many images, in their order; raises UsageError for what is no id."""
    images = list(images)
    text = ",".join(images)
    if not _IDS.fullmatch(f"{text},") or text.count(",") != len(images) - 1:
        return list(map(key_of, images))
    numbers = list(map(int, text.replace("-", ",").split(",")))
    return [row << ROW_BITS | number for row, number in zip(numbers[::2], numbers[1::2], strict=True)]


def encode(keys: Sequence[int]) -> dict[str, str]:
    """Images, each once, as ranges of rows, such as `0-4 7`, by the number of the image."""
    if len(keys) == 1:
        return {str(keys[0] % _ROW): str(keys[0] >> ROW_BITS)}
    if not keys:
        return {}
    import numpy as np

    found = np.fromiter(keys, np.int64, len(keys))
    rows, numbers = found >> ROW_BITS, found & (_ROW - 1)
    order = np.lexsort((rows, numbers))
    rows, numbers = rows[order], numbers[order]
    begins = np.flatnonzero((np.diff(rows, prepend=-2) != 1) | (np.diff(numbers, prepend=-1) != 0))
    ends = np.append(begins[1:], len(rows)) - 1
    ranges: defaultdict[int, list[str]] = defaultdict(list)
    spans = zip(numbers[begins].tolist(), rows[begins].tolist(), rows[ends].tolist(), strict=True)
    for number, first, last in spans:
        ranges[number].append(str(first) if first == last else f"{first}-{last}")
    return {str(number): " ".join(texts) for number, texts in ranges.items()}


def decode(ranges: Mapping[str, str]) -> list[int]:
    """The numbers of the images that `encode` has written."""
    keys: list[int] = []
    for number, rows in ranges.items():
        image = int(number)
        for text in rows.split():
            first, _, last = text.partition("-")
            if last:
                keys.extend(range(int(first) << ROW_BITS | image, (int(last) + 1) << ROW_BITS, _ROW))
            else:
                keys.append(int(first) << ROW_BITS | image)
    return keys


def names(ranges: Mapping[str, str], key: int) -> bool:
    """Whether an image is among those that `encode` has written."""
    row = key >> ROW_BITS
    for text in ranges.get(str(key % _ROW), "").split():
        first, _, last = text.partition("-")
        if int(first) <= row <= int(last or first):
            return True
    return False
