"""A smaller dataset by hard links: built beside its place, and there as a whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.card import write_card
from imagemill.dataset.columns import PART, fingerprint
from imagemill.dataset.edits import Edits
from imagemill.dataset.edits.images import key_of_name
from imagemill.dataset.edits.log import write_adopted
from imagemill.dataset.edits.overlay import Overlay, overlay_of
from imagemill.dataset.files import encode_lines, explained, make_folder, parse_lines, sync_folder, write_file
from imagemill.dataset.folder import Dataset, seal_of
from imagemill.dataset.lock import locked
from imagemill.dataset.sources import Sources, may_lack
from imagemill.dataset.splits import write_above
from imagemill.dataset.vectors import Vectors
from imagemill.errors import ImagemillError, LockedError, UsageError
from imagemill.expressions import Cause
from imagemill.plan import PART_SIZE
from imagemill.records import Record, files_of, order_of, to_json

if TYPE_CHECKING:
    import pyarrow as pa

_LEFT_OUT = "left_out.jsonl"


@dataclass(frozen=True, slots=True)
class Image:
    """One image to be written."""

    source: Source
    part: int
    """The number of its part there."""
    name: str
    """Of its file there, without extension."""
    record: Record
    """As it is written."""
    line: bytes
    """The same, without the end of the line."""
    files: Mapping[str, str]
    """The files that the record names, with their names there."""


class Source:
    """What is read of a dataset that images come from, a few parts at a time."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.records = lru_cache(4)(self._records)
        self.vectors = lru_cache(4)(self._vectors)
        folder = dataset.folder / ".imagemill" / "vectors"
        self.vector_columns = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def _records(self, number: int) -> dict[str, tuple[Record, bytes]]:
        """The records of a part by the names of their files, with their lines."""
        parsed = parse_lines(self.dataset.part(number).metadata)
        return {record["file_name"]: (record, line) for record, line in parsed if record is not None}

    def _vectors(self, column: str, number: int) -> dict[str, Any]:
        names, vectors = Vectors(self.dataset.folder, column).read(self.dataset.part(number).name)
        return dict(zip(names, vectors, strict=True))


def write_selection(
    dataset: Dataset,
    table: pa.Table,
    kept: Mapping[str, Sequence[int]],
    causes: Sequence[Cause | None],
    steps: Mapping[str, Sequence[Mapping[str, Any]]],
    folder: Path,
    overlay: Overlay | None = None,
) -> None:
    """Write the kept images of a table, or those of each split by its name, as datasets; `""` is the folder itself.

    `steps` are those of each one's job, the last of which is the selection.
    Raises ImagemillError when the source changes meanwhile, LockedError when another process writes the same.
    """
    step = next(iter(steps.values()))[-1]
    with built_beside(folder, [(dataset, step["source_sha256"])], is_dataset="" in kept) as new:
        kinds = {}
        for name, places in kept.items():
            target = new / name
            images = _selected(Source(dataset), table.take(places), overlay)
            kinds[name] = write_dataset(images, {**dataset.job, "steps": list(steps[name])}, target)
            _write_left_out(target / ".imagemill" / _LEFT_OUT, table, causes)
            _write_decided(target, table.take(places), overlay or _standing(dataset))
        if "" not in kept:
            write_above(new, dataset, step, kept, kinds)


@contextmanager
def built_beside(folder: Path, sources: Iterable[tuple[Dataset, str]], is_dataset: bool = True) -> Iterator[Path]:
    """Yield a folder that becomes `folder` when all goes well, and else is gone.

    `sources` are read meanwhile, and still have these fingerprints in the end; what is no dataset keeps no state of its
    own. Raises ImagemillError when one of them, or the folder, was changed, and LockedError.
    """
    new = folder.with_name(f".{folder.name}.tmp")
    for dataset, _ in (sources := list(sources)):
        if writer := dataset.writer:
            raise LockedError(
                f"`{dataset.folder}` is being written by {writer}", "wait until it has finished, or stop it"
            )
    with locked(new):
        try:
            if folder.is_dir() and any(folder.iterdir()):
                raise ImagemillError(f"`{folder}` was written meanwhile", "give the same command again")
            # What a killed process has left behind.
            _clear(new)
            yield new
            for dataset, before in sources:
                if before != fingerprint(dataset):
                    raise ImagemillError(f"`{dataset.folder}` was changed meanwhile", "give the same command again")
            with explained(folder):
                new.rename(folder)
                if not is_dataset:
                    # Only now: the lock in it has kept others away.
                    shutil.rmtree(folder / ".imagemill")
            sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise


def _selected(source: Source, table: pa.Table, overlay: Overlay | None) -> Iterator[Image]:
    for name, number in _rows(table, "file_name", PART):
        record, line = source.records(number)[name]
        if overlay and (values := overlay.values(record)):
            record = {**record, **values}
            line = to_json(record).encode()
        yield Image(source, number, Path(name).stem, record, line, {file: file for file in files_of(record)})


def _standing(dataset: Dataset) -> Overlay:
    """What was applied to a dataset, without what is pending."""
    return overlay_of(dataset, replace(Edits(dataset.folder).state(), pending={}), with_decisions=False)


def _write_decided(folder: Path, table: pa.Table, overlay: Overlay) -> None:
    """What was decided stands in the records: so the new dataset's log begins with it, and nothing is pending."""
    if not overlay.state.known:
        return
    keys = (key_of_name(name) for (name,) in _rows(table, "file_name"))
    known = {key: value for key in keys if (value := overlay.decided_of(key)) is not None}
    write_adopted(folder, known)


def write_dataset(images: Iterable[Image], job: Mapping[str, Any], folder: Path) -> set[str]:
    """Write images as a dataset, by hard links, in parts of their own; returns the kinds of its files.

    `job` is what `job.toml` will say, but for `plan`, which follows from the images.
    """
    make_folder(folder / ".imagemill")
    seals: list[dict[str, Any]] = []
    kinds: set[str] = set()
    rows: set[int] = set()
    count = 0
    pictures: defaultdict[Path, set[str]] = defaultdict(set)
    environments: dict[Path, None] = {}
    waiting = iter(images)
    while group := list(islice(waiting, PART_SIZE)):
        part = f"part-{len(seals) + 1:06d}"
        beside = folder / "images" / part
        make_folder(beside)
        vectors: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for image in group:
            source, record, place = image.source, image.record, image.source.dataset.folder
            stem = Path(record["file_name"]).stem
            for after, before in image.files.items():
                _link(source.dataset.part(image.part).path(before), beside / after)
                kinds.add(Path(after).suffix)
            pictures[place].update(record.get("source_sha256", ()))
            pictures[place].update({record["mask_sha256"]} if "mask_sha256" in record else ())
            environments[place] = None
            rows.add(order_of(stem)[0])
            for column in source.vector_columns:
                vector = source.vectors(column, image.part).get(image.name)
                # Files may still hold the vector of an image that was there before.
                if vector is not None and record.get(column):
                    vectors[column][stem] = vector
        count += len(group)
        content = b"".join(image.line + b"\n" for image in group)
        write_file(beside / "metadata.jsonl", content)
        seals.append({"part": part, "sealed": True, **seal_of([image.record for image in group], content)})
        for column, found in vectors.items():
            Vectors(folder, column).write(part, found)
    sync_folder(folder / "images")
    state = folder / ".imagemill"
    if (state / "vectors").is_dir():
        sync_folder(state / "vectors")
    for place, hashes in pictures.items():
        _link_sources(place, hashes, folder)
    _write_environments([Dataset(place).environment_file for place in environments], state / "environment.json")
    write_file(state / "seals.jsonl", encode_lines(seals))
    write_file(state / "rejects.jsonl", b"")
    plan = {"rows_read": len(rows), "rows_accepted": len(rows), "requests": count}
    Dataset.write_job(folder, {**job, "plan": plan})
    write_card(Dataset(folder))
    return kinds


def _write_environments(paths: Sequence[Path], target: Path) -> None:
    """Where the images were made: in all environments of their sources."""
    there = [path for path in paths if path.is_file()]
    if len(there) == 1:
        _link(there[0], target)
    elif there:
        entries = [entry for path in there for entry in json.loads(path.read_bytes())["environments"]]
        unlike = [entry for place, entry in enumerate(entries) if entry not in entries[:place]]
        write_file(target, (json.dumps({"environments": unlike}, indent=1) + "\n").encode())


def _link_sources(place: Path, hashes: set[str], folder: Path) -> None:
    """The pictures that images were made from."""
    if not hashes:
        return
    kept = Sources(folder)
    make_folder(kept.folder)
    lacking = may_lack(Dataset(place).job)
    for sha256 in sorted(hashes):
        path = Sources(place).path(sha256)
        if path.exists() or not lacking:
            _link(path, kept.folder / path.name)
    sync_folder(kept.folder)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system cannot."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise UsageError(f"`{source}` is absent", "`imagemill verify` tells what else is wrong") from None
    except OSError:
        write_file(target, source.read_bytes(), durable_name=False)


def _write_left_out(path: Path, table: pa.Table, causes: Sequence[Cause | None]) -> None:
    """What is left out, with its reason, a line each."""
    lines = (
        {"file_name": name, "part": part, "id": identity, "reason": cause.kind, "figure": cause.text}
        for (name, part, identity), cause in zip(_rows(table, "file_name", PART, "id"), causes, strict=True)
        if cause
    )
    with explained(path), path.open("wb") as file:
        while group := list(islice(lines, PART_SIZE)):
            file.write(encode_lines(group))
        file.flush()
        os.fsync(file.fileno())


def _rows(table: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    """The values of some columns, row by row."""
    for batch in table.select(names).to_batches(max_chunksize=PART_SIZE):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == ".imagemill":
            for inner in path.iterdir():
                if inner.name != "lock":
                    shutil.rmtree(inner) if inner.is_dir() else inner.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
