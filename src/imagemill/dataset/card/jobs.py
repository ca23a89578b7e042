"""The job file that makes a dataset again, out of what its `job.toml` says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w

_PIPES = {"python": "prompts.jsonl", "stdin": "prompts.jsonl"}
"""Tables that were no files."""
_FOUND_OUT = {
    *("license", "source_license", "model_revision", "model_parameters", "batch_sizes", "condition_images"),
    *("captioner_revision", "captioner_parameters", "captioner_license"),
}
"""What stands in the step that makes images, and is no parameter."""
_OUT_OF_PLACE = {"base_url"}
"""Where a model was asked, which is nobody else's business."""
_OF_SELECTION = {
    *("source", "source_sha256", "left_out", "split_name"),
    *("names_sha256", "edits_sha256", "edited", "columns"),
}
_KEPT_AS_RECEIVED = {"image_format", "metadata", "mark", "batch_size"}


def job_file(job: Mapping[str, Any]) -> str:
    """Write the job as `imagemill run` takes it."""
    table = job["input"]["table"]
    whole = {"input": _PIPES.get(table, table), "output": "again", "steps": [_given(step) for step in _steps(job)]}
    return tomli_w.dumps(whole)


def _steps(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    first, *others = job["steps"]
    reading = {name: value for name, value in job["input"].items() if name not in {"table", "sha256"}}
    made = {name: value for name, value in first.items() if name not in _FOUND_OUT}
    if first["image_format"] == "as received":
        made = {name: value for name, value in made.items() if name not in _KEPT_AS_RECEIVED}
    elif len(sizes := first.get("batch_sizes", {})) == 1:
        (made["batch_size"],) = sizes.values()
    yield {**made, **reading, **first["model_parameters"]}
    for step in others:
        if step["operator"] == "score":
            scorer = f"{step['scorer']}={step['model']}" if step["model"] else step["scorer"]
            yield {"operator": "score", "scorers": [scorer], **step.get("model_parameters", {})}
        elif step["operator"] == "caption":
            own = {name: value for name, value in step.items() if name not in {*_FOUND_OUT, "columns"}}
            yield {**own, **step["model_parameters"]}
        elif step["operator"] != "apply":
            yield {name: value for name, value in step.items() if name not in _OF_SELECTION}


def _given(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step without what says nothing."""
    return {name: value for name, value in step.items() if value not in (None, "", []) and name not in _OUT_OF_PLACE}
