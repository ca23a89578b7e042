"""What was written is read back and compared with what was exported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from imagemill.dataset.card import with_sizes
from imagemill.errors import ImagemillError
from imagemill.exporting.converting import check_whole
from imagemill.layouts.base import Content, Layout, Loaded, Picture


def compare(content: Content, layout: Layout, folder: Path) -> dict[str, int]:
    """Raise ImagemillError when what is read back is not what was exported; tell the bytes of each split's pictures."""
    sizes = {
        split: _compare_pictures(split, pictures, layout.read(folder, split), layout)
        for split, pictures in content.splits.items()
    }
    for name, pictures in content.subsets.items():
        _compare_pictures(name, pictures, layout.read_subset(folder, name), layout)
    return sizes


def _compare_pictures(name: str, pictures: Iterable[Picture], found: Iterator[Loaded], layout: Layout) -> int:
    """The same for the pictures of a split or a subset."""
    size = 0
    for picture, loaded in zip_longest(pictures, found):
        if picture is None or loaded is None:
            raise _different(f"`{name}` has {'more' if picture is None else 'fewer'} images than the dataset")
        problem = _difference(replace(picture, record=layout.exported(picture.record)), loaded)
        if problem:
            raise _different(f"`{picture.record['file_name']}` in `{name}`: {problem}")
        size += sum(map(len, loaded.files.values()))
    return size


def tell_sizes(folder: Path, images: Mapping[str, int], sizes: Mapping[str, int]) -> None:
    """Write into the card of an export how much there is."""
    card = folder / "README.md"
    paths = [path for path in folder.rglob("*") if ".imagemill" not in path.relative_to(folder).parts]
    files = sum(path.stat().st_size for path in paths if path.is_file() and path != card)
    splits = [{"name": name, "num_bytes": sizes[name], "num_examples": count} for name, count in images.items()]
    text = with_sizes(card.read_text(encoding="utf-8"), splits, files)
    card.write_text(text, encoding="utf-8")


def _different(problem: str) -> ImagemillError:
    return ImagemillError(f"what was written is not what was exported: {problem}", "nothing is left of it; try again")


def _difference(picture: Picture, loaded: Loaded) -> str:
    """What is not the same; raises ImagemillError when the dataset's own file is damaged."""
    if loaded.record != picture.record or _types(loaded.record) != _types(picture.record):
        names = {*picture.record, *loaded.record}
        wrong = [name for name in names if repr(picture.record.get(name)) != repr(loaded.record.get(name))]
        return f"the column `{min(wrong, default='')}` differs"
    for name in picture.files:
        data = picture.read(name)
        if name == picture.record["file_name"]:
            check_whole(picture, data)
        if loaded.files.get(name) != data:
            return f"the file `{name}` differs"
    return ""


def _types(record: Mapping[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in record.items()}
