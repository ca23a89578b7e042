"""What came of everything that was asked for, and how it was made."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from imagemill.records import order_of
from imagemill.reporting.figures import lines, reasons
from imagemill.reporting.markup import Markup, cut, element, joined, share, table
from imagemill.reporting.plots import bars
from imagemill.terminal import number

if TYPE_CHECKING:
    from imagemill.dataset import Counts, Dataset

_ROWS = 20
_NEVER = "not_accepted"
"""The reason of requests none of whose tries was accepted."""
_FIGURE = re.compile(r" -?\d[\d.e+-]* (?=[<>=!≤≥])")
"""The image's own figure in a reason such as `alignment 0.181 < 0.28`."""


def counts(dataset: Dataset, found: Counts, accepted: Mapping[int, int]) -> Markup:
    """Where every request, every row and every image stands; `accepted` are images by the try that made them."""
    rejects = Counter(str(line.get("reason", "unknown")) for line in dataset.rejects())
    rejects += Counter({"unknown": max(0, found.rows_rejected - rejects.total())})
    requests = [("done", found.done), *((f"failed: {reason}", count) for reason, count in _most(found.failed))]
    if found.removed:
        requests.append(("removed", found.removed))
    if found.pending > 0:
        requests.append(("still to make", found.pending))
    rows = [("accepted", found.rows_accepted), *((f"rejected: {reason}", count) for reason, count in _most(rejects))]
    return joined(
        [
            element("h3", f"{number(found.requests, 'image')} asked for"),
            _bars(requests, "images by status"),
            element("h3", f"{number(found.rows_read, 'row')} in the table"),
            _bars(rows, "rows by status"),
            *_left_out(dataset),
            *_tries(dataset, accepted),
            *_unscored(dataset),
        ]
    )


def origin(dataset: Dataset) -> Markup:
    """Every parameter of every step, and of scores also what they mean."""
    job = dataset.job
    parts = [element("p", "Prompt table: ", element("code", job["input"]["table"]))]
    for step in job["steps"]:
        meanings = {**step.get("scores", {}), **step.get("meanings", {})}
        rows = [
            (element("code", key), _value(value))
            for key, value in step.items()
            if value not in ("", None, [], {}) and key not in {"scores", "meanings", "columns", "operator", "sources"}
        ]
        parts += [element("h3", _step_name(step)), table(("parameter", "value"), rows)]
        if sources := step.get("sources"):
            merged = [
                (source["name"], ", ".join(map(_step_name, source["steps"])), source["images"]) for source in sources
            ]
            parts.append(table(("merged", "steps", "images"), merged))
        if meanings:
            columns = [(element("code", name), meaning) for name, meaning in meanings.items()]
            parts.append(table(("column", "meaning"), columns))
    return joined(parts)


def _step_name(step: Mapping[str, Any]) -> str:
    detail = step.get("scorer") or step.get("column") or ""
    return f"{step['operator']}: {detail}" if detail else str(step["operator"])


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _left_out(dataset: Dataset) -> Iterator[Markup]:
    """Images that a selection did not keep."""
    found = reasons(dataset.folder / ".imagemill" / "left_out.jsonl")
    if found:
        yield element("h3", f"{number(found.total(), 'image')} left out by the selection")
        yield _bars(_most(found), "images left out by reason")


def _tries(dataset: Dataset, accepted: Mapping[int, int]) -> Iterator[Markup]:
    """Images that a quota did not accept, and rows that it never filled."""
    refused: Counter[str] = Counter()
    by_row: Counter[int] = Counter()
    for line in lines(dataset.folder / ".imagemill" / "tries.jsonl"):
        refused[_FIGURE.sub(" ", str(line.get("reason", "unknown")))] += 1
        by_row[order_of(line["file_name"])[0]] += 1
    if refused:
        yield element("h3", f"{number(refused.total(), 'image')} drawn and not accepted")
        yield _bars(_most(refused), "images not accepted by reason")
    if max(accepted, default=0) > 1:
        yield element("h3", "Images by the try that was accepted")
        yield _bars([(f"try {count}", accepted[count]) for count in sorted(accepted)[:_ROWS]], "images by try")
    never = [(name, failure) for name, failure in dataset.failures().items() if failure["reason"] == _NEVER]
    if never:
        rows = []
        for name, failure in never[:_ROWS]:
            prompt = cut(failure["request"]["prompt"], 200)
            rows.append((failure["id"], prompt, failure["message"], f"{by_row[order_of(name)[0]]:,}"))
        yield element("h3", f"{number(len(never), 'image')} that never passed")
        yield table(("row", "prompt", "last reason", "drawn for the row"), rows, numbers=1)
        if len(never) > _ROWS:
            yield element("p", f"The first {_ROWS} of {len(never):,}.", class_="note")


def _unscored(dataset: Dataset) -> Iterator[Markup]:
    """Images that were looked at in vain, by column and reason."""
    ending = "-failures.jsonl"
    rows = []
    for path in sorted((dataset.folder / ".imagemill" / "columns").glob(f"*{ending}")):
        column = path.name.removesuffix(ending)
        rows += [(f"{column}: {reason}", count) for reason, count in _most(reasons(path))]
    if rows:
        yield element("h3", "Images without a score or a text, by column and reason")
        yield _bars(rows, "images without a value by reason")


def _most(found: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent first, and the others in one."""
    ordered = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = ordered[_ROWS:]
    others = [(f"{len(rest):,} other reasons", sum(count for _, count in rest))] if rest else []
    return ordered[:_ROWS] + others


def _bars(rows: list[tuple[str, int]], what: str) -> Markup:
    whole = sum(count for _, count in rows)
    return bars([(name, count, f"{count:,} · {share(count, whole)}") for name, count in rows], what)
