"""HTML and SVG in which every text is escaped unless it is markup already."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape

EMPTY = "(empty)"
_VOID = {"img", "meta"}
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Markup(str):
    """Text that is markup, and goes onto a page as it is."""

    __slots__ = ()


def element(name: str, *children: object, **attributes: object) -> Markup:
    """One element; an attribute's underscores are hyphens, and one that is None is left out."""
    head = name
    for key, value in attributes.items():
        if value is not None:
            written = number(value) if isinstance(value, float) else str(value)
            head += f' {key.strip("_").replace("_", "-")}="{_escaped(written)}"'
    return Markup(f"<{head}>" if name in _VOID else f"<{head}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Markup:
    """Several things one after the other."""
    return Markup("".join(child if isinstance(child, Markup) else _escaped(str(child)) for child in children))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], numbers: int = 0) -> Markup:
    """A table whose last `numbers` columns are numbers."""
    first = len(head) - numbers

    def line(kind: str, cells: Sequence[object]) -> Markup:
        styled = (element(kind, cell, class_="number" if place >= first else None) for place, cell in enumerate(cells))
        return element("tr", *styled)

    body = [line("td", row) for row in rows]
    whole = element("table", element("thead", line("th", head)), element("tbody", *body))
    return element("div", whole, class_="wide")


def number(value: float) -> str:
    """A coordinate, as short as it can be."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def figure(value: float) -> str:
    """A measured value in three or four digits."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{4 if abs(value) >= 1 else 3}g}"


def share(part: int, whole: int) -> str:
    """A part of a whole in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "none"


def cut(text: str, width: int) -> str:
    """The beginning of a text in one line, at most `width` narrow characters wide."""
    text = " ".join(text.split())
    taken = 0
    for place, character in enumerate(text):
        taken += wide(character)
        if taken > width:
            return text[: max(0, place - 1)] + "…"
    return text


def wide(text: str) -> int:
    """How many narrow characters a text is as wide as."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _escaped(text: str) -> str:
    """No browser shows control characters, and no parser likes them."""
    return escape(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text))
