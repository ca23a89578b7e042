"""Edits are written into the records of their dataset, and taken out of them again."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagemill.dataset.card import write_card
from imagemill.dataset.edits import Edits
from imagemill.dataset.edits.images import ROW_BITS
from imagemill.dataset.edits.log import now
from imagemill.dataset.edits.overlay import Overlay, overlay_of
from imagemill.dataset.files import (
    append_lines,
    drop_torn,
    encode_lines,
    make_folder,
    read_lines,
    sync_folder,
    write_file,
)
from imagemill.dataset.folder import Dataset, Part
from imagemill.errors import UsageError
from imagemill.records import Record, to_json

_NAME = re.compile(rb'"file_name":"prompt_(\d+)_image_(\d+)\.')
_OPERATOR = "apply"


@dataclass(frozen=True, slots=True)
class Batch:
    """Edits that are applied at once, and taken back at once."""

    number: int
    """Of the event in the log above which they stand; 0 while they are not applied."""
    images: int
    edited: tuple[str, ...]
    """The columns with other texts."""
    decided: Mapping[str, str]
    """The columns of decisions, ratings and tags."""
    added: Mapping[str, Any]
    """The columns that no record had before, with the values of images of which nothing is known."""

    @property
    def columns(self) -> list[str]:
        """All columns that it concerns."""
        return list(dict.fromkeys([*self.edited, *self.decided.values()]))


def pending(dataset: Dataset) -> Batch | None:
    """What would be applied now; None when there is nothing. Raises UsageError while images are still to be made."""
    left = dataset.counts().pending
    if left:
        raise UsageError(
            f"`{dataset.folder}` is not finished: {left:,} image{'' if left == 1 else 's'} to be made",
            "let it finish first; `imagemill select --edits` makes a new dataset of what is there",
        )
    state = Edits(dataset.folder).state()
    if not state.pending:
        return None
    overlay = overlay_of(dataset, state, with_decisions=True)
    return Batch(0, len(state.pending), overlay.edited, overlay.decided, overlay.added)


def last_applied(dataset: Dataset) -> Batch | None:
    """What would be taken back now; None when there is nothing."""
    found = _applied(dataset)
    return found[-1] if found else None


def apply(dataset: Dataset) -> Batch | None:
    """Write the edits of a dataset into its records, part by part, each atomically; None when there are none.

    Whatever interrupts it, the same call, or the next one that writes the dataset, goes on with it.
    Raises UsageError while images are still to be made, LockedError, OutOfSpace.
    """
    interrupted = _under_way(dataset)
    with dataset.lock():
        batch = pending(dataset)
        if batch is None:
            return last_applied(dataset) if interrupted and not interrupted[1] else None
        _begin(dataset, batch, undo=False)
        finish_applying(dataset)
        return last_applied(dataset)


def take_back(dataset: Dataset, number: int | None = None) -> Batch | None:
    """Take what was applied last out of the records again, where it becomes edits as before; None when nothing was.

    With the number of a batch, only if that one is the last. When it was interrupted, the same call goes on with it,
    and takes nothing else back.
    Raises LockedError, OutOfSpace.
    """
    interrupted = _under_way(dataset)
    with dataset.lock():
        if interrupted and interrupted[1]:
            return interrupted[0]
        batch = last_applied(dataset)
        if not batch or number not in {None, batch.number}:
            return None
        _begin(dataset, batch, undo=True)
        finish_applying(dataset)
    return batch


def finish_applying(dataset: Dataset) -> None:
    """Go through with what is being applied or taken back, from wherever it was; the caller holds the lock."""
    work = _under_way(dataset)
    if not work:
        return
    batch, undo = work
    for path in (dataset.events_file, dataset.seals_file):
        drop_torn(path)
    edits = Edits(dataset.folder)
    if undo:
        _take_out(dataset, batch)
        edits.withdraw(batch.number)
    else:
        if not batch.number:
            number = edits.begin_applying()
            overlay = overlay_of(dataset, edits.at(number), with_decisions=True)
            batch = Batch(number, len(overlay.state.pending), overlay.edited, overlay.decided, overlay.added)
            _begin(dataset, batch, undo)
        _write_in(dataset, batch, Overlay(edits.at(batch.number), batch.edited, batch.decided, batch.added))
        edits.end_applying(batch.number)
    _tell(dataset, batch, undo)
    if undo and (folder := _folder(dataset, batch)).is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    write_card(dataset)
    for folder in (dataset.folder, marker_of(dataset.folder).parent, _folder(dataset, batch)):
        _clear(folder)
    marker_of(dataset.folder).unlink()
    sync_folder(marker_of(dataset.folder).parent)


def marker_of(folder: Path) -> Path:
    """The file that is there while edits are being applied or taken back."""
    return folder / ".imagemill" / "applying.json"


def _under_way(dataset: Dataset) -> tuple[Batch, bool] | None:
    """What is being applied, or taken back, or was when it was interrupted; None for nothing."""
    try:
        work = json.loads(marker_of(dataset.folder).read_bytes())
    except FileNotFoundError:
        return None
    undo = work.pop("undo")
    return Batch(**{**work, "edited": tuple(work["edited"])}), undo


def _begin(dataset: Dataset, batch: Batch, undo: bool) -> None:
    """Note what is to be done; a batch without a number is that of all edits at the moment when it begins."""
    if batch.number:
        make_folder(_folder(dataset, batch))
    write_file(marker_of(dataset.folder), to_json({**_table(batch), "undo": undo}).encode())


def _write_in(dataset: Dataset, batch: Batch, overlay: Overlay) -> None:
    for part in dataset.parts:
        if batch.added or _names_any(part, overlay.state.pending):
            records = part.records()
            changes = {record["file_name"]: overlay.values(record) for record in records}
            before = _folder(dataset, batch) / f"{part.name}.jsonl"
            if not before.exists():
                write_file(before, encode_lines(_before(records, changes, batch.added)))
            if any(changes.values()):
                part.update(lambda record, changes=changes: changes[record["file_name"]])  # type: ignore[misc]
        _seal(part)


def _before(
    records: list[Record], changes: Mapping[str, Mapping[str, Any]], added: Collection[str]
) -> Iterator[dict[str, Any]]:
    """The values that change, image by image."""
    for record in records:
        values = {name: record[name] for name in changes[record["file_name"]] if name not in added}
        if values:
            yield {"file_name": record["file_name"], "before": values}


def _take_out(dataset: Dataset, batch: Batch) -> None:
    for part in dataset.parts:
        path = _folder(dataset, batch) / f"{part.name}.jsonl"
        before = {line["file_name"]: line["before"] for line in read_lines(path)}
        if before or batch.added:
            records = part.records()
            restored = [
                {name: value for name, value in record.items() if name not in batch.added}
                | before.get(record["file_name"], {})
                for record in records
            ]
            if restored != records:
                part.unseal()
                write_file(part.metadata, encode_lines(restored))
        _seal(part)


def _clear(folder: Path) -> None:
    """What a kill has left behind."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()


def _seal(part: Part) -> None:
    _clear(part.folder)
    if not part.sealed and part.complete:
        part.seal()


def _names_any(part: Part, keys: Collection[int]) -> bool:
    """Whether a part has one of some images."""
    content = part.metadata.read_bytes() if part.metadata.exists() else b""
    return any(int(row) << ROW_BITS | int(image) in keys for row, image in _NAME.findall(content))


def _tell(dataset: Dataset, batch: Batch, undo: bool) -> None:
    """Write down in the dataset's events and in its job what has happened to it."""
    job = dataset.job
    others = [step for step in job["steps"] if step["operator"] != _OPERATOR or step["batch"] != batch.number]
    step = {
        "operator": _OPERATOR,
        "batch": batch.number,
        "images": batch.images,
        "edited": list(batch.edited),
        "columns": dict(batch.added),
    }
    dataset.write_job(dataset.folder, {**job, "steps": others if undo else [*others, step]})
    event = {"event": "edit", **_table(batch), **({"undone": True} if undo else {})}
    if event not in [{name: value for name, value in line.items() if name != "time"} for line in _events(dataset)]:
        append_lines(dataset.events_file, [{**event, "time": now()}])


def _applied(dataset: Dataset) -> list[Batch]:
    """What is applied and not taken back, in order."""
    found: dict[int, Batch] = {}
    for line in _events(dataset):
        if line.get("undone"):
            found.pop(line["number"], None)
        else:
            values = {name: line[name] for name in Batch.__dataclass_fields__}
            found[line["number"]] = Batch(**{**values, "edited": tuple(values["edited"])})
    return list(found.values())


def _table(batch: Batch) -> dict[str, Any]:
    return {
        "number": batch.number,
        "images": batch.images,
        "edited": list(batch.edited),
        "decided": dict(batch.decided),
        "added": dict(batch.added),
    }


def _events(dataset: Dataset) -> list[dict[str, Any]]:
    return [line for line in read_lines(dataset.events_file) if line.get("event") == "edit"]


def _folder(dataset: Dataset, batch: Batch) -> Path:
    """Where the values that were there before are kept."""
    return dataset.folder / ".imagemill" / "applied" / f"{batch.number:06d}"
