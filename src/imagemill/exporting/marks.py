"""The mark by which an export is known again: what it is an export of, and how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagemill.dataset.folder import Dataset, is_dataset
from imagemill.dataset.manifest import MARK, check_manifest, read_mark
from imagemill.errors import UsageError


class Stale(UsageError):
    """The output is an earlier export of the same kind: from another dataset, or the dataset has changed since."""


def check_output(output: Path, mark: Mapping[str, Any], datasets: Mapping[str, Dataset]) -> None:
    """Raise UsageError for an output that is something else."""
    hint = "choose another output folder, or delete it"
    if any(map(is_dataset, [output.resolve(), *output.resolve().parents])):
        raise UsageError(f"`{output}` is a dataset, or inside of one", "choose another output folder")
    if output.exists() and not output.is_dir():
        raise UsageError(f"`{output}` is a file", "choose another output folder")
    if any((folder / MARK).is_file() for folder in output.resolve().parents):
        raise UsageError(f"`{output}` is inside of an export", "choose another output folder")
    before = read_mark(output)
    if before is None and output.is_dir() and any(output.iterdir()):
        raise UsageError(f"`{output}` is not empty and holds no export", "choose another output folder")
    if before == mark:
        check_manifest(output)
    if before is None or before == mark:
        return
    if before.get("layout") != mark["layout"]:
        raise UsageError(f"`{output}` is in the layout `{before.get('layout')}`", hint)
    if before.get("parameters") != mark["parameters"]:
        raise UsageError(f"`{output}` was exported with other parameters: {_said(before.get('parameters'))}", hint)
    folders = ", ".join(f"`{dataset.folder}`" for dataset in datasets.values())
    raise Stale(f"`{output}` was exported from another dataset, or {folders} has changed since", hint)


def _said(parameters: Any) -> str:
    """Parameters as a user reads them."""
    return ", ".join(f"`{name}` {value}" for name, value in (parameters or {}).items())
