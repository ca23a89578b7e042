"""What a dataset's card says, section by section, in plain words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imagemill.dataset.card.counts import counts_section, filters_section
from imagemill.dataset.card.facts import (
    AS_RECEIVED,
    MADE_FROM,
    TAKEN_IN,
    Facts,
    Step,
    cell,
    license_of,
    licenses,
    models,
    title,
)
from imagemill.dataset.card.jobs import job_file
from imagemill.dataset.card.structure import columns_section
from imagemill.licenses import is_limited, is_non_commercial
from imagemill.records import NO_SEED

_MADE = {
    "generate": "made by an AI model, `{model}`, from a table of {rows:,} prompts",
    "augment": "that an AI model, `{model}`, made of the pictures of {rows:,} rows, or sources",
    "originals": "of {rows:,} rows, or sources: pictures as they came, and what an AI model, `{model}`, made of them",
    "import": "taken in as they are, from {rows:,} rows",
    "edit": "edited by an AI model, `{model}`, as {rows:,} rows of instructions say",
    "merge": "merged from {sources}",
}
"""By operator: what the images are."""
_PURPOSES = {
    "generate": "text-to-image models",
    "augment": "image-to-image models",
    "edit": "models that edit images",
}
_PARAMETERS = (
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "seed",
    "images_per_prompt",
    "images_per_sample",
    "strength",
)
_NSFW = ("image_nsfw", "prompt_nsfw")
"""Columns that tell what is not for everyone."""


def made(facts: Facts) -> str:
    """What the images are, after their number."""
    sources = [f"`{source['name']}` ({source['images']:,})" for source in facts.step.get("sources", ())]
    words = {"model": facts.step.get("model"), "rows": facts.counts.rows_accepted, "sources": ", ".join(sources)}
    operator = facts.step["operator"]
    return _MADE["originals" if facts.step.get("keep_original") else operator].format(**words)


def sections(facts: Facts) -> dict[str, list[str]]:
    """The paragraphs of each section, by its title."""
    return {
        "Details": [*_details(facts)],
        "Uses": [*_uses(facts)],
        "Structure": [columns_section(facts)],
        "Creation": [*_creation(facts)],
        "Annotations": [*_annotations(facts)],
        "Personal and Sensitive Information": [*_personal(facts)],
        "Bias and Risks": [*_risks(facts)],
        "AI-generated Content": [*_origin(facts)],
        "Citation": [_citation(facts)],
    }


def _details(facts: Facts) -> Iterator[str]:
    found = models(facts)
    if found:
        rows = [
            f"| `{model}` | {purpose} | {f'`{revision}`' if revision else 'not told'} | `{license_name}` |"
            for model, purpose, revision, license_name in found
        ]
        yield "\n".join(["| model | for | revision | license |", "|---|---|---|---|", *rows])
    if "import" in facts.operators:
        yield "Which model made a picture that was taken in, if any, its record says in `model`, where that is known."
    yield from _licenses(facts, found)


def _licenses(facts: Facts, found: Sequence[tuple[str, str, str, str]]) -> Iterator[str]:
    held = licenses(facts.step)
    license_name = next(iter(held))
    if facts.license:
        told = f"[`{facts.license}`]({facts.license_link})" if facts.license_link else f"`{facts.license}`"
        yield f"License: {told}, for the dataset; the licenses of models and sources stay as they are."
    if len(held) > 1 or (facts.license and facts.operators != {"generate"}):
        parts = [
            f"{'not known to imagemill' if name == 'unknown' else f'`{name}`'}, of {' and '.join(holders)}"
            for name, holders in held.items()
        ]
        what = "Of the parts" if facts.license else "License"
        yield f"{what}: {'; '.join(parts)}.{' What is made of several keeps to all.' if len(parts) > 1 else ''}"
    elif facts.license:
        pass
    elif license_name == "unknown":
        of = "the pictures" if "import" in facts.operators else "what the model makes"
        yield f"License: not known to imagemill, of {of}."
    elif license_name == "other":
        yield "License: one without a name on Hugging Face, or several; what holds is told where each model comes from."
    elif "import" in facts.operators:
        yield f"License: `{license_name}`, as the source says."
    else:
        yield f"License: `{license_name}`, that of the model, which applies to what it makes as far as it says so."
    for name, holders in held.items():
        pictures = " and ".join(holder for holder in holders if holder in {TAKEN_IN, MADE_FROM})
        if pictures and is_non_commercial(name):
            yield (
                f"**Not for commercial use:** {pictures} have a non-commercial license, `{name}`. Read it before using"
                " this dataset for anything commercial."
            )
        elif pictures and is_limited(name):
            yield f"The license of {pictures} allows commercial use only on conditions: `{name}`."
    for model, purpose, _, name in dict.fromkeys(found):
        if is_non_commercial(name):
            yield (
                f"**Not for commercial use:** `{model}`, which made {purpose}, has a non-commercial license, `{name}`."
                " Read it before using this dataset for anything commercial."
            )
        elif is_limited(name):
            yield (
                f"The license of `{model}`, which made {purpose}, allows commercial use only on conditions: `{name}`."
            )


def _uses(facts: Facts) -> Iterator[str]:
    tasks = sorted({_PURPOSES[operator] for operator in facts.operators if operator in _PURPOSES})
    if tasks:
        yield f"To train, test and compare {' and '.join(tasks)}, as far as the licenses allow it."
    if "import" in facts.operators:
        yield "What pictures that were taken in may be used for, their source decides."
    if facts.synthetic:
        yield "Not as evidence of anything: what a synthetic image shows has not happened."


def _creation(facts: Facts) -> Iterator[str]:
    yield f"**Why.** {_rationale(facts)}"
    yield f"**Source.** {_source(facts)}"
    yield f"**Parameters.** {_parameters(facts.step)}"
    yield f"**Counts.** How many there were at each point:\n\n{counts_section(facts)}"
    yield from filters_section(facts)
    yield f"**Made again.** {_again(facts)}"


def _rationale(facts: Facts) -> str:
    step = facts.step
    if step["operator"] == "merge":
        return "To have the images of several datasets in one."
    if step["operator"] == "import":
        return "To have pictures that were there as a dataset with one record each."
    each = step.get("images_per_prompt") or step.get("images_per_sample") or 1
    what = {"generate": "each prompt", "augment": "each picture and text", "edit": "each picture and instruction"}
    return f"To have {each:,} image{'s' if each > 1 else ''} for {what[step['operator']]} of the table."


def _source(facts: Facts) -> str:
    if facts.step["operator"] == "merge":
        rows = [
            f"| `{cell(str(source['name']))}` | {source['images']:,} | `{cell(license_of(source['steps'][0]))}` |"
            f" {cell(', '.join(_said(source)))} |"
            for source in facts.step.get("sources", ())
        ]
        table = "\n".join(["| dataset | images | license | steps |", "|---|---|---|---|", *rows])
        return f"These datasets, each with the steps that had made it:\n\n{table}"
    sha256 = facts.job["input"].get("sha256")
    known = f" (SHA-256 of its rows `{sha256}`)" if sha256 else ""
    counts = facts.counts
    rejected = f", {counts.rows_rejected:,} of which could not be used" if counts.rows_rejected else ""
    rows_read = f"{counts.rows_read:,} row{'s' if counts.rows_read != 1 else ''}"
    operator = facts.step["operator"]
    what = {"generate": "prompts", "import": "pictures", "augment": "pictures and texts"}
    who = "wrote" if operator == "generate" else "made"
    whole = f"`{facts.table}`{known}: {rows_read}{rejected}. Who {who} them it does not say."
    return f"The {what.get(operator, 'pictures and instructions')} come from {whole}"


def _said(source: Mapping[str, Any]) -> Iterator[str]:
    for step in source.get("steps", ()):
        yield f"{step['operator']} by {step['model']}" if step.get("model") else str(step["operator"])


def _parameters(step: Step) -> str:
    if step["operator"] == "merge":
        return "Each record tells those of its image."
    if step["operator"] == "import":
        return "The pictures were taken in: as they are, or as upright RGB where readers would see them differently."
    rows = [f"| `{key}` | {step[key]} |" for key in _PARAMETERS if step.get(key) not in (None, "")]
    size = f"{step['width']} × {step['height']}" if "width" in step else "the source's"
    rows.append(f"| size | {size}, {step['image_format']} |")
    table = "\n".join(["| parameter | value |", "|---|---|", *rows])
    return f"Where a row of the table says nothing else:\n\n{table}"


def _again(facts: Facts) -> str:
    step, shown = facts.step, facts.made
    if step["operator"] == "merge":
        return "By `imagemill merge` of the same datasets, each of which tells how it was made."
    if step["operator"] == "import":
        return "By `imagemill import` of the same pictures."
    if any(facts.hides(str(value)) for each in facts.job["steps"] for value in each.values()):
        return "Only by whoever made it: the job names what is not told here."
    here = "" if facts.exported else " All parameters stand in `job.toml`, too."
    if shown and shown["seed"] == NO_SEED:
        here += " The model takes no seed: it makes other images then."
    elif step["image_format"] != AS_RECEIVED:
        here += " With the same software on the same kind of machine the images are the same."
        if shown and not facts.exported:
            here += f" `imagemill reproduce . {Path(shown['file_name']).stem}` makes one of them."
    told = f"```toml\n{job_file(facts.job)}```"
    return f"By `imagemill run FILE`, where FILE says this and lies beside the table.{here}\n\n{told}"


def _annotations(facts: Facts) -> Iterator[str]:
    lines = []
    for step in facts.later:
        with_model = f" with `{step['model']}`" if step.get("model") else ""
        if step["operator"] == "score":
            meanings = {**step["scores"], **step["meanings"]}
            by = f"by the scorer `{step['scorer']}`{with_model}"
            lines += [f"- `{name}`, {by}: {meaning}" for name, meaning in meanings.items()]
        elif step["operator"] == "caption":
            lines += [f"- `{name}`, a description{with_model}" for name in step["columns"]]
    if lines:
        yield "Nobody has checked these, which programs have made:\n\n" + "\n".join(lines)
    if by_hand := dict.fromkeys(
        name for step in facts.later for name in (*step.get("edited", ()), *_columns_by_hand(step))
    ):
        yield "People have edited these: " + ", ".join(f"`{name}`" for name in by_hand) + "."
    elif not lines:
        yield "None but what the columns above tell."


def _columns_by_hand(step: Mapping[str, Any]) -> Iterable[str]:
    return step.get("columns", ()) if step["operator"] in {"apply", "select"} else ()


def _personal(facts: Facts) -> Iterator[str]:
    yield "Texts are as the table had them: they may name people, and hold whatever was written into it."
    if facts.counts.removed:
        removed = facts.counts.removed
        images = "image was" if removed == 1 else "images were"
        yield f"{removed:,} {images} removed since, and nothing of {'it' if removed == 1 else 'them'} was kept."
    blocked = sum(number for reason, number in facts.counts.failed.items() if "blocked" in reason)
    if blocked:
        yield f"A filter of the model or its server refused {blocked:,} images."
    scored = [name for step in facts.later for name in _NSFW if name in step.get("scores", ())]
    if scored:
        names = " and ".join(f"`{name}`" for name in dict.fromkeys(scored))
        yield f"{names} tell how likely something is not safe for work; what is left out by it, a filter above says."
    else:
        yield "Nobody has looked for nudity, violence or likenesses of people: `imagemill score` could."


def _risks(facts: Facts) -> Iterator[str]:
    if facts.operators != {"import"}:
        yield (
            "The images show what the model has learned, with its stereotypes, for the prompts that somebody chose."
            " They say nothing about how often things are in the world."
        )
    if "import" in facts.operators:
        yield "How pictures that were taken in had been chosen, nobody has told imagemill."
    elif facts.step["operator"] == "import":
        yield "How the images were chosen before they were taken in, the card that came with them says."
    if _chosen_by_figures(facts):
        yield "Images were chosen by figures of programs, whose preferences are now those of the dataset."
    yield "Whoever trains on synthetic images trains on their mistakes, such as wrong hands, texts and counts."


def _chosen_by_figures(facts: Facts) -> bool:
    """Whether a figure, or a likeness, that a program has found decided which images stay."""
    if any(step.get("accept") for step in facts.origins):
        return True
    figures = [*{name for step in facts.later if step["operator"] == "score" for name in step["scores"]}]
    asked = [str(value) for step in facts.selections for name, value in step.items() if name in {"where", "by"}]
    asked.append(facts.where)
    named = any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in figures for text in asked)
    return named or any(step.get("deduplicate") in {"perceptual", "embedding"} for step in facts.selections)


def _origin(facts: Facts) -> Iterator[str]:
    signers = dict.fromkeys(step["signed_by"] for step in facts.later if step.get("signed_by"))
    signed = f" The files that were made came signed by {' and '.join(signers)}." if signers else ""
    yield f"{_synthetic(facts)} {_marking(facts)}{signed}"
    if facts.synthetic:
        model = facts.only_model
        yield (
            "Where such images are shown, the law may ask to say so, in the European Union Article 50 of Regulation"
            f' (EU) 2024/1689. A sentence for it: "This image was made by an AI{f" model, {model}" if model else ""}."'
            " This is help, and no legal advice."
        )


def _synthetic(facts: Facts) -> str:
    if facts.operators == {"import"}:
        return "The images are as they came; what they say of their origin is theirs."
    if "import" in facts.operators:
        return "The images of a record with a `model` are synthetic; others are as they came."
    if "augment" in facts.operators:
        return "All images but the originals, where `original` is true, are synthetic; those are as they came."
    if "edit" in facts.operators:
        return "The edited images are synthetic; the pictures before them, and masks, are as they came."
    return "All images are synthetic."


def _marking(facts: Facts) -> str:
    steps = [step for step in facts.origins if step["operator"] != "import"]
    if not steps:
        return "No file was marked here."
    if len({(step["mark"], step["image_format"] == AS_RECEIVED) for step in steps}) > 1:
        return "The files carry the marks that they had."
    (step, *_) = steps
    if step["mark"]:
        operators = {step["operator"] for step in steps}
        origin = "trainedAlgorithmicMedia" if operators == {"generate"} else "compositeWithTrainedAlgorithmicMedia"
        if "generate" in operators and len(operators) > 1:
            origin = f"trainedAlgorithmicMedia`, or `{origin}"
        return f"Every file that was made says so in its metadata (XMP `DigitalSourceType`: `{origin}`)."
    if step["image_format"] == AS_RECEIVED:
        return "The files are as the server sent them; what they say of their origin is the server's."
    return "The files carry no such mark: that was chosen with `--no-mark`."


def _citation(facts: Facts) -> str:
    name = title(facts)
    entries = [
        *([] if facts.citation else [(name, "Image dataset, made with imagemill")]),
        ("imagemill", "From prompt tables to image datasets"),
        *((model, f"Model{f', revision {revision}' if revision else ''}") for model, _, revision, _ in models(facts)),
    ]
    written = [f"{facts.citation.strip()}\n"] if facts.citation else []
    keys = Counter[str]()
    for known, note in dict.fromkeys(entries):
        key = re.sub(r"[^a-z0-9]+", "-", known.lower()).strip("-") or "dataset"
        keys[key] += 1
        key += f"-{keys[key]}" if keys[key] > 1 else ""
        written.append(f"@misc{{{key},\n  title = {{{{{_tex(known)}}}}},\n  note = {{{_tex(note)}}}\n}}\n")
    return "```bibtex\n" + "\n".join(written) + "```"


def _tex(text: str) -> str:
    """A text as BibTeX takes it."""
    return re.sub(r"([&%$#_])", r"\\\1", re.sub(r"[{}\\`]", "", text))
