"""Settings again: what a form is filled with from a job, from a dataset, or from one of its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imagemill.dataset import Dataset
from imagemill.server.web.image.locating import locate
from imagemill.server.web.making.jobs import TYPED, taken
from imagemill.server.web.making.offered import MAKING, class_of
from imagemill.server.web.state import Web
from imagemill.server.web.workspace import Entry, NotFound

_OF_THE_TEXT = {
    "accept", "caption_column", "captioner", "column", "instruction_column", "limit", "max_images", "max_tries",
    "negative_prompt_column", "per_row", "prompt_column", "prompt_postfix", "prompt_prefix", "sample", "score",
    "template", "until", "vary",
}  # fmt: skip
"""Parameters that have had their effect on the prompt of an image, or are about a whole table."""
_OF_THE_IMAGE = ("width", "height", "num_inference_steps", "guidance_scale", "scheduler", "negative_prompt", "strength")
_MOST_PROMPTS = 1_000
"""Of a dataset, that are written into a form."""


@dataclass(slots=True)
class Again:
    """What a form begins with."""

    source: str = ""
    prompts: str = ""
    posted: dict[str, list[str]] = field(default_factory=dict)
    """Parameters by name, as a form sends them."""
    notes: list[str] = field(default_factory=list)


def of_job(web: Web, operator: str, job: int) -> Again:
    """The form of a job as it was sent; raises NotFound."""
    found = web.queue.get(job)
    settings = found.settings or {}
    if settings.get("operator") != operator:
        raise NotFound(f"job {job} was not made with this form", "see the executions")
    notes = [f"The settings of “{found.title}”."]
    posted = texts_of(settings.get("values", {}))
    if model := class_of("operators", operator).model_fields.get("model"):
        # It was not written down where it was the operator's own, and the form may begin with another one.
        posted.setdefault("model", [model.default])
    return Again(str(settings.get("source", "")), "", posted, notes)


def of_dataset(web: Web, operator: str, dataset: str) -> Again:
    """The parameters that a dataset was made with, and its prompts where these can be typed; raises NotFound."""
    entry = web.workspace.find(dataset)
    source = f"dataset:{entry.id}" if taken(operator, "dataset") else ""
    if operator != "generate":
        return Again(source)
    found = Dataset(entry.folder)
    prompts: dict[str, None] = {}
    for record in found:
        prompts[" ".join(str(record["prompt"]).split())] = None
        if len(prompts) > _MOST_PROMPTS:
            break
    notes = [f"The settings of {entry.name}."]
    if len(prompts) > _MOST_PROMPTS:
        notes.append(f"It has more than {_MOST_PROMPTS:,} prompts: choose the table that they came from.")
    shown = "" if len(prompts) > _MOST_PROMPTS else "\n".join(prompt for prompt in prompts if prompt)
    return Again(TYPED, shown, texts_of(_parameters(found.job, operator)), notes)


def of_image(web: Web, operator: str, dataset: str, image: str) -> Again:
    """What makes an image again; raises NotFound.

    One made from its prompt: its dataset's parameters with its own seed, size and sampling. One made from another
    picture: what made its dataset.
    """
    entry = web.workspace.find(dataset)
    if operator in MAKING and operator != "generate":
        return _of_pictures(web, operator, entry)
    if operator != "generate":
        return of_dataset(web, operator, dataset)
    found = Dataset(entry.folder)
    record = locate(found, image).record
    parameters = _parameters(found.job, operator)
    values = {name: value for name, value in parameters.items() if name not in {*_OF_THE_TEXT, "seed"}}
    values |= {name: record[name] for name in _OF_THE_IMAGE if record.get(name) not in (None, "")}
    values["images_per_prompt"] = 1
    notes = [f"The settings of image {image} of {entry.name}."]
    if record.get("seed", -1) >= 0:
        # A job's seed is only where the seeds of its images come from.
        values["vary"] = [f"seed={record['seed']}"]
        notes.append(f"Its seed {record['seed']} stands in “Vary”; take it out for other images.")
    return Again(TYPED, " ".join(str(record["prompt"]).split()), texts_of(values), notes)


def _of_pictures(web: Web, operator: str, entry: Entry) -> Again:
    """What made a dataset of other pictures: the form of its job, or what it says itself where it had none here."""
    for job in web.queue.jobs():
        if job.output == entry.folder and job.settings.get("operator") == operator:
            return of_job(web, operator, job.id)
    found = Dataset(entry.folder).job
    table = found["input"].get("table")
    source = next((f"dataset:{each.id}" for each in web.workspace.datasets() if each.name == table), "")
    notes = [f"The settings of {entry.name}.", *([] if source else ["Choose what to start from."])]
    return Again(source, "", texts_of(_parameters(found, operator)), notes)


def _parameters(job: Mapping[str, Any], operator: str) -> dict[str, Any]:
    """The parameters of the operator that made a dataset and of its model, without what this machine decided."""
    step = job["steps"][0]
    if step.get("operator") != operator:
        return {}
    machine = {"device", "dtype", "threads", "batch_size"}
    told = {**job["input"], **step.get("model_parameters", {}), **step}
    return {name: value for name, value in told.items() if name not in machine}


def texts_of(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Values as a form sends them."""
    found = {}
    for name, value in values.items():
        if isinstance(value, bool):
            found[name] = ["yes" if value else "no"]
        elif isinstance(value, list | tuple):
            several = name in {"scorers", "score"}
            found[name] = [str(each) for each in value] if several else ["\n".join(map(str, value))]
        elif value is not None and not isinstance(value, Mapping):
            found[name] = [str(value)]
    return found
