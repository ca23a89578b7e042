"""What a cell of a table says: a text, several, nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from imagemill.errors import UsageError, did_you_mean

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "truth value"),
    ((int, float), "number"),
    (list, "list"),
    (dict, "object"),
    (object, "value of another kind"),
)


def missing(value: object) -> bool:
    """Whether a table says nothing in a cell."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def nothing(value: object) -> bool:
    """Whether a cell is missing, or a list of what is missing, such as `[""]`."""
    return missing(value) or (isinstance(value, list | tuple) and all(map(nothing, value)))


def text_of(value: object, what: str) -> str:
    """Return a text; a missing one is empty, anything else raises ValueError."""
    if missing(value):
        return ""
    if not isinstance(value, str):
        kind = next(name for kinds, name in _KINDS if isinstance(value, kinds))
        raise ValueError(f"the {what} is not text but a {kind}")
    return value


def one_text(value: Any) -> str:
    """The text of a cell, which may be a conversation with one turn; raises ValueError."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        texts = text_list(value)
        if len(texts) > 1:
            raise ValueError(f"a conversation of {len(texts)} turns where one prompt is wanted")
        return texts[0] if texts else ""
    return text_of(value, "prompt")


def text_list(value: Any) -> list[str]:
    """The texts of a cell: one, several, or what the user says in a conversation; raises ValueError.

    A conversation is a list of objects with `role` and `content`, as chat models have it.
    """
    if nothing(value):
        return []
    items = value if isinstance(value, list | tuple) else [value]
    texts = []
    for item in items:
        if isinstance(item, Mapping):
            if str(item.get("role", "user")) != "user":
                continue
            content = item.get("content")
            if isinstance(content, list):
                content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping)).strip()
            if not isinstance(content, str):
                raise ValueError("a turn of the conversation has no `content`")
            texts.append(content)
        else:
            texts.append(text_of(item, "prompt"))
    if any(not text.strip() for text in texts):
        raise ValueError("an empty text among several" if len(texts) > 1 else "empty prompt")
    return texts


def json_text(value: object) -> str:
    """A value of a table as text."""
    if value is None or isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def check_characters(text: str) -> None:
    """Raise ValueError for what is no text."""
    if "\0" in text:
        raise ValueError("contains a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("contains half a surrogate pair, which is not text") from None


def check_known(wanted: list[str], names: list[str], where: str) -> None:
    """Raise UsageError for a column that a table does not have."""
    for name in wanted:
        if name not in names:
            hint = did_you_mean(name, names) or f"columns: {listed(names)}"
            raise UsageError(f"`{where}`: the table has no column `{name}`", hint)


def listed(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(f"`{name}`" for name in names)
