"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagemill.dataset.files import make_folder, write_file
from imagemill.dataset.folder import Counts, Dataset
from imagemill.errors import UsageError
from imagemill.reporting.figures import Collected, collect
from imagemill.reporting.markup import Markup, element, joined
from imagemill.reporting.overview import counts, origin
from imagemill.reporting.pictures import Thumbnails
from imagemill.reporting.plots import quartiles
from imagemill.reporting.prompts import likeness, prompts
from imagemill.reporting.scores import attributes, by_group, score

SAMPLES = 3
_MOST_SAMPLES = 50

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2128; --soft: #59636e; --line: #d4d9df; --bar: #3f7fc1;
  --band: #3f7fc11f; --mark: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --ink: #e4e8ec; --soft: #9aa4af; --line: #363d46;
  --bar: #5b9bdd; --band: #5b9bdd2b; --mark: #fb923c; } }
body { margin: 0 auto; padding: 1.5rem; max-width: 62rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; padding-top: 0.6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 0.3rem; }
h4 { font-size: 0.85rem; margin: 0 0 0.3rem; color: var(--soft); font-weight: 600; }
p { margin: 0.3rem 0; }
a { color: inherit; }
nav a { margin-right: 1rem; }
.note, nav { color: var(--soft); font-size: 0.85rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 0.6rem; margin: 1rem 0; }
.tiles div { border: 1px solid var(--line); border-radius: 6px; padding: 0.4rem 0.9rem; }
.tiles b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: 0.85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.5rem 0; font-size: 0.88rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.8rem 0.25rem 0; text-align: left;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { display: block; max-width: 100%; height: auto; margin: 0.4rem 0; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.bar { fill: var(--bar); }
.band { fill: var(--band); }
.planned { fill: none; stroke: var(--bar); }
.axis { stroke: var(--soft); }
.grid { stroke: var(--line); }
.median { stroke: var(--mark); stroke-width: 2; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: 1rem;
  margin: 0.8rem 0; }
figure { margin: 0 0 0.8rem; }
img { max-width: 100%; height: auto; border-radius: 4px; vertical-align: middle; background: var(--line); }
figcaption { font-size: 0.8rem; line-height: 1.35; color: var(--soft); }
figcaption b { color: var(--ink); }
"""


@dataclass(frozen=True, slots=True)
class Report:
    """A page that was written, and the figures that stand on it."""

    path: Path
    figures: dict[str, Any]
    """Plain values, for JSON."""


def report(dataset: Dataset | str | Path, path: str | Path, *, samples: int = SAMPLES, by: str = "") -> Report:
    """Write one self-contained HTML page on a dataset: counts, scores, samples, prompts, likeness.

    `samples` images, 0 to 50, are shown for each quantile of each score; `by` names a column by whose values scores
    are compared. The same dataset gives the same bytes. Raises UsageError.
    """
    dataset = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    path = Path(path)
    if path.suffix.lower() not in {".html", ".htm"} or path.is_dir():
        raise UsageError(f"a report is an HTML file, got: `{path}`", f"call it `{path.with_suffix('.html')}`")
    if not 0 <= samples <= _MOST_SAMPLES:
        raise UsageError(f"`samples`: 0 to {_MOST_SAMPLES}, got: `{samples}`", "give a number in that range")
    page, figures = _rendered(dataset, samples, by)
    make_folder(path.parent)
    write_file(path, page.encode("utf-8", "replace"))
    return Report(path, figures)


def _rendered(dataset: Dataset, samples: int, by: str) -> tuple[str, dict[str, Any]]:
    collected, found = collect(dataset, by), dataset.counts()
    thumbnails = Thumbnails()
    said, figures = prompts(collected)
    alike, alike_figures = likeness(collected, samples, thumbnails)
    sections: dict[str, Markup] = {"Counts": counts(dataset, found, collected.tries)}
    if collected.columns:
        shown = [score(collected, column, samples, thumbnails) for column in collected.columns]
        sections["Scores"] = joined([_contents(collected), *shown])
    else:
        sections["Scores"] = element("p", "No score has been given yet: ", element("code", "imagemill score"), ".")
    if by:
        sections[f"By {by}"] = by_group(collected, by)
    if collected.agreements:
        sections["Planned against achieved"] = attributes(collected)
    sections |= {"Prompts": said, "Near-duplicates and diversity": alike, "How it was made": origin(dataset)}
    spreads = {column.name: quartiles(collected.values(column.name)) for column in collected.columns}
    medians = {name: spread.median if spread else None for name, spread in spreads.items()}
    all_figures = {"images": len(collected), "medians": medians, "prompts": figures, "likeness": alike_figures}
    return _page(dataset, found, sections), all_figures


def _page(dataset: Dataset, found: Counts, sections: dict[str, Markup]) -> str:
    title = _title(dataset)
    names = {name: f"section-{place}" for place, name in enumerate(sections)}
    body = element(
        "body",
        element("h1", title),
        element("nav", *(element("a", name, href=f"#{place}") for name, place in names.items())),
        _tiles(found),
        *(element("section", element("h2", name, id=names[name]), section) for name, section in sections.items()),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(_STYLE)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _title(dataset: Dataset) -> str:
    """Not the folder's name: a dataset that is moved keeps its page, byte by byte."""
    job = dataset.job
    model = job["steps"][0]["model"]
    return Path(job["input"]["table"]).stem + (f" by {Path(model).name}" if model else "")


def _tiles(found: Counts) -> Markup:
    values = {
        "images": found.done,
        "failed": sum(found.failed.values()),
        **({"removed": found.removed} if found.removed else {}),
        "still to make": max(0, found.pending),
        "rows read": found.rows_read,
        "rows rejected": found.rows_rejected,
    }
    tiles = (element("div", element("b", f"{value:,}"), element("span", name)) for name, value in values.items())
    return element("div", *tiles, class_="tiles")


def _contents(collected: Collected) -> Markup:
    def links() -> Iterator[Markup]:
        for column in collected.columns:
            yield element("a", column.name, href=f"#score-{column.name}")

    return element("nav", *links())
