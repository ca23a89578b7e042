"""Take-downs: what is removed leaves every file of a dataset; an event without its content remains."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.card import write_card
from imagemill.dataset.files import append_lines, drop_torn, encode_lines, read_lines, sync_folder, write_file
from imagemill.dataset.sources import Sources
from imagemill.dataset.vectors import Vectors
from imagemill.records import order_of, to_json

if TYPE_CHECKING:
    from imagemill.dataset.folder import Dataset
    from imagemill.records import Request

_REMOVING = "removing.json"
"""In `.imagemill` until a removal has ended: what it has to remove, so that a kill cannot leave half of it."""
REMOVED = "removed"
"""The reason of a row that could not be read and held what was removed; counts want its line."""
_START = 200
"""Characters of a prompt by which it is found in a row that could not be read, of which only the start is kept."""


def removed_images(dataset: Dataset) -> dict[str, int]:
    """The names of requests that have been removed, with their parts."""
    return {line["name"]: line["part"] for line in _events(dataset) if "part" in line}


def removed_rows(dataset: Dataset) -> set[int]:
    """The positions of rows that have been removed as a whole."""
    return {line["row"] for line in _events(dataset) if "row" in line}


def count_removed(dataset: Dataset, failures: Container[str]) -> int:
    """How many requests have been removed; of a removal that is under way, those that are neither there nor failed."""
    removed = removed_images(dataset)
    removal = removal_of(dataset) if removed else {}
    parts = {line["part"] for line in removal.get("events", ()) if "part" in line}
    there = {Path(record["file_name"]).stem for number in parts for record in dataset.part(number).records()}
    return sum(name not in there and name not in failures for name in removed)


def removal_of(dataset: Dataset) -> dict[str, Any]:
    """The removal that is under way or was interrupted; empty when there is none."""
    try:
        removal: dict[str, Any] = json.loads(_place(dataset).read_bytes())
    except FileNotFoundError:
        return {}
    return removal


def removal_mark(folder: Path) -> str:
    """What is another whenever a removal from a dataset begins, and when it has ended."""
    state = folder / ".imagemill"
    try:
        events = (state / "events.jsonl").stat()
    except OSError:
        return ""
    return f"{events.st_ino} {events.st_size} {events.st_mtime_ns} {(state / _REMOVING).exists()}"


def begin_removal(dataset: Dataset, removal: Mapping[str, Any]) -> None:
    """Remove images and what else holds their content; the caller holds the lock.

    `removal` has `asked`, what the user has named; `events`, the lines that will remain; `files`, lists of names by
    the number of their part; `sealed`, the numbers of parts to seal again; and `sources`, `ids` and `prompts`: hashes
    of pictures, identities and texts that no other image of the dataset has.
    """
    write_file(_place(dataset), to_json(removal).encode())
    finish_removal(dataset)


def finish_removal(dataset: Dataset) -> None:
    """Go through with a removal, from wherever it was interrupted; does nothing when there is none."""
    from imagemill.dataset.edits.forgetting import forget
    from imagemill.dataset.splits import refresh_above

    removal = removal_of(dataset)
    if not removal:
        return
    for path in (dataset.events_file, dataset.seals_file):
        drop_torn(path)
    known = set(map(to_json, _events(dataset)))
    if new := [line for line in removal["events"] if to_json(line) not in known]:
        append_lines(dataset.events_file, new)
    gone = {line["name"] for line in removal["events"] if "name" in line}
    files = {int(number): names for number, names in removal["files"].items()}
    for number in sorted({line["part"] for line in removal["events"] if "part" in line}):
        _remove_from_part(dataset, number, gone, files.get(number, ()))
        if number in removal["sealed"]:
            dataset.part(number).seal()
    _remove_from_state(dataset.folder / ".imagemill", gone, removal)
    forget(dataset.folder, gone)
    for path in (Sources(dataset.folder).path(sha256) for sha256 in removal["sources"]):
        path.unlink(missing_ok=True)
    # What stood there before tells of what was removed, if only by a hash.
    seals = [{"part": name, "sealed": True, **seal} for name, seal in dataset.seals.items()]
    write_file(dataset.seals_file, encode_lines(seals))
    write_card(dataset)
    refresh_above(dataset)
    for leftover in _place(dataset).parent.rglob(".*.tmp"):
        leftover.unlink()
    _place(dataset).unlink()
    sync_folder(_place(dataset).parent)


def remove_rest(dataset: Dataset, requests: Iterable[Request]) -> None:
    """Count the requests of removed rows that had not ended as removed; the caller holds the lock."""
    removed = dataset.removed
    ended = removed.keys() | dataset.failures().keys()
    told = {line["row"]: {"reason": line["reason"], "time": line["time"]} for line in _events(dataset) if "row" in line}
    left = [request for request in requests if request.name not in ended]
    if left:
        append_lines(
            dataset.events_file,
            ({"event": "remove", "name": request.name, "part": request.part, **told[request.row]} for request in left),
        )


def _remove_from_part(dataset: Dataset, number: int, gone: set[str], files: Iterable[str]) -> None:
    part = dataset.part(number)
    records = part.records()
    if names := [record["file_name"] for record in records if Path(record["file_name"]).stem in gone]:
        part.remove(names)
    for path in [*map(part.path, files), *part.folder.glob(".*.tmp")]:
        path.unlink(missing_ok=True)
    if part.folder.is_dir():
        if not part.records():
            # Readers take an empty file for one with other columns.
            part.metadata.unlink(missing_ok=True)
            if not any(part.folder.iterdir()):
                part.folder.rmdir()
        sync_folder(part.folder if part.folder.is_dir() else part.folder.parent)
    vectors = dataset.folder / ".imagemill" / "vectors"
    for column in sorted(vectors.iterdir()) if vectors.is_dir() else ():
        Vectors(dataset.folder, column.name).remove(part.name, gone)


def _remove_from_state(state: Path, gone: set[str], removal: Mapping[str, Any]) -> None:
    """Take what concerns removed images, by name, out of the files beside the dataset."""
    rows = {line["row"] for line in removal["events"] if "row" in line}
    sources, ids, prompts = (set(removal[name]) for name in ("sources", "ids", "prompts"))

    def left_out(line: dict[str, Any]) -> bool:
        told = f"{line.get('id')}\0{line.get('figure')}\0{line.get('reason')}"
        return _stem(line) in gone or line.get("id") in ids or _says(told, prompts)

    named: dict[str, Callable[[dict[str, Any]], bool]] = defaultdict(lambda: lambda line: line.get("name") in gone)
    named |= {
        "tries.jsonl": lambda line: _stem(line) in gone or order_of(line["file_name"])[0] in rows,
        "left_out.jsonl": left_out,
        "captions.jsonl": lambda line: Path(line["file"]).stem in sources,
        "taken.jsonl": lambda line: Path(line["file"]).stem in sources,
    }
    lists = [state / name for name in ("failures.jsonl", "tries.jsonl", "left_out.jsonl", "captions.jsonl")]
    for path in [*lists, state / "sources" / "taken.jsonl", *sorted((state / "columns").glob("*.jsonl"))]:
        lines = read_lines(path)
        kept = [line for line in lines if not named[path.name](line)]
        if len(kept) < len(lines):
            write_file(path, encode_lines(kept))
    rejects = read_lines(state / "rejects.jsonl")

    def tells(line: dict[str, Any]) -> bool:
        return _says(line["raw"], prompts) or any(f"`{one:.100}`" in line["reason"] for one in ids)

    blanked = [{**line, "reason": REMOVED, "raw": ""} if tells(line) else line for line in rejects]
    if blanked != rejects:
        write_file(state / "rejects.jsonl", encode_lines(blanked))
    # It is derived, and made again from what is left.
    shutil.rmtree(state / "index", ignore_errors=True)


def _says(text: str, prompts: Iterable[str]) -> bool:
    """Whether one of the prompts stands in a text, as it is or as CSV or JSON writes it."""
    for prompt in prompts:
        start = prompt[:_START]
        written = (
            start,
            start.replace('"', '""'),
            json.dumps(start)[1:-1],
            json.dumps(start, ensure_ascii=False)[1:-1],
        )
        if start and any(form in text for form in written):
            return True
    return False


def _stem(line: Mapping[str, Any]) -> str:
    return Path(line["file_name"]).stem


def _events(dataset: Dataset) -> list[dict[str, Any]]:
    return [line for line in read_lines(dataset.events_file) if line.get("event") == "remove"]


def _place(dataset: Dataset) -> Path:
    return dataset.folder / ".imagemill" / _REMOVING
