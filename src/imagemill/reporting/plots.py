"""Plots as inline SVG, in the colors of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagemill.reporting.markup import EMPTY, Markup, cut, element, figure, wide

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

_WIDTH = 680
_LABEL, _LETTER = 44, 7.2
"""Characters of a label beside a bar, and pixels for each."""
_ROW = 24
_NOTE = 170
"""Room for what stands behind a bar."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 66, 30, 26, 46, 170


@dataclass(frozen=True, slots=True)
class Quartiles:
    """How values are spread."""

    count: int
    missing: int
    minimum: float
    lower: float
    median: float
    upper: float
    maximum: float
    mean: float


def quartiles(values: Values) -> Quartiles | None:
    """Describe values, of which those that are not a number are missing; None where there are none."""
    import numpy as np

    known = values[~np.isnan(values)]
    return _spread(known, len(values) - len(known)) if len(known) else None


def _spread(known: Values, missing: int) -> Quartiles:
    import numpy as np

    minimum, lower, median, upper, maximum = (float(value) for value in np.quantile(known, (0, 0.25, 0.5, 0.75, 1)))
    return Quartiles(len(known), missing, minimum, lower, median, upper, maximum, float(known.mean()))


def histogram(values: Values, label: str, what: str = "images") -> Markup:
    """How many of `what` have which value, with median and quartiles; `values` are at least one, and all numbers."""
    import numpy as np

    low, step, counts = _bins(values)
    high = low + step * len(counts)
    spread = _spread(values, 0)
    across = _Scale(low, high, _LEFT, _WIDTH - _RIGHT)
    up = _Scale(0, _ceiling(max(counts)), _TOP + _HEIGHT, _TOP)
    base = float(_TOP + _HEIGHT)
    parts = [
        element(
            "rect",
            element("title", f"half of the {what}: {figure(spread.lower)} to {figure(spread.upper)}"),
            class_="band",
            x=across(spread.lower),
            y=float(_TOP),
            width=max(1.0, across(spread.upper) - across(spread.lower)),
            height=float(_HEIGHT),
        ),
        *_counted(up),
    ]
    for place, count in enumerate(counts):
        left, right = across(low + step * place), across(low + step * (place + 1))
        title = element("title", f"{figure(low + step * place)} to {figure(low + step * (place + 1))}: {count:,}")
        # Even one of many is seen.
        top = min(up(count), base - 1.5) if count else base
        gap = min(1.0, (right - left) / 8)
        bar = {"x": left + gap, "y": top, "width": right - left - 2 * gap, "height": base - top}
        parts.append(element("rect", title, class_="bar", **bar))
    middle = across(spread.median)
    parts += [
        *_measured(across, base, label, _whole(values)),
        element("line", class_="median", x1=middle, x2=middle, y1=float(_TOP - 6), y2=base),
        _text(
            f"median {figure(spread.median)}",
            min(max(middle, _LEFT + 50.0), _WIDTH - _RIGHT - 50.0),
            _TOP - 11.0,
            "middle",
        ),
        _text(what, 14.0, _TOP + _HEIGHT / 2, "middle", turn=True),
        _legend(middle > (_LEFT + _WIDTH - _RIGHT) / 2),
    ]
    described = f"{label}: {int(np.sum(counts)):,} {what} from {figure(spread.minimum)} to {figure(spread.maximum)}"
    return _svg(_TOP + _HEIGHT + _BOTTOM, described, parts)


def bars(rows: Sequence[tuple[str, int, str]], what: str) -> Markup:
    """A bar for each label with its number, and a note behind it."""
    most = max((count for _, count, _ in rows), default=0)
    across = _Scale(0, max(most, 1), _room(row[0] for row in rows), _WIDTH - _NOTE)
    parts = []
    for place, (label, count, note) in enumerate(rows):
        y = float(place * _ROW)
        length = max(1.5, across(count) - across(0)) if count else 0.0
        parts += [
            _label(label, across.start, y),
            element("rect", class_="bar", x=across(0), y=y + 4, width=length, height=_ROW - 8.0),
            _text(note, across(0) + length + 7, y + _ROW / 2 + 4, "start"),
        ]
    return _svg(len(rows) * _ROW + 4, what, parts)


def achieved(rows: Sequence[tuple[str, int, int, int]], what: str) -> Markup:
    """For each label an outline as long as what was planned, filled as far as it was achieved.

    `rows` are label, planned, answered and achieved.
    """
    most = max((planned for _, planned, _, _ in rows), default=0)
    across = _Scale(0, max(most, 1), _room(row[0] for row in rows), _WIDTH - _NOTE)
    parts = []
    for place, (label, planned, answered, right) in enumerate(rows):
        y = float(place * _ROW)
        box = {"x": across(0), "y": y + 4, "height": _ROW - 8.0}
        note = f"{right:,} of {answered:,} · {100 * right / answered:.0f} %" if answered else "no answer"
        length = across(planned) - across(0)
        parts += [
            _label(label, across.start, y),
            element("rect", class_="planned", **box, width=length),
            element("rect", class_="bar", **box, width=across(right) - across(0)),
            _text(note, across(0) + length + 7, y + _ROW / 2 + 4, "start"),
        ]
    return _svg(len(rows) * _ROW + 4, what, parts)


def boxes(rows: Sequence[tuple[str, Quartiles]], label: str) -> Markup:
    """For each label a line over all values, a box over the middle half of them, and a mark at the median."""
    low = min(spread.minimum for _, spread in rows)
    high = max(spread.maximum for _, spread in rows)
    if low == high:
        low, high = low - _margin(low), high + _margin(high)
    across = _Scale(low, high, _room(name for name, _ in rows) + 8, _WIDTH - _NOTE)
    parts = []
    for place, (name, spread) in enumerate(rows):
        y = place * _ROW + _ROW / 2
        middle = across(spread.median)
        title = element("title", f"{name}: {spread.count:,} from {figure(spread.minimum)} to {figure(spread.maximum)}")
        parts += [
            _label(name, across.start - 8, y - _ROW / 2),
            element("line", class_="axis", x1=across(spread.minimum), x2=across(spread.maximum), y1=y, y2=y),
            element(
                "rect",
                title,
                class_="bar",
                x=across(spread.lower),
                y=y - 7,
                width=max(1.5, across(spread.upper) - across(spread.lower)),
                height=14.0,
            ),
            element("line", class_="median", x1=middle, x2=middle, y1=y - 10, y2=y + 10),
            _text(f"{figure(spread.median)} · {spread.count:,} images", _WIDTH - _NOTE + 12.0, y + 4, "start"),
        ]
    base = float(len(rows) * _ROW + 4)
    return _svg(int(base) + _BOTTOM, f"{label} by group", [*parts, *_measured(across, base, f"{label}, with medians")])


@dataclass(frozen=True, slots=True)
class _Scale:
    """Values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _svg(height: int, described: str, parts: Sequence[Markup]) -> Markup:
    return element(
        "svg", *parts, viewBox=f"0 0 {_WIDTH} {height}", width=_WIDTH, height=height, role="img", aria_label=described
    )


def _text(text: str, x: float, y: float, anchor: str, turn: bool = False) -> Markup:
    rotated = f"rotate(-90 {x:.0f} {y:.0f})" if turn else None
    return element("text", text, x=x, y=y, text_anchor=anchor, transform=rotated)


def _room(labels: Iterable[str]) -> float:
    """Where bars begin."""
    return 24 + _LETTER * max((wide(cut(label, _LABEL) or EMPTY) for label in labels), default=0)


def _label(text: str, end: float, y: float) -> Markup:
    short = cut(text, _LABEL)
    whole = [element("title", text[:1000])] if short.endswith("…") else []
    return element(
        "text",
        *whole,
        short or EMPTY,
        x=end - 10,
        y=y + _ROW / 2 + 4,
        text_anchor="end",
    )


def _legend(left: bool) -> Markup:
    """On the side where the median's label is not."""
    x, anchor = (_LEFT, "start") if left else (_WIDTH - _RIGHT, "end")
    return _text("shaded: the middle half", float(x), _TOP - 11.0, anchor)


def _counted(up: _Scale) -> Iterator[Markup]:
    """The axis of counts, with a line across at each tick."""
    for tick in _ticks(0, up.high, 4):
        if tick == int(tick):
            y = up(tick)
            yield element("line", class_="grid", x1=float(_LEFT), x2=float(_WIDTH - _RIGHT), y1=y, y2=y)
            yield _text(f"{tick:,.0f}", _LEFT - 8.0, y + 4, "end")


def _measured(across: _Scale, base: float, label: str, whole: bool = False) -> Iterator[Markup]:
    """The axis of values, with its label; where `whole`, with whole numbers alone."""
    yield element("line", class_="axis", x1=across.start, x2=across.end, y1=base, y2=base)
    ticks = _ticks(across.low, across.high, 6)
    if whole:
        ticks = [tick for tick in ticks if tick == int(tick)]
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    quarters = round(step / _power(step), 6) == 2.5
    places = min(12, max(0, quarters - math.floor(math.log10(step) + 1e-9)))
    for tick in ticks:
        x = across(tick)
        yield element("line", class_="axis", x1=x, x2=x, y1=base, y2=base + 5)
        # Adding 0.0 makes of -0.0 what people expect.
        yield _text(f"{round(tick, places) + 0.0:,.{places}f}", x, base + 19, "middle")
    yield _text(label, (across.start + across.end) / 2, base + 39, "middle")


def _power(value: float) -> float:
    return float(10.0 ** math.floor(math.log10(value) + 1e-9))


def _nice(value: float) -> float:
    """The least of 1, 2, 2.5, 5 and 10 times a power of ten that is not below `value`."""
    power = _power(value)
    return next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= value * (1 - 1e-9)) * power


def _ticks(low: float, high: float, count: int) -> list[float]:
    step = _nice((high - low) / count)
    first = math.ceil(low / step - 1e-9)
    return [step * place for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _ceiling(count: int) -> float:
    """Where an axis of counts ends."""
    step = _nice(max(count, 4) / 4)
    return step * math.ceil(count / step)


def _whole(values: Values) -> bool:
    return bool((values % 1 == 0).all())


def _margin(value: float) -> float:
    return abs(value) / 10 or 1.0


def _bins(values: Values) -> tuple[float, float, list[int]]:
    """Where bins of round width begin, their width, and how many values lie in each."""
    import numpy as np

    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        step = _nice(_margin(low))
        return low - 2.5 * step, step, [0, 0, len(values), 0, 0]
    step = _nice((high - low) / min(40, max(8, math.ceil(math.sqrt(len(values))))))
    if _whole(values):
        step = float(math.ceil(step))
    start = step * math.floor(low / step + 1e-9)
    places = np.maximum(0, np.floor((values - start) / step + 1e-9).astype(np.int64))
    # The highest value belongs to the last bin, not to one of its own.
    places = np.minimum(places, max(0, math.ceil((high - start) / step - 1e-9) - 1))
    return start, step, [int(count) for count in np.bincount(places)]
