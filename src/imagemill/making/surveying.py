"""Foreign pictures are looked at once, and what is told of them is written down."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from imagemill.dataset.files import append_lines, make_folder
from imagemill.embedded import carried, read_embedded
from imagemill.environment import cores
from imagemill.foreign.trees import Lazy
from imagemill.images import EXTENSIONS, encode, format_of, is_plain, open_image, size_of, upright
from imagemill.layouts.base import Loaded, renamed
from imagemill.making.adopting import Found, as_json, beside, is_ours, shown
from imagemill.records import Record, Reject, files_of

if TYPE_CHECKING:
    from PIL import Image


GROUP = 256
"""Pictures that are written down at once."""
_STARTS = 1_000
"""Characters of what a line of `rejects.jsonl` calls a picture."""

Progress = Callable[[int], None]
"""Told how many pictures have been looked at."""


@dataclass(slots=True)
class Survey:
    """What a split of the source holds."""

    sha256: str = ""
    """Of all that the source has of it."""
    taken: int = 0
    rows: int = 0
    """Of the table that its images were made of, where they are ours; else as many as are taken."""
    rejects: list[Reject] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """What was neither a value nor a picture, by kind."""
    converted: int = 0
    """Pictures that are kept upright and without transparency, as PNG."""

    def add(self, found: Found) -> None:
        """Count a picture."""
        self.left_out.update(found.left_out)
        if found.reason:
            self.rejects.append(Reject(found.place + 1, found.reason[:_STARTS], found.where[:_STARTS]))
        else:
            self.taken += 1
            self.converted += any(changed for _, _, changed in found.files.values())


class Journal:
    """What is known of the pictures of a split, one in a line; looking at them is most of the work."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Found]:
        if self.path.exists():
            with self.path.open("rb") as lines:
                for line in lines:
                    yield Found(**json.loads(line))

    def survey(self, entries: Iterable[Loaded], exact: bool, looked: Progress | None = None) -> Survey:
        """Look at every picture of which the journal does not tell; afterwards it tells of all of them, in order.

        `exact`: a record of ours without the very file that it tells of is not taken in. Raises OutOfSpace.
        """
        have = self._recover()
        survey, digest, count = Survey(), hashlib.sha256(), 0
        new: list[dict[str, Any]] = []

        def compared() -> Iterator[tuple[Found, Loaded | None]]:
            known = islice(self, have)
            for found, entry in ahead(pool, enumerate(entries), _hashed):
                kept = next(known, None)
                if kept is not None and kept.key == found.key:
                    yield kept, None
                else:
                    # From here on the journal tells of another source.
                    known = islice((), 0)
                    yield found, entry

        def look(both: tuple[Found, Loaded | None]) -> tuple[Found, bool]:
            found, entry = both
            return (found, False) if entry is None else (_looked(found, entry, exact), True)

        with ThreadPoolExecutor(min(8, 2 * cores()), "imagemill-import") as pool:
            for found, is_new in ahead(pool, compared(), look):
                count += 1
                survey.add(found)
                digest.update(f"{found.key}\n".encode())
                if not is_new:
                    continue
                if found.place < have:
                    self._cut(found.place)
                    have = found.place
                new.append({one.name: getattr(found, one.name) for one in fields(found)})
                if len(new) >= GROUP:
                    self._append(new)
                if looked and count % GROUP == 0:
                    looked(count)
        self._append(new)
        if count < have:
            self._cut(count)
        survey.sha256 = digest.hexdigest()
        return survey

    def _append(self, lines: list[dict[str, Any]]) -> None:
        if lines:
            make_folder(self.path.parent)
            append_lines(self.path, lines)
            lines.clear()

    def _recover(self) -> int:
        """Drop what a crash has cut; how many lines are whole."""
        count = 0
        if self.path.exists():
            with self.path.open("rb") as lines:
                for line in lines:
                    if not (line.endswith(b"\n") and _tells(line, count)):
                        break
                    count += 1
            self._cut(count)
        return count

    def _cut(self, count: int) -> None:
        """Keep only the first lines."""
        if self.path.exists():
            with self.path.open("r+b") as lines:
                size = sum(map(len, islice(lines, count)))
                lines.truncate(size)


def _tells(line: bytes, place: int) -> bool:
    try:
        return bool(json.loads(line)["place"] == place)
    except (ValueError, KeyError, TypeError):
        return False


def ahead(pool: ThreadPoolExecutor, items: Iterable[Any], do: Callable[[Any], Any]) -> Iterator[Any]:
    """What `do` makes of each, in order, a few at once on the threads of a pool."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(do, item))
        if len(waiting) >= 4 * cores():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def readable(entry: Loaded) -> Loaded:
    """An entry whose names of files are text; those of files may be any bytes."""
    names = {name: shown(name) for name in entry.files}
    if all(name == text for name, text in names.items()):
        return entry
    readers = {text: partial(entry.files.__getitem__, name) for name, text in names.items()}
    return replace(entry, record=renamed(entry.record, lambda name: names.get(name, name)), files=Lazy(readers))


def _hashed(numbered: tuple[int, Loaded]) -> tuple[Found, Loaded]:
    """A picture by the hash of all that the source has of it."""
    place, entry = numbered
    where = shown(str(entry.record.get("file_name", f"row {place + 1}")))
    digest = hashlib.sha256(json.dumps([where, entry.problem, entry.record], default=str).encode())
    for name in entry.files:
        try:
            data = entry.files[name]
        except (KeyError, OSError, ValueError) as error:
            digest.update(f"{name}\0{error}".encode(errors="replace"))
        else:
            digest.update(f"{shown(name)}\0{hashlib.sha256(data).hexdigest()}".encode())
    return Found(place, where, digest.hexdigest(), left_out=list(entry.left_out)), entry


def _looked(found: Found, entry: Loaded, exact: bool) -> Found:
    """What can be told of a picture, or why it cannot be taken in."""
    try:
        if entry.problem:
            raise ValueError(entry.problem)
        found.record = _told(entry.record, found.left_out)
        found.record["file_name"] = shown(str(found.record.get("file_name", "")))
        if is_ours(found.record):
            found.whole = _take_ours(found, entry)
            if exact and not found.whole:
                raise ValueError("the file is not the one that was exported (sha256)")
        if not found.whole:
            _take(found, entry)
    except (ValueError, RecursionError) as error:
        found.reason = str(error) or type(error).__name__
    if found.reason:
        found.record, found.said, found.files, found.whole = {}, {}, {}, False
    return found


def _told(record: Mapping[str, Any], left_out: list[str]) -> Record:
    """A record as JSON has it; bytes that are no picture are left out."""
    told: Record = {}
    for key, value in record.items():
        try:
            told[as_json(str(key))] = as_json(value)
        except ValueError as error:
            if str(error) != "bytes":
                raise ValueError(f"`{shown(key)}` {error}") from None
            left_out.append(f"bytes in `{shown(key)}`")
    return told


def _take_ours(found: Found, entry: Loaded) -> bool:
    """Whether the files of a record of ours are what it tells; raises ValueError where one is no image."""
    record = found.record
    for number, name in enumerate(files_of(record)):
        data = _held(entry, name, number)
        sha256 = hashlib.sha256(data).hexdigest()
        if name == record["file_name"] and sha256 != record["sha256"]:
            return False
        if EXTENSIONS[format_of(data)] != PurePosixPath(name).suffix[1:]:
            return False
        size = size_of(data)
        if name == record["file_name"]:
            found.size = size
        found.files[name] = [sha256, EXTENSIONS[format_of(data)], False]
    return bool(found.size == (record["width"], record["height"]))


def _held(entry: Loaded, name: str, number: int) -> bytes:
    """What a file holds; raises ValueError, which names it where it is another than the picture itself."""
    said = f"`{name}`, which it names," if number else "its file"
    try:
        return entry.files[name]
    except (KeyError, FileNotFoundError):
        raise ValueError(f"{said} is absent") from None
    except OSError as error:
        raise ValueError(f"{said} cannot be read: {error.strerror or error}") from None


def _take(found: Found, entry: Loaded) -> None:
    """Look at a picture of anybody's, and at those beside it."""
    found.files = {}
    names = files_of({"file_name": found.record["file_name"], **beside(found)})
    for number, name in enumerate(names):
        data = _held(entry, name, number)
        image = open_image(data)
        if number == 0:
            found.said = _told(read_embedded(image), found.left_out)
            found.said = {
                key: value for key, value in found.said.items() if not key.endswith(("file_name", "file_names"))
            }
            found.size = upright(image).size
            changed = not is_plain(image)
            data = as_png(image) if changed else data
        else:
            # Of a mask the transparency says what it is.
            changed = False
        found.files[name] = [hashlib.sha256(data).hexdigest(), EXTENSIONS[format_of(data)], changed]


def as_png(image: Image.Image) -> bytes:
    """A picture as it is to be seen, where not every reader sees that in its file, with what it tells of its origin."""
    import numpy as np

    return encode(np.asarray(upright(image)), "png", **carried(image))


def fingerprint(entries: Iterable[Loaded]) -> str:
    """The hash of a split of the source, as its survey has it; no picture is looked at."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(min(8, 2 * cores()), "imagemill-import") as pool:
        for found, _ in ahead(pool, enumerate(entries), _hashed):
            digest.update(f"{found.key}\n".encode())
    return digest.hexdigest()
