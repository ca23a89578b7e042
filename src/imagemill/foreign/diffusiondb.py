"""DiffusionDB: what its files are called and say, and reading parts that anyone may have written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.errors import UsageError
from imagemill.foreign.trees import Lazy, Tree
from imagemill.layouts.base import Loaded
from imagemill.records import Record

if TYPE_CHECKING:
    import pyarrow as pa

PART_SIZE = 1_000
"""Images in a part."""
SAMPLERS = {
    "ddim": (1, "ddim"),
    "plms": (2, "plms"),
    "euler": (3, "k_euler"),
    "euler_ancestral": (4, "k_euler_ancestral"),
    "heun": (5, "k_heun"),
    "dpm_2": (6, "k_dpm_2"),
    "dpm_2_ancestral": (7, "k_dpm_2_ancestral"),
    "lms": (8, "k_lms"),
}
"""Schedulers as the table and the JSON files of parts say them; all others are `OTHERS`."""

OTHERS = (9, "others")
SCHEDULERS = {said: name for name, both in {**SAMPLERS, "": OTHERS}.items() for said in both}
TABLES = ("metadata.parquet", "metadata-large.parquet")
"""The tables of the usual and of the large layout."""
EXTRA_TABLE = "metadata-extra.parquet"
"""Ours: the whole records, row by row beside a table's."""
OTHER_PICTURES = "images-extra"
"""The folder of pictures beside the images."""
_DIRECTORY = 10_000
"""Parts in the first directory of the large layout."""
_TEXT_BYTES = 1 << 30
"""Bytes that the JSON file of a part may have."""
KEYS = {
    "prompt": "prompt",
    "seed": "seed",
    "step": "num_inference_steps",
    "cfg": "guidance_scale",
    "sampler": "scheduler",
    "width": "width",
    "height": "height",
    "image_nsfw": "image_nsfw",
    "prompt_nsfw": "prompt_nsfw",
    "p": "prompt",
    "se": "seed",
    "c": "guidance_scale",
    "st": "num_inference_steps",
    "sa": "scheduler",
}
"""What the columns of the table, and the keys of the parts' JSON files, are called in a record."""


def part_name(number: int, large: bool) -> str:
    """Where a part lies, without `.zip`."""
    directory = f"diffusiondb-large-part-{1 if number <= _DIRECTORY else 2}" if large else "images"
    return f"{directory}/part-{number:06d}"


def columns() -> pa.Schema:
    """The columns of `metadata.parquet`."""
    import pyarrow as pa

    return pa.schema(
        [
            ("image_name", pa.string()),
            ("prompt", pa.string()),
            ("part_id", pa.uint16()),
            ("seed", pa.uint32()),
            ("step", pa.uint16()),
            ("cfg", pa.float32()),
            ("sampler", pa.uint8()),
            ("width", pa.uint16()),
            ("height", pa.uint16()),
            ("user_name", pa.string()),
            ("timestamp", pa.timestamp("us", "UTC")),
            ("image_nsfw", pa.float32()),
            ("prompt_nsfw", pa.float32()),
        ]
    )


def read_foreign(folder: Path) -> Iterator[Loaded]:
    """Read what others have written in this layout: the parts that are there, as folders or archives, in their order.

    Records have the keys of the parts' JSON files and those columns of the tables, where there are any, that hold
    something, by the names they have in records. An image that is not in its part comes without its file.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    tables = [ds.dataset(path) for path in map(folder.joinpath, TABLES) if path.is_file()]
    for part, place in parts_of(folder).items():
        wanted = ds.field("part_id") == int(part.removeprefix("part-"))
        try:
            rows = {row["image_name"]: row for one in tables for row in one.to_table(filter=wanted).to_pylist()}
            tree = Tree(place)
            entries = json.loads(tree.read(f"{part}.json", _TEXT_BYTES)).items()
        except (OSError, ValueError, KeyError, AttributeError, RecursionError, pa.ArrowException, UsageError) as error:
            said = error.message if isinstance(error, UsageError) else str(error)
            yield Loaded({"file_name": place.name}, {}, f"the part cannot be read: {said}")
            continue
        for name, entry in entries:
            files = Lazy({name: partial(tree.read, name)} if tree.has(name) else {})
            problem = tree.problems.get(name, "" if isinstance(entry, dict) else f"`{part}.json` has no object for it")
            yield Loaded(_foreign(name, rows.get(name, {}), {} if problem else entry), files, problem)
        named = {name for name, _ in entries}
        for name in tree.names:
            if name not in named and name.endswith((".png", ".webp", ".jpg")):
                yield Loaded({"file_name": name}, {}, f"`{part}.json` says nothing of it")


def parts_of(folder: Path) -> dict[str, Path]:
    """The parts in a folder, or in the folders in it, by their names, each a folder or a ZIP archive; or one alone."""
    if _is_part(folder):
        return {folder.resolve().stem: folder}
    found = [path for start in ("", "*/") for path in folder.glob(f"{start}part-[0-9]*")] if folder.is_dir() else []
    whole = (path for path in sorted(found, key=lambda path: path.stem) if path.suffix == ".zip" or _is_part(path))
    return {path.stem: path for path in whole if re.fullmatch(r"part-\d+", path.stem)}


def _is_part(path: Path) -> bool:
    """Whether something is a part with its JSON file."""
    name = path.resolve().stem
    if not re.fullmatch(r"part-\d+", name):
        return False
    if path.suffix != ".zip":
        return (path / f"{name}.json").is_file()
    try:
        return Tree(path).has(f"{name}.json")
    except (OSError, UsageError):
        return False


def _foreign(name: str, row: Mapping[str, Any], entry: Mapping[str, Any]) -> Record:
    record: Record = {"file_name": name}
    for key, value in {**row, **entry}.items():
        if value is not None and key not in {"image_name", "part_id"}:
            known = key in {"sampler", "sa"} and isinstance(value, int | str)
            record[KEYS.get(key, key)] = SCHEDULERS.get(value, value) if known else value
    if isinstance(time := record.get("timestamp"), datetime):
        record["timestamp"] = time.isoformat()
    return record
