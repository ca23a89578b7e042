"""Values that people may give to images."""

from __future__ import annotations

import re
from collections.abc import Sequence

from imagemill.errors import UsageError

MAX_TEXT = 100_000
"""Characters."""
MAX_TAG = 64
MAX_RATING = 5


def checked_rating(rating: int) -> int:
    """The rating; raises UsageError."""
    if not isinstance(rating, int) or isinstance(rating, bool) or not 0 <= rating <= MAX_RATING:
        raise UsageError(f"`rating`: from 0 to {MAX_RATING}, got: `{rating!s:.40}`", "0 takes a rating back")
    return rating


def checked_tags(tags: Sequence[str]) -> list[str]:
    """The tags, each once; raises UsageError."""
    for tag in tags:
        check_text(tag, "tag", MAX_TAG)
        if not tag or tag != tag.strip() or "," in tag or not tag.isprintable():
            raise UsageError(f"`{tag!a:.40}` is not a tag", f"1 to {MAX_TAG} characters in one line, without a comma")
    return sorted({*tags})


def check_text(text: str, what: str, most: int) -> None:
    """Raise UsageError for a text that is too long, or that no file can hold."""
    if len(text) > most:
        raise UsageError(f"a {what} of {len(text):,} characters is too long", f"at most {most:,}")
    if "\0" in text or re.search("[\ud800-\udfff]", text):
        raise UsageError(f"a {what} has characters that no file can hold", "leave out NUL and lone surrogates")
