"""The dataset card: `README.md` with the front matter that Hugging Face reads."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.card.columns import as_read
from imagemill.dataset.card.facts import AS_RECEIVED, Facts, license_of, origins_of, quoted, title
from imagemill.dataset.card.text import made, sections
from imagemill.dataset.files import encode_lines, write_file
from imagemill.licenses import IDS, combined
from imagemill.records import files_of, to_json

if TYPE_CHECKING:
    from imagemill.dataset.folder import Counts, Dataset

__all__ = [
    "AS_RECEIVED",
    "Told",
    "exported_card",
    "license_of",
    "origins_of",
    "render_card",
    "scores_of",
    "size_category",
    "with_sizes",
    "write_card",
]

_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
"""Between which Hugging Face counts."""

_FEW = 3
"""Images among which no kind of file may be the most frequent one."""

_TYPED = 100
"""Records that tell the types of the columns."""
_NAMES = {"double": "float64"}
"""Types as Arrow and Hugging Face name them, where they differ."""

_TASKS = {
    "generate": "text-to-image",
    "augment": "image-to-image",
    "edit": "image-to-image",
    "import": "image-to-text",
}
"""By operator, as Hugging Face names them."""
__PLACE = "path/to/this/folder"
_LOADING = f"""```python
from datasets import load_dataset

dataset = load_dataset("{__PLACE}", split="{{split}}")
```"""
_NEAR = 100
"""Records among which one is looked for that was made, and is no original."""


@dataclass(frozen=True, slots=True)
class Told:
    """What only whoever publishes a dataset can say of it; empty for what was not said."""

    name: str = ""
    license: str = ""
    license_link: str = ""
    language: tuple[str, ...] = ()
    """Of the prompts, as BCP 47 codes."""
    citation: str = ""
    """As BibTeX."""


def write_card(dataset: Dataset) -> None:
    """Write `README.md` as the dataset stands now; does nothing when it is current."""
    content = render_card(dataset).encode()
    path = dataset.folder / "README.md"
    if not path.exists() or path.read_bytes() != content:
        write_file(path, content)


def render_card(dataset: Dataset) -> str:
    """Return the card's text."""
    facts = _facts(dataset, Told(), False)
    front = _front([facts], Told(), facts.counts.done) + _reading(dataset, facts.counts)
    paragraphs = [f"# {title(facts)}", f"{facts.counts.done:,} images {made(facts)}.", _LOADING.format(split="train")]
    for name, found in sections(facts).items():
        paragraphs += [f"## {name}", *found]
    return f"---\n{front}---\n\n" + "\n\n".join(paragraphs) + "\n"


def exported_card(
    datasets: Mapping[str, Dataset],
    images: Mapping[str, int],
    told: Told,
    changes: Sequence[str],
    hidden: frozenset[str] = frozenset(),
    layout: str = "",
    caption_column: str = "",
    where: str = "",
) -> tuple[str, str]:
    """Front matter and text of the card of an export, by split: how many images, and sentences on what has changed.

    Nothing is said of the values of `hidden` columns; `where` is what is true of the images.
    """
    facts = {
        split: replace(
            _facts(dataset, told, True, hidden),
            layout=layout,
            caption_column=caption_column,
            where=where,
            images=images[split],
        )
        for split, dataset in datasets.items()
    }
    first, *others = facts
    heads = {split: f"{_of(images[split], found.counts.done)} images {made(found)}." for split, found in facts.items()}
    head = heads[first]
    total = sum(images.values())
    if others:
        rows = [f"| `{split}` | {text} |" for split, text in heads.items()]
        table = "\n".join(["| split | what it holds |", "|---|---|", *rows])
        head = f"{total:,} images in {len(facts)} splits.\n\n{table}"
    paragraphs = [f"# {title(facts[first])}", head, *changes, _LOADING.format(split=first)]
    found = {split: sections(each) for split, each in facts.items()}
    for name in found[first]:
        texts = {split: each[name] for split, each in found.items()}
        common = [text for text in texts[first] if all(text in each for each in texts.values())]
        paragraphs += [f"## {name}", *common]
        for split, each in texts.items():
            own = [text for text in each if text not in common]
            paragraphs += [f"### {split}", *own] if own else []
    return _front([*facts.values()], told, total), "\n" + "\n\n".join(paragraphs) + "\n"


def _of(some: int, whole: int) -> str:
    return f"{some:,}" if some == whole else f"{some:,} of {whole:,}"


def _facts(dataset: Dataset, told: Told, exported: bool, hidden: frozenset[str] = frozenset()) -> Facts:
    counts = dataset.counts()
    near = list(islice(next(filter(None, (part.records() for part in dataset.parts)), ()), _NEAR))
    return Facts(
        job=dataset.job,
        counts=counts,
        first=next(iter(near), None),
        made=next((record for record in near if not record.get("original")), None),
        refused=_refused(dataset) if not counts.pending else None,
        exported=exported,
        name=told.name,
        license=told.license,
        license_link=told.license_link,
        citation=told.citation,
        hidden=hidden,
    )


def _refused(dataset: Dataset) -> int | None:
    """How many images were drawn and not accepted: the lines of the file that lists them."""
    path = dataset.folder / ".imagemill" / "tries.jsonl"
    if not path.is_file():
        return None
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


def _front(facts: Sequence[Facts], told: Told, images: int) -> str:
    """The front matter but for what readers are told of files, by Hugging Face's rules for dataset cards."""
    operators = sorted({operator for each in facts for operator in each.operators})
    synthetic = any(each.synthetic for each in facts)
    tables = sorted({each.table for each in facts if re.fullmatch(r"[\w.-]+/[\w.-]+", each.table)})
    lines = [f"pretty_name: {quoted(title(facts[0]))}"]
    if told.language:
        lines += ["language:", *(f"- {quoted(code)}" for code in told.language)]
    lines += license_lines(facts[0].step, told, *(each.step for each in facts[1:]))
    texts = any(each.has_texts for each in facts)
    tasks = dict.fromkeys(_TASKS[each] for each in operators if each != "import" or texts)
    if tasks:
        lines += ["task_categories:", *(f"- {task}" for task in tasks)]
    lines += ["tags:", *(["- synthetic"] if synthetic else []), "- image", "- imagemill"]
    if operators != ["import"] or any(each.annotated for each in facts):
        lines += ["annotations_creators:", "- machine-generated"]
    if tables:
        lines += ["source_datasets:", *(f"- {table}" for table in tables)]
    lines += ["size_categories:", f"- {size_category(images)}"]
    return "".join(f"{line}\n" for line in lines)


def license_lines(step: Mapping[str, Any], told: Told, *others: Mapping[str, Any]) -> list[str]:
    """The license by its id, or by name and link where Hugging Face has none for it; with those of other splits."""
    name = told.license or combined(license_of(each) for each in (step, *others))
    if name in IDS - {"other"}:
        return [f"license: {name}"]
    model, link = str(step.get("model", "")), told.license_link
    if not link and name == step.get("license") and re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        link = f"https://huggingface.co/{model}"
    if name == "other" and not told.license:
        name = f"that of {model}" if model else "several, see Details"
    named = [f"license_name: {quoted(name)}"] if name != "other" else []
    return ["license: other", *named, *([f"license_link: {quoted(link)}"] if link else [])]


def with_sizes(card: str, splits: Sequence[Mapping[str, Any]], download_size: int) -> str:
    """A card that also tells the size of each split; as it is where readers look for the files themselves.

    Then nothing of the front matter counts for them, and a size that they did not check would say nothing.
    """
    start, front, text = card.split("---\n", 2)
    if "- config_name: default\n" not in front:
        return card
    lines = front.splitlines()
    place = next((number for number, line in enumerate(lines) if line.startswith("dataset_info: ")), len(lines))
    told: list[dict[str, Any]] = [{"config_name": "default"}]
    if place < len(lines):
        told = json.loads(lines.pop(place).partition(": ")[2])
    whole = sum(split["num_bytes"] for split in splits)
    told[0] |= {"splits": splits, "download_size": download_size, "dataset_size": whole}
    lines.insert(place, f"dataset_info: {to_json(told)}")
    return f"{start}---\n" + "\n".join(lines) + f"\n---\n{text}"


def size_category(images: int) -> str:
    """How Hugging Face calls a dataset of so many images."""
    for place, name in enumerate(_SIZES):
        if images < 1_000 * 10**place:
            return f"{_SIZES[place - 1]}<n<{name}" if place else f"n<{name}"
    return f"n>{_SIZES[-1]}"


def scores_of(job: Mapping[str, Any]) -> list[str]:
    """The columns of a job that hold a number or null."""
    return [name for step in job["steps"][1:] for name in step.get("scores", ())]


def _reading(dataset: Dataset, counts: Counts) -> str:
    """What readers must be told to see the images and their columns as they are; nothing where they see that."""
    scores = scores_of(dataset.job)
    if scores and any(part.empty_columns for part in dataset.parts):
        return _typed(dataset, scores)
    return _configs(dataset) if counts.done <= _FEW and not counts.pending else ""


def _typed(dataset: Dataset, scores: Sequence[str]) -> str:
    """Tell the types of all columns, where a part without a single score would tell that they are of none.

    Then `load_dataset` knows what it has cached by these lines alone; the description says which state this is.
    """
    import pyarrow as pa
    import pyarrow.json

    lines = encode_lines(islice(dataset, _TYPED))
    # A line may be longer than what is read at once without being told.
    options = pyarrow.json.ReadOptions(block_size=len(lines) + 1)
    schema = pyarrow.json.read_json(pa.BufferReader(lines), options).schema
    features = []
    for field in schema:
        name, kind = field.name, "float64" if field.name in scores else _NAMES.get(str(field.type), str(field.type))
        if name.endswith("file_name"):
            name, kind = as_read(name), "image"
        elif name.endswith("file_names"):
            name, kind = as_read(name), "list<item: image>"
        listed = re.fullmatch(r"list<\w+: (.*)>", kind)
        features += [f"  - name: {json.dumps(name)}"]
        features += [f"    list: {_NAMES.get(listed[1], listed[1])}" if listed else f"    dtype: {kind}"]
    # A folder may be there before its first record.
    parts = [part for part in dataset.parts if part.metadata.exists()]
    state = [[part.name, dataset.seals.get(part.name) or part.metadata.stat().st_size] for part in parts]
    return f"""configs:
- config_name: default
  description: state {hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]}
  data_files:
  - split: train
    path: images/*/*
  features:
{chr(10).join(features)}
"""


def _configs(dataset: Dataset) -> str:
    """Tell the reader which files are the images, where no kind of them is the most frequent kind of file.

    Only there: with these lines `load_dataset` knows what it has cached by them and by the folder's name alone, so
    that another dataset, or the same one grown, would be taken for the first; the description tells them apart.
    """
    records = list(dataset)
    kinds = Counter(Path(file).suffix for record in records for file in files_of(record))
    if not kinds or max(kinds.values()) > 1:
        return ""
    paths = "\n".join(f"    - images/*/*{kind}" for kind in sorted(kinds))
    return f"""configs:
- config_name: default
  description: {records[0]["sha256"]}
  data_files:
  - split: train
    path:
    - images/*/metadata.jsonl
{paths}
"""
