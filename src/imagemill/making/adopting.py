"""What others tell of a picture becomes a record: known keys by our names, one type for each column."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import PurePath, PurePosixPath
from typing import Any

from imagemill.records import NO_SEED, RECORD_KEYS, SEED_LIMIT, Record, files_of, order_of, safe_column
from imagemill.tables.cells import check_characters, json_text

_KEYS = {
    "steps": "num_inference_steps",
    "step": "num_inference_steps",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "sampler": "scheduler",
    "sampler_name": "scheduler",
    "model_name": "model",
    "model_hash": "model_revision",
}
"""What others call keys of a record."""
_TEXTS = ("text", "caption", "edit_prompt")
"""Columns that are the prompt where nothing else is."""
_BLANK: Record = {
    "prompt": "",
    "negative_prompt": "",
    "id": "",
    "seed": NO_SEED,
    "width": 0,
    "height": 0,
    "num_inference_steps": 0,
    "guidance_scale": 0.0,
    "scheduler": "",
    "model": "",
    "model_revision": "",
    "model_parameters": "{}",
    "batch_size": 0,
    "sha256": "",
}
"""A record of which nothing is known."""
_BIGGEST = 2**63
"""Integers from here on are no integers to readers."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d)?)?(Z|[+-]\d\d(:?\d\d)?)?)?")
"""What readers of JSON take for a time; where they must not, datasets have a blank behind it."""
_K_DIFFUSION = re.compile(r"^k_(?=(euler|heun|dpm|lms))")
"""What some, DiffusionDB among them, write before the names of k-diffusion's samplers."""
_SEED_TEXT = "seed_str"

Piece = tuple[str, int]
"""A split and the number of the part in it: what readers of JSON guess types from."""


@dataclass(slots=True)
class Found:
    """One picture of a source, as far as it can be told without the others."""

    place: int
    """In the source, from 0; rejected ones are counted."""
    where: str
    """What the source calls it."""
    key: str = ""
    """A hash of all that the source has of it."""
    reason: str = ""
    """Why it cannot be taken in; empty where it can."""
    record: Record = field(default_factory=dict)
    """As the source has it."""
    said: Record = field(default_factory=dict)
    """What its own file tells."""
    files: dict[str, list[Any]] = field(default_factory=dict)
    """SHA-256 and extension of each file as it is to be written, and whether that is another than in the source."""
    size: tuple[int, int] = (0, 0)
    whole: bool = False
    """Whether it is a record of ours with the files that it was written with."""
    left_out: list[str] = field(default_factory=list)


def as_json(value: Any) -> Any:
    """A value as JSON has it: what is not finite is null; raises ValueError for bytes, and for what is no text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        check_characters(value)
        return value
    if isinstance(value, Mapping):
        return {as_json(str(key)): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        raise ValueError("bytes")
    return str(value)


def is_ours(record: Mapping[str, Any]) -> bool:
    """Whether it is a record as datasets of ours have it."""
    if not all(key in record for key in RECORD_KEYS):
        return False
    same = all(type(record[key]) is type(blank) for key, blank in _BLANK.items())
    try:
        names = files_of(dict(record))
        order_of(PurePosixPath(record["file_name"]).name)
    except (TypeError, ValueError):
        return False
    return same and all(isinstance(name, str) for name in names) and -1 <= record["seed"] < SEED_LIMIT


def adopt(found: Found) -> Record:
    """What is told of a picture by keys of the record, all of them, and other columns; names of files are not there.

    What a key cannot hold becomes a column of its own, and a seed that is too large a text.
    """
    known: Record = {}
    others: Record = {}
    for key, value in found.record.items():
        name = _KEYS.get(key, key)
        if key.endswith(("file_name", "file_names")) or (value is None and name in _BLANK):
            continue
        if name in _BLANK and name not in known and (fitting := _fitting(name, value)) is not None:
            known[name] = fitting
        else:
            others[_named(key, others)] = value
    for key, value in found.said.items():
        fitting = _fitting(key, value) if key in _BLANK else None
        if fitting is not None and key not in known:
            known[key] = fitting
        elif (fitting is None or fitting != known[key]) and others.get(key) != value:
            # Both are told: neither is lost.
            name = f"embedded_{key}" if key in known or key in others else key
            others[_named(name, others)] = value
    if "prompt" not in known:
        known["prompt"] = next((others[name] for name in _TEXTS if isinstance(others.get(name), str)), "")
    width, height = found.size
    facts = {"width": width, "height": height, "sha256": found.files[found.record["file_name"]][0]}
    for name, value in facts.items():
        if name in known and known[name] != value:
            others[_named(name, others)] = known[name]
    if "seed" in known and known["seed"] == NO_SEED:
        told = [given["seed"] for given in (found.record, found.said) if given.get("seed") is not None]
        if told and str(told[0]) != str(NO_SEED):
            others[_SEED_TEXT] = str(told[0])
    others = {"source_image": found.where, **others}
    return {**_BLANK, "id": str(found.place), **known, **facts, **others}


def beside(found: Found) -> dict[str, str | list[str]]:
    """The other pictures of a record: by the column that is to name them, what the source calls each."""
    columns: dict[str, str | list[str]] = {}
    for key, value in found.record.items():
        for end in ("file_name", "file_names"):
            if key.endswith(end) and key != "file_name":
                stem = key.removesuffix(end).rstrip("_")
                # Called like this, it would take the place of the picture itself.
                stem = f"other_{stem}".rstrip("_") if stem in {"", "image", "images", "label"} else stem
                columns[f"{stem}_{end}"] = value
    return columns


class Columns:
    """The columns of a whole source, each of one type, as they become known picture by picture."""

    def __init__(self) -> None:
        self.records = 0
        self.large_seeds = 0
        self._kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._repeated: Counter[str] = Counter()
        self._files: Counter[str] = Counter()
        self._pieces: defaultdict[Piece, Counter[str]] = defaultdict(Counter)
        """How many records each piece has, as `""`, and times in each column."""
        self._whole: dict[str, bool] = {}
        """Whether columns hold nothing but times, as far as anybody has asked."""
        self._all: list[str] | None = None
        """The columns of the first record, while all have the same."""

    def add(self, record: Record, files: Iterable[str] = (), piece: Piece = ("", 0)) -> None:
        """Note the columns and kinds of values of one record, and the columns with its other pictures."""
        names = list(record)
        self._all = names if not self.records else self._all if self._all == names else None
        self.records += 1
        self.large_seeds += bool(record.get(_SEED_TEXT)) and record["seed"] == NO_SEED
        self._whole.clear()
        times = self._pieces[piece]
        times[""] += 1
        for name, value in record.items():
            self._kinds[name][_kind(value)] += 1
            self._repeated[name] += _repeats(name, value, record)
            if isinstance(value, str) and _is_time(value):
                times[name] += 1
        self._files.update(list(files))

    @property
    def plain(self) -> bool:
        """Whether all records have the same columns, each of one type, as they are; numbers may be absent."""
        return self._all is not None and all(
            len(set(kinds) - {"null", "empty"}) <= 1 and ("null" not in kinds or set(kinds) <= {"null", "int", "float"})
            for kinds in self._kinds.values()
        )

    @property
    def scores(self) -> list[str]:
        """The columns of numbers, some of which are absent."""
        if self.plain:
            return [name for name, kinds in self._kinds.items() if "null" in kinds]
        return [name for name in self._settled() if self._type(name) == "number" and self._absent(name)]

    def timed(self, record: Record, piece: Piece) -> Record:
        """A record whose times are such that readers of JSON take them for texts where others in the column are.

        They guess by a whole piece: only where it has nothing but times they would fail at the next text, or change
        what is said.
        """
        times = self._pieces[piece]
        changed = {
            name: f"{value} "
            for name, value in record.items()
            if times[name] == times[""] and isinstance(value, str) and _is_time(value) and not self._all_times(name)
        }
        return {**record, **changed}

    def _all_times(self, name: str) -> bool:
        if name not in self._whole:
            self._whole[name] = all(times[name] == times[""] for times in self._pieces.values())
        return self._whole[name]

    def settled(self, record: Record, files: Mapping[str, Any]) -> Record:
        """A record with every column of the source, each value of the type that its column has."""
        settled = {name: record[name] for name in _BLANK}
        for column in self._files:
            names = files.get(column)
            if column.endswith("file_names") or self._files[column] == self.records:
                settled[column] = names if names is not None else []
            else:
                # Nobody can show a picture that is not there: a list may be empty.
                settled[f"{column}s"] = [names] if names is not None else []
        taken = {name.removesuffix("s").removesuffix("_file_name") for name in self._files}
        for name in self._settled():
            value = _as(self._type(name), record.get(name))
            settled[f"table_{name}" if name in taken else name] = value
        return settled

    def _settled(self) -> Iterator[str]:
        for name in self._kinds:
            if name not in _BLANK and not (name in _REPEATING and self._repeated[name] == self._kinds[name].total()):
                yield name

    def _absent(self, name: str) -> bool:
        kinds = self._kinds[name]
        return kinds.total() < self.records or "null" in kinds

    def _type(self, name: str) -> str:
        kinds = set(self._kinds[name]) - {"null"}
        if not kinds:
            return "text"
        if kinds == {"int"} and not self._absent(name):
            return "int"
        if kinds <= {"int", "float"}:
            return "number"
        if kinds in ({"bool"}, {"texts"}, {"ints"}, {"floats"}) and not self._absent(name):
            return next(iter(kinds))
        return "text"


_REPEATING = ("text", "caption", "size")
"""Columns that are left out where they only say again what the record says; trainers of edits read `edit_prompt`."""


def _repeats(name: str, value: Any, record: Record) -> bool:
    if name in _TEXTS:
        return bool(value == record["prompt"])
    return name == "size" and bool(value == f"{record['width']}x{record['height']}")


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _kind(value: Any) -> str:
    if isinstance(value, list):
        kinds = {_kind(item) for item in value}
        plural = {"text": "texts", "int": "ints", "float": "floats"}
        return (plural.get(next(iter(kinds)), "lists") if len(kinds) == 1 else "lists") if kinds else "empty"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _BIGGEST:
        return "large"
    return {type(None): "null", bool: "bool", int: "int", float: "float", str: "text"}.get(type(value), "objects")


def _as(kind: str, value: Any) -> Any:
    if kind == "number":
        return None if value is None else float(value)
    if kind != "text" or isinstance(value, str):
        return value
    return "" if value is None else json_text(value)


def _fitting(name: str, value: Any) -> Any:
    """A value as a key of the record has it; None where it cannot."""
    kind = type(_BLANK[name])
    if name == "id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if name == "seed":
        whole = _whole(value)
        return None if whole is None else whole if 0 <= whole < SEED_LIMIT else NO_SEED
    if name == "scheduler" and isinstance(value, str):
        return _K_DIFFUSION.sub("", value)
    if kind is str:
        return value if isinstance(value, str) and (value.strip() or name != "id") else None
    if kind is int:
        whole = _whole(value)
        return whole if whole is not None and 0 <= whole < _BIGGEST else None
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?\d{1,40}", value.strip(), re.ASCII) else None
    return value if isinstance(value, int) else None


def _named(key: str, taken: Mapping[str, Any]) -> str:
    """A name for a column that no reader takes for something else."""
    name = safe_column(key.strip() or "column")
    if name == "source_image":
        name = "table_source_image"
    while name in taken:
        name = f"table_{name}"
    return name


def shown(name: str | PurePath) -> str:
    """The name of a file as text, whatever its bytes are."""
    return str(name).encode(errors="surrogateescape").decode(errors="replace").replace("\0", "\ufffd")
