"""What a plan says to people: a headline, a few facts, the first prompts, and what should be known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from imagemill.server.web.making.forms import label_of
from imagemill.server.web.making.jobs import Plan
from imagemill.server.web.making.offered import MAKING
from imagemill.terminal import duration, number, size

Fact = tuple[str, str]
_UNTIMED: Fact = ("Estimated time", "unknown before it runs")
_FLAG = re.compile("`--([a-z-]+)`")


def shown_plan(operator: str, plan: Plan) -> dict[str, Any]:
    """A plan as the page shows it."""
    data = plan.data or {}
    notes = [_note(line) for line in plan.said]
    if operator in MAKING:
        return {
            "headline": number(data["pending"], "image"),
            "facts": list(_of_images(operator, data)),
            "prompts": [_of_prompt(**told) for told in data["first_prompts"]],
            "notes": notes,
        }
    headline, facts = {
        "caption": _of_captions,
        "score": _of_scores,
        "select": _of_selection,
        "export": _of_splits,
        "import": _of_splits,
    }[operator](data)
    # What they say is what stands above.
    quiet = operator in {"caption", "score", "select"}
    return {"headline": headline, "facts": facts, "prompts": [], "notes": [] if quiet else notes}


def _note(line: str) -> str:
    """What a command says, with fields in place of flags."""
    said = _FLAG.sub(lambda flag: f"“{label_of(flag[1].replace('-', '_'))}”", line)
    return f"{said[:1].upper()}{said[1:]}"


def _time(seconds: float) -> str:
    return "under a second" if seconds < 1 else f"about {duration(seconds)}"


def _of_images(operator: str, data: Mapping[str, Any]) -> Iterator[Fact]:
    noun = "Prompts" if operator == "generate" else "Rows"
    each = data["images"] / data["prompts"]
    yield noun, f"{data['prompts']:,}" + (f" × {each:g}" if each != 1 else "")
    yield "Model", data["model"]
    yield "Estimated time", "unknown" if data["seconds"] is None else _time(data["seconds"])
    yield "Size", "unknown" if data["bytes"] is None else f"about {size(data['bytes'])}"
    if data["cost"] is None or data["cost"] > 0:
        yield "Calls", f"{data['calls']:,}"
        yield "Cost", "unknown" if data["cost"] is None else f"${data['cost']:,.2f}"
    for label, count in (("Done before", data["done"]), ("Failed before", sum(data["failed"].values()))):
        if count:
            yield label, f"{count:,}"
    if data["rows_rejected"]:
        yield "Rejected", number(data["rows_rejected"], "row")


def _of_prompt(prompt: str, **told: Any) -> dict[str, str]:
    """A final prompt, and what its row has set for itself."""
    told = {name: value for name, value in told.items() if value != ""}
    return {"prompt": prompt, "set": " · ".join(f"{label_of(name)}: {value}" for name, value in told.items())}


def _of_captions(data: Mapping[str, Any]) -> tuple[str, list[Fact]]:
    facts = [("Images", f"{data['images']:,}"), ("Column", data["column"]), ("Model", data["model"]), _UNTIMED]
    if data["captions_per_image"] > 1:
        facts.insert(1, ("Captions of each", f"{data['captions_per_image']:,}"))
    if data["done"]:
        facts.append(("Done before", f"{data['done']:,}"))
    return f"{number(data['images'] - data['done'], 'image')} without a text", facts


def _of_scores(data: Mapping[str, Any]) -> tuple[str, list[Fact]]:
    facts = []
    for name, found in data["scorers"].items():
        left = data["images"] - found["done"]
        before = f", {found['done']:,} done before" if found["done"] else ""
        model = f" with {found['model']}" if found["model"] else ""
        facts.append((name, f"{left:,} to score{model}{before}: {', '.join(found['columns'])}"))
    return number(data["images"], "image"), [*facts, _UNTIMED]


def _of_selection(data: Mapping[str, Any]) -> tuple[str, list[Fact]]:
    facts = [(f"Left out: {kind}", f"{count:,}") for kind, count in data["left_out"].items()]
    facts += [(name, f"{count:,}") for name, count in data["splits"].items()]
    facts.append(("Size", "next to nothing: files are hard links"))
    return f"{data['kept']:,} of {number(data['images'], 'image')} kept", facts


def _of_splits(data: Mapping[str, Any]) -> tuple[str, list[Fact]]:
    splits = data["splits"]
    total = data["bytes"]
    told = "unknown, since pictures are converted" if total is None else f"about {size(total)}"
    facts = [("Layout", data["layout"]), ("Size", told)]
    if len(splits) > 1:
        facts += [(name, f"{count:,}") for name, count in splits.items()]
    return number(sum(splits.values()), "image"), facts
