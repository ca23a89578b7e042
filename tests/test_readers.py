"""Files into raw rows: every format, every byte accounted for."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagemill.errors import UsageError
from imagemill.operators.generate import generate
from imagemill.records import Reject
from imagemill.tables.readers import read_source
from imagemill.tables.texts import RawRow

ROWS = [{"prompt": "a cat, asleep", "mood": "calm"}, {"prompt": "zwei Hunde – 🐶", "mood": 'so "wild"'}]
Read = tuple[list[RawRow], list[Reject], list[str]]


def delimited(rows: list[dict[str, str]], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


CONTENTS: dict[str, tuple[str, bytes]] = {
    "csv": ("csv", delimited(ROWS, ",")),
    "semicolon csv": ("csv", delimited(ROWS, ";")),
    "tsv": ("tsv", delimited(ROWS, "\t")),
    "jsonl": ("jsonl", "\n".join(map(json.dumps, ROWS)).encode()),
    "ndjson": ("ndjson", "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()),
    "json list": ("json", json.dumps(ROWS, indent=2).encode()),
    "json object": ("json", json.dumps({"version": 3, "rows": ROWS}, indent=2).encode()),
    "parquet": ("parquet", parquet(ROWS)),
}


def compressed(content: bytes, how: str) -> bytes:
    if how == "zst":
        return bytes(pa.Codec("zstd").compress(content, asbytes=True))
    return gzip.compress(content) if how == "gz" else content


def read(folder: Path, name: str, content: bytes | str) -> Read:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_source(path)


def values(rows: list[RawRow]) -> list[dict[str, Any]]:
    return [dict(row.values) for row in rows]


# formats


@pytest.mark.parametrize("how", ["", "gz", "zst"])
@pytest.mark.parametrize("name", CONTENTS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, how: str) -> None:
    suffix, content = CONTENTS[name]
    rows, rejects, names = read(tmp_path, f"my.table.{suffix}{how and '.' + how}", compressed(content, how))
    assert values(rows) == ROWS
    assert [row.index for row in rows] == [0, 1]
    assert rejects == []
    assert names == ["prompt", "mood"]


@pytest.mark.parametrize("how", ["", "gz", "zst"])
def test_a_text_file_has_one_prompt_a_line(tmp_path: Path, how: str) -> None:
    content = compressed('a cat, "asleep"\n  zwei Hunde – 🐶\n\n'.encode(), how)
    rows, rejects, names = read(tmp_path, f"prompts.TXT{how and '.' + how}", content)
    assert values(rows) == [{"prompt": 'a cat, "asleep"'}, {"prompt": "  zwei Hunde – 🐶"}]
    assert (rejects, names) == ([], ["prompt"])


@pytest.mark.parametrize(("name", "content"), [("p.json", '["a cat", "a dog"]'), ("p.jsonl", '"a cat"\n\n"a dog"\n')])
def test_json_may_hold_bare_prompts(tmp_path: Path, name: str, content: str) -> None:
    rows, rejects, _ = read(tmp_path, name, content)
    assert values(rows) == [{"prompt": "a cat"}, {"prompt": "a dog"}]
    assert rejects == []


@pytest.mark.parametrize("wrap", [list, tuple, iter])
def test_an_iterable_of_prompts_or_mappings_is_a_table(wrap: Callable[[Any], Any]) -> None:
    rows, rejects, names = read_source(wrap(["a cat", {"prompt": "a dog", "n": 2}, 7, "a cow"]))
    assert [(row.index, dict(row.values)) for row in rows] == [
        (0, {"prompt": "a cat"}),
        (1, {"prompt": "a dog", "n": 2}),
        (3, {"prompt": "a cow"}),
    ]
    assert [(reject.line, reject.raw) for reject in rejects] == [(3, "7")]
    assert "neither an object nor a text" in rejects[0].reason
    assert names == ["prompt", "n"]


def test_parquet_keeps_types_and_nulls(tmp_path: Path) -> None:
    rows, _, _ = read(tmp_path, "t.parquet", parquet([{"prompt": "a", "n": 2, "tags": ["x"]}, {"prompt": None}]))
    assert values(rows) == [{"prompt": "a", "n": 2, "tags": ["x"]}, {"prompt": None, "n": None, "tags": None}]


STDIN = {
    **{name: content for name, (_, content) in CONTENTS.items()},
    "csv with a late prompt": b'n,"Prompt"\n1,a cat\n',
    "utf-8 with a mark": b"\xef\xbb\xbfprompt,n\na cat,1\n",
    "utf-16": "prompt,n\na cat,1\n".encode("utf-16"),
}


@pytest.mark.parametrize("name", STDIN)
def test_standard_input_is_recognized_by_how_it_begins(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(STDIN[name])))
    rows, rejects, names = read_source("-")
    assert values(rows)[0].get("prompt", values(rows)[0].get("Prompt")) in {"a cat, asleep", "a cat"}
    assert len(rows) == (2 if name in CONTENTS else 1)
    assert len(names) == 2
    assert rejects == []


def test_plain_lines_on_standard_input_are_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a cat, a dog\nthe word prompt\n")))
    assert values(read_source("-")[0]) == [{"prompt": "a cat, a dog"}, {"prompt": "the word prompt"}]


def test_a_folder_is_read_as_a_hugging_face_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"prompt": "a cat", "n": 1}\n{"prompt": "a dog", "n": 2}\n')
    rows, rejects, _ = read_source(tmp_path / "data")
    assert values(rows) == [{"prompt": "a cat", "n": 1}, {"prompt": "a dog", "n": 2}]
    assert rejects == []


# bytes


@pytest.mark.parametrize("name", ["csv", "semicolon csv", "tsv", "jsonl", "ndjson", "json list"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_byte_order_mark_is_no_part_of_the_table(tmp_path: Path, name: str, encoding: str) -> None:
    suffix, content = CONTENTS[name]
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    rows, rejects, names = read(tmp_path, f"t.{suffix}", (mark + content.decode()).encode(encoding))
    assert (values(rows), rejects, names) == (ROWS, [], ["prompt", "mood"])


@pytest.mark.parametrize("name", ["csv", "tsv", "jsonl"])
def test_line_ends_may_be_mixed(tmp_path: Path, name: str) -> None:
    suffix, content = CONTENTS[name]
    lines = content.decode().replace("\r\n", "\n").strip().split("\n")
    for ends in (["\r"] * 3, ["\n", "\r\n", "\r"], ["\r\n", "\r", ""]):
        text = "".join(line + end for line, end in zip(lines, ends, strict=False))
        rows, rejects, _ = read(tmp_path, f"t.{suffix}", text)
        assert (values(rows), rejects) == (ROWS, [])


def test_damaged_utf_16_is_rejected_not_altered(tmp_path: Path) -> None:
    half = "prompt,n\ngood,1\n".encode("utf-16") + "bad".encode("utf-16-le") + b"\x00\xd8"
    rows, rejects, _ = read(tmp_path, "t.csv", half + ",2\nfine,3\n".encode("utf-16-le"))
    assert [row.values["prompt"] for row in rows] == ["good", "fine"]
    assert [reject.line for reject in rejects] == [3]


BAD_LINES = {
    "csv": {
        "a byte that is not UTF-8": (b"caf\xe9,x", "byte 4 is not UTF-8: 0xe9"),
        "a field too few": (b"only one", "1 field where the header has 2"),
        "a field too many": (b"a,b,c", "3 fields where the header has 2"),
        "a quote that is not closed": (b'"never closed,x', "not closed"),
        "a quote that is not closed at the end": (b'x,"never closed', "not closed"),
        "text after a closing quote": (b'"done" and more,x', "follows a closing quote"),
        "a NUL": (b"nul\0here,x", "NUL"),
    },
    "tsv": {
        "a byte that is not UTF-8": (b"caf\xe9\tx", "byte 4 is not UTF-8: 0xe9"),
        "a field too few": (b"only one", "1 field where the header has 2"),
        "a field too many": (b"a\tb\tc", "3 fields where the header has 2"),
        "a quote that is not closed": (b'"never closed\tx', "not closed"),
        "a NUL": (b"nul\0here\tx", "NUL"),
    },
    "jsonl": {
        "a byte that is not UTF-8": (b'{"prompt": "caf\xe9"}', "byte 16 is not UTF-8: 0xe9"),
        "half a line": (b'{"prompt": "a c', "not JSON"),
        "a list": (b'["a", "b"]', "neither an object nor a text"),
        "a number": (b"7", "neither an object nor a text"),
        "a NUL": (b'{"prompt": "a\0b"}', "NUL"),
        "a number without end": (b'{"prompt": "a", "n": ' + b"9" * 5_000 + b"}", "not JSON"),
        "endless nesting": (b'{"prompt": "a", "n": ' + b"[" * 100_000, "not JSON"),
    },
    "txt": {"a byte that is not UTF-8": (b"caf\xe9", "byte 4 is not UTF-8: 0xe9"), "a NUL": (b"a\0b", "NUL")},
}
HEADERS = {"csv": b"prompt,n\n", "tsv": b"prompt\tn\n", "jsonl": b"", "txt": b""}
GOOD = {"csv": b"%s,1\n", "tsv": b"%s\t1\n", "jsonl": b'{"prompt": "%s", "n": "1"}\n', "txt": b"%s\n"}


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, kinds in BAD_LINES.items() for what in kinds])
def test_a_bad_row_is_named_and_its_neighbors_stay(tmp_path: Path, name: str, what: str) -> None:
    bad, reason = BAD_LINES[name][what]
    good = [GOOD[name] % word for word in (b"one", b"two", b"four", b"five")]
    content = b"".join([HEADERS[name], *good[:2], bad + b"\n", *good[2:]])
    rows, rejects, _ = read(tmp_path, f"t.{name}", content)
    assert [(row.index, row.values["prompt"]) for row in rows] == [(0, "one"), (1, "two"), (3, "four"), (4, "five")]
    assert len(rejects) == 1
    assert rejects[0].line == (4 if HEADERS[name] else 3)
    assert reason in rejects[0].reason
    assert rejects[0].raw == bad.decode(errors="replace")[:1_000]


def test_a_tsv_may_begin_a_cell_with_a_word_in_quotes(tmp_path: Path) -> None:
    rows, rejects, _ = read(tmp_path, "t.tsv", 'prompt\tn\n"Hi" on a wall\t1\n"plain"\t2\n5" nail\t3\n')
    assert [row.values["prompt"] for row in rows] == ['"Hi" on a wall', "plain", '5" nail']
    assert rejects == []


def test_a_quote_left_open_does_not_take_the_rows_up_to_the_next_quote(tmp_path: Path) -> None:
    lines = ["prompt,n", '"left open,1', "two,2", "three,3", '"four",4', '"five', 'more",5']
    rows, rejects, _ = read(tmp_path, "t.csv", "\n".join(lines))
    assert [row.values["prompt"] for row in rows] == ["two", "three", "four", "five\nmore"]
    assert [(reject.line, reject.raw) for reject in rejects] == [(2, '"left open,1')]


def test_two_stray_quotes_do_not_merge_what_lies_between(tmp_path: Path) -> None:
    rows, rejects, _ = read(tmp_path, "t.csv", 'prompt\n"a cat\na dog\n"\na cow"\na hen\n')
    found = [row.values["prompt"] for row in rows]
    assert "a dog" in found
    assert "a hen" in found
    assert rejects[0].line == 2


def test_lines_in_quotes_that_look_like_rows_are_believed_when_everything_fits(tmp_path: Path) -> None:
    text = 'prompt,n\n"a poem:\nred,1\nblue,2\nend",3\nplain,4\n'
    rows, rejects, _ = read(tmp_path, "t.csv", text)
    assert [row.values["prompt"] for row in rows] == ["a poem:\nred,1\nblue,2\nend", "plain"]
    assert [(row.index, row.line) for row in rows] == [(0, 2), (1, 6)]
    assert rejects == []


def test_a_row_of_empty_cells_at_the_end_is_a_row(tmp_path: Path) -> None:
    rows, rejects, _ = read(tmp_path, "t.tsv", "prompt\tn\na\t1\n\t\n")
    assert len(rows) + len(rejects) == 2


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    rows, rejects, _ = read(tmp_path, "t.csv", "prompt,n\n\none,1\n\r\n\ntwo,2\n\n\n")
    assert [(row.index, row.line) for row in rows] == [(0, 3), (1, 6)]
    assert rejects == []


def test_a_very_long_prompt_is_read_whole(tmp_path: Path) -> None:
    long = "é" * 100_000
    for name, content in (
        ("t.csv", f'prompt,n\n"{long}",1\n'),
        ("t.jsonl", json.dumps({"prompt": long})),
        ("t.txt", long),
    ):
        rows, rejects, _ = read(tmp_path, name, content)
        assert rows[0].values["prompt"] == long
        assert len(rows[0].start) == 1_000
        assert rejects == []


# whole files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", b"", "its name ends in `.xlsx`"),
        ("README", b"", "its name ends in `README`"),
        ("t.csv", b"", "the table is empty"),
        ("t.csv", b"a,b,a\n1,2,3\n", "names the column `a` more than once"),
        ("t.csv", b"caf\xe9,b\n1,2\n", "line 1: byte 4 is not UTF-8"),
        ("t.csv", b'"a,b\n1,2\n', "line 1: a quote is not closed"),
        ("t.json", b'[{"prompt": "a"}', "not JSON"),
        ("t.json", b'"a cat"', "not a list of rows"),
        ("t.json", b'{"a": [], "b": []}', "without one list"),
        ("t.csv.gz", gzip.compress(b"prompt\n" + b"a cat\n" * 500, mtime=0)[:-9], "cannot be read"),
        ("t.csv.gz", b"prompt\na cat\n", "cannot be read"),
        ("t.csv.zst", compressed(bytes(range(256)) * 9, "zst")[:-9], "cannot be read"),
        ("t.parquet", CONTENTS["parquet"][1][:-9], "Parquet file cannot be read"),
        ("t.parquet.gz", gzip.compress(b"nonsense", mtime=0), "Parquet file cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_a_reason(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, name, content)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file `no/such/file\.csv`"):
        read_source("no/such/file.csv")
    (tmp_path / "prompts.csv").touch()
    with pytest.raises(UsageError, match=r"did you mean `prompts\.csv`"):
        read_source(tmp_path / "promts.csv")


def test_a_name_that_is_given_twice_costs_its_row_only(tmp_path: Path) -> None:
    rows, rejects, _ = read(tmp_path, "p.jsonl", '{"prompt": "a", "prompt": "b"}\n{"prompt": "c"}\n')
    assert values(rows) == [{"prompt": "c"}]
    assert [(reject.line, "`prompt` stands twice" in reject.reason) for reject in rejects] == [(1, True)]


@pytest.mark.parametrize("table", [{"prompt": ["a", "b"]}, pa.table({"prompt": ["a"]})])
def test_a_table_by_columns_is_refused(tmp_path: Path, table: Any) -> None:
    with pytest.raises(UsageError, match="a prompt table is a list of prompts or of rows"):
        generate(table, tmp_path / "out", model="fake")


# properties

cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
lines = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=12)


def tables(cell: st.SearchStrategy[str], least: int = 1) -> st.SearchStrategy[list[list[str]]]:
    return st.integers(least, 4).flatmap(
        lambda width: st.lists(st.lists(cell, min_size=width, max_size=width), min_size=1, max_size=6)
    )


@settings(max_examples=150, deadline=None)
@given(
    table=tables(cells),
    delimiter=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_csv_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], delimiter: str, end: str, quoting: Any
) -> None:
    width = len(table[0])
    names = [f"n{number}" for number in range(width)]
    delimiter = delimiter if width > 1 else ","  # nothing tells the delimiter of a table with one column
    if quoting == csv.QUOTE_MINIMAL and end != "\r\n":
        # The writer quotes no line end but its own, and Python's reader fails on what it then wrote.
        table = [[re.sub("\r\n?|\n", end, cell) for cell in row] for row in table]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows([names, *table])
    suffix = "tsv" if delimiter == "\t" else "csv"
    rows, rejects, _ = read(tmp_path_factory.getbasetemp(), f"written.{suffix}", text.getvalue())
    assert rejects == []
    # As in a file that Python opens as text, every line end inside a cell is one `\n`.
    assert [list(row.values.values()) for row in rows] == [
        [cell.replace("\r\n", "\n").replace("\r", "\n") for cell in row] for row in table
    ]


@settings(max_examples=150, deadline=None)
@given(table=tables(lines, least=2), data=st.data())
def test_one_corrupted_line_costs_one_row(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], data: st.DataObject
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([["a", "b", "c", "d"][: len(table[0])], *table])
    content = text.getvalue().encode().split(b"\n")[:-1]
    where = data.draw(st.integers(0, len(table) - 1), label="corrupted row")
    # A broken character, a quote or a delimiter somewhere; or the line cut short.
    position = data.draw(st.integers(0, len(content[where + 1])), label="position")
    start, rest = content[where + 1][:position], content[where + 1][position:]
    stray = data.draw(st.sampled_from([b"\xff", b'"', b",", b'",', b',"', b'"x', b"\0"]), label="stray bytes")
    content[where + 1] = data.draw(st.sampled_from([start + stray + rest, start + stray]), label="line")
    rows, rejects, _ = read(tmp_path_factory.getbasetemp(), "broken.csv", b"\n".join(content))
    assert len(rows) + len(rejects) == len(table)
    found = {row.index: list(row.values.values()) for row in rows}
    for index, row in enumerate(table):
        assert index == where or found[index] == row


@settings(max_examples=150, deadline=None)
@given(data=st.data(), count=st.integers(3, 8))
def test_a_corrupted_line_never_merges_rows_further_away(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, count: int
) -> None:
    words = st.lists(st.sampled_from(["red", 'a "b"', "é"]), min_size=1, max_size=3)
    table = [[f"id{number}", "\n".join(data.draw(words))] for number in range(count)]
    content: list[bytes] = []
    owners: list[int] = []
    for number, row in enumerate(table):
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerow(row)
        added = text.getvalue().encode().split(b"\n")[:-1]
        content += added
        owners += [number] * len(added)
    where = data.draw(st.integers(0, len(content) - 1), label="corrupted line")
    position = data.draw(st.integers(0, len(content[where])), label="position")
    stray = data.draw(st.sampled_from([b"\xff", b'"', b",", b""]), label="stray bytes")
    length = data.draw(st.integers(0, 2), label="bytes lost")
    content[where] = content[where][:position] + stray + content[where][position + length :]
    rows, _, _ = read(tmp_path_factory.getbasetemp(), "broken.csv", b"\n".join([b"id,text", *content]))
    found = [list(row.values.values()) for row in rows]
    for number, row in enumerate(table):
        assert abs(number - owners[where]) <= 1 or row in found
    for row in found:
        assert sum(f"id{number}" in "".join(row) for number in range(count)) <= 2
