"""Prompt tables become rows and rejects; every choice is said, every bad row is named."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagemill.errors import UsageError
from imagemill.records import RECORD_KEYS, to_json
from imagemill.tables import Table, read_table
from imagemill.tables.columns import PromptTable

DATA = Path(__file__).parents[2] / "shared" / "data"


def table(rows: Any, **options: Any) -> Table:
    return read_table(rows, PromptTable.parse(options))


def column(values: list[Any], name: str = "x") -> list[Any]:
    """What a column of a table is in the records."""
    read = table([{"prompt": "p", name: value} for value in values])
    assert len(read.rows) == len(values)
    return [row.columns[name] for row in read.rows]


def refused(rows: Any, **options: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        table(rows, **options)
    return caught.value


# real tables


def real(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"the table {name} is not beside this checkout")
    return path


def test_parti_prompts_are_read_to_the_last_row() -> None:
    read = table(real("parti-prompts.tsv"))
    assert (len(read.rows), read.rejects, read.rows_read) == (1_632, [], 1_632)
    assert read.rows[0].prompt == "bond"
    assert read.rows[0].columns == {
        "Category": "Abstract",
        "Challenge": "Basic",
        "Note": "Biology-inspired concepts with multiple meanings",
    }
    assert read.talk == ["prompts come from the column `Prompt`"]


def test_geneval_keeps_nested_values_as_json_text() -> None:
    read = table(real("geneval.jsonl"))
    assert (len(read.rows), read.rejects) == (553, [])
    assert read.rows[0].prompt == "a photo of a bench"
    assert read.rows[0].columns["include"] == '[{"class": "bench", "count": 1}]'
    assert all(isinstance(json.loads(row.columns["include"]), list) for row in read.rows)


# which rows are used


@pytest.mark.parametrize("empty", ["", "  \t", None, math.nan])
def test_an_empty_prompt_is_a_reject(empty: object) -> None:
    read = table([{"prompt": "one"}, {"prompt": empty}, {"prompt": "three"}])
    assert [(row.index, row.id, row.prompt) for row in read.rows] == [(0, "0", "one"), (2, "2", "three")]
    assert [(reject.line, reject.reason) for reject in read.rejects] == [(2, "empty prompt")]
    assert read.rows_read == 3


@pytest.mark.parametrize("none", ["", " ", None, math.nan, "nan", "NaN", "null", "None"])
def test_a_negative_prompt_is_never_the_word_nan(none: object) -> None:
    read = table([{"prompt": "one", "negative_prompt": none}, {"prompt": "two", "negative_prompt": "blurry nan"}])
    assert [row.negative_prompt for row in read.rows] == ["", "blurry nan"]
    assert "negative_prompt" not in read.rows[0].columns


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"prompt": "half \ud83d"}, "half a surrogate pair"),
        ({"prompt": "good", "note": "half \ud83d"}, "half a surrogate pair"),
        ({"prompt": "good", "note": ["half \ud83d"]}, "half a surrogate pair"),
        ({"prompt": "nul \0"}, "NUL"),
        ({"prompt": "good", "negative_prompt": "\0"}, "NUL"),
        ({"prompt": "good", "id": "\udc00"}, "half a surrogate pair"),
        ({"prompt": 1984}, "the prompt is"),
        ({"prompt": ["a", "b"]}, "the prompt is"),
        ({"prompt": "good", "negative_prompt": 3}, "the negative prompt is"),
        ({"prompt": "good", "id": None}, "empty id"),
        ({"prompt": "good", "id": " "}, "empty id"),
        ({"prompt": "good", "id": math.nan}, "empty id"),
        ({"prompt": "good", "id": "first"}, "the id `first` is taken by line 1"),
    ],
)
def test_a_bad_row_fails_alone(bad: dict[str, Any], reason: str) -> None:
    rows = [{"id": "first", "prompt": "one"}, {"id": "x", **bad}, {"id": "third", "prompt": "three"}]
    read = table(rows)
    assert [(row.index, row.id, row.prompt) for row in read.rows] == [(0, "first", "one"), (2, "third", "three")]
    assert [reject.line for reject in read.rejects] == [2]
    assert reason in read.rejects[0].reason
    assert read.rejects[0].to_table().keys() == {"line", "reason", "raw"}


@pytest.mark.parametrize("name", ["half \ud83d", "nul \0"])
def test_a_column_name_that_is_no_text_does_not_spoil_the_other_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ({"prompt": "a"}, {"prompt": "b", name: 1}, {"prompt": "c"})))
    read = table(path)
    assert {"a", "c"} <= {row.prompt for row in read.rows}
    for row in read.rows:
        assert "\0" not in json.loads(to_json(dict(row.columns)).encode())


def test_half_a_surrogate_pair_in_a_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": "one"}\n{"prompt": "\\ud83d"}\n{"prompt": "\\ud83d\\udc31"}\n')
    read = table(path)
    assert [row.prompt for row in read.rows] == ["one", "🐱"]
    assert [reject.line for reject in read.rejects] == [2]


def test_rejects_of_the_file_and_of_its_rows_are_counted_together(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"prompt,n\n,1\nbad\xff,2\ngood,3\nshort\n")
    read = table(path)
    assert [(row.index, row.line, row.id) for row in read.rows] == [(2, 4, "2")]
    assert [reject.line for reject in read.rejects] == [2, 3, 5]
    assert read.rows_read == 4


def test_long_and_colorful_prompts_are_kept_as_they_are() -> None:
    prompts = ["x" * 100_000, "👩‍👩‍👧‍👦 \u202eright to left", "  leading and trailing  ", "a\nb", "a", "a"]
    assert [row.prompt for row in table(prompts).rows] == prompts


def test_ids_are_texts_and_the_index_where_there_are_none() -> None:
    assert [row.id for row in table([{"prompt": "a", "id": 7}, {"prompt": "b", "id": "x-1"}]).rows] == ["7", "x-1"]
    assert [row.id for row in table(["a", "b"]).rows] == ["0", "1"]


@pytest.mark.parametrize("rows", [["", " "], [{"prompt": None}]])
def test_a_table_without_a_usable_row_is_refused(rows: list[Any]) -> None:
    assert "no row of the table can be used" in refused(rows).message


def test_a_refused_table_names_its_first_reject() -> None:
    assert "the first of 2 rejected: line 1: empty prompt" in refused(["", ""]).message


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"prompt": st.one_of(st.none(), st.text(max_size=5), st.floats(), st.integers())},
            optional={
                "id": st.one_of(st.none(), st.integers(0, 5), st.text(max_size=2)),
                "note": st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists),
            },
        ),
        max_size=8,
    )
)
def test_every_row_is_accepted_or_rejected_and_what_is_accepted_can_be_written(rows: list[dict[str, Any]]) -> None:
    try:
        read = table(rows, prompt_column="prompt") if rows else table(["a"])
    except UsageError as error:
        assert "no row" in error.message  # noqa: PT017
        return
    assert read.rows_read == max(1, len(rows))
    assert len({row.id for row in read.rows}) == len(read.rows)
    assert len({tuple(row.columns) for row in read.rows}) == 1
    for row in read.rows:
        to_json([row.prompt, row.id, dict(row.columns)]).encode()


# which column is what


@pytest.mark.parametrize("name", ["prompt", "Prompt", "PROMPT", "text", "Caption"])
def test_the_prompt_column_is_found_by_name_and_said(name: str) -> None:
    read = table([{"n": 1, name: "a cat"}])
    assert read.rows[0].prompt == "a cat"
    assert read.rows[0].columns == {"n": 1}
    assert read.talk == [f"prompts come from the column `{name}`"]


def test_prompt_comes_before_text_and_the_other_one_passes_through() -> None:
    row = table([{"caption": "c", "text": "t", "Prompt": "p"}]).rows[0]
    assert row.prompt == "p"
    assert row.columns == {"caption": "c", "text": "t"}


def test_a_lone_column_needs_no_word() -> None:
    assert table(["a cat"]).talk == []


def test_without_a_prompt_column_the_columns_are_listed() -> None:
    error = refused([{"title": "a", "n": 1}])
    assert error.message == "no column is called `prompt`, `text`, `caption`; there is: `title`, `n`"
    assert "--prompt-column" in error.hint


@pytest.mark.parametrize("name", ["e.csv", "e.jsonl", "e.txt", "e.json"])
def test_an_empty_file_is_called_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[]" if name == "e.json" else "")
    message = refused(tmp_path / name).message
    assert "empty" in message or "no row" in message


def test_columns_can_be_named_by_hand() -> None:
    read = table([{"title": "a", "prompt": "x", "bad": "ugly"}], prompt_column="title", negative_prompt_column="bad")
    assert (read.rows[0].prompt, read.rows[0].negative_prompt) == ("a", "ugly")
    assert read.rows[0].columns == {"table_prompt": "x"}


def test_the_negative_prompt_column_is_said() -> None:
    read = table([{"prompt": "a", "negative_prompt": "b"}])
    assert "negative prompts come from the column `negative_prompt`" in read.talk


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"prompt_column": "Titel"}, "`prompt_column`: the table has no column `Titel`", "did you mean `title`?"),
        ({"negative_prompt_column": "zzz"}, "no column `zzz`", "columns: `prompt`, `title`, `se`"),
        ({"template": "a {title}", "prompt_column": "title"}, "`template` and `prompt_column` both", "leave out one"),
        ({"template": "a {titel}"}, "`template`: the table has no column `titel`", "did you mean `title`?"),
        ({"template": "a cat"}, "`template` names no column", "{name}"),
        ({"template": "a {}"}, "`template` names no column", "{name}"),
        ({"template": "a {title"}, "`template`: ", "{name}"),
        ({"template": "a {title!r}"}, "only plain names", "{name}"),
        ({"template": "a {title:>9}"}, "only plain names", "{name}"),
        ({"template": "{title.x}"}, "no column `title.x`", "did you mean `title`?"),
        ({"column": ["seed=sed"]}, "`column`: the table has no column `sed`", "did you mean `se`?"),
        ({"column": ["sead=se"]}, "no sampling parameter `sead`", "did you mean `seed`?"),
        ({"column": ["negative_prompt=se"]}, "no sampling parameter `negative_prompt`", ""),
        ({"column": ["seed"]}, "write NAME=VALUE, not `seed`", ""),
        ({"vary": ["guidance_scale="]}, "write NAME=VALUE, not `guidance_scale=`", ""),
        ({"vary": ["guidance=3"]}, "`vary`: `guidance` is neither", "did you mean `guidance_scale`?"),
        ({"template": "a {title}", "vary": ["titel=x"]}, "`vary`: `titel` is neither", "did you mean `title`?"),
        ({"limit": 0}, "`limit`", ""),
    ],
)
def test_a_wrong_option_is_refused_with_a_suggestion(options: dict[str, Any], message: str, hint: str) -> None:
    error = refused([{"prompt": "a", "title": "b", "se": 1}], **options)
    assert message in error.message
    assert hint in error.hint


# templates and parameters by row


def test_a_template_takes_columns_and_varied_names() -> None:
    read = table(
        [{"animal": "cat", "n": 3}, {"animal": "", "n": 4}, {"animal": "dog", "n": None}, {"animal": "cow", "n": 1.5}],
        template="{n} {animal} in {{style}} {style}",
        vary=["style=oil,ink"],
    )
    assert [dict(row.fields) for row in read.rows] == [{"n": "3", "animal": "cat"}, {"n": "1.5", "animal": "cow"}]
    assert [reject.reason for reject in read.rejects] == [
        "the column `animal` of the template is empty",
        "the column `n` of the template is empty",
    ]
    assert read.rows[0].columns == {"animal": "cat", "n": 3.0}


def test_columns_named_like_parameters_are_kept_and_mentioned() -> None:
    read = table([{"prompt": "a", "seed": 3, "width": 64}])
    assert read.rows[0].overrides == {}
    assert read.rows[0].columns == {"table_seed": 3, "table_width": 64}
    assert any("`seed`, `width`" in line and "--per-row" in line for line in read.talk)


def test_per_row_lets_columns_set_their_row() -> None:
    rows = [
        {"prompt": "a", "seed": "3", "width": 64, "guidance_scale": "7.5", "note": "x"},
        {"prompt": "b", "seed": "", "width": None, "guidance_scale": math.nan, "note": "y"},
        {"prompt": "c", "seed": -1, "images_per_prompt": "2"},
    ]
    read = table(rows, per_row=True)
    assert [dict(row.overrides) for row in read.rows] == [
        {"seed": 3, "width": 64, "guidance_scale": 7.5},
        {},
        {"images_per_prompt": 2},
    ]
    assert [dict(row.columns) for row in read.rows] == [{"note": "x"}, {"note": "y"}, {"note": ""}]
    assert not any("--per-row" in line for line in read.talk)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 2**32), ("seed", "many"), ("width", 7), ("guidance_scale", math.inf), ("images_per_prompt", 0)],
)
def test_a_parameter_out_of_range_rejects_its_row(name: str, value: object) -> None:
    read = table([{"prompt": "a", name: 64}, {"prompt": "b", name: value}, {"prompt": "c", name: 8}], per_row=True)
    assert [row.prompt for row in read.rows] == ["a", "c"]
    assert read.rejects[0].reason.startswith(f"`{name}`: ")
    assert f"got: `{value}`" in read.rejects[0].reason


def test_one_column_can_be_mapped_by_hand() -> None:
    read = table([{"prompt": "a", "se": 3, "seed": 9, "width": 16}], column=["seed=se"])
    assert read.rows[0].overrides == {"seed": 3}
    assert read.rows[0].columns == {"table_seed": 9, "table_width": 16}


# columns in the records


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, -3], [1, 2, -3]),
        ([True, False], [True, False]),
        ([1.0, 7.5], [1.0, 7.5]),
        ([1, 7.5], [1.0, 7.5]),
        ([1, None], ["1", ""]),
        ([1, "x"], ["1", "x"]),
        ([True, 1], ["true", "1"]),
        ([1, 2**63], ["1", "9223372036854775808"]),
        ([0, -(2**63) - 1], ["0", "-9223372036854775809"]),
        ([-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
        ([1.5, 1e300], ["1.5", "1e+300"]),
        ([1.5, math.nan], ["1.5", ""]),
        ([1.5, math.inf, -math.inf], ["1.5", "Infinity", "-Infinity"]),
        ([None, None], ["", ""]),
        (["a", None, {"b": [1, "ü"]}], ["a", "", '{"b": [1, "ü"]}']),
        ([[], {}], ["[]", "{}"]),
    ],
)
def test_a_column_has_one_type(values: list[Any], expected: list[Any]) -> None:
    found = column(values)
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_a_column_that_only_some_rows_have_is_in_all() -> None:
    read = table([{"prompt": "a"}, {"prompt": "b", "n": 1}])
    assert [dict(row.columns) for row in read.rows] == [{"n": ""}, {"n": "1"}]


TIMES = [
    "2024-01-31",
    "2024-01-31T10:20:30",
    "2024-01-31 10:20:30",
    "2024-01-31 10:20",
    "2024-01-31 10",
    "2024-01-31T10:20:30Z",
    "2024-01-31T10:20:30+02:00",
    "2024-01-31 10:20:30+0200",
    "2024-01-31 10:20:30-02",
    "2024-01-31T10:20:30.5",
    "2024-01-31T102030",
    "20240131",
    "2024-1-31",
    "10:20:30",
]


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("other", ["soon", "", "2024", "2024-02-31", "20240131"])
def test_a_time_among_other_texts_stays_text_for_readers(time: str, other: str) -> None:
    values = column([time] * 50 + [other] * 50)
    assert [value.strip() for value in values] == [time] * 50 + [other] * 50
    lines = io.BytesIO("\n".join(to_json({"x": value}) for value in values[:50]).encode())
    # A reader that guesses types from a first piece with nothing but times.
    assert pj.read_json(lines).schema.field("x").type == pa.string()


def test_a_column_of_nothing_but_times_is_left_as_it_is() -> None:
    assert column(["2024-01-31", "2024-02-01"]) == ["2024-01-31", "2024-02-01"]


@pytest.mark.parametrize("name", [*RECORD_KEYS, "image", "images", "label", "lora_file_name", "file_names"])
def test_a_column_never_takes_a_name_that_misleads_readers(name: str) -> None:
    if name in {"prompt", "negative_prompt", "id"}:
        read = table([{"title": "a", name: "x"}], prompt_column="title", negative_prompt_column="title")
    else:
        read = table([{"prompt": "a", name: "x"}])
    for safe in read.rows[0].columns:
        assert safe not in {*RECORD_KEYS, "image", "images", "label"}
        assert not safe.endswith(("file_name", "file_names"))
        assert any(f"`{name}` as `{safe}`" in line for line in read.talk)
    assert read.rows[0].columns or name == "id"


def test_two_columns_that_would_get_one_name_are_refused() -> None:
    assert "`image`, `table_image`" in refused([{"prompt": "a", "image": 1, "table_image": 2}]).message


# the table's fingerprint


def test_the_fingerprint_is_of_the_rows_not_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,n\na cat,1\n")
    (tmp_path / "b.tsv").write_text("prompt\tn\r\na cat\t1\r\n")
    (tmp_path / "c.csv").write_text("prompt,n\na dog,1\n")
    first, same, other = (table(tmp_path / name).sha256 for name in ("a.csv", "b.tsv", "c.csv"))
    assert first == same != other


@pytest.mark.parametrize(
    "change",
    [lambda r: r.update(prompt="b"), lambda r: r.update(seed=2), lambda r: r.update(n=2), lambda r: r.update(id="z")],
)
def test_the_fingerprint_tells_every_change_of_a_row(change: Callable[[dict[str, Any]], None]) -> None:
    row = {"id": "x", "prompt": "a", "seed": 1, "n": 1}
    changed = dict(row)
    change(changed)
    assert table([row], per_row=True).sha256 != table([changed], per_row=True).sha256


def test_a_number_beyond_every_float_becomes_text() -> None:
    big = 10**400
    rows = read_table([{"prompt": "a", "n": 1}, {"prompt": "b", "n": big}], PromptTable()).rows
    assert [row.columns["n"] for row in rows] == ["1", str(big)]


def test_pictures_in_a_table_of_prompts_are_left_out_and_told(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    values = {"prompt": ["a cat"], "image": [{"bytes": b"\x89PNG", "path": None}], "blob": [b"\0"], "note": ["soft"]}
    pq.write_table(pa.table(values), tmp_path / "held.parquet")
    table = read_table(tmp_path / "held.parquet", PromptTable())
    assert [dict(row.columns) for row in table.rows] == [{"note": "soft"}]
    assert table.talk[-1] == "not kept, since they hold pictures that nothing starts from: `image`, `blob`"
    assert not any("another name" in said for said in table.talk)
