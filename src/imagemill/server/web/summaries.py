"""What the list of datasets tells of each: counts, what made it, a few images, its size; quick for a million images."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from imagemill.dataset import Dataset
from imagemill.errors import ImagemillError
from imagemill.server.web.gallery import is_unsafe, thumbnail_url
from imagemill.server.web.queue import Job
from imagemill.server.web.workspace import Entry, check

_THUMBNAILS = 4
_LOOKED_AT = 200
"""Records among which they are chosen."""
_SECONDS = 1.0
"""So long counts of a dataset are shown that is not complete."""
_KEPT = 2_000
_NAME = re.compile(r"prompt_(\d{1,10})_image_(\d{1,10})\.\w+")

State = Literal["running", "queued", "paused", "written", "pending", "failed", "complete", "unreadable"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What is told of a dataset."""

    id: str
    name: str
    images: int
    requests: int
    failed: int
    pending: int
    operator: str
    model: str
    later: tuple[str, ...]
    """What was done to its images afterwards: scored, described, selected."""
    changed: float
    thumbnails: tuple[str, ...]
    """Addresses of those of some images."""
    bytes: int | None
    """Of all its files; None until somebody has asked."""
    state: State
    job: int | None = None
    """The job that writes it, or will, or was the last that did."""
    problem: str = ""


_known: OrderedDict[Path, tuple[Any, float, Summary]] = OrderedDict()
_sizes: OrderedDict[Path, tuple[int, int]] = OrderedDict()
"""The bytes of parts, and when each had changed."""
_totals: OrderedDict[Path, tuple[Any, int]] = OrderedDict()
"""The bytes of datasets, and what had changed then."""
_lock = threading.Lock()
_one_size = threading.Lock()


def summary_of(entry: Entry, jobs: Sequence[Job]) -> Summary:
    """What is told of a dataset, and the state of the job of these that uses it."""
    found = replace(_summary(entry), bytes=_known_bytes(entry.folder))
    using = [job for job in jobs if uses(job, entry)]
    for state in ("running", "paused", "queued"):
        for job in using:
            if job.state == state:
                return replace(found, state=state, job=job.id)
    made = [job.id for job in jobs if job.output == entry.folder]
    found = replace(found, job=max(made, default=None))
    if found.state == "unreadable":
        return found
    if Dataset(entry.folder).writer:
        return replace(found, state="written")
    return found


def uses(job: Job, entry: Entry) -> bool:
    """Whether a job that is not over writes or reads a dataset."""
    return not job.over and (job.source == entry.id or job.output == entry.folder)


def _summary(entry: Entry) -> Summary:
    stamp = _stamp(entry.folder)
    with _lock:
        before = _known.get(entry.folder)
    if before and before[0] == stamp and (before[2].pending == 0 or time.monotonic() - before[1] < _SECONDS):
        return replace(before[2], id=entry.id, name=entry.name)
    try:
        found = _looked(entry, max(when for when, _ in stamp) / 1e9)
    except (ImagemillError, OSError, KeyError, TypeError, IndexError) as error:
        said = error.message if isinstance(error, ImagemillError) else "its files are damaged: `imagemill verify` tells"
        said = said.replace(f"{entry.folder}/", "")
        found = Summary(entry.id, entry.name, 0, 0, 0, 0, "", "", (), 0.0, (), None, "unreadable", problem=said)
    with _lock:
        _known[entry.folder] = stamp, time.monotonic(), found
        _known.move_to_end(entry.folder)
        while len(_known) > _KEPT:
            _known.popitem(last=False)
    return found


def _stamp(folder: Path) -> tuple[tuple[int, int], ...]:
    """What changes with the counts."""
    state = folder / ".imagemill"
    files = (
        folder / "job.toml",
        folder / "images",
        state / "seals.jsonl",
        state / "failures.jsonl",
        state / "events.jsonl",
    )
    return tuple(_mark(path) for path in files)


def _mark(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _looked(entry: Entry, changed: float) -> Summary:
    check(entry.folder)
    dataset = Dataset(entry.folder)
    steps = dataset.job["steps"]
    counts = dataset.counts()
    failed = sum(counts.failed.values())
    state: State = "pending" if counts.pending > 0 else "failed" if failed else "complete"
    return Summary(
        id=entry.id,
        name=entry.name,
        images=counts.done,
        requests=counts.requests,
        failed=failed,
        pending=max(0, counts.pending),
        operator=str(steps[0]["operator"]),
        model=str(steps[0].get("model") or ""),
        later=tuple(dict.fromkeys(str(step["operator"]) for step in steps[1:])),
        changed=changed,
        thumbnails=_thumbnails(dataset, entry.id),
        bytes=None,
        state=state,
    )


def _thumbnails(dataset: Dataset, dataset_id: str) -> tuple[str, ...]:
    """Some images that may be shown to anybody, of different prompts where there are."""
    parts = dataset.parts
    if not parts:
        return ()
    found: dict[str, str] = {}
    others: list[str] = []
    try:
        with parts[0].metadata.open("rb") as lines:
            for line in islice(lines, _LOOKED_AT):
                record = json.loads(line)
                name = _NAME.fullmatch(record["file_name"])
                if not name or is_unsafe(record):
                    continue
                image = thumbnail_url(dataset_id, f"{name[1]}-{name[2]}", str(record.get("sha256", "")))
                if found.setdefault(name[1], image) != image:
                    others.append(image)
                if len(found) == _THUMBNAILS:
                    break
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return tuple([*found.values(), *others][:_THUMBNAILS])


def bytes_of(folder: Path) -> int:
    """The bytes of all files of a dataset; parts that have not changed are not looked at again."""
    stamp = _stamp(folder)
    with _one_size:
        total = sum(_own_bytes(inner) for inner in (folder, folder / ".imagemill", folder / "images"))
        for place, inner in ((folder / "images", False), (folder / ".imagemill", True)):
            for part in _folders(place):
                total += sum(map(_own_bytes, [part, *_folders(part)])) if inner else _part_bytes(part)
        _totals[folder] = stamp, total
        while len(_totals) > _KEPT:
            _totals.popitem(last=False)
        return total


def _known_bytes(folder: Path) -> int | None:
    known = _totals.get(folder)
    return known[1] if known and known[0] == _stamp(folder) else None


def _part_bytes(part: Path) -> int:
    changed = _mark(part)[0]
    known = _sizes.get(part)
    if known and known[0] == changed:
        return known[1]
    total = _own_bytes(part)
    _sizes[part] = changed, total
    while len(_sizes) > 50 * _KEPT:
        _sizes.popitem(last=False)
    return total


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _own_bytes(folder: Path) -> int:
    """Of the files that lie in a folder itself."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:
        pass
    return total
