"""Several datasets as one: which columns its records have, what their rows are called, and how each was made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from imagemill.dataset.card import AS_RECEIVED, license_of
from imagemill.dataset.columns import fingerprint
from imagemill.dataset.files import parse_lines
from imagemill.dataset.folder import Dataset
from imagemill.dataset.journal import blanks_of
from imagemill.errors import UsageError, together
from imagemill.layouts.base import renamed
from imagemill.licenses import combined
from imagemill.records import RECORD_KEYS, SOURCE_KEYS, Record, files_of, order_of, to_json
from imagemill.selecting.writing import Image, Source

_TOLD = ("model", "model_revision", "model_parameters")
"""What says which model made images."""
_BLANK_KEYS = {"source_image", "captioner"}
"""What may be empty of the keys that tell of the pictures an image was made from."""


@dataclass(slots=True)
class Input:
    """What is known of a dataset that is merged."""

    dataset: Dataset
    name: str
    sha256: str
    job: dict[str, Any]
    images: int = 0
    rows: int = 0
    """One more than the position of its last row."""
    kinds: dict[str, str] = field(default_factory=dict)
    """The type of each column; empty where it has no value."""
    prompts: dict[str, set[str]] = field(default_factory=dict)
    """By the id of their row."""

    def filled(self, column: str) -> dict[str, Any] | None:
        """The step that has added a column."""
        return next((step for step in self.job["steps"][1:] if column in blanks_of(step)), None)


@dataclass(frozen=True, slots=True)
class Merging:
    """How datasets become one."""

    inputs: Sequence[Input]
    columns: Mapping[str, Any]
    """Those of the records, with the value for images without it; None also where there are none."""
    dropped: Sequence[str]
    ids: Sequence[Mapping[str, str]]
    """For each dataset the ids that are called otherwise."""
    steps: Sequence[dict[str, Any]]
    """Of the job, behind the merge itself."""

    def images(self) -> Iterator[Image]:
        """All images in the order of the datasets, as they are written."""
        offset = 0
        for own, ids in zip(self.inputs, self.ids, strict=True):
            source = Source(own.dataset)
            for part in own.dataset.parts:
                for record in sorted(part.records(), key=lambda record: order_of(record["file_name"])):
                    yield self._image(source, part.number, record, ids, offset)
            offset += own.rows

    def _image(self, source: Source, part: int, record: Record, ids: Mapping[str, str], offset: int) -> Image:
        merged = {name: record.get(name, blank) for name, blank in self.columns.items()}
        merged["id"] = ids.get(record["id"], record["id"])
        files = {_moved(file, offset): file for file in files_of(merged)}
        merged = renamed(merged, lambda file: _moved(file, offset))
        return Image(source, part, Path(record["file_name"]).stem, merged, to_json(merged).encode(), files)


def read_inputs(datasets: Sequence[Dataset]) -> list[Input]:
    """Look at the records of datasets; raises UsageError for one without any."""
    inputs: list[Input] = []
    for dataset in datasets:
        name = plain = dataset.folder.resolve().name
        number = 1
        while name in {own.name for own in inputs}:
            number += 1
            name = f"{plain}-{number}"
        own = Input(dataset, name, fingerprint(dataset), dataset.job)
        for record in _records(dataset):
            own.images += 1
            own.rows = max(own.rows, order_of(record["file_name"])[0] + 1)
            own.prompts.setdefault(record["id"], set()).add(record["prompt"])
            for column, value in record.items():
                if not own.kinds.get(column):
                    own.kinds[column] = _kind(value)
        if not own.images:
            raise UsageError(f"`{dataset.folder}` has no image yet", "leave it out, or generate some first")
        inputs.append(own)
    return inputs


def _records(dataset: Dataset) -> Iterator[Record]:
    """The records of a dataset; raises UsageError where some of them cannot be read."""
    for part in dataset.parts:
        for record, _ in parse_lines(part.metadata):
            if record is None:
                raise UsageError(f"`{part.metadata}` has damaged lines", "`imagemill verify` tells what is wrong")
            yield record


def merge_inputs(inputs: Sequence[Input], common: bool) -> Merging:
    """Settle columns, ids and steps; with `common`, columns that cannot be in all records are left out.

    Raises UsageError that names every column that stands in the way.
    """
    names = list(dict.fromkeys(name for own in inputs for name in own.kinds))
    columns, problems, dropped = {}, [], []
    for name in names:
        problem = _problem(name, inputs)
        if common and (problem or any(name not in own.kinds for own in inputs)) and name not in RECORD_KEYS:
            dropped.append(name)
        elif problem:
            problems.append(UsageError(f"merge: {problem}", "`--columns common` leaves such columns out"))
        else:
            columns[name] = _blank(name, inputs)
    if problems:
        raise together(problems)
    return Merging(inputs, columns, dropped, _ids(inputs), _steps(inputs, columns))


def merge_step(inputs: Sequence[Input]) -> dict[str, Any]:
    """The merge as the first step of a job: who made the images where one did, and how each dataset was made."""
    first = [own.job["steps"][0] for own in inputs]
    same = {name: value for name, value in first[0].items() if all(other.get(name) == value for other in first)}
    one_model = all(name in same for name in _TOLD)
    formats = dict.fromkeys(step["image_format"] for step in first)
    return {
        "operator": "merge",
        "model": same["model"] if one_model else "",
        "model_revision": same["model_revision"] if one_model else "",
        "license": combined(map(license_of, first)),
        "seed": same.get("seed", 0),
        # Of files that are kept as they came nobody expects what we write into others.
        "image_format": AS_RECEIVED if AS_RECEIVED in formats else ", ".join(formats),
        "metadata": all(step.get("metadata", False) for step in first),
        "mark": all(step.get("mark", False) for step in first),
        "model_parameters": same["model_parameters"] if one_model else {},
        "batch_sizes": {},
        "sources": [
            {"name": own.name, "sha256": own.sha256, "images": own.images, "steps": own.job["steps"]} for own in inputs
        ],
    }


def _problem(name: str, inputs: Sequence[Input]) -> str:
    """Why the records of the datasets cannot have a column together; empty when they can."""
    having = [own for own in inputs if name in own.kinds]
    kinds = {own.kinds[name]: own.name for own in having if own.kinds[name]}
    if len(kinds) > 1:
        said = " and ".join(f"{kind} in `{where}`" for kind, where in kinds.items())
        return f"the column `{name}` holds {said}"
    filled = [own.filled(name) for own in having]
    for one, other in pairwise(zip(having, filled, strict=True)):
        if one[1] != other[1]:
            return f"the column `{name}` was filled in another way in `{other[0].name}` than in `{one[0].name}`"
    if len(having) == len(inputs) or filled[0] is not None:
        return ""
    lacking = next(own.name for own in inputs if name not in own.kinds)
    of_sources = name in {*SOURCE_KEYS, "mask_sha256"} - _BLANK_KEYS
    if of_sources or name.endswith(("file_name", "file_names")) or {*kinds} - {"texts"}:
        return f"the column `{name}` ({next(iter(kinds), 'null')}) is in `{having[0].name}` and not in `{lacking}`"
    return ""


def _blank(name: str, inputs: Sequence[Input]) -> Any:
    """What images without a value of a column have there."""
    for own in inputs:
        if step := own.filled(name):
            return blanks_of(step)[name]
    return "" if any(own.kinds.get(name) == "texts" for own in inputs) else None


def _steps(inputs: Sequence[Input], columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps that have added columns, each once, with those of their columns that are left."""
    steps: list[dict[str, Any]] = []
    for step in (step for own in inputs for step in own.job["steps"][1:] if blanks_of(step)):
        told = {
            key: {name: value for name, value in step[key].items() if name in columns}
            for key in ("scores", "columns", "meanings")
            if key in step
        }
        left = {**step, **told}
        if blanks_of(left) and left not in steps:
            steps.append(left)
    return steps


def _ids(inputs: Sequence[Input]) -> list[dict[str, str]]:
    """Ids that mean different prompts in two datasets, with the name of their dataset before them."""
    unlike: set[str] = set()
    for place, own in enumerate(inputs):
        for other in inputs[:place]:
            for identity in own.prompts.keys() & other.prompts.keys():
                one, two = own.prompts[identity], other.prompts[identity]
                # Images of a row may be absent in one of them.
                if not (one <= two or two <= one):
                    unlike.add(identity)
    taken = {identity for own in inputs for identity in own.prompts} if unlike else set()
    found: list[dict[str, str]] = []
    for own in inputs:
        names = {}
        for identity in [identity for identity in own.prompts if identity in unlike]:
            name = f"{own.name}:{identity}"
            while name in taken:
                name = f"{own.name}:{name}"
            taken.add(name)
            names[identity] = name
        found.append(names)
    return found


def _moved(file: str, offset: int) -> str:
    """The name of a file of a row so many positions further on."""
    return re.sub(r"^prompt_(\d+)_", lambda found: f"prompt_{int(found[1]) + offset}_", file)


def _kind(value: object) -> str:
    """The type of a value, in words; empty for none."""
    if isinstance(value, list):
        return f"lists of {_kind(value[0])}" if value else ""
    return {str: "texts", bool: "yes or no", int: "whole numbers", float: "numbers"}.get(type(value), "")
