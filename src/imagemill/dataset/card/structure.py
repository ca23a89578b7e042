"""What a dataset's card says of its columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from imagemill.dataset.card.columns import BY_HAND, DIFFUSIONDB, MEANINGS, SAMPLE, as_read
from imagemill.dataset.card.facts import Facts, Step, cell
from imagemill.records import columns_of


def columns_section(facts: Facts) -> str:
    """Every column with its meaning, as whoever reads the dataset sees it."""
    if facts.first is None:
        return "No image has been made yet."
    meanings = MEANINGS | {name: meaning for step in facts.later for name, meaning in _added(step)}
    if facts.exported:
        meanings |= {name: text.partition(", files in")[0] for name, text in meanings.items()}
        meanings["file_name"] = "the image"
    whole = facts.layout in {"", "webdataset", "diffusiondb"}
    called = {key: key if whole else as_read(key) for key in facts.first}
    if not whole:
        meanings["edited_image_file_name"] = f"the picture after the edit, the same as `{called['file_name']}`"
    rows = {called[key]: meanings[key] for key in facts.first if key in meanings}
    came = "as the source has it" if facts.step["operator"] == "import" else "from the prompt table, or added later"
    rows |= {called[key]: came for key in columns_of(facts.first) if key not in meanings}
    if not whole and facts.caption_column not in {"", "text"}:
        rows["text"] = f"the same as `{facts.caption_column}`, where trainers look for captions"
    if facts.layout == "webdataset":
        files = {name: text.format(caption=facts.caption_column) for name, text in SAMPLE.items()}
        return (
            f"Each sample holds:\n\n{_table('file', files)}\n\nA record has these columns:\n\n{_table('column', rows)}"
        )
    if facts.layout == "diffusiondb":
        first = f"The main table has the columns of DiffusionDB:\n\n{_table('column', DIFFUSIONDB)}"
        return f"{first}\n\n`metadata-extra.parquet` has one whole record for each image:\n\n{_table('column', rows)}"
    return f"Each image has one record:\n\n{_table('column', rows)}"


def _table(name: str, rows: Mapping[str, str]) -> str:
    """Names with their meanings."""
    lines = (f"| `{cell(key)}` | {cell(text)} |" for key, text in rows.items())
    return "\n".join([f"| {name} | meaning |", "|---|---|", *lines])


def _added(step: Step) -> Iterator[tuple[str, str]]:
    """The columns that a step has added, with their meanings."""
    if step["operator"] == "score":
        by = f" ({step['scorer']}{', `' + step['model'] + '`' if step['model'] else ''})"
        yield from ((name, meaning + by) for name, meaning in {**step["scores"], **step["meanings"]}.items())
        return
    for name in step.get("columns", {}):
        if step["operator"] in {"apply", "select"}:
            yield name, BY_HAND.get(name.removeprefix("curated_"), "by hand")
        elif step["operator"] != "caption":
            yield name, f"added by `{step['operator']}`"
        elif name == step["column"]:
            yield name, f"what `{step['model']}` sees in the image; empty when it failed"
        else:
            yield name, f"all that `{step['model']}` said of the image; `{step['column']}` is the first"
