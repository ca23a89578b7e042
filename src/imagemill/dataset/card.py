"""The dataset card: `README.md` with the front matter that Hugging Face reads."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.files import encode_lines, write_file
from imagemill.records import NO_SEED, Record, columns_of, files_of

if TYPE_CHECKING:
    from imagemill.dataset.folder import Counts, Dataset

AS_RECEIVED = "as received"
"""The file format of images that are kept as a server sent them."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))

_FEW = 3
"""Images among which no kind of file may be the most frequent one."""

_TYPED = 100
"""Records that tell the types of the columns."""
_NAMES = {"double": "float64"}
"""Types as Arrow and Hugging Face name them, where they differ."""

_MEANINGS = {
    "file_name": "the image, relative to the metadata file",
    "prompt": "what was asked for, as the model got it",
    "negative_prompt": "what was not wanted; empty when nothing was said",
    "id": "the identity of the table's row",
    "seed": "the image's own seed; -1 when the model takes none",
    "width": "pixels",
    "height": "pixels",
    "num_inference_steps": "denoising steps; 0 when a server does not tell",
    "guidance_scale": "how strongly the prompt was followed",
    "scheduler": "sampler by its k-diffusion name; empty when a server does not tell",
    "model": "the model that made it",
    "model_revision": "the exact version of the model",
    "model_parameters": "how the model was loaded, as JSON",
    "batch_size": "images that shared a forward pass; decides the last bits",
    "sha256": "of the file",
    "revised_prompt": "what the server says it has drawn instead; empty when it says nothing",
    "tries": "how many images were drawn for it, this one with them; the others were not accepted",
    "redrawn": "seeds given up because their image was faulty or blocked",
    "dropped_tokens": "tokens at the prompt's end that the model did not read",
    "strength": "how much of the source could change, from 0 to 1; 0 where the model takes none",
    "source_sha256": "of the pictures it was made from, files in `.imagemill/sources`",
    "mask_sha256": "of the mask, white where the picture could change",
    "original": "whether it is a source itself, as it came",
    "source_image": "the source, as the table names it",
    "captioner": "the model that described the source; empty where the table did",
    "turn": "place among the edits of a conversation; each starts from what the one before has made",
    "edit_prompt": "the instruction",
    "input_image_file_name": "the picture before the edit",
    "input_images_file_names": "all pictures that the edit started from",
    "mask_file_name": "the mask, white where the picture could change",
    "edited_image_file_name": "the picture after the edit, the same as `file_name`",
    "difference": "mean absolute difference between before and after, from 0 to 1",
    "changed_area": "share of the area where a channel differs by more than a quarter of its range",
    "no_op": "whether the edit has changed nothing that can be seen",
}


_SYNTHETIC = "- synthetic\n"

_KINDS = {
    "generate": ("text-to-image", "made by an AI model, `{model}`, from a table of {rows:,} prompts"),
    "augment": (
        "image-to-image",
        "that an AI model, `{model}`, made of the pictures of {rows:,} rows, or sources",
    ),
    "import": ("image-to-text", "taken in as they are, from {rows:,} rows"),
    "edit": ("image-to-image", "edited by an AI model, `{model}`, as {rows:,} rows of instructions say"),
}
"""By operator: the task as Hugging Face names it, and what the images are."""


def write_card(dataset: Dataset) -> None:
    """Write `README.md` as the dataset stands now; does nothing when it is current."""
    content = render_card(dataset).encode()
    path = dataset.folder / "README.md"
    if not path.exists() or path.read_bytes() != content:
        write_file(path, content)


def render_card(dataset: Dataset) -> str:
    """Return the card's text."""
    job = dataset.job
    step: dict[str, Any] = job["steps"][0]
    counts = dataset.counts()
    first = next(iter(dataset), None)
    task, made = _KINDS[step["operator"]]
    # Not the folder's name: a dataset that is moved stays as it is, byte by byte.
    made_by = f" by {Path(step['model']).name}" if step["model"] else ""
    name = f"{Path(job['input']['table']).stem}{made_by}"
    return f"""---
pretty_name: {json.dumps(name)}
license: {step["license"]}
task_categories:
- {task}
tags:
{"" if step["operator"] == "import" else _SYNTHETIC}- image
- imagemill
annotations_creators:
- machine-generated
size_categories:
- {size_category(counts.done)}
{_reading(dataset, counts)}---

# {name}

{counts.done:,} images {made.format(model=step["model"], rows=counts.rows_accepted)}.

```python
from datasets import load_dataset

dataset = load_dataset("path/to/this/folder", split="train")
```

## How it was made

{_parameters(step)}

{_again(first, step)}

## Counts

{_counts(counts)}
{_selected(job["steps"])}
## Columns

{_columns(first, job["steps"][1:])}

## Origin

{_synthetic(step)} {_marking(step)}
{_license(job["input"]["table"], step)}
"""


def size_category(images: int) -> str:
    """How Hugging Face calls a dataset of so many images."""
    return next((label for limit, label in _SIZES if images < limit), "10M<n<100M")


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

    schema = pyarrow.json.read_json(pa.BufferReader(encode_lines(islice(dataset, _TYPED)))).schema
    lines = []
    for field in schema:
        name, kind = field.name, "float64" if field.name in scores else _NAMES.get(str(field.type), str(field.type))
        if name.endswith("file_name"):
            name, kind = name.removesuffix("file_name").rstrip("_") or "image", "image"
        elif name.endswith("file_names"):
            name, kind = name.removesuffix("file_names").rstrip("_") or "images", "list<item: image>"
        listed = re.fullmatch(r"list<\w+: (.*)>", kind)
        lines += [f"  - name: {json.dumps(name)}"]
        lines += [f"    list: {_NAMES.get(listed[1], listed[1])}" if listed else f"    dtype: {kind}"]
    # A folder may be there before its first record.
    parts = [part for part in dataset.parts if part.metadata.exists()]
    state = [[part.name, dataset.seals.get(part.name) or part.metadata.stat().st_size] for part in parts]
    return f"""configs:
- config_name: default
  description: {hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]}
  data_files:
  - split: train
    path: images/*/*
  features:
{chr(10).join(lines)}
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


def _parameters(step: dict[str, Any]) -> str:
    if step["operator"] == "import":
        return "The pictures were taken in: as they are, or as upright RGB where readers would see them differently."
    shown = (
        "model",
        "model_revision",
        "num_inference_steps",
        "guidance_scale",
        "scheduler",
        "seed",
        "images_per_prompt",
        "images_per_sample",
        "strength",
        "captioner",
        "captioner_revision",
    )
    rows = [f"| `{key}` | {step[key]} |" for key in shown if step.get(key) not in (None, "")]
    size = f"{step['width']} × {step['height']}" if "width" in step else "the source's"
    rows.append(f"| size | {size}, {step['image_format']} |")
    return "\n".join(["| parameter | value |", "|---|---|", *rows])


def _again(first: Record | None, step: dict[str, Any]) -> str:
    if step["operator"] == "import":
        return ""
    if step["operator"] == "augment":
        return """Every parameter stands in `job.toml`, and every record says all that is needed to make its image
again, out of the sources in `.imagemill/sources`."""
    if first and first["seed"] == NO_SEED:
        return "Every parameter stands in `job.toml`. The model takes no seed: no image can be made again as it is."
    return f"""Every parameter stands in `job.toml`, and every record says all that is needed to make its image again:
`imagemill reproduce . {Path(first["file_name"]).stem if first else "prompt_0_image_0"}`."""


def _counts(counts: Counts) -> str:
    failed = ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.failed.items()))
    rows = [
        f"| rows in the table | {counts.rows_read:,} |",
        f"| rows that could not be used | {counts.rows_rejected:,} |",
        f"| images asked for | {counts.requests:,} |",
        f"| images made | {counts.done:,} |",
        f"| failed | {sum(counts.failed.values()):,}{f' ({failed})' if failed else ''} |",
        f"| still to make | {counts.pending:,} |",
    ]
    return "\n".join(["| what | number |", "|---|---|", *rows])


def _selected(steps: Sequence[Mapping[str, Any]]) -> str:
    """What selections have left out; empty where there were none."""
    rows = [
        f"| {step['source']} | {count:,} | `{kind.replace('|', chr(92) + '|')}` |"
        for step in steps
        if step["operator"] == "select"
        for kind, count in step["left_out"].items()
    ]
    if not rows:
        return ""
    table = "\n".join(["| selected from | images left out | because of |", "|---|---|---|", *rows])
    return f"\n{table}\n\n`.imagemill/left_out.jsonl` lists each image that the last selection left out.\n"


def _columns(record: Record | None, later: Sequence[Mapping[str, Any]]) -> str:
    """`later` are the steps after the one that made the images."""
    if record is None:
        return "No image has been made yet."
    meanings = _MEANINGS | {name: meaning for step in later for name, meaning in _added(step)}
    rows = [f"| `{key}` | {meanings[key]} |" for key in record if key in meanings]
    rows += [
        f"| `{key}` | from the prompt table, or added later |" for key in columns_of(record) if key not in meanings
    ]
    return "\n".join(["| column | meaning |", "|---|---|", *rows])


def _synthetic(step: dict[str, Any]) -> str:
    if step["operator"] == "import":
        return "The images are as they came; what they say of their origin is theirs."
    if step["operator"] == "augment":
        return "All images but the originals, where `original` is true, are synthetic; those are as they came."
    if step["operator"] == "edit":
        return "The edited images are synthetic; the pictures before them, and masks, are as they came."
    return "All images are synthetic."


def _added(step: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The columns that a step has added, with their meanings."""
    if step["operator"] == "score":
        by = f" ({step['scorer']}{', `' + step['model'] + '`' if step['model'] else ''})"
        yield from ((name, meaning + by) for name, meaning in {**step["scores"], **step["meanings"]}.items())
        return
    for name in step.get("columns", {}):
        if step["operator"] != "caption":
            yield name, f"added by `{step['operator']}`"
        elif name == step["column"]:
            yield name, f"what `{step['model']}` sees in the image; empty when it failed"
        else:
            yield name, f"all that `{step['model']}` said of the image; `{step['column']}` is the first"


def _license(table: str, step: dict[str, Any]) -> str:
    if step["operator"] == "import":
        return f"They come from `{table}`; their license is not known to imagemill."
    return f"The prompts come from `{table}`; the model's license applies to what it makes (`{step['license']}`)."


def _marking(step: dict[str, Any]) -> str:
    if step["operator"] == "import":
        return "No file was marked."
    if step["mark"]:
        origin = "trainedAlgorithmicMedia" if step["operator"] == "generate" else "compositeWithTrainedAlgorithmicMedia"
        return f"Every file that was made says so in its metadata (XMP `DigitalSourceType`: `{origin}`)."
    if step["image_format"] == AS_RECEIVED:
        return "The files are as the server sent them; what they say of their origin is the server's."
    return "The files carry no such mark: that was chosen with `--no-mark`."
