"""The dataset card: `README.md` with the front matter that Hugging Face reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.files import write_file
from imagemill.records import NO_SEED, Record, columns_of

if TYPE_CHECKING:
    from imagemill.dataset.folder import Counts, Dataset

AS_RECEIVED = "as received"
"""The file format of images that are kept as a server sent them."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))

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
    "redrawn": "seeds given up because their image was faulty or blocked",
    "dropped_tokens": "tokens at the prompt's end that the model did not read",
}


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
    # Not the folder's name: a dataset that is moved stays as it is, byte by byte.
    name = f"{Path(job['input']['table']).stem} by {Path(step['model']).name}"
    return f"""---
pretty_name: {json.dumps(name)}
license: {step["license"]}
task_categories:
- text-to-image
tags:
- synthetic
- image
- imagemill
annotations_creators:
- machine-generated
size_categories:
- {next((label for limit, label in _SIZES if counts.done < limit), "10M<n<100M")}
{_configs(first) if first and (counts.done, counts.pending) == (1, 0) else ""}---

# {name}

{counts.done:,} images made by an AI model, `{step["model"]}`, from a table of {counts.rows_accepted:,} prompts.

```python
from datasets import load_dataset

dataset = load_dataset("path/to/this/folder", split="train")
```

## How it was made

{_parameters(step)}

{_again(first)}

## Counts

{_counts(counts)}

## Columns

{_columns(first)}

## Origin

All images are synthetic. {_marking(step)}
The prompts come from `{job["input"]["table"]}`; the model's license applies to what it makes (`{step["license"]}`).
"""


def _configs(record: Record) -> str:
    """Tell the reader which files are the images, where a single one is not the most frequent kind of file.

    Only there: with these lines `load_dataset` knows what it has cached by them and by the folder's name alone, so
    that another dataset, or the same one grown, would be taken for the first; the description tells them apart.
    """
    return f"""configs:
- config_name: default
  description: {record["sha256"]}
  data_files:
  - split: train
    path:
    - images/*/metadata.jsonl
    - images/*/*{Path(record["file_name"]).suffix}
"""


def _parameters(step: dict[str, Any]) -> str:
    shown = (
        "model",
        "model_revision",
        "num_inference_steps",
        "guidance_scale",
        "scheduler",
        "seed",
        "images_per_prompt",
    )
    rows = [f"| `{key}` | {step[key]} |" for key in shown if step.get(key) not in (None, "")]
    rows.append(f"| size | {step['width']} × {step['height']}, {step['image_format']} |")
    return "\n".join(["| parameter | value |", "|---|---|", *rows])


def _again(first: Record | None) -> str:
    if first and first["seed"] == NO_SEED:
        return "Every parameter stands in `job.toml`. The model takes no seed: no image can be made again as it is."
    return """Every parameter stands in `job.toml`, and every record says all that is needed to make its image again:
`imagemill reproduce . prompt_0_image_0`."""


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


def _columns(record: Record | None) -> str:
    if record is None:
        return "No image has been made yet."
    rows = [f"| `{key}` | {_MEANINGS[key]} |" for key in record if key in _MEANINGS]
    rows += [
        f"| `{key}` | from the prompt table, or added later |" for key in columns_of(record) if key not in _MEANINGS
    ]
    return "\n".join(["| column | meaning |", "|---|---|", *rows])


def _marking(step: dict[str, Any]) -> str:
    if step["mark"]:
        return "Every file says so in its metadata (XMP `DigitalSourceType`: `trainedAlgorithmicMedia`)."
    if step["image_format"] == AS_RECEIVED:
        return "The files are as the server sent them; what they say of their origin is the server's."
    return "The files carry no such mark: that was chosen with `--no-mark`."
