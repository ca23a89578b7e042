"""Every promise of a dataset, checked again."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from imagemill.dataset.applying import marker_of
from imagemill.dataset.card import AS_RECEIVED, render_card, write_card
from imagemill.dataset.edits.log import path_of
from imagemill.dataset.files import encode_lines, parse_lines, write_file
from imagemill.dataset.folder import Dataset, Part
from imagemill.dataset.removal import removal_of
from imagemill.dataset.sources import Sources, is_whole, may_lack
from imagemill.images import embedded_recipe, open_image
from imagemill.plan import PART_SIZE
from imagemill.records import NO_SEED, RECORD_KEYS, SEED_LIMIT, files_of, order_of


def verify(dataset: Dataset, reader: bool = True) -> list[str]:
    """Return what is wrong with a dataset, a line each; an empty list when every promise holds.

    With `reader`, also loads it with `datasets.load_dataset` where that is installed and nobody writes the dataset.
    """
    finished = dataset.counts().pending == 0
    removed = dataset.removed.keys()
    problems = list(_counts(dataset, removed))
    seen: set[str] = set()
    types: dict[str, type] = {}
    sources: dict[str, str] = {}
    for part in dataset.parts:
        problems += _part(part, seen, types, sources)
        if finished and not part.sealed:
            problems.append(f"{part.name} is complete and not sealed; the command that made it seals it")
    problems += [f"{name} was removed and is there" for name in sorted(seen) if Path(name).stem in removed]
    # While images are still to be made, files of a crash and an older card are what the next run clears up.
    if finished and _text(dataset.folder / "README.md") != render_card(dataset):
        problems.append("README.md does not tell how the dataset stands now")
    # One image of more to come is not yet the most frequent kind of file.
    loadable = len(seen) > 1 or (finished and seen)
    if reader and not problems and loadable and not dataset.writer and importlib.util.find_spec("datasets"):
        problems += _load(dataset, len(seen))
    return problems


def repair(dataset: Dataset) -> int:
    """Give up damaged records, and those whose image is absent or another one, for the next run to make it again.

    Returns how many. Raises LockedError.
    """
    lost = 0
    with dataset.lock():
        Sources(dataset.folder).give_up_damaged()
        for part in dataset.parts:
            lines = [record for record, _ in parse_lines(part.metadata)]
            whole = [record for record in lines if record is not None and _all_whole(part, record)]
            if len(whole) < len(lines):
                lost += len(lines) - len(whole)
                part.unseal()
                write_file(part.metadata, encode_lines(whole))
                part.recover()
        write_card(dataset)
    return lost


def _all_whole(part: Part, record: dict[str, Any]) -> bool:
    """Whether the image and what stands beside it are what the record says."""
    image, *beside = files_of(record)
    known = [*record.get("source_sha256", ()), record.get("mask_sha256", "")]
    return is_whole(part.folder / image, record["sha256"]) and all(
        any(is_whole(part.folder / name, sha256) for sha256 in known) for name in beside
    )


def _counts(dataset: Dataset, removed: Set[str]) -> Iterator[str]:
    counts = dataset.counts()
    if counts.pending < 0:
        failed = sum(counts.failed.values())
        ended = f"{counts.done} images, {failed} failures and {counts.removed} removed"
        yield f"{ended} are more than {counts.requests} requests"
    rejects = len(dataset.rejects())
    if rejects != counts.rows_rejected:
        yield f"rejects.jsonl has {rejects} rows and job.toml says {counts.rows_rejected}"
    if removal_of(dataset):
        yield "a removal was interrupted; the next command that writes the dataset goes through with it"
    yield from (f"{name} was removed and stands in failures.jsonl" for name in dataset.failures().keys() & removed)
    if marker_of(dataset.folder).exists():
        yield "the applying of edits was interrupted; the next command that writes the dataset goes through with it"
    files = (dataset.seals_file, dataset.failures_file, dataset.rejects_file, dataset.events_file)
    for path in (*files, path_of(dataset.folder)):
        damaged = sum(value is None for value, _ in parse_lines(path))
        if damaged:
            yield f"{path.name}: {damaged} damaged lines"
    for name in dataset.seals:
        if not (dataset.folder / "images" / name).is_dir() and dataset.seals[name]["records"]:
            yield f"{name} is sealed and absent"


def _part(part: Part, seen: set[str], types: dict[str, type], sources: dict[str, str]) -> Iterator[str]:
    parsed = parse_lines(part.metadata)
    records = [record for record, _ in parsed if record is not None]
    for number, (record, _) in enumerate(parsed, start=1):
        if record is None:
            yield f"{part.name}/metadata.jsonl line {number}: not a JSON object"
    if len(records) > PART_SIZE:
        yield f"{part.name} has {len(records)} records, more than {PART_SIZE}"
    if part.sealed:
        content = part.metadata.read_bytes() if part.metadata.exists() else b""
        if hashlib.sha256(content).hexdigest() != part.dataset.seals[part.name]["sha256"]:
            yield f"{part.name}/metadata.jsonl was changed after it was sealed"
    names = set()
    for record in records:
        name = record.get("file_name", "")
        if name in seen:
            yield f"{part.name}/{name} has more than one record"
        seen.add(name)
        files = files_of(record)
        names.update(files)
        for file in files[1:]:
            if not (part.folder / file).is_file():
                yield f"{part.name}/{name}: its {file} is absent"
        for problem in _record(part, record, types):
            yield f"{part.name}/{name}: {problem}"
    for path in part.folder.iterdir() if part.sealed else ():
        if path.name not in names and path.name != "metadata.jsonl" and not path.name.startswith("."):
            yield f"{part.name}/{path.name} has no record"
    yield from _sources(part, records, sources)


def _sources(part: Part, records: list[dict[str, Any]], seen: dict[str, str]) -> Iterator[str]:
    """Check the pictures that images were made from: those kept to make them again, and those beside an edit."""
    kept = Sources(part.dataset.folder)
    lacking = may_lack(part.dataset.job)
    for record in records:
        hashes = record.get("source_sha256")
        if not isinstance(hashes, list):
            continue
        hashes += [record["mask_sha256"]] if "mask_sha256" in record else []
        for sha256 in hashes:
            path = kept.path(sha256)
            if sha256 not in seen:
                fine = is_whole(path, sha256) or (lacking and not path.exists())
                seen[sha256] = "" if fine else f"the source {path.name} is absent or another one"
            if seen[sha256]:
                yield f"{part.name}/{record.get('file_name')}: {seen[sha256]}"
        beside = [name for name in files_of(record)[1:] if (part.folder / name).is_file()]
        for name in beside:
            if hashlib.sha256((part.folder / name).read_bytes()).hexdigest() not in hashes:
                yield f"{part.name}/{name} is not the picture that was edited (sha256)"


def _record(part: Part, record: dict[str, Any], types: dict[str, type]) -> Iterator[str]:
    try:
        order_of(str(record.get("file_name")))
    except ValueError as error:
        yield str(error)
        return
    missing = [key for key in RECORD_KEYS if key not in record]
    if missing:
        yield f"the record lacks {', '.join(missing)}"
        return
    if types and types.keys() != record.keys():
        yield f"the columns differ from the first record's: {', '.join(sorted(types.keys() ^ record.keys()))}"
    for key, value in record.items():
        if value is None:
            # A score that there is none of.
            types.setdefault(key, type(value))
        elif types.get(key, type(None)) is type(None):
            types[key] = type(value)
        elif types[key] is not type(value):
            yield f"`{key}` is a {type(value).__name__}, elsewhere a {types[key].__name__}"
        if isinstance(value, float) and not math.isfinite(value):
            yield f"`{key}` is {value}"
    if not isinstance(record["seed"], int) or not NO_SEED <= record["seed"] < SEED_LIMIT:
        yield f"the seed is {record['seed']!r}, not a whole number below 2^32, nor {NO_SEED} for none"
    path = part.folder / record["file_name"]
    if not path.is_file():
        yield "the file is absent"
        return
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        yield "the file is not the one that was made (sha256)"
    try:
        image = open_image(data)
    except ValueError as error:
        yield str(error)
        return
    if image.size != (record["width"], record["height"]):
        yield f"the image has {image.width}×{image.height} pixels, the record {record['width']}×{record['height']}"
    if {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}.get(path.suffix[1:]) != image.format:
        yield f"the file is a {image.format}"
    # Files that are kept as they came may carry the recipe of the server.
    ours = part.dataset.job["steps"][0]["image_format"] != AS_RECEIVED
    recipe = embedded_recipe(image) if ours and not record.get("original") else None
    if recipe is not None and not recipe.pop("truncated", False):
        # A merge may have left out columns.
        wrong = [key for key, value in recipe.items() if record.get(key, value) != value]
        if "id" in wrong and str(record["id"]).endswith(f":{recipe['id']}"):
            # The name of its dataset stands before it since a merge.
            wrong.remove("id")
        if wrong:
            yield f"the recipe in the file differs from the record: {', '.join(wrong)}"


def _load(dataset: Dataset, expected: int) -> Iterator[str]:
    """Load the dataset as its users will, through its card and into a cache of its own."""
    import tempfile

    import datasets

    quiet = not datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as cache:
            loaded = datasets.load_dataset(str(dataset.folder.resolve()), cache_dir=cache)
            if list(loaded) != ["train"]:
                yield f"load_dataset finds the splits {', '.join(loaded)}"
                return
            train = loaded["train"]
            if len(train) != expected:
                yield f"load_dataset finds {len(train)} images of {expected}"
            columns = {_loaded_name(name) for name in next(iter(dataset))}
            if set(train.column_names) != columns:
                yield f"load_dataset finds other columns: {', '.join(sorted(set(train.column_names) ^ columns))}"
            for position in {0, len(train) - 1}:
                train[position]["image"].load()
            del train, loaded
    except Exception as error:  # noqa: BLE001 - whatever the reader says is the finding
        yield f"load_dataset fails: {type(error).__name__}: {error}"
    finally:
        if not quiet:
            datasets.enable_progress_bars()


def _loaded_name(name: str) -> str:
    """What `load_dataset` calls a column: those of files are images."""
    if name == "file_name":
        return "image"
    return re.sub(r"_file_names?$", "", name)


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
