"""What a dataset's card says of how many images there were, and what left some out."""

from __future__ import annotations

from collections.abc import Iterator

from imagemill.dataset.card.facts import Facts, cell

_HIDDEN = "what is not told here"


def counts_section(facts: Facts) -> str:
    """How many images there were at each point."""
    counts = facts.counts
    failed = ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.failed.items()))
    if facts.selections or facts.step["operator"] in {"merge", "import"}:
        return _counts_of_chosen(facts)
    rows = [
        f"| rows in the table | {counts.rows_read:,} |",
        f"| rows that could not be used | {counts.rows_rejected:,} |",
        f"| images asked for | {counts.requests:,} |",
        f"| images made | {counts.done:,} |",
        f"| failed | {sum(counts.failed.values()):,}{f' ({failed})' if failed else ''} |",
        f"| still to make | {counts.pending:,} |",
    ]
    if counts.removed:
        rows.insert(-1, f"| removed | {counts.removed:,} |")
    return "\n".join(["| what | number |", "|---|---|", *rows])


def _counts_of_chosen(facts: Facts) -> str:
    """The counts of a dataset that nobody has asked a model for: its images came from elsewhere."""
    counts = facts.counts
    left_out = sum(sum(step["left_out"].values()) for step in facts.selections)
    merged = facts.step["operator"] == "merge"
    rows = {
        "rows that could not be used": counts.rows_rejected,
        "images before any was left out": counts.requests + left_out if left_out else 0,
        "left out by selections": left_out,
        "failed": sum(counts.failed.values()),
        "removed": counts.removed,
        f"images here, from {counts.rows_accepted:,} row{'s' if counts.rows_accepted != 1 else ''}": counts.done,
    }
    if merged:
        rows = {f"images of `{source['name']}`": source["images"] for source in facts.step["sources"]} | rows
    lines = [
        f"| {cell(name)} | {number:,} |" for name, number in rows.items() if number or name.startswith("images here")
    ]
    return "\n".join(["| what | number |", "|---|---|", *lines])


def filters_section(facts: Facts) -> Iterator[str]:
    """What has left images out, and how many."""
    accepting = [step for step in facts.origins if step.get("accept")]
    for step in accepting:
        accept = _HIDDEN if facts.hides(step["accept"]) else step["accept"]
        least = f"**Filter.** An image was kept only where `{accept}` is true, and drawn again where it is not"
        tried = f", at most {step['max_tries']:,} times"
        drawn = (
            f" {facts.counts.done + facts.refused:,} images were drawn, and {facts.refused:,} of them not accepted."
            if facts.refused is not None and step is facts.step
            else ""
        )
        yield f"{least}{tried}.{drawn}"
    rows = [
        f"| {cell(step['source'])} | {count:,} | {_HIDDEN if facts.hides(kind) else f'`{cell(kind)}`'} |"
        for step in facts.selections
        for kind, count in step["left_out"].items()
    ]
    if facts.where and facts.images is not None and facts.images < facts.counts.done:
        told = _HIDDEN if facts.hides(facts.where) else f"not `{cell(facts.where)}`"
        rows.append(f"| the dataset, for this export | {facts.counts.done - facts.images:,} | {told} |")
    if rows:
        table = "\n".join(["| selected from | images left out | because of |", "|---|---|---|", *rows])
        each = (
            ""
            if facts.exported or facts.step["operator"] == "merge"
            else "\n\n`.imagemill/left_out.jsonl` lists each that the last selection left out."
        )
        yield f"**Selection.** Images were left out:\n\n{table}{each}"
    elif facts.step["operator"] == "import":
        yield "**Filters.** None since the pictures were taken in."
    elif not accepting:
        yield "**Filters.** None: all images that were made are here, but for those that failed or were removed."
