"""Foreign pictures become a dataset: each column settled over all of them, written part by part."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from imagemill.dataset.card import AS_RECEIVED, write_card
from imagemill.dataset.files import encode_lines, make_folder, sync_folder, write_file
from imagemill.dataset.folder import FORMAT, Dataset
from imagemill.dataset.sources import Sources
from imagemill.environment import cores
from imagemill.errors import ImagemillError, UsageError
from imagemill.images import open_image
from imagemill.layouts.base import Loaded, renamed
from imagemill.making.adopting import Columns, Found, Piece, adopt, beside
from imagemill.making.surveying import GROUP, Journal, Progress, Survey, ahead, as_png
from imagemill.plan import PART_SIZE
from imagemill.records import Record, files_of, order_of

JOURNALS = ".imagemill/import"
"""The folder in which each split has its journal."""
STEP: Mapping[str, Any] = {
    "operator": "import",
    "model": "",
    "model_revision": "",
    "license": "unknown",
    "seed": 0,
    "image_format": AS_RECEIVED,
    "metadata": False,
    "mark": False,
    "model_parameters": {},
    "batch_sizes": {},
}
"""What the job says of the images where nobody made them."""


@dataclass(slots=True)
class Settled:
    """How the records of all splits come out."""

    columns: Columns
    restored: bool
    """Whether they are records of ours, and stay what they are."""

    def records(self, journal: Journal) -> Iterator[tuple[Found, Record, dict[str, str]]]:
        """The pictures of a split that are taken in, each with its record and the names of its files there."""
        for piece, found in _pieces(journal):
            if self.restored:
                names = {name: PurePosixPath(name).name for name in found.files}
                record = renamed(found.record, lambda name: PurePosixPath(name).name)
                yield found, self.columns.timed(record, piece), names
                continue
            names = _names(found)
            files = {
                column: names[given] if isinstance(given, str) else [names[name] for name in given]
                for column, given in beside(found).items()
            }
            main = names[found.record["file_name"]]
            record = {"file_name": main, **self.columns.settled(self.columns.timed(adopt(found), piece), files)}
            yield found, record, names


def settle(journals: Iterable[Journal]) -> Settled:
    """Settle the columns of all splits, so that each has one type everywhere."""
    journals = list(journals)
    restored = Columns()
    ordered = True
    for journal in journals:
        last = (-1, -1)
        for piece, found in _pieces(journal):
            if not ordered:
                break
            ordered = found.whole and (order := order_of(PurePosixPath(found.record["file_name"]).name)) > last
            if ordered:
                last = order
                restored.add({**found.record, "file_name": ""}, piece=piece)
    if ordered and restored.plain:
        return Settled(restored, restored=True)
    columns = Columns()
    for journal in journals:
        for piece, found in _pieces(journal):
            columns.add(adopt(found), beside(found), piece)
    return Settled(columns, restored=False)


def _pieces(journal: Journal) -> Iterator[tuple[Piece, Found]]:
    """The pictures of a split that are taken in, each with where its record is written."""
    taken = (found for found in journal if not found.reason)
    for number, found in enumerate(taken):
        yield (journal.path.stem, number // PART_SIZE), found


def _names(found: Found) -> dict[str, str]:
    """What the files of a picture are called in the dataset, by what the source calls them."""
    base = f"prompt_{found.place}_image_0"
    main = found.record["file_name"]
    names = {main: f"{base}.{found.files[main][1]}"}
    masks = beside(found).get("mask_file_name")
    inputs = 0
    for name, (_, extension, _) in found.files.items():
        if name == masks and name != main:
            names[name] = f"{base}_mask.{extension}"
        elif name != main:
            names[name] = f"{base}_input_{inputs}.{extension}"
            inputs += 1
    return names


def job_of(
    table: str, license_id: str, survey: Survey, settled: Settled, steps: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """The job of a split, with what tells which of its columns are numbers that may be absent."""
    steps = list(steps)
    told = {name for step in steps for name in step.get("scores", ())}
    scores = {name: "a number, where there is one" for name in settled.columns.scores if name not in told}
    more = [{"operator": "import", "scores": scores}] if scores else []
    rows = survey.rows or survey.taken
    return {
        "format": FORMAT,
        "input": {"table": table, "sha256": survey.sha256},
        "steps": [{**STEP, "license": license_id, "restored": settled.restored}, *steps, *more],
        "plan": {"rows_read": rows + len(survey.rejects), "rows_accepted": rows, "requests": survey.taken},
    }


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a dataset all of whose parts are sealed."""
    if not (folder / "job.toml").is_file():
        return False
    dataset = Dataset(folder)
    # Pictures may have been removed since, also all of a part.
    return len(dataset.seals) == -(-int(dataset.job["plan"]["requests"]) // PART_SIZE)


def check_same(folder: Path, sha256: str, name: str) -> None:
    """Raise UsageError where a folder holds something else than this source."""
    if not (folder / "job.toml").is_file():
        return
    job = Dataset(folder).job
    if job["steps"][0]["operator"] != "import" or "sha256" not in job["input"]:
        raise UsageError(f"`{folder}` holds a dataset that was not imported", "choose another output folder")
    if job["input"]["sha256"] != sha256:
        raise UsageError(
            f"`{folder}` was imported from something else, or `{name}` has changed since",
            "choose another output folder, or delete it",
        )


def write_dataset(
    folder: Path, job: Mapping[str, Any], survey: Survey, records: Iterable[tuple[Found, Record, dict[str, str]]],
    entries: Iterable[Loaded], written: Progress | None = None,
) -> None:  # fmt: skip
    """Write what is not written yet; sealed parts stay. Raises ImagemillError when the source changes meanwhile."""
    make_folder(folder / ".imagemill")
    Dataset.write_rejects(folder, survey.rejects)
    if not (folder / "job.toml").is_file():
        Dataset.write_job(folder, job)
    dataset = Dataset(folder)
    dataset.recover()
    wanted = iter(records)
    numbered = enumerate(entries)
    done = 0
    removed = dataset.removed.keys()
    with ThreadPoolExecutor(min(8, 2 * cores()), "imagemill-import") as pool:
        for number in range(1, -(-survey.taken // PART_SIZE) + 1):
            part = dataset.part(number)
            group = list(islice(wanted, PART_SIZE))
            if not part.sealed and part.complete:
                # Something else has begun to change it.
                part.seal()
            sealed = part.sealed
            group = [one for one in group if Path(one[1]["file_name"]).stem not in removed]
            if not sealed:
                make_folder(part.folder)
            writing = ahead(
                pool,
                ((part.folder, found, names, _entry(numbered, found), sealed) for found, _, names in group),
                lambda task: None if task[-1] else _write(*task[:-1]),
            )
            for _ in writing:
                done += 1
                if written and done % GROUP == 0:
                    written(done)
            if not sealed:
                _seal(dataset, number, [record for _, record, _ in group])
    if (folder / "images").is_dir():
        sync_folder(folder / "images")
    write_card(dataset)


def _seal(dataset: Dataset, number: int, records: list[Record]) -> None:
    part = dataset.part(number)
    sync_folder(part.folder)
    kept = Sources(dataset.folder)
    adopted = False
    for record in records:
        wanted = {*record.get("source_sha256", ()), record.get("mask_sha256")} if "source_sha256" in record else set()
        for name in files_of(record) if wanted else ():
            path = part.folder / name
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            if sha256 in wanted:
                kept.adopt(path, sha256)
                adopted = True
    if adopted:
        sync_folder(kept.folder)
    write_file(part.metadata, encode_lines(records))
    part.seal()


def _entry(numbered: Iterator[tuple[int, Loaded]], found: Found) -> Loaded:
    """The entry of the source at the place of a picture."""
    for place, entry in numbered:
        if place == found.place:
            return entry
    raise _changed(found)


def _write(folder: Path, found: Found, names: Mapping[str, str], entry: Loaded) -> None:
    for name, (sha256, _, changed) in found.files.items():
        try:
            data = entry.files[name]
            data = as_png(open_image(data)) if changed else data
        except (KeyError, OSError, ValueError):
            raise _changed(found) from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _changed(found)
        write_file(folder / names[name], data, durable_name=False)


def _changed(found: Found) -> ImagemillError:
    return ImagemillError(
        f"`{found.where}` has changed while it was imported", "choose another output folder, or bring it back"
    )
