"""The pictures that images of a dataset are made from: taken in once, and kept under the hash of their bytes."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from imagemill.dataset.files import append_lines, drop_torn, explained, make_folder, read_lines, temporary, write_file
from imagemill.environment import cores
from imagemill.images import EXTENSIONS, encode, format_of, is_plain, mask_of, open_image, size_of, upright
from imagemill.records import FailureReason, Size

_GROUP = 256
"""Pictures that are written down at once."""
_LARGE_PIXELS = 4_000_000
_LARGE = threading.Lock()

T = TypeVar("T")


class Opener(Protocol):
    """Reads pictures that a table names."""

    def place(self, name: str) -> bytes | Path:
        """Where a picture is, or its bytes; raises OSError and ValueError."""

    def __call__(self, name: str) -> bytes:
        """Its bytes; raises OSError and ValueError."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known of a picture that a table names."""

    path: str = ""
    """Where the dataset keeps it; empty before it has been taken in."""
    size: Size = (0, 0)
    problem: tuple[FailureReason, str] | None = None


class Sources:
    """Files in `.imagemill/sources`, and the list of what a table calls them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / ".imagemill" / "sources"
        self._list = self.folder / "taken.jsonl"

    @cached_property
    def _known(self) -> dict[tuple[str, bool], dict[str, Any]]:
        # A file that is gone is taken in again.
        there = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        return {(line["name"], line["mask"]): line for line in read_lines(self._list) if line["file"] in there}

    def path(self, sha256: str) -> Path:
        """The file with this hash; that of a PNG where there is none."""
        paths = [self.folder / f"{sha256}.{extension}" for extension in EXTENSIONS.values()]
        return next((path for path in paths if path.is_file()), paths[0])

    def look(self, names: Iterable[str], opened: Opener, masks: bool = False) -> dict[str, Picture]:
        """What can be said of pictures without taking them in: their size, as their first bytes tell it."""

        def look(name: str) -> Picture:
            try:
                return Picture(size=size_of(opened.place(name)))
            except (OSError, ValueError) as error:
                return Picture(problem=_problem(error))

        return dict(self._each(names, masks, look))

    def take(self, names: Iterable[str], opened: Opener, masks: bool = False) -> dict[str, Picture]:
        """Bring pictures into the dataset: as they are where every reader sees the same in them, else upright as PNG.

        Masks become gray. What has been taken in once is not asked for again.
        """
        self.recover()

        def take(name: str) -> dict[str, Any] | Picture:
            try:
                width, height = size_of(opened.place(name))
                # Large ones one after the other: their pixels fill memory.
                with _LARGE if width * height > _LARGE_PIXELS else nullcontext():
                    data, (width, height) = _prepared(opened(name), masks)
            except (OSError, ValueError) as error:
                return Picture(problem=_problem(error))
            file = f"{hashlib.sha256(data).hexdigest()}.{EXTENSIONS[format_of(data)]}"
            if not (self.folder / file).is_file():
                write_file(self.folder / file, data)
            return {"name": name, "mask": masks, "file": file, "width": width, "height": height}

        found: dict[str, Picture] = {}
        for group in _groups(self._each(names, masks, take)):
            lines = [line for _, line in group if isinstance(line, dict)]
            if lines:
                append_lines(self._list, lines)
                self._known.update(((line["name"], masks), line) for line in lines)
            found |= {name: self._picture(line) if isinstance(line, dict) else line for name, line in group}
        return found

    def recover(self) -> None:
        """Make the folder and its list consistent after a crash."""
        make_folder(self.folder)
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink()
        drop_torn(self._list)

    def give_up_damaged(self) -> int:
        """Remove files that are not what their names say, so that they are taken in again; returns how many."""
        damaged = [
            path for path in self.folder.glob("*.*") if path.suffix != ".jsonl" and not is_whole(path, path.stem)
        ]
        for path in damaged:
            path.unlink()
        return len(damaged)

    def adopt(self, path: Path, sha256: str) -> Path:
        """Keep an image of the dataset itself, for what is made from it."""
        kept = self.folder / f"{sha256}{path.suffix}"
        make_folder(self.folder)
        link(path, kept)
        return kept

    def _each(self, names: Iterable[str], masks: bool, do: Callable[[str], Any]) -> Iterator[tuple[str, Any]]:
        """What is known of pictures, or what `do` finds out, on several threads."""
        with ThreadPoolExecutor(min(8, 2 * cores()), "imagemill-sources") as pool:
            for group in _groups(names):
                known = [self._known.get((name, masks)) for name in group]
                left = [name for name, line in zip(group, known, strict=True) if line is None]
                done = dict(zip(left, pool.map(do, left), strict=True))
                for name, line in zip(group, known, strict=True):
                    yield name, done[name] if line is None else self._picture(line)

    def _picture(self, line: dict[str, Any]) -> Picture:
        return Picture(str(self.folder / line["file"]), (line["width"], line["height"]))


def is_whole(path: Path, sha256: str) -> bool:
    """Whether a file is there and has this hash."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _prepared(data: bytes, mask: bool) -> tuple[bytes, Size]:
    """A picture as it is kept, with its size; raises ValueError."""
    import numpy as np

    if mask:
        seen = mask_of(data).convert("RGB")
    else:
        image = open_image(data)
        seen = upright(image)
        if is_plain(image):
            return data, seen.size
    return encode(np.asarray(seen), "png", None, mark=False), seen.size


def _groups(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(islice(iterator, _GROUP)):
        yield group


def link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system has no links."""
    if target.exists():
        return
    new = temporary(target)
    with explained(target):
        with suppress(FileNotFoundError):
            new.unlink()
        try:
            os.link(source, new)
        except OSError:
            write_file(target, source.read_bytes())
            return
        os.replace(new, target)  # noqa: PTH105 - the tests of crashes stop at each of these calls


def _problem(error: OSError | ValueError) -> tuple[FailureReason, str]:
    if isinstance(error, OSError):
        return "no_source", f"the picture cannot be read: {error.strerror or error}"
    return "bad_image", str(error)


def may_lack(job: Mapping[str, Any]) -> bool:
    """Whether a dataset may be without pictures that its images were made from, since some came from an export."""
    first = job["steps"][0]
    return first["operator"] == "import" or any(map(may_lack, first.get("sources", ())))
