"""Which columns people may edit, and how those are called that their decisions become."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from imagemill.dataset.folder import Dataset
from imagemill.records import MADE_KEYS, RECORD_KEYS, SOURCE_IMAGES, SOURCE_KEYS, Record, safe_column

CAPTION = "caption"
"""Every dataset has one to edit: where there is no such column, it is the prompt."""
DECIDED: Mapping[str, Any] = {"decision": "", "rating": 0, "tags": ""}
"""What can be decided beside texts, with the value of images of which nothing was."""
_FACTS = {*RECORD_KEYS, *SOURCE_KEYS, *MADE_KEYS, *SOURCE_IMAGES, "pixels_sha256", "perceptual_hash", *DECIDED}


def first_record(dataset: Dataset) -> Record:
    """One record, which has the columns of all; empty where there is none."""
    for part in dataset.parts:
        if part.metadata.is_file():
            with part.metadata.open("rb") as file:
                line = file.readline()
            if line.endswith(b"\n"):
                found: Record = json.loads(line)
                return found
    return {}


def editable_columns(dataset: Dataset) -> list[str]:
    """The columns of texts that do not say how an image was made or scored, and `caption`."""
    record = first_record(dataset)
    facts = {name for step in _steps(dataset.job["steps"]) if step["operator"] == "score" for name in _added(step)}
    facts |= {*_FACTS, *decided_columns(dataset, record).values()}
    names = [
        name
        for name, value in record.items()
        if isinstance(value, str) and name not in facts and safe_column(name) == name
    ]
    return names if CAPTION in record else [*names, CAPTION]


def decided_columns(dataset: Dataset, record: Record) -> dict[str, str]:
    """The columns that decisions, ratings and tags become; a table's column of that name stays what it is."""
    ours = {
        name for step in dataset.job["steps"][1:] if step["operator"] in {"apply", "select"} for name in _added(step)
    }
    return {name: name if name in ours or name not in record else f"curated_{name}" for name in DECIDED}


def _added(step: Mapping[str, Any]) -> Iterable[str]:
    found: Mapping[str, Any] = step.get("columns", {})
    return found


def _steps(steps: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Steps with those of the datasets that were merged."""
    for step in steps:
        yield step
        for source in step.get("sources", ()):
            yield from _steps(source["steps"])
