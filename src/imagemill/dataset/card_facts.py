"""What a dataset's card is written from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.records import Record

if TYPE_CHECKING:
    from imagemill.dataset.folder import Counts

AS_RECEIVED = "as received"
"""The file format of images that are kept as a server sent them."""
Step = Mapping[str, Any]

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
    """Of the dataset; without it that of the model is told."""
    citation: str = ""
    """As BibTeX; made without it."""
    hidden: frozenset[str] = frozenset()
    """Columns of whose values nothing may be told."""

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
    def operators(self) -> set[str]:
        """What made the images, of merged datasets each."""
        return {steps[0]["operator"] for steps in _origins(self.job["steps"])}

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


def _origins(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    """The steps that made the images, of merged datasets those of each, also where these were merged themselves."""
    sources = steps[0].get("sources", ())
    for source in sources:
        yield from _origins(source["steps"])
    if not sources:
        yield steps


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


def quoted(text: str) -> str:
    """A text as YAML; JSON is YAML but for characters that cannot be seen."""
    return re.sub(
        "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]",
        lambda found: f"\\u{ord(found[0]):04x}",
        json.dumps(text, ensure_ascii=False),
    )
