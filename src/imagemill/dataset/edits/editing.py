"""What people decide of images: the verbs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagemill.dataset.edits.checking import MAX_TEXT, check_text, checked_rating, checked_tags
from imagemill.dataset.edits.columns import editable_columns
from imagemill.dataset.edits.images import encode, id_of, key_of, keys_of_ids, names
from imagemill.dataset.edits.log import CHANGES, Log
from imagemill.dataset.edits.state import DECISIONS, Edited, Fold, Line, State
from imagemill.dataset.edits.wording import told
from imagemill.dataset.folder import Dataset
from imagemill.errors import ImagemillError, UsageError, did_you_mean

_MAX_BY = 200


class Conflict(ImagemillError):
    """Somebody else has edited the image meanwhile."""

    def __init__(self, image: str, theirs: Edited) -> None:
        super().__init__(f"the image `{image}` was edited by somebody else meanwhile", "look at both, and edit again")
        self.theirs = theirs
        """What they have made of it."""


class NotLast(ImagemillError):
    """Something else was done since what a caller has seen last."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was done to images, and is undone as one."""

    number: int
    time: str
    what: str
    """Such as `rejected 12 images`."""
    images: int
    by: str = ""
    undone: bool = False


class Edits:
    """What people decide of the images of a dataset. One object may be used by many threads.

    The log is shared with other processes, which take turns by a lock of its own; every call sees what they have
    appended. It is undone from its end: nobody's later edit stands on what is taken back, and none is lost.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the edits of the dataset in a folder."""
        self.folder = Path(folder)
        self._log = Log(self.folder)
        self._editable: set[str] = set()
        self._state: tuple[tuple[int, int], State] | None = None

    def close(self) -> None:
        """Close the file; what is asked for next opens it again."""
        self._log.close()

    @property
    def revision(self) -> int:
        """The number of events so far."""
        with self._log.fresh():
            return self._log.number

    def of(self, image: str) -> Edited:
        """What was decided of one image."""
        key = key_of(image)
        with self._log.fresh():
            return self._log.fold.of(key)

    def state(self) -> State:
        """A snapshot of all edits."""
        with self._log.fresh():
            now = self._log.generation, self._log.number
            if self._state is None or self._state[0] != now:
                self._state = now, _snapshot(self._log.number, self._log.fold)
            return self._state[1]

    def change(
        self,
        images: Sequence[str],
        *,
        texts: Mapping[str, str | None] | None = None,
        decision: str | None = None,
        rating: int | None = None,
        add_tags: Sequence[str] = (),
        remove_tags: Sequence[str] = (),
        expected: int | None = None,
        by: str = "",
    ) -> Event:
        """Decide the same of some images, in one event; a text of None is the dataset's own again.

        `expected` is the revision of the one image, as the caller has seen it; raises Conflict when it has another.
        An event that would change nothing is not written. Raises UsageError for values that cannot be.
        """
        keys = dict.fromkeys(keys_of_ids(images))
        what: dict[str, Any] = {}
        if texts:
            self._check_texts(texts, texts.values())
            what["texts"] = dict(texts)
        if decision is not None:
            if decision not in DECISIONS:
                raise UsageError(f"`decision`: keep, reject or nothing, got: `{decision:.40}`")
            what["decision"] = decision
        if rating is not None:
            what["rating"] = checked_rating(rating)
        if add_tags:
            what["add_tags"] = checked_tags(add_tags)
        if remove_tags:
            what["remove_tags"] = checked_tags(remove_tags)
        if not what:
            raise UsageError("nothing says what to change", "give texts, a decision, a rating or tags")
        if expected is not None and len(keys) != 1:
            raise UsageError("`expected` is the revision of one image", "name one image")
        with self._log.writing():
            if expected is not None:
                theirs = self._log.fold.of(next(iter(keys)))
                if theirs.revision != expected:
                    raise Conflict(images[0], theirs)
            changing = self._log.fold.changing(keys, what)
            line = {"event": "change", "count": len(changing), "images": encode(changing), **what}
            return self._append(line, by) if changing else _nothing(self._log.number)

    def change_texts(
        self, column: str, texts: Mapping[str, str], *, expected: int | None = None, by: str = ""
    ) -> Event:
        """Give many images a text of their own in one column, by id, in one event.

        `expected` is the revision of the state that these texts were made from; raises NotLast when it has another.
        """
        self._check_texts([column], texts.values())
        keys = {key_of(image): text for image, text in texts.items()}
        with self._log.writing():
            if expected not in {None, self._log.number}:
                raise NotLast("something else was edited meanwhile", "make the texts again")
            changing = {
                id_of(key): text
                for key, text in sorted(keys.items())
                if self._log.fold.of(key).texts.get(column) != text
            }
            line = {"event": "texts", "count": len(changing), "column": column, "texts": changing}
            return self._append(line, by) if changing else _nothing(self._log.number)

    def undo(self, event: int | None = None, *, by: str = "") -> Event | None:
        """Take the last event back that is not taken back yet; None when there is none, or it was applied.

        Raises NotLast when that is not the event of the caller, where it is given by its number.
        """
        with self._log.writing():
            line = self._log.line(self._log.stack[-1]) if self._log.stack else {}
            if line.get("event") not in CHANGES:
                line = {}
            self._check_last(line, event)
            return self._append(_about("undo", line), by) if line else None

    def redo(self, event: int | None = None, *, by: str = "") -> Event | None:
        """Do again what was taken back last; None when there is nothing, or something else was done since.

        Raises NotLast like `undo`.
        """
        with self._log.writing():
            line = self._log.line(self._log.undone[-1]) if self._log.undone else {}
            self._check_last(line, event)
            return self._append(_about("redo", line), by) if line else None

    def discard(self, *, by: str = "") -> Event:
        """Take all edits back that are not applied; this is undone like any other event."""
        with self._log.writing():
            count = len(self._log.fold.pending)
            return self._append({"event": "discard", "count": count}, by) if count else _nothing(self._log.number)

    def history(self, image: str | None = None, limit: int = 100) -> list[Event]:
        """The last events, the newest first; those of one image, where it is named."""
        key = None if image is None else key_of(image)
        events: list[Event] = []
        with self._log.fresh():
            undone = {*self._log.undone}
            for offset in reversed(self._log.offsets):
                line = self._log.line(offset)
                if line["event"] == "applying" and offset in self._log.applied:
                    continue
                if key is None or self._concerns(line, key):
                    events.append(_event(line, offset in undone))
                if len(events) >= limit:
                    break
        return events

    # What follows is for applying.

    def begin_applying(self) -> int:
        """Draw a line under the edits that are being applied, and return its number; the last one if it still stands.

        What is decided from now on is not among them, and undoing does not go back behind it.
        """
        with self._log.writing():
            for number, offset in reversed(self._log.barriers.items()):
                if offset not in self._log.applied:
                    return number
            return self._append({"event": "applying", "count": len(self._log.fold.pending)}, "").number

    def end_applying(self, number: int) -> None:
        """What stands above that line is in the dataset now."""
        with self._log.writing():
            offset = self._log.barriers.get(number)
            if offset is not None and offset not in self._log.applied:
                self._append({"event": "applied", "of": number, "count": self._log.line(offset)["count"]}, "")

    def withdraw(self, number: int) -> None:
        """What was applied is out of the dataset again, and edits as before."""
        with self._log.writing():
            offset = self._log.barriers.get(number)
            if offset is not None:
                self._append({"event": "withdrawn", "of": number, "count": self._log.line(offset)["count"]}, "")

    def applied(self) -> list[int]:
        """The numbers of what was applied, and of what is being applied, in order."""
        with self._log.fresh():
            return list(self._log.barriers)

    def at(self, number: int) -> State:
        """The edits as they were when the line with that number was drawn."""
        with self._log.fresh():
            return _snapshot(
                number, self._log.folded(self._log.stack[: self._log.stack.index(self._log.barriers[number])])
            )

    def _concerns(self, line: Line, key: int) -> bool:
        """Whether an event, or the one that it takes back or does again, is about an image."""
        if line["event"] in {"undo", "redo"}:
            return self._concerns(self._log.numbered(line["of"]), key)
        if line["event"] == "texts":
            return id_of(key) in line["texts"]
        return names(line.get("images", {}), key)

    def _check_last(self, line: Line, event: int | None) -> None:
        """Raise NotLast when an event is not that one, nor what has taken it back or done it again."""
        if event is None:
            return
        about = self._log.numbered(event).get("of", event)
        if line.get("number") != about:
            raise NotLast("something else was done since", "look at the history, and take that back first")

    def _append(self, what: Mapping[str, Any], by: str) -> Event:
        check_text(by, "by", _MAX_BY)
        return _event(self._log.append(what, by), undone=False)

    def _check_texts(self, columns: Iterable[str], texts: Iterable[str | None]) -> None:
        for column in columns:
            if column not in self._editable:
                known = editable_columns(Dataset(self.folder))
                self._editable = {*known}
                if column not in known:
                    hint = did_you_mean(column, known) or f"columns that can be edited: {', '.join(known)}"
                    raise UsageError(f"the column `{column:.80}` cannot be edited", hint)
        for text in texts:
            if text is not None:
                check_text(text, "text", MAX_TEXT)


def _snapshot(revision: int, fold: Fold) -> State:
    return State(revision, dict(fold.pending), dict(fold.applied), fold.at)


def _about(event: str, line: Line) -> dict[str, Any]:
    """An event that is about another one."""
    return {"event": event, "of": line["number"], "count": line.get("count", 0), "what": told(line)}


def _event(line: Line, undone: bool) -> Event:
    return Event(line["number"], line["time"], told(line), line.get("count", 0), line.get("by", ""), undone)


def _nothing(number: int) -> Event:
    return Event(number, "", "changed nothing", 0)
