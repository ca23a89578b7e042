"""What people have decided of each image: events put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from imagemill.dataset.edits.images import decode, id_of, key_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DECISIONS = ("", "keep", "reject")
"""What can be decided of an image, in the order of the codes in `State.decisions`."""

Line = Mapping[str, Any]
"""One event as it stands in `edits.jsonl`."""


@dataclass(frozen=True, slots=True)
class Edited:
    """What people have decided of one image."""

    texts: Mapping[str, str] = field(default_factory=dict)
    """By column, where they are to be others than in the dataset."""
    decision: str = ""
    rating: int = 0
    tags: tuple[str, ...] = ()
    revision: int = 0
    """The number of the event that has changed it last; without one, that of the last applying, or 0."""

    def same(self, other: Edited) -> bool:
        """Whether nothing but the revision differs."""
        return self is other or replace(self, revision=other.revision) == other


BLANK = Edited()


class ByImage(Mapping[str, Edited]):
    """Images by their ids, kept by number, since that takes a third of the space."""

    def __init__(self, values: Mapping[int, Edited]) -> None:
        self.values_by_key = values

    def __getitem__(self, image: str) -> Edited:
        return self.values_by_key[key_of(image)]

    def __iter__(self) -> Iterator[str]:
        return map(id_of, self.values_by_key)

    def __len__(self) -> int:
        return len(self.values_by_key)


@dataclass(frozen=True)
class State:
    """A snapshot of all edits; it stays as it is."""

    revision: int
    pending: Mapping[int, Edited]
    """The images that differ from the dataset, by number."""
    applied: Mapping[int, Edited]
    """The decisions, ratings and tags that stand in the dataset already, by number."""
    applied_revision: int = 0
    """That of images which have not been edited since."""

    @cached_property
    def edited(self) -> Mapping[str, Edited]:
        """The images that differ from the dataset, by id."""
        return ByImage(self.pending)

    @cached_property
    def known(self) -> Mapping[int, Edited]:
        """All images of which anything was decided, by number (`key_of`)."""
        return {**self.applied, **self.pending} if self.applied else self.pending

    @cached_property
    def tags(self) -> Counter[str]:
        """How many images have each tag."""
        found: Counter[str] = Counter()
        for tags, count in Counter(value.tags for value in self.known.values() if value.tags).items():
            for tag in tags:
                found[tag] += count
        return found

    @cached_property
    def keys(self) -> NDArray[np.int64]:
        """The numbers of the images in `known`, ascending: `row << 29 | image`."""
        return self._order[0]

    @cached_property
    def decisions(self) -> NDArray[np.uint8]:
        """For each of `keys`: 0 undecided, 1 keep, 2 reject."""
        codes = {decision: code for code, decision in enumerate(DECISIONS)}
        return self._array(codes[value.decision] for value in self.known.values())

    @cached_property
    def ratings(self) -> NDArray[np.uint8]:
        """For each of `keys`: 1 to 5, 0 without one."""
        return self._array(value.rating for value in self.known.values())

    @cached_property
    def edited_keys(self) -> NDArray[np.int64]:
        """The numbers of the images that differ from the dataset, ascending."""
        import numpy as np

        return np.sort(np.fromiter(self.pending, np.int64, len(self.pending)))

    def tagged(self, tag: str) -> NDArray[np.int64]:
        """The numbers of the images with a tag, ascending."""
        import numpy as np

        return np.sort(np.array([key for key, value in self.known.items() if tag in value.tags], np.int64))

    def of(self, image: str) -> Edited:
        """What was decided of one image."""
        key = key_of(image)
        found = self.pending.get(key)
        return found or replace(self.applied.get(key, BLANK), revision=self.applied_revision)

    @cached_property
    def counts(self) -> dict[str, int]:
        """What applying would change: `images` altogether, `texts`, `decisions`, `ratings` and `tags`."""
        found: Counter[str] = Counter(dict.fromkeys(("images", "texts", "decisions", "ratings", "tags"), 0))
        found["images"] = len(self.pending)
        for key, value in self.pending.items():
            before = self.applied.get(key, BLANK)
            found["texts"] += len(value.texts)
            found["decisions"] += value.decision != before.decision
            found["ratings"] += value.rating != before.rating
            found["tags"] += value.tags != before.tags
        return dict(found)

    @cached_property
    def _order(self) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """The keys, ascending, and where each of them stands in `known`."""
        import numpy as np

        keys = np.fromiter(self.known, np.int64, len(self.known))
        order = np.argsort(keys)
        return keys[order], order

    def _array(self, values: Iterable[int]) -> NDArray[np.uint8]:
        import numpy as np

        found: NDArray[np.uint8] = np.fromiter(values, np.uint8, len(self.known))[self._order[1]]
        return found


class Fold:
    """The values of images while events are put together, one after another."""

    def __init__(self) -> None:
        self.pending: dict[int, Edited] = {}
        self.applied: dict[int, Edited] = {}
        self.at = 0
        """The number of the last applying."""

    def of(self, key: int) -> Edited:
        """What was decided of an image."""
        found = self.pending.get(key)
        if found is None:
            found = self.applied.get(key, BLANK)
            found = found if found.revision == self.at else replace(found, revision=self.at)
        return found

    def changing(self, keys: Iterable[int], line: Line) -> list[int]:
        """Those of the images that such an event would change."""
        known: dict[int, tuple[Edited, bool]] = {}
        changing = []
        for key in keys:
            old = self.pending.get(key)
            if old is None:
                old = self.applied.get(key, BLANK)
            found = known.get(id(old))
            if found is None:
                found = known[id(old)] = old, not changed(old, line, 0).same(old)
            if found[1]:
                changing.append(key)
        return changing

    def put(self, line: Line) -> dict[int, Edited]:
        """Take an event in; returns what was pending before of the images that it concerns."""
        number = line["number"]
        if line["event"] == "discard":
            before, self.pending = self.pending, {}
            return before
        if line["event"] == "texts":
            column = line["column"]
            texts = ((key_of(image), {"texts": {column: text}}) for image, text in line["texts"].items())
            return self._set(texts, number)
        return self._set(((key, line) for key in decode(line["images"])), number)

    def take_back(self, line: Line, before: Mapping[int, Edited]) -> None:
        """Undo an event, the last one that was taken in."""
        if line["event"] == "discard":
            self.pending = dict(before)
            return
        for key in keys_of(line):
            if key in before:
                self.pending[key] = before[key]
            else:
                self.pending.pop(key, None)

    def adopt(self, line: Line) -> None:
        """Take in what stood in the records of a dataset from its beginning."""
        value = Edited({}, line["decision"], line["rating"], tuple(line["tags"]))
        self.applied.update(dict.fromkeys(decode(line["images"]), value))

    def apply(self, number: int) -> None:
        """All that is pending stands in the dataset now."""
        for key, value in self.pending.items():
            self.applied[key] = replace(value, texts={}, revision=0)
        self.applied = {key: value for key, value in self.applied.items() if not value.same(BLANK)}
        self.pending = {}
        self.at = number

    def _set(self, changes: Iterable[tuple[int, Line]], number: int) -> dict[int, Edited]:
        """Change images; returns what was pending of them."""
        pending, applied = self.pending, self.applied
        before = {}
        # Many images are alike, and one object stands for all of them.
        known: dict[tuple[int, int, int], tuple[Edited, Edited, bool, Line]] = {}
        for key, line in changes:
            base = applied.get(key, BLANK)
            old = pending.get(key, base)
            which = id(old), id(base), id(line)
            found = known.get(which)
            if found is None:
                new = changed(old, line, number)
                # What is compared by its identity is kept, so that nothing else takes it meanwhile.
                found = known[which] = old, new, bool(new.texts) or not new.same(base), line
            if old is not base:
                before[key] = old
            if found[2]:
                pending[key] = found[1]
            else:
                pending.pop(key, None)
        return before


def keys_of(line: Line) -> list[int]:
    """The numbers of the images that an event names."""
    return [key_of(image) for image in line["texts"]] if line["event"] == "texts" else decode(line.get("images", {}))


def changed(old: Edited, line: Line, number: int) -> Edited:
    """What an event makes of an image."""
    texts = {**old.texts, **line.get("texts", {})}
    tags = {*old.tags, *line.get("add_tags", ())} - {*line.get("remove_tags", ())}
    return Edited(
        {column: text for column, text in texts.items() if text is not None},
        line.get("decision", old.decision),
        line.get("rating", old.rating),
        tuple(sorted(tags)),
        number,
    )
