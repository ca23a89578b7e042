"""What a dataset's card is written from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.licenses import combined
from imagemill.records import Record

if TYPE_CHECKING:
    from imagemill.dataset.folder import Counts

AS_RECEIVED = "as received"
"""The file format of images that are kept as a server sent them."""
Step = Mapping[str, Any]

TAKEN_IN = "the pictures that were taken in"
MADE_FROM = "the pictures that images were made from"
_TOLD = (
    *("operator", "model", "model_revision", "license", "source_license", "image_format", "mark", "keep_original"),
    *("captioner", "captioner_revision", "captioner_license"),
)
"""What an export tells of the step that made its images."""
_FOR = {"generate": "the images", "augment": "the images", "edit": "the images"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card is written from."""

    job: Mapping[str, Any]
    counts: Counts
    first: Record | None
    """One record, which shows the columns."""
    refused: int | None = None
    """Images that were drawn and not accepted; None where nobody knows, or it is not over."""
    exported: bool = False
    """Whether it is about another layout, without the files that imagemill keeps beside a dataset."""
    name: str = ""
    """How the dataset is called; made of table and model without it."""
    license: str = ""
    """Of the dataset; without it those of models and pictures are told."""
    license_link: str = ""
    citation: str = ""
    """As BibTeX; made without it."""
    hidden: frozenset[str] = frozenset()
    """Columns of whose values nothing may be told."""
    made: Record | None = None
    """A record of an image that was made here; None where only originals are at hand."""
    layout: str = ""
    """That of an export, by name."""
    caption_column: str = ""
    """The column that an export holds once more as captions."""
    where: str = ""
    """What is true of the exported images."""
    images: int | None = None
    """How many of them are exported; None for all."""

    @property
    def step(self) -> Step:
        """The one that made the images."""
        return self.job["steps"][0]  # type: ignore[no-any-return]

    @property
    def later(self) -> Sequence[Step]:
        """Those after it."""
        return self.job["steps"][1:]  # type: ignore[no-any-return]

    def hides(self, text: str) -> bool:
        """Whether a condition speaks of what may not be told."""
        return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in self.hidden)

    @property
    def table(self) -> str:
        """The prompt table."""
        return str(self.job["input"]["table"])

    @property
    def origins(self) -> list[Step]:
        """The steps that made the images, of merged datasets those of each."""
        return [steps[0] for steps in _origins(self.job["steps"])]

    @property
    def operators(self) -> set[str]:
        """What made the images, of merged datasets each."""
        return {step["operator"] for step in self.origins}

    @property
    def only_model(self) -> str:
        """The model that made all images; empty where there are several, or none is known."""
        names = {str(step.get("model") or "") for step in self.origins}
        return names.pop() if len(names) == 1 else ""

    @property
    def annotated(self) -> bool:
        """Whether a program has scored or described the images."""
        return any(step["operator"] in {"score", "caption"} for step in self.later)

    @property
    def has_texts(self) -> bool:
        """Whether images have texts, as far as the first one shows it."""
        told = bool(self.first and self.first["prompt"])
        return told or any(step["operator"] == "caption" for step in self.later)

    @property
    def selections(self) -> list[Step]:
        """The selections that have left images out, also of datasets before they were merged."""
        return [step for step in _all_steps(self.job["steps"]) if step["operator"] == "select"]

    @property
    def synthetic(self) -> bool:
        """Whether an AI made any of the images, as far as that is known."""
        return self.operators != {"import"} or bool(self.first and self.first["model"])


def title(facts: Facts) -> str:
    """How the dataset is called; never like its folder, so that one that is moved stays as it is, byte by byte."""
    if facts.name:
        return facts.name
    if facts.step["operator"] == "merge":
        return " and ".join(str(source["name"]) for source in facts.step.get("sources", ())) or "merged"
    made_by = f" by {Path(facts.step['model']).name}" if facts.step.get("model") else ""
    return f"{Path(facts.table).stem}{made_by}"


def models(facts: Facts) -> list[tuple[str, str, str, str]]:
    """Every model with what it is for, its exact version and its license, once each."""
    found = [row for steps in _origins(facts.job["steps"]) for row in _models(steps)]
    return list(dict.fromkeys([*found, *_models(facts.later)]))


def licenses(step: Step) -> dict[str, list[str]]:
    """Each license that holds for what a step has made, with what it is the license of."""
    found: dict[str, list[str]] = {}
    if sources := step.get("sources"):
        for source in sources:
            for name, holders in licenses(source["steps"][0]).items():
                known = found.setdefault(name, [])
                known += [holder for holder in holders if holder not in known]
        return found
    made_by = f"what `{step['model']}` makes" if step.get("model") else "what the model makes"
    holder = TAKEN_IN if step["operator"] == "import" else made_by
    found[str(step.get("license") or "unknown")] = [holder]
    if "source_license" in step:
        found.setdefault(step["source_license"], []).append(MADE_FROM)
    return found


def license_of(step: Step) -> str:
    """The license of what a step has made, for all of it together."""
    return combined(licenses(step))


def origins_of(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """What an export tells of the steps that made its images: by which models, and nothing of conditions."""
    return [{name: steps[0][name] for name in _TOLD if steps[0].get(name) is not None} for steps in _origins(steps)]


def _origins(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    """The steps that made the images, of merged datasets those of each, also where these were merged themselves.

    Of pictures that came in an export these are the ones that it has told.
    """
    sources = steps[0].get("sources", ())
    for source in sources:
        yield from _origins(source["steps"])
    told = next((step["origins"] for step in steps[1:] if step.get("origins")), ())
    if told and steps[0]["operator"] == "import":
        yield from ([step] for step in told)
    elif not sources:
        yield steps


def _all_steps(steps: Sequence[Step]) -> Iterator[Step]:
    for source in steps[0].get("sources", ()):
        yield from _all_steps(source["steps"])
    yield from steps


def _models(steps: Sequence[Step]) -> list[tuple[str, str, str, str]]:
    found = []
    for step in steps:
        operator = step["operator"]
        columns = ", ".join(f"`{name}`" for name in {**step.get("scores", {}), **step.get("columns", {})})
        purpose = _FOR.get(operator, f"the column{'s' if ',' in columns else ''} {columns}")
        if step.get("model"):
            found.append(
                (step["model"], purpose, step.get("model_revision") or "", step.get("license") or "not written down")
            )
        if step.get("captioner"):
            license_name = step.get("captioner_license", "not written down")
            found.append((step["captioner"], "captions of the sources", step["captioner_revision"], license_name))
    return found


def cell(text: str) -> str:
    """A text as it can stand in a table."""
    return " ".join(text.replace("|", "\\|").split())


def quoted(text: str) -> str:
    """A text as YAML; JSON is YAML but for characters that cannot be seen."""
    return re.sub(
        "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]",
        lambda found: f"\\u{ord(found[0]):04x}",
        json.dumps(text, ensure_ascii=False),
    )
