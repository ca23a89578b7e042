"""Whether a folder was made by the job that is now to be run on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagemill.errors import UsageError


def check_same(folder: Path, found: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Raise UsageError that names the differences when a folder was made by another job.

    The table and the model's server may have moved, and `limit` may have grown: the rest is made then.
    """
    for step in found["steps"]:
        if step["operator"] == "merge":
            names = ", ".join(f"`{source['name']}`" for source in step["sources"])
            raise UsageError(f"`{folder}` is a merge of {names}", "choose another output folder")
        if step["operator"] == "select":
            raise UsageError(f"`{folder}` is a selection from `{step['source']}`", "choose another output folder")
    old, new = _flat(found), _flat(job)
    limits = old.get("input.limit"), new.get("input.limit")
    if limits[0] and not old.get("input.sample") and (limits[1] is None or limits[1] >= limits[0]):
        old.pop("input.limit")
        new.pop("input.limit", None)
        old["plan.requests"] = new["plan.requests"]
    if old.get("step.max_tries", 0) <= new.get("step.max_tries", 0):
        old["step.max_tries"] = new["step.max_tries"] = None
    for values in (old, new):
        values.pop("input.table")
        values.pop("model.base_url", None)
        values.pop("step.batch_sizes", None)
    differences = [
        f"`{key.rpartition('.')[2]}` was `{_shown(old.get(key))}`, now `{_shown(new.get(key))}`"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]
    if "input.sha256" in old and old["input.sha256"] != new["input.sha256"]:
        differences = [line for line in differences if not line.startswith(("`rows_", "`requests`", "`sha256`"))]
        differences.insert(0, f"the prompt table `{job['input']['table']}` has other rows")
    if differences:
        shrunk = any(line.startswith("`limit`") for line in differences)
        raise UsageError(
            f"`{folder}` was made by another job: {'; '.join(differences)}",
            "`limit` can only grow" if shrunk else "choose another output folder, or give the same command to continue",
        )


def _flat(job: Mapping[str, Any]) -> dict[str, Any]:
    flat = {f"{section}.{key}": value for section in ("input", "plan") for key, value in job[section].items()}
    step = job["steps"][0]
    flat |= {f"step.{key}": value for key, value in step.items() if key != "model_parameters"}
    return flat | {f"model.{key}": value for key, value in step["model_parameters"].items()}


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)
