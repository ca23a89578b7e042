"""A smaller dataset by hard links: built beside its place, and there as a whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.card import write_card
from imagemill.dataset.columns import PART, fingerprint
from imagemill.dataset.files import encode_lines, explained, make_folder, parse_lines, sync_folder, write_file
from imagemill.dataset.folder import Dataset, seal_of
from imagemill.dataset.lock import locked
from imagemill.dataset.sources import Sources
from imagemill.dataset.vectors import Vectors
from imagemill.errors import ImagemillError, UsageError
from imagemill.expressions import Cause
from imagemill.plan import PART_SIZE
from imagemill.records import Record, files_of, order_of
from imagemill.selecting.splits import write_above

if TYPE_CHECKING:
    import pyarrow as pa

_LEFT_OUT = "left_out.jsonl"


def write_selection(
    dataset: Dataset,
    table: pa.Table,
    kept: Mapping[str, Sequence[int]],
    causes: Sequence[Cause | None],
    steps: Mapping[str, Sequence[Mapping[str, Any]]],
    folder: Path,
) -> None:
    """Write the kept images of a table, or those of each split by its name, as datasets; `""` is the folder itself.

    `steps` are those of each one's job, the last of which is the selection.
    Raises ImagemillError when the source changes meanwhile, LockedError when another process writes the same.
    """
    new = folder.with_name(f".{folder.name}.tmp")
    with locked(new):
        try:
            if folder.is_dir() and any(folder.iterdir()):
                raise ImagemillError(f"`{folder}` was written meanwhile", "give the same command again")
            # What a killed process has left behind.
            _clear(new)
            seen = fingerprint(dataset)
            left_out = encode_lines(_left_out(table, causes))
            kinds = {}
            for name, places in kept.items():
                target = new / name
                kinds[name] = _write(_Source(dataset), table.take(places), steps[name], target)
                write_file(target / ".imagemill" / _LEFT_OUT, left_out)
            step = next(iter(steps.values()))[-1]
            if "" not in kept:
                write_above(new, dataset, step, kept, kinds)
            if seen != fingerprint(dataset) or seen != step["source_sha256"]:
                raise ImagemillError(f"`{dataset.folder}` was changed meanwhile", "give the same command again")
            with explained(folder):
                new.rename(folder)
                if "" not in kept:
                    # Only now: the lock in it has kept others away.
                    shutil.rmtree(folder / ".imagemill")
            sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise


class _Source:
    """What is read of the dataset that images come from, a few parts at a time."""

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


def _write(source: _Source, table: pa.Table, steps: Sequence[Mapping[str, Any]], folder: Path) -> set[str]:
    """Write one dataset; returns the kinds of its files."""
    names, numbers = table.column("file_name").to_pylist(), table.column(PART).to_pylist()
    make_folder(folder / ".imagemill")
    seals, sources, kinds = [], set(), set()
    for first in range(0, len(names), PART_SIZE):
        part = f"part-{first // PART_SIZE + 1:06d}"
        beside = folder / "images" / part
        make_folder(beside)
        records, lines = [], []
        vectors: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for name, number in zip(names[first : first + PART_SIZE], numbers[first : first + PART_SIZE], strict=True):
            record, line = source.records(number)[name]
            records.append(record)
            lines.append(line + b"\n")
            for file in files_of(record):
                _link(source.dataset.part(number).folder / file, beside / file)
                kinds.add(Path(file).suffix)
            sources.update(record.get("source_sha256", ()))
            sources.update({record["mask_sha256"]} if "mask_sha256" in record else ())
            for column in source.vector_columns:
                vector = source.vectors(column, number).get(Path(name).stem)
                # Files may still hold the vector of an image that was there before.
                if vector is not None and record.get(column):
                    vectors[column][Path(name).stem] = vector
        content = b"".join(lines)
        write_file(beside / "metadata.jsonl", content)
        seals.append({"part": part, "sealed": True, **seal_of(records, content)})
        for column, found in vectors.items():
            Vectors(folder, column).write(part, found)
    sync_folder(folder / "images")
    if (folder / ".imagemill" / "vectors").is_dir():
        sync_folder(folder / ".imagemill" / "vectors")
    _link_sources(source.dataset, sources, folder)
    state = folder / ".imagemill"
    if source.dataset.environment_file.is_file():
        _link(source.dataset.environment_file, state / "environment.json")
    write_file(state / "seals.jsonl", encode_lines(seals))
    write_file(state / "rejects.jsonl", b"")
    rows = len({order_of(name)[0] for name in names})
    plan = {"rows_read": rows, "rows_accepted": rows, "requests": len(names)}
    Dataset.write_job(folder, {**source.dataset.job, "steps": list(steps), "plan": plan})
    write_card(Dataset(folder))
    return kinds


def _link_sources(dataset: Dataset, hashes: set[str], folder: Path) -> None:
    """The pictures that images were made from."""
    if not hashes:
        return
    kept = Sources(folder)
    make_folder(kept.folder)
    for sha256 in sorted(hashes):
        path = Sources(dataset.folder).path(sha256)
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


def _left_out(table: pa.Table, causes: Sequence[Cause | None]) -> Iterator[dict[str, Any]]:
    columns = (table.column(name).to_pylist() for name in ("file_name", PART, "id"))
    for name, part, identity, cause in zip(*columns, causes, strict=True):
        if cause:
            yield {"file_name": name, "part": part, "id": identity, "reason": cause.kind, "figure": cause.text}


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
