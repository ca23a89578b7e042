"""Expressions: what they mean, where a value is absent, and what is said of those that cannot be."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from imagemill import UsageError
from imagemill.expressions import Expression

TABLE = pa.table(
    {
        "alignment": [0.181, 0.3, None],
        "steps": [10, 20, 30],
        "flat": [True, False, False],
        "prompt": ["a Cat", "it's a dog", ""],
        "elements": [["a Cat", "grass"], ["dog"], None],
        "aesthetic": pa.nulls(3),
        "my-column": ["x", "y", "z"],
        "big": [2**53, 2**53 + 1, None],
        "largest": pa.array([2**64 - 1, 2**64 - 2, None], pa.uint64()),
        "tiny": pa.array([-1, 127, None], pa.int8()),
        "street": ["Große STRASSE", "kleine Straße", None],
        "streets": [["Weg", "STRASSE"], ["Weg"], ["Straße"]],
    }
)
YES, NO, UNKNOWN = True, False, None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alignment > 0.28", [NO, YES, UNKNOWN]),
        ("0.28 < alignment", [NO, YES, UNKNOWN]),
        ("alignment >= 0.3 and steps = 20", [NO, YES, NO]),
        ("alignment > 0.2 or steps == 30", [NO, YES, YES]),
        ("alignment > 0.2 and steps <> 20", [NO, NO, UNKNOWN]),
        ("not (alignment > 0.2 or flat)", [NO, NO, UNKNOWN]),
        ("steps != 20 and not flat", [NO, NO, YES]),
        ("flat = false", [NO, YES, YES]),
        ("steps < -1 or steps >= 2e1", [NO, YES, YES]),
        ("steps <= 10 OR steps > 10 AND steps < 25", [YES, YES, NO]),
        ("(steps <= 10 or steps > 10) and steps > 15", [NO, YES, YES]),
        ("alignment < steps", [YES, YES, UNKNOWN]),
        ("prompt contains 'cat'", [YES, NO, NO]),
        ("prompt not contains 'cat'", [NO, YES, YES]),
        ("elements contains 'CAT'", [YES, NO, UNKNOWN]),
        ("prompt = 'it''s a dog'", [NO, YES, NO]),
        ('prompt in ("a Cat", "it\'s a dog")', [YES, YES, NO]),
        ("steps in (10, 30.0)", [YES, NO, YES]),
        ("alignment not in (0.3)", [YES, NO, UNKNOWN]),
        ("alignment is null", [NO, NO, YES]),
        ("alignment is not null", [YES, YES, NO]),
        ("prompt is null", [NO, NO, YES]),
        ("aesthetic > 5", [UNKNOWN] * 3),
        ("aesthetic is null and `my-column` > 'x'", [NO, YES, YES]),
        ("big = 9007199254740993", [NO, YES, UNKNOWN]),
        ("big in (9007199254740993)", [NO, YES, UNKNOWN]),
        ("big > 1.5", [YES, YES, UNKNOWN]),
        ("big not in (0.5, 3)", [YES, YES, UNKNOWN]),
        ("alignment < 9007199254740993", [YES, YES, UNKNOWN]),
        ("alignment not in (9007199254740993)", [YES, YES, UNKNOWN]),
        ("alignment < big", [YES, YES, UNKNOWN]),
        ("steps < 99999999999999999999", [YES] * 3),
        ("steps > -1e40 and steps < 9" + 50 * "9", [YES] * 3),
        ("largest = 18446744073709551615", [YES, NO, UNKNOWN]),
        ("largest != 18446744073709551615", [NO, YES, UNKNOWN]),
        ("18446744073709551614 < largest", [YES, NO, UNKNOWN]),
        ("largest < 18446744073709551616", [YES, YES, UNKNOWN]),
        ("largest > 5 and largest > -1", [YES, YES, UNKNOWN]),
        ("largest > 0.5", [YES, YES, UNKNOWN]),
        ("largest > big", [YES, YES, UNKNOWN]),
        ("tiny < largest and largest = largest", [YES, YES, UNKNOWN]),
        ("alignment < largest", [YES, YES, UNKNOWN]),
        ("alignment < 18446744073709551615", [YES, YES, UNKNOWN]),
        ("aesthetic < largest or aesthetic < 18446744073709551615", [UNKNOWN] * 3),
        ("largest in (18446744073709551615, -1, 99999999999999999999)", [YES, NO, UNKNOWN]),
        ("tiny in (300, 127, -18446744073709551615)", [NO, YES, UNKNOWN]),
        ("tiny not in (300)", [YES, YES, UNKNOWN]),
        ("street contains 'straße'", [YES, YES, UNKNOWN]),
        ("street contains 'strasse' and street not contains 'groSSe'", [NO, YES, UNKNOWN]),
        ("streets contains 'straße'", [YES, NO, YES]),
    ],
)
def test_what_it_means_and_why_it_does_not_hold(text: str, expected: list[bool | None]) -> None:
    expression = Expression.parse(text)
    expression.check(TABLE.schema)
    mask = expression.mask(TABLE)
    assert mask.to_pylist() == expected
    causes = expression.causes(TABLE.filter(pc.invert(pc.fill_null(mask, False))))
    assert len(causes) == len(expected) - expected.count(YES)
    assert all(cause.kind and cause.text for cause in causes)


@pytest.mark.parametrize(
    ("text", "record", "explained"),
    [
        ("alignment > 0.28", {"alignment": 0.181}, "alignment 0.181 <= 0.28"),
        ("alignment > 0.28", {"alignment": 0.2799999}, "alignment 0.2799999 <= 0.28"),
        ("a > 1 and b > 1", {"a": None, "b": 0.5}, "b 0.5 <= 1"),
        ("a > 1 and b > 1", {"a": None, "b": 2.0}, "a is null"),
        ("a > 1 or b", {"a": 1, "b": False}, "a 1 <= 1 and b is false"),
        ("not (a > 1)", {"a": 2}, "a 2 > 1"),
        ("label in ('cat', 'dog')", {"label": "cow"}, "label 'cow' not in ('cat', 'dog')"),
        ("width > height", {"width": 64, "height": 96}, "width 64 <= height 96"),
        ("a > 1", {}, "a is null"),
    ],
)
def test_an_explanation_has_the_figure_of_what_decides(text: str, record: dict[str, Any], explained: str) -> None:
    expression = Expression.parse(text)
    table = pa.Table.from_pylist([{name: record.get(name) for name in expression.columns}])
    assert expression.mask(table).to_pylist() != [YES]
    assert [cause.text for cause in expression.causes(table)] == [explained]


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("aligment > 0.2", 0, "there is no column `aligment`\n.*did you mean `alignment`"),
        ("steps > 5 and prompt > 5", 23, "`prompt` is a text, `5` a number\n.*write '5'"),
        ("alignment > 'high'", 12, "is a number, `'high'` a text"),
        ("alignment", 0, "is a number, and no yes or no"),
        ("flat > true", 0, "a yes or no is not `>` another"),
        ("elements = 'cat'", 0, "holds lists"),
        ("steps contains '1'", 0, "no text that contains another"),
        ("steps in ('10')", 10, "`steps` is a number, `'10'` a text"),
        ("steps in (1, 'a')", 13, "of different kinds"),
        ("steps in (alignment)", 10, "`alignment` is a column\n.*'alignment'"),
        ("0.1 < alignment < 0.5", 16, "cannot be chained"),
        ("alignment > and", 12, "expected a column or a value, got `and`"),
        ("alignment => 0.3", 11, "got `>`\n.*write `>=`"),
        ("(alignment > 0.3", 16, r"expected `\)`, got the end"),
        ("alignment > 0.3)", 15, r"expected `and`, `or` or the end, got `\)`"),
        ("prompt like 'cat'", 7, "`contains` looks for"),
        ("alignment = null", 12, "write `x is null`"),
        ("flat && alignment > 1", 5, "write `and`"),
        ("my-column = 'x'", 2, "backticks"),
        ("prompt = 'cat", 9, "without its closing quote"),
        ("prompt contains elements", 16, "looks for a text"),
        ("1 < 2", 0, "needs a column"),
        ("", 0, "got the end"),
        ("(" * 60 + "flat" + ")" * 60, 50, "parentheses inside"),
        ("__import__('os')", 10, r"expected `and`, `or` or the end, got `\(`"),
    ],
)
def test_an_error_shows_the_place(text: str, place: int, said: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){said}") as caught:
        Expression.parse(text).check(TABLE.schema)
    assert f"\n    {text}\n    {' ' * place}^" in caught.value.message


def test_columns_are_named_once_in_order() -> None:
    assert Expression.parse("b > 1 and (a is null or b < 3) and `c d` contains 'x'").columns == ["b", "a", "c d"]
