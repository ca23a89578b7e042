"""What a judge is asked about a picture, and the strict reading of what it answers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from imagemill.errors import UsageError, did_you_mean
from imagemill.tables.cells import nothing
from imagemill.tables.columns import parse_template

AnswerStyle = Literal["json", "final_score"]

_TASK = """\
This picture was made from the following text:

{prompt}

Take the text apart into everything that it demands: objects, attributes of objects, relations between objects, \
counts, and lettering. Look for each whether the picture shows it. Then score how well the whole picture fits the \
text, as a number from {lowest} (not at all) to {highest} (in every detail).

"""
TEMPLATES: Mapping[AnswerStyle, str] = {
    "json": _TASK
    + """\
Answer with one JSON object and nothing else. Its keys, in this order:
"elements": a list with one object for each thing that the text demands, of the form \
{{"element": "words of the text", "kind": "object", "present": 1}}, where the kind is "object", "attribute", \
"relation", "count" or "text", and present is 1 if the picture shows it and 0 if not
"reason": one sentence that explains the score
"score": the number
""",
    "final_score": _TASK
    + """\
Answer with lines of the following form and nothing else: one line for each thing that the text demands, whose kind is \
object, attribute, relation, count or text, with 1 if the picture shows it and 0 if not; then the reason in one \
sentence; then the score.

words of the text (kind): 1
Reason: one sentence
Final Score: the number
""",
}
"""What is asked when nobody has said what; `{lowest}` and `{highest}` are the ends of the scale."""

_SHOWN = 200
"""Characters of an answer that stand in the reason for not taking it."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge has said of a picture."""

    score: float | None
    """None where the answer is not of the form asked for."""
    reason: str
    """The judge's own words, or why there is no score."""
    elements: tuple[str, ...] = ()
    """Such as `brown horse (object): 1`."""


def names_in(template: str) -> list[str]:
    """The names that stand in braces; raises UsageError for a template that cannot be filled."""
    try:
        names = [name for _, name in parse_template(template) if name is not None]
    except ValueError as error:
        names, problem = [], str(error)
    else:
        problem = "there is nothing between two braces" if "" in names else ""
    if problem:
        raise UsageError(f"`template`: {problem}", "write columns as {name}, and braces that are meant as {{ and }}")
    return list(dict.fromkeys(names))


def check_names(template: str, known: Sequence[str]) -> None:
    """Raise UsageError when a template has a name that nothing stands for."""
    for name in names_in(template):
        check_column(name, known, "template")


def check_column(name: str, known: Sequence[str], parameter: str) -> None:
    """Raise UsageError when there is no such column."""
    if name not in known:
        hint = did_you_mean(name, known) or f"known: {', '.join(known)}"
        raise UsageError(f"`{parameter}`: there is no column `{name}`", hint)


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A template with values in place of its names; what is nothing becomes an empty text."""
    parts = parse_template(template)
    return "".join(literal + (plain_text(values[name]) if name else "") for literal, name in parts)


def plain_text(value: Any) -> str:
    """A cell as it stands in a sentence."""
    if nothing(value):
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(plain_text, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_judgement(text: str, style: AnswerStyle, template: str, lowest: float, highest: float) -> Judgement:
    """Read an answer that must be of the form that the template asks for; one that is not has no score.

    In JSON, `elements` and `reason` must be there when the template names them in quotes.
    """
    try:
        said = _after_thinking(text)
        if not said:
            raise ValueError("the answer is empty")
        score, reason, elements = _from_json(said, template) if style == "json" else _from_lines(said)
        if not (math.isfinite(score) and lowest <= score <= highest):
            raise ValueError(f"the score is not from {lowest:g} to {highest:g}")
    except ValueError as error:
        shown = beginning(text)
        return Judgement(None, f"no score: {error}" + (f"; the model answered: {shown}" if shown else ""))
    return Judgement(score, reason, elements)


def beginning(text: str) -> str:
    """How an answer begins, on one line."""
    return _writable(text)[:_SHOWN]


def read_yes_or_no(text: str) -> bool | None:
    """Read an answer that must be yes or no, perhaps with an explanation that does not name the other; else None."""
    words = _after_thinking(text).casefold().strip(" \t\r\n*_`\"'")
    found = re.match(r"(yes|no)(?:\W*$|[*_`\"']*(?:[.,;:!\n]|\s+[-–—]\s))", words)
    if not found or ({"yes", "no"} - {found[1]}) & set(re.findall(r"\w+", words)):
        return None
    return found[1] == "yes"


def _after_thinking(text: str) -> str:
    """An answer without the thoughts that a model marks as such."""
    return re.sub(r"^\s*<think>.*?</think>", "", text, count=1, flags=re.DOTALL).strip()


def _from_json(text: str, template: str) -> tuple[float, str, tuple[str, ...]]:
    """The parts of a JSON answer; raises ValueError."""
    objects = [value for value in _objects(text) if "score" in value]
    if len(objects) != 1:
        raise ValueError("there is no `score`" if not objects else f"there are {len(objects)} scores")
    (answer,) = objects
    for name in ("elements", "reason"):
        if name not in answer and f'"{name}"' in template:
            raise ValueError(f"there is no `{name}`")
    score, reason, elements = answer["score"], answer.get("reason", ""), answer.get("elements", [])
    if not _is_number(score):
        raise ValueError("the score is not a number")
    if not isinstance(reason, str):
        raise ValueError("the reason is not text")
    if not isinstance(elements, list):
        raise ValueError("the elements are not a list")
    return float(score), _line(reason), tuple(map(_element, elements))


def _objects(text: str) -> list[dict[str, Any]]:
    """The objects of a text that is JSON, or has JSON in it; raises ValueError where one is damaged."""
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, flags=re.DOTALL | re.IGNORECASE)
    text = fenced[1] if fenced else text
    decoder = json.JSONDecoder(object_pairs_hook=_without_doubles, parse_constant=_refuse)
    if text.startswith("["):
        raise ValueError("it is a list and no object")
    found: list[dict[str, Any]] = []
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise ValueError(f"its JSON is damaged or cut off ({error.msg})") from None
        except RecursionError:
            raise ValueError("its JSON is nested too deeply") from None
        found.append(value)
        start = text.find("{", end)
    if not found:
        raise ValueError("there is no JSON object")
    return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key of its JSON is there twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"`{constant}` is no number")


def _is_number(value: object) -> bool:
    # A number with hundreds of digits is none that fits.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _element(value: object) -> str:
    """One thing that the text demands, as a line; raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("an element is no object")
    element, kind, present = (value.get(name) for name in ("element", "kind", "present"))
    if not (isinstance(element, str) and element.strip() and isinstance(kind, str) and kind.strip()):
        raise ValueError("an element has no `element` or no `kind`")
    # True and false, or 1.0, can mean nothing else.
    if not isinstance(present, int | float) or present not in {0, 1}:
        raise ValueError("the `present` of an element is neither 0 nor 1")
    return f"{_line(element)} ({_line(kind)}): {int(present)}"


_FINAL = re.compile(r"final score", re.IGNORECASE)
_FINAL_LINE = re.compile(r"[\s>#*_-]*final score[*_]*\s*:[\s*_]*(-?\d+(?:\.\d+)?)[*_\s]*\.?[*_\s]*", re.IGNORECASE)
_ELEMENT = re.compile(r"(?:[-*•>\s]|\d+[.)]\s)*(.*\S)\s*\(([^()]+)\)[*_]*\s*:\s*(.*)")
_REASON = re.compile(r"[\s>#*_-]*reason[*_]*\s*:[*_\s]*(.*)", re.IGNORECASE)


def _from_lines(text: str) -> tuple[float, str, tuple[str, ...]]:
    """The parts of an answer that ends with `Final Score: 3`; raises ValueError."""
    if (count := len(_FINAL.findall(text))) != 1:
        raise ValueError("there is no `Final Score`" if not count else f"there are {count} final scores")
    score: float | None = None
    reason: list[str] = []
    rest: list[str] = []
    elements: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        if _FINAL.search(line):
            found = _FINAL_LINE.fullmatch(line)
            if not found:
                raise ValueError("the final score is not a number alone on its line")
            score = float(found[1])
        elif found := _REASON.fullmatch(line):
            reason.append(found[1])
        elif found := _ELEMENT.fullmatch(line):
            said = found[3].strip(" *_.")
            if said not in {"0", "1"}:
                raise ValueError("an element is neither 0 nor 1")
            elements.append(f"{_line(found[1])} ({_line(found[2])}): {said}")
        else:
            rest.append(line)
    if score is None:
        raise ValueError("the final score is not on a line of its own")
    return score, _line(" ".join(reason or rest)), tuple(elements)


def _line(text: str) -> str:
    return _writable(text).strip("*_ ")


def _writable(text: str) -> str:
    """One line that can be written down; half a character becomes a question mark."""
    return " ".join(text.encode(errors="replace").decode().split())
