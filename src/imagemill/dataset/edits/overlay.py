"""Edits as columns of records."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagemill.dataset.edits.columns import CAPTION, DECIDED, decided_columns, first_record
from imagemill.dataset.edits.images import key_of_name
from imagemill.dataset.edits.state import BLANK, Edited, State
from imagemill.dataset.folder import Dataset
from imagemill.records import Record, to_json


@dataclass(frozen=True, slots=True)
class Overlay:
    """What a dataset's edits make of its records."""

    state: State
    edited: tuple[str, ...]
    """The columns of which some texts are others now."""
    decided: Mapping[str, str]
    """The columns of what was decided beside texts, by `decision`, `rating` or `tags`."""
    added: Mapping[str, Any]
    """The columns that the records have not yet, with the values of images of which nothing is known."""

    def values(self, record: Record) -> dict[str, Any]:
        """The columns that are others in a record, or not there yet."""
        key = key_of_name(record["file_name"])
        found = self.state.pending.get(key)
        if found is None and not self.added:
            return {}
        before = self.state.applied.get(key, BLANK)
        known = found or before
        values = {name: text for name, text in known.texts.items() if name in self.edited}
        if CAPTION in self.added:
            values.setdefault(CAPTION, record["prompt"])
        for kind, name in self.decided.items():
            value = getattr(known, kind)
            # What stands in the records may come from a dataset whose edits are not known here.
            if name in self.added or value != getattr(before, kind):
                values[name] = ", ".join(value) if kind == "tags" else value
        return {name: value for name, value in values.items() if name not in record or record[name] != value}

    def decided_of(self, key: int) -> Edited | None:
        """What stands in the columns of an image beside texts; None for nothing."""
        known = self.state.pending.get(key) or self.state.applied.get(key)
        if known is None:
            return None
        value = Edited(**{kind: getattr(known, kind) for kind in self.decided})
        return None if value == BLANK else value

    @property
    def sha256(self) -> str:
        """A hash of what is decided and does not stand in the dataset yet."""
        whole = hashlib.sha256()
        for key, value in sorted(self.state.pending.items()):
            texts = dict(sorted(value.texts.items()))
            whole.update(to_json([key, texts, value.decision, value.rating, value.tags]).encode())
        return whole.hexdigest()


def overlay_of(dataset: Dataset, state: State, with_decisions: bool) -> Overlay:
    """How a dataset's edits become columns; decisions do so with `with_decisions`, or where they are one already."""
    record = first_record(dataset)
    texts = {name for value in state.pending.values() for name in value.texts}
    edited = tuple(sorted(name for name in texts if name in record or name == CAPTION))
    names = decided_columns(dataset, record)
    used = {name: any(getattr(value, name) for value in state.pending.values()) for name in DECIDED}
    used["decision"] &= with_decisions
    decided = {kind: name for kind, name in names.items() if used[kind] or name in record}
    added = {name: DECIDED[kind] for kind, name in decided.items() if name not in record}
    if CAPTION in edited and CAPTION not in record:
        added = {CAPTION: "", **added}
    return Overlay(state, edited, decided, added)
