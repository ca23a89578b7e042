"""A step that adds columns to a dataset: whether it may, and whether it goes on with one that was begun."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from imagemill.dataset.folder import Dataset
from imagemill.dataset.journal import ColumnJournal, blanks_of
from imagemill.errors import UsageError
from imagemill.records import MADE_KEYS, RECORD_KEYS, SOURCE_IMAGES, SOURCE_KEYS, safe_column

_FREE = ("operator", "columns", "scores", "meanings", "model_parameters", "base_url", "license")
"""What need not be the same when a column is continued, or is compared by its parts."""


def begun(job: Mapping[str, Any], operator: str, column: str) -> dict[str, Any]:
    """The step of a job that fills a column as the first of its own; empty when there is none."""
    steps = (step for step in job["steps"][1:] if step["operator"] == operator)
    return next((step for step in steps if next(iter(blanks_of(step)), None) == column), {})


def without_empty(dataset: Dataset, job: dict[str, Any], operator: str, blanks: Mapping[str, Any]) -> dict[str, Any]:
    """The job without a step for the same columns that has brought no value yet: it may be begun in another way."""
    step = begun(job, operator, next(iter(blanks)))
    if not step or blanks_of(step) != blanks or ColumnJournal(dataset, blanks).is_begun():
        return job
    if any(record.get(name, blank) != blank for record in dataset for name, blank in blanks.items()):
        return job
    return {**job, "steps": [other for other in job["steps"] if other is not step]}


def check_step(dataset: Dataset, step: Mapping[str, Any], job: Mapping[str, Any]) -> bool:
    """Whether the step stands in the job; raises UsageError when its columns are taken by something else."""
    return check_added(next(iter(dataset), {}), step, job["steps"][1:])


def check_added(record: Mapping[str, Any], step: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> bool:
    """The same for records of such columns, after the steps `before`."""
    found = begun({"steps": [{}, *before]}, step["operator"], next(iter(blanks_of(step))))
    if found:
        _check_same(next(iter(blanks_of(step))), found, step)
        return True
    check_columns(record, step, before)
    return False


def check_columns(record: Mapping[str, Any], step: Mapping[str, Any], before: Iterable[Mapping[str, Any]]) -> None:
    """Raise UsageError when the columns of a step are taken in such a record, or by the steps `before`."""
    operator = step["operator"]
    taken = {name for other in before for name in blanks_of(other)}
    for name, blank in blanks_of(step).items():
        problem = ""
        if name in RECORD_KEYS:
            problem = "says how an image was made"
        elif safe_column(name) != name:
            problem = "means something else to `load_dataset`"
        elif name in {*SOURCE_KEYS, *MADE_KEYS, *(SOURCE_IMAGES if "source_sha256" in record else ())}:
            problem = "says how an image was made"
        elif name in taken:
            problem = "is filled by another step already"
        elif name in record and record[name] != blank:
            problem = f"is a column of the dataset already, and not one that `{operator}` has filled"
        if problem:
            raise UsageError(f"{operator}: `column`: `{name}` {problem}", "choose another `--column`")


def _check_same(column: str, found: Mapping[str, Any], step: Mapping[str, Any]) -> None:
    """Raise UsageError that names the differences when a column was begun in another way."""
    old, new = (
        {name: value for name, value in [*way["model_parameters"].items(), *way.items()] if name not in _FREE}
        for way in (found, step)
    )
    differences = [
        f"`{name}` was `{old.get(name, 'not given')}`, now `{new.get(name, 'not given')}`"
        for name in dict.fromkeys([*new, *old])
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise UsageError(
            f"the column `{column}` was filled in another way: {'; '.join(differences)}", "choose another `--column`"
        )
