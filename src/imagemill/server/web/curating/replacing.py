"""Find and replace in many texts, safely: no pattern can keep the server busy for long."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from imagemill.dataset import Dataset
from imagemill.dataset.edits import Edited, editable_columns, key_of
from imagemill.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from imagemill.dataset.index import Index

LONGEST = 100_000
"""Characters that a text may have."""
_AT_ONCE = 100_000
"""Characters that are looked through together: what they can grow to fits into memory."""
_SECONDS = 20.0
_SHOWN = 300
"""Characters of a text around its first change that a preview shows."""
_WORDS = re.compile(r"\w+|\s+|.", re.DOTALL)

Piece = tuple[Literal["same", "removed", "added"], str]
"""A stretch of a text, and what becomes of it."""


class Replacement(BaseModel):
    """What is looked for, and what is written instead."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    find: str = Field(min_length=1, max_length=500)
    replace: str = Field("", max_length=1_000)
    expression: bool = False
    """Whether `find` is a regular expression in RE2's syntax, and `\\1` in `replace` stands for its first group."""
    words: bool = False
    """Whether only whole words are found; without effect on an expression, which has `\\b`."""
    case: bool = False
    """Whether capital and small letters differ."""

    def of(self, texts: Sequence[str]) -> list[str]:
        """The texts as they become; raises UsageError for an expression that is none, and where it takes too long."""
        changed: list[str] = []
        ends = time.monotonic() + _SECONDS
        self._check()
        for some in _batches(texts):
            if time.monotonic() > ends:
                raise UsageError(f"this takes more than {_SECONDS:.0f} seconds", "replace in fewer images at a time")
            changed += self._by_expression(some) if self.expression else self._by_letters(some)
        for text in changed:
            if len(text) > LONGEST:
                raise UsageError(f"a text would become longer than {LONGEST:,} characters", "replace by less")
        return changed

    def _check(self) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        if "\0" in self.find + self.replace:
            raise UsageError("NUL is a character that no text can hold", "leave it out")
        if not self.expression:
            return
        try:
            empty = pc.match_substring_regex(pa.array([""]), self.find)[0].as_py()
            pc.replace_substring_regex(pa.array([""]), self.find, self.replace)
        except pa.ArrowInvalid as error:
            said = str(error).removeprefix("Invalid regular expression: ")
            raise UsageError(f"no regular expression: {said[:1].lower()}{said[1:]}", "it has RE2's syntax") from None
        if empty:
            raise UsageError("the expression is also true of nothing at all", "write `+` for `*`, or leave out `?`")

    @property
    def _pattern(self) -> str:
        return self.find if self.case else f"(?i){self.find}"

    def _by_expression(self, texts: Sequence[str]) -> list[str]:
        import pyarrow as pa
        import pyarrow.compute as pc

        found: list[str] = pc.replace_substring_regex(
            pa.array(texts, pa.string()), self._pattern, self.replace
        ).to_pylist()
        return found

    def _by_letters(self, texts: Sequence[str]) -> list[str]:
        find = self.find if self.case else _folded(self.find)
        return [self._replaced(text, text if self.case else _folded(text), find) for text in texts]

    def _replaced(self, text: str, letters: str, find: str) -> str:
        # A regular expression would compare what is looked for anew at every place, and let no other thread run.
        pieces, end = [], 0
        start = letters.find(find)
        while start >= 0:
            after = start + len(find)
            if not self.words or not (_in_word(letters[start - 1 : start]) or _in_word(letters[after : after + 1])):
                pieces += [text[end:start], self.replace]
                end = after
            start = letters.find(find, end if end == after else start + 1)
        return "".join([*pieces, text[end:]])


def check_column(dataset: Dataset, column: str) -> None:
    """Raise UsageError for a column whose texts cannot be edited."""
    known = editable_columns(dataset)
    if column not in known:
        hint = did_you_mean(column, known) or f"columns that can be edited: {', '.join(known)}"
        raise UsageError(f"the column `{column}` cannot be edited", hint)


def texts_of(index: Index, rows: Any, images: Sequence[str], column: str, pending: Mapping[int, Edited]) -> list[str]:
    """The texts of a column as people see them: those they have edited, or those of the dataset."""
    # A dataset without captions shows the prompts.
    own = column if column in index.schema.names else "prompt"
    texts = [record[own] or "" for record in index.records(rows, [own]).records]
    if pending:
        for place, image in enumerate(images):
            edited = pending.get(key_of(image))
            if edited and column in edited.texts:
                texts[place] = edited.texts[column]
    return texts


def differences(before: str, after: str) -> list[Piece]:
    """How a text changes, word by word, around its first change."""
    first = next((place for place, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
    start = max(0, (min(len(before), len(after)) if first is None else first) - _SHOWN // 3)
    old, new = (_WORDS.findall(text[start : start + _SHOWN]) for text in (before, after))
    pieces: list[Piece] = [("same", "…")] if start else []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(("same", "".join(old[a:b])))
            continue
        if b > a:
            pieces.append(("removed", "".join(old[a:b])))
        if d > c:
            pieces.append(("added", "".join(new[c:d])))
    return [*pieces, ("same", "…")] if max(len(before), len(after)) > start + _SHOWN else pieces


def _folded(text: str) -> str:
    """A text in which capital and small letters do not differ, letter by letter as long as before."""
    return text.lower() if text.isascii() else "".join(map(_small, text))


@lru_cache(10_000)
def _small(letter: str) -> str:
    return next((small for small in (letter.casefold(), letter.lower()) if len(small) == 1), letter)


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    first = length = 0
    for place, text in enumerate(texts):
        if length and length + len(text) > _AT_ONCE:
            yield texts[first:place]
            first, length = place, 0
        length += len(text)
    yield texts[first:]
