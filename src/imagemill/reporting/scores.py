"""Scores: how they are spread, what images with them look like, and what rows asked for that images show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from imagemill.reporting.figures import Collected, ScoreColumn
from imagemill.reporting.markup import EMPTY, Markup, cut, element, figure, joined, share, table
from imagemill.reporting.pictures import Thumbnails
from imagemill.reporting.plots import achieved, bars, boxes, histogram, quartiles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FEW = 12
"""Different values of a score that each get a bar."""
_GROUPS = 20
"""Values of a column that are shown."""
_QUANTILES = {0.0: "lowest", 0.25: "25 %", 0.5: "median", 0.75: "75 %", 1.0: "highest"}


def score(collected: Collected, column: ScoreColumn, samples: int, thumbnails: Thumbnails) -> Markup:
    """One score: histogram, figures, and images by quantile."""
    import numpy as np

    values = collected.values(column.name)
    spread = quartiles(values)
    made_by = " · ".join(part for part in (column.scorer, column.model, column.revision[:12]) if part)
    head = [element("h3", column.name, id=f"score-{column.name}"), element("p", column.meaning)]
    if made_by:
        head.append(element("p", made_by, class_="note"))
    if not spread:
        return joined([*head, element("p", f"None of {len(values):,} images has this score.")])
    cells = [spread.minimum, spread.lower, spread.median, spread.upper, spread.maximum, spread.mean]
    return joined(
        [
            *head,
            _plot(values[~np.isnan(values)], column.name),
            table(
                ("images", "missing", "minimum", "25 %", "median", "75 %", "maximum", "mean"),
                [(f"{spread.count:,}", f"{spread.missing:,}", *map(figure, cells))],
                numbers=8,
            ),
            *_samples(collected, values, samples, thumbnails),
        ]
    )


def by_group(collected: Collected, by: str) -> Markup:
    """Images, and each score, by the values of a column."""
    import numpy as np

    places = collected.groups.places
    sizes = np.bincount(places, minlength=len(collected.groups.known))
    order = sorted(range(len(sizes)), key=lambda group: (-sizes[group], collected.groups.known[group]))
    most = order[:_GROUPS]
    names = collected.groups.known
    rows = [
        (names[group], int(sizes[group]), f"{sizes[group]:,} · {share(sizes[group], len(places))}") for group in most
    ]
    parts = [bars(rows, f"images by {by}")]
    if len(order) > _GROUPS:
        parts.append(element("p", f"The {_GROUPS} most frequent of {len(order):,} values.", class_="note"))
    for column in collected.columns:
        values = collected.values(column.name)
        spreads = [(names[group], quartiles(values[places == group])) for group in most]
        known = [(name, spread) for name, spread in spreads if spread]
        if known:
            parts += [element("h3", column.name), boxes(known, column.name)]
    return joined(parts)


def attributes(collected: Collected) -> Markup:
    """For each value of each attribute, how many images show it of those that were to."""
    parts = []
    for name, agreements in collected.agreements.items():
        order = sorted(agreements, key=lambda value: (-agreements[value].planned, value))
        found = [(value, agreements[value]) for value in order]
        planned = sum(agreement.planned for _, agreement in found)
        answered = sum(agreement.answered for _, agreement in found)
        agreed = sum(agreement.agreed for _, agreement in found)
        rows = [(value, one.planned, one.answered, one.agreed) for value, one in found[:_GROUPS]]
        cells = [
            (value or EMPTY, f"{one:,}", f"{two:,}", f"{three:,}", share(three, two)) for value, one, two, three in rows
        ]
        whole = ("all", f"{planned:,}", f"{answered:,}", f"{agreed:,}", share(agreed, answered))
        parts += [
            element("h3", name),
            achieved(rows, f"planned against achieved: {name}"),
            table((name, "planned", "answered", "achieved", "share"), [*cells, whole], numbers=4),
        ]
        if len(found) > _GROUPS:
            parts.append(element("p", f"The {_GROUPS} most frequent of {len(found):,} values.", class_="note"))
    return joined(parts)


def gallery(
    collected: Collected, columns: Sequence[tuple[str, Sequence[tuple[int, str]]]], thumbnails: Thumbnails
) -> Markup:
    """Images under headings; `columns` are headings with images and what is said of each."""
    return element(
        "div",
        *(
            element(
                "div",
                element("h4", heading),
                *(_picture(collected, image, said, thumbnails) for image, said in images),
            )
            for heading, images in columns
        ),
        class_="gallery",
    )


def _plot(values: NDArray[np.float64], name: str) -> Markup:
    """A bar for each value where there are few of them, else a histogram."""
    import numpy as np

    different, counts = np.unique(values, return_counts=True)
    if len(different) <= _FEW and 3 * len(different) <= len(values):
        pairs = zip(different.tolist(), counts.tolist(), strict=True)
        rows = [(figure(value), count, f"{count:,} · {share(count, len(values))}") for value, count in pairs]
        return bars(rows, f"images by {name}")
    return histogram(values, name)


def _samples(collected: Collected, values: NDArray[np.float64], count: int, thumbnails: Thumbnails) -> Iterator[Markup]:
    """A few images around each quantile, none of them twice."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    order = order[~np.isnan(values[order])]
    taken: set[int] = set()
    columns = []
    for quantile, heading in _QUANTILES.items():
        start = max(0, min(round(quantile * (len(order) - 1)) - count // 2, len(order) - count))
        near = [int(image) for image in order[start : start + count] if int(image) not in taken]
        taken.update(near)
        if near:
            columns.append((heading, [(image, figure(values[image])) for image in near]))
    if columns:
        yield gallery(collected, columns, thumbnails)


def _picture(collected: Collected, image: int, said: str, thumbnails: Thumbnails) -> Markup:
    prompt = collected.prompt(image)
    name = collected.files[image]
    before = collected.before_path(image)
    pictures = [thumbnails.shown(before, f"before {name}"), " → "] if before else []
    return element(
        "figure",
        *pictures,
        thumbnails.shown(collected.path(image), name),
        element("figcaption", element("b", said), " ", cut(prompt, 100), title=f"{name}: {cut(prompt, 2000)}"),
    )
