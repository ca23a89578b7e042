"""The log of edits: append-only, written by any process at any time, also while a job holds the dataset's lock."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import weakref
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imagemill.dataset.edits.images import encode
from imagemill.dataset.edits.state import BLANK, Edited, Fold, Line, keys_of
from imagemill.dataset.files import append_lines, explained
from imagemill.errors import UsageError

CHANGES = {"change", "texts", "discard"}
"""Events that can be undone."""
_REMEMBERED = 200_000
"""Images whose former values are kept in memory for undoing; earlier events are undone by reading the log again."""


class Log:
    """The events of a dataset's log, and the values of images that they lead to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = path_of(folder)
        self._lock = threading.RLock()
        self._file = -1
        """Its descriptor, kept open: so nobody takes a file that replaces it for the same."""
        self._release: Callable[[], object] = lambda: None
        """Closes it, at the latest when this object is gone."""
        self.generation = 0
        """How often it was read from its beginning."""
        self._begin()

    def close(self) -> None:
        """Forget everything; what is asked for next is read again."""
        with self._lock:
            self._begin()

    def _begin(self) -> None:
        self._release()
        self._file = -1
        self.generation += 1
        self._end = 0
        """Of the last whole line that was read."""
        self.number = 0
        self.offsets = array("q")
        """Of all events."""
        self.stack: list[int] = []
        """Of the events that hold."""
        self.undone: list[int] = []
        self.barriers: dict[int, int] = {}
        """Of the lines that were drawn for applying, by number."""
        self.applied: dict[int, int] = {}
        """The number of the event that ended each of them, by offset."""
        self.fold = Fold()
        self._recent: deque[tuple[int, dict[int, Edited]]] = deque()
        """Former values of the images that the last events concern, by offset."""

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """Everything that was appended is known; no other thread changes it meanwhile."""
        with self._lock:
            self._read_on()
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The same, and no other process appends."""
        with self._lock, locked(self.folder):
            self._read_on()
            yield

    def _read_on(self) -> None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            if self._file >= 0:
                self._begin()
            return
        if self._file >= 0:
            known = os.fstat(self._file)
            if (known.st_dev, known.st_ino) != (found.st_dev, found.st_ino) or found.st_size < self._end:
                self._begin()
        if self._file < 0:
            self._file = os.open(self.path, os.O_RDONLY)
            self._release = weakref.finalize(self, os.close, self._file)
        elif found.st_size == self._end:
            return
        content = self._read(self._end, found.st_size - self._end)
        follow = True
        for text in content.split(b"\n")[:-1]:
            offset, self._end = self._end, self._end + len(text) + 1
            # A damaged line is none; `imagemill verify` tells.
            with suppress(ValueError, KeyError, TypeError, AttributeError, UsageError):
                line = json.loads(text)
                number = line["number"]
                follow = self._enter(line, offset, follow) and follow
                self.number = max(self.number, number)
                self.offsets.append(offset)
        if not follow:
            self._recent.clear()
            self.fold = self.folded(self.stack)

    def _enter(self, line: Line, offset: int, follow: bool) -> bool:
        """Take an event into the order of events, and into the values if `follow`; whether they follow it."""
        event = line["event"]
        if event in CHANGES:
            if follow:
                self._remember(offset, self.fold.put(line))
            else:
                keys_of(line)
            self.stack.append(offset)
            self.undone.clear()
        elif event in {"applying", "adopt"}:
            if event == "applying":
                self.barriers[line["number"]] = offset
            else:
                self.fold.adopt(line)
            self.stack.append(offset)
            self.undone.clear()
        elif event == "undo" and self.stack:
            last = self.stack.pop()
            self.undone.append(last)
            if follow and self._recent and self._recent[-1][0] == last:
                self.fold.take_back(self.line(last), self._recent.pop()[1])
            else:
                follow = False
        elif event == "redo" and self.undone:
            last = self.undone.pop()
            self.stack.append(last)
            if follow:
                self._remember(last, self.fold.put(self.line(last)))
        elif event == "applied" and line["of"] in self.barriers:
            last = self.barriers[line["of"]]
            self.applied[last] = line["number"]
            follow = follow and self.stack[-1] == last
            if follow:
                self.fold.apply(line["number"])
                self._recent.clear()
        elif event == "withdrawn" and line["of"] in self.barriers:
            last = self.barriers.pop(line["of"])
            self.applied.pop(last, None)
            self.stack.remove(last)
            self.undone.clear()
            follow = False
        return follow

    def _remember(self, offset: int, before: dict[int, Edited]) -> None:
        self._recent.append((offset, before))
        total = sum(len(values) for _, values in self._recent)
        while self._recent and (total > _REMEMBERED or len(self._recent) > 100):
            total -= len(self._recent.popleft()[1])

    def folded(self, offsets: Iterable[int]) -> Fold:
        """The values that events lead to."""
        fold = Fold()
        for offset in offsets:
            line = self.line(offset)
            if line["event"] in CHANGES:
                fold.put(line)
            elif line["event"] == "adopt":
                fold.adopt(line)
            elif offset in self.applied:
                fold.apply(self.applied[offset])
        return fold

    def line(self, offset: int) -> dict[str, Any]:
        """The event at a place in the file."""
        content = self._read(offset, 4_096)
        while b"\n" not in content:
            content += self._read(offset + len(content), 10 * len(content))
        line: dict[str, Any] = json.loads(content[: content.index(b"\n")])
        return line

    def _read(self, offset: int, size: int) -> bytes:
        found: list[bytes] = []
        while size > 0 and (content := os.pread(self._file, size, offset)):
            found.append(content)
            offset, size = offset + len(content), size - len(content)
        return b"".join(found)

    def numbered(self, number: int) -> dict[str, Any]:
        """The event with a number; empty for none."""
        likely = self.line(self.offsets[number - 1]) if 0 < number <= len(self.offsets) else {}
        if likely.get("number") == number:
            return likely
        return next((line for offset in reversed(self.offsets) if (line := self.line(offset))["number"] == number), {})

    def append(self, what: Mapping[str, Any], by: str) -> dict[str, Any]:
        """Write an event; `writing` holds the lock."""
        line = {"number": self.number + 1, "time": now(), **what, **({"by": by} if by else {})}
        if self.path.exists() and self.path.stat().st_size > self._end:
            # What a crash has left of a line that nobody was told of.
            with explained(self.path):
                os.truncate(self.path, self._end)
        append_lines(self.path, [line])
        self._read_on()
        return line


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process appends edits of a dataset, or rewrites them; waits for it, as it is never long."""
    path = folder / ".imagemill" / "edits.lock"
    # Its folder is not made: where there is no dataset any more, edits would only bring its name back.
    with explained(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def path_of(folder: Path) -> Path:
    """The log of the dataset in a folder."""
    return folder / ".imagemill" / "edits.jsonl"


def write_adopted(folder: Path, values: Mapping[int, Edited]) -> None:
    """Begin the log of a new dataset with the decisions, ratings and tags that its records have."""
    groups: defaultdict[tuple[str, int, tuple[str, ...]], list[int]] = defaultdict(list)
    for key, value in values.items():
        groups[value.decision, value.rating, value.tags].append(key)
    groups.pop((BLANK.decision, BLANK.rating, BLANK.tags), None)
    time = now()
    lines = (
        {
            "number": number,
            "time": time,
            "event": "adopt",
            "count": len(keys),
            "images": encode(keys),
            "decision": decision,
            "rating": rating,
            "tags": list(tags),
        }
        for number, ((decision, rating, tags), keys) in enumerate(groups.items(), start=1)
    )
    if groups:
        append_lines(path_of(folder), lines)


def now() -> str:
    """The time as the log tells it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
