"""How an index comes to be what its source is: only pieces that are new or have changed are read.

Segments are never changed. New ones are written under new names, then the list of segments is replaced by a rename,
then what it no longer names is removed; who has mapped it reads on. So a kill leaves the old list or the new one, and
any number of readers need no lock. Small segments become larger ones as more come; each row is written a few times.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.files import write_file
from imagemill.dataset.index.segments import Entry, Piece, Segment, write_segment
from imagemill.dataset.index.sources import ROWS, Source

if TYPE_CHECKING:
    import pyarrow as pa

    Origins = dict[Piece, tuple[Segment, int]]
    """Of each piece that has been written the segment, and which one of its pieces it is."""

_FORMAT = 1
"""Of the files; an index of another one is made again."""


class Temporary:
    """A folder that is removed with the last who holds this."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="imagemill-index-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Opened:
    """An index that is as its source is."""

    folder: Path
    segments: list[Segment]
    temporary: Temporary | None = None


_LIST = "segments.json"
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class _Item:
    """A segment that stays as it is, or a piece that has to be written."""

    pieces: tuple[Piece, ...]
    weight: int
    segment: Segment | None = None


def open_index(source: Source, cache: Path | None) -> Opened:
    """Open the index of a source, and bring it up to date; where nothing can be written, a temporary one."""
    pieces = source.pieces()
    places = [cache] if cache else source.places()
    for place in places:
        segments = _segments(place)
        if [piece for segment in segments for piece in segment.entry.pieces] == pieces:
            return Opened(place, segments)
    for place in places:
        with _locked(place) as locked:
            if locked:
                return Opened(place, _build(place, source))
    temporary = Temporary()
    return Opened(temporary.folder, _build(temporary.folder, source), temporary)


def _build(place: Path, source: Source) -> list[Segment]:
    before = _segments(place)
    pieces = source.pieces()
    origins = {piece: (segment, number) for segment in before for number, piece in enumerate(segment.entry.pieces)}
    groups = _grouped(_items(pieces, origins, source.weight))
    fresh = [group for group in groups if not _stays(group)]
    missing = [piece for group in fresh for item in group for piece in item.pieces if piece not in origins]
    tables = source.tables(missing)
    written: list[Segment] = []
    for group in groups:
        if group[0].segment and _stays(group):
            written.append(group[0].segment)
            continue
        content = [piece for item in group for piece in item.pieces]
        rows, gathered = _gathered(content, origins, tables)
        entry = write_segment(place, dict(zip(content, rows, strict=True)), gathered)
        written.append(Segment(place, entry))
        # What is not yet written anew is still of use to the next one, if this one is killed.
        _commit(place, [segment.entry for segment in dict.fromkeys([*written, *before])])
    if fresh or written != before:
        _commit(place, [segment.entry for segment in written])
    named = {segment.entry.name for segment in written}
    for path in place.iterdir():
        if path.name not in {_LIST, _LOCK} and path.name.partition(".")[0] not in named:
            path.unlink(missing_ok=True)
    return written


def _gathered(
    pieces: Sequence[Piece], origins: Origins, tables: Iterator[pa.Table]
) -> tuple[list[int], list[pa.Table]]:
    """The rows of each piece, and all of them in tables; neighbors in a segment at once, others as they come."""

    def run(numbered: tuple[int, Piece]) -> tuple[Segment | None, int]:
        segment, number = origins.get(numbered[1], (None, 0))
        return segment, number - numbered[0]

    rows: list[int] = []
    found = []
    for (segment, _), neighbors in groupby(enumerate(pieces), run):
        together = [piece for _, piece in neighbors]
        if segment:
            first = origins[together[0]][1]
            rows += segment.entry.rows[first : first + len(together)]
            found.append(segment.pieces(first, first + len(together)))
        else:
            found.append(next(tables))
            rows.append(len(found[-1]))
    return rows, found


def _items(pieces: Sequence[Piece], origins: Origins, weight: int) -> Iterator[_Item]:
    """What there is now, in order: whole segments that are as they were, and pieces between them."""
    place = 0
    while place < len(pieces):
        segment, number = origins.get(pieces[place], (None, 0))
        if segment and number == 0:
            count = len(segment.entry.pieces)
            if tuple(pieces[place : place + count]) == segment.entry.pieces:
                yield _Item(segment.entry.pieces, len(segment), segment)
                place += count
                continue
        rows = segment.entry.rows[number] if segment else weight
        yield _Item((pieces[place],), rows)
        place += 1


def _grouped(items: Iterator[_Item]) -> list[list[_Item]]:
    """What becomes one segment; one is written again only with others of at least half its size."""
    groups: list[list[_Item]] = []
    weights: list[int] = []
    for item in items:
        groups.append([item])
        weights.append(item.weight)
        while len(groups) > 1:
            first, second = weights[-2:]
            if first + second > ROWS or (_stays(groups[-2]) and first > 2 * second):
                break
            last = groups.pop()
            groups[-1] += last
            weights[-2:] = [first + second]
    return groups


def _stays(group: Sequence[_Item]) -> bool:
    return len(group) == 1 and group[0].segment is not None


def _segments(place: Path) -> list[Segment]:
    """The segments of the list; none where there is no list, and without those whose files are damaged."""
    try:
        content: dict[str, Any] = json.loads((place / _LIST).read_bytes())
    except (OSError, ValueError):
        return []
    if content.get("format") != _FORMAT:
        return []
    found = []
    for line in content["segments"]:
        keys, stamps, rows = zip(*line["pieces"], strict=True)
        entry = Entry(line["name"], line["sizes"], tuple(map(Piece, keys, stamps)), tuple(rows))
        try:
            found.append(Segment(place, entry))
        except (OSError, ValueError):
            continue
    return found


def _commit(place: Path, entries: Sequence[Entry]) -> None:
    lines = [
        {
            "name": entry.name,
            "sizes": dict(entry.sizes),
            "pieces": [[piece.key, piece.stamp, rows] for piece, rows in zip(entry.pieces, entry.rows, strict=True)],
        }
        for entry in entries
    ]
    write_file(place / _LIST, json.dumps({"format": _FORMAT, "segments": lines}).encode())


@contextmanager
def _locked(place: Path) -> Iterator[bool]:
    """Be the only one who writes into a folder; yields whether anyone can."""
    try:
        if place.parent.name == ".imagemill":
            # The folder of a dataset that was moved away is not made again.
            place.parent.mkdir(exist_ok=True)
        place.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield True
    finally:
        os.close(descriptor)
