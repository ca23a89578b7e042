"""The index answers as a scan of all records would, whatever has changed, been killed or been removed since."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.dataset.files import append_lines, encode_lines, write_file
from imagemill.dataset.index import Index, Query, building, order, sources
from imagemill.errors import ImagemillError, UsageError
from imagemill.expressions import Expression
from imagemill.foreign.diffusiondb import columns

from .conftest import Command

WORDS = (
    "castle", "Cat", "catalog", "ÉCLAIR", "éclair", "straße", "STRASSE", "東京", "東京の夜", "ΟΔΟΣ", "a", "of", "8k,",
    "a.b", "(red:1.2)", "100%", "\\d+", "İstanbul", "two\tparts", "new\nline", "'quoted'", "\N{KELVIN SIGN}elvin", "🦊",
)  # fmt: skip
TERMS = (
    "cat", "CAT", "at", "c", "é", "É", "ss", "ß", "京", "東京 ", "οδος", "of a", "a of", " a", "a ", " ", "  ", "8K,",
    "k", ".", "%", "\\d", "(RED", "two\tp", "e\nl", "i̇", "🦊 ", "nothing like it", "a  a", " cat ", "'",
)  # fmt: skip
WHERES = (
    "", "score > 0.5", "score < 0.1 or whole = 3", "score is null", "not (score > 0.2)", "note = 'b' and score > 0.3",
    "note is null", "note in ('a', 'c')", "note contains 'B'", "prompt contains 'cat' and not flag", "flag",
    "whole > score", "prompt = note", "tags contains 'x'", "empty is null", "empty > 3", "not prompt contains 'a'",
    "prompt contains 'STRASSE'",
)  # fmt: skip


def some_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with absent and equal values; neighbors share prompts."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        prompt = (
            rows[-1]["prompt"] if rows and draw.random() < 0.6 else " ".join(draw.choices(WORDS, k=draw.randrange(6)))
        )
        rows.append(
            {
                "name": f"image {number}",
                "prompt": prompt if draw.random() < 0.97 else None,
                "score": draw.choice([None, float("nan"), 0.25, 0.5, draw.random(), draw.random()]),
                "whole": draw.choice([None, 3, 7, draw.randrange(-5, 5), 2**40]),
                "note": draw.choice([None, "", "a", "b", "c", prompt]),
                "flag": draw.choice([True, False, None]),
                "tags": draw.choice([None, [], ["x"], ["y", "xx"]]),
                "empty": None,
            }
        )
    return rows


def as_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    kinds = {"score": pa.float64(), "whole": pa.int64(), "tags": pa.list_(pa.string()), "flag": pa.bool_()}
    return pa.table(
        {
            key: pa.array([row[key] for row in rows], kinds.get(key, pa.null() if key == "empty" else pa.string()))
            for key in rows[0]
        }
    )


def write_table(rows: Sequence[dict[str, Any]], path: str = "table.parquet", row_group_size: int = 170) -> Path:
    pq.write_table(as_table(rows), path, row_group_size=row_group_size)
    return Path(path)


def nan_as_none(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: None if value != value else value for key, value in row.items()} for row in rows]


def scan(rows: Sequence[dict[str, Any]], query: Query) -> list[int]:
    """What a query finds, by looking at every row."""
    found = list(range(len(rows)))
    if query.where:
        passing = Expression.parse(query.where).mask(as_table(rows)).to_pylist()
        found = [number for number in found if passing[number]]
    if query.search:
        term, name = query.search.casefold(), query.search_column
        found = [
            number
            for number in found
            if term in (rows[number][name] or "").casefold() and rows[number][name] is not None
        ]
    if query.by:
        held = [number for number in found if rows[number][query.by] is not None]
        # Python's sort leaves equals as they stand, also in reverse.
        held.sort(key=lambda number: rows[number][query.by], reverse=not query.ascending)
        found = held + [number for number in found if rows[number][query.by] is None]
    return found


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 300 rows, so that a small table has several."""
    for module in (sources, building):
        monkeypatch.setattr(module, "ROWS", 300)
    monkeypatch.setattr(sources.Table, "weight", 300)
    monkeypatch.setattr(sources.Parts, "weight", 10)


def numbers(index: Index, query: Query) -> list[int]:
    return [int(number) for number in index.numbers(query)]


def part(folder: Path, number: int, records: Sequence[dict[str, Any]], sealed: bool = True) -> None:
    """Write a part as `Part.seal` leaves it; the index needs no images."""
    path = folder / "images" / f"part-{number:06d}" / "metadata.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = encode_lines(records)
    write_file(path, content)
    if sealed:
        seal = {"records": len(records), "sha256": hashlib.sha256(content).hexdigest()}
        append_lines(folder / ".imagemill" / "seals.jsonl", [{"part": path.parent.name, "sealed": True, **seal}])


def record(row: int, **values: Any) -> dict[str, Any]:
    return {"file_name": f"prompt_{row}_image_0.png", "prompt": f"picture {row}", "score": row / 2, **values}


def dataset_of(parts: int, folder: str = "out", each: int = 10) -> Path:
    """A dataset of sealed parts."""
    package.generate(["one"], folder, model="fake", seed=1, width=8, height=8)
    for number in range(1, parts + 1):
        part(Path(folder), number, [record(number * 1000 + place) for place in range(each)])
    return Path(folder)


def prompts_of(index: Index) -> list[str]:
    return [found["prompt"] for found in index.page(limit=100_000, columns=["prompt"]).records]


def index_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


# as a scan would


@pytest.mark.parametrize("several", [False, True], ids=["one segment", "several segments"])
def test_hundreds_of_questions_are_answered_as_by_looking_at_every_row(
    several: bool, request: pytest.FixtureRequest
) -> None:
    if several:
        request.getfixturevalue("small_segments")
    rows = some_rows(1_000)
    index = Index(write_table(rows))
    known = nan_as_none(rows)
    draw = random.Random(several)
    for where in WHERES:
        for term in ("", *TERMS):
            column = "prompt" if draw.random() < 0.8 else draw.choice(["note", "name"])
            by = draw.choice(["", "", "score", "whole", "note", "prompt", "flag", "empty"])
            query = Query(where=where, search=term, search_column=column, by=by, ascending=draw.random() < 0.5)
            expected = scan(known, query)
            assert index.count(query) == len(expected), query
            offset, limit = draw.randrange(len(expected) + 2), draw.randrange(1, 60)
            page = index.page(query, offset, limit)
            assert page.numbers == expected[offset : offset + limit], query
            assert page.records == [known[number] for number in page.numbers], query
            assert numbers(index, query) == expected, query


def test_a_search_finds_what_contains_finds(small_segments: None) -> None:
    index = Index(write_table(some_rows(1_000)))
    for term in (term for term in TERMS if "'" not in term):
        expected = numbers(index, Query(where=f"prompt contains '{term}'"))
        assert numbers(index, Query(search=term)) == expected, term
        assert numbers(index, Query(search=term, search_column="note")) == numbers(
            index, Query(where=f"note contains '{term}'")
        )


def test_whole_numbers_of_64_bits_are_compared_exactly(imagemill: Command) -> None:
    pq.write_table(pa.table({"big": pa.array([2**64 - 1 - row for row in range(3_000)], pa.uint64())}), "t.parquet")
    for where, count in (("big = 18446744073709551615", 1), ("big > 18446744073709551610", 5), ("big > 7", 3_000)):
        assert imagemill("query", "t.parquet", "--count", "--where", where).out == f"{count}\n"


def test_a_page_at_any_depth_is_the_same_whichever_was_asked_first(small_segments: None) -> None:
    rows = some_rows(1_000)
    path = write_table(rows)
    query = Query(where="score > 0.2", by="score")
    expected = scan(nan_as_none(rows), query)
    for offset in (len(expected) - 7, 0, 123, len(expected), len(expected) + 50):
        assert Index(path).page(query, offset, 50).numbers == expected[offset : offset + 50]


def test_many_found_rows_are_sorted_as_few_are(small_segments: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from imagemill.dataset import index as module

    rows = some_rows(1_000)
    path = write_table(rows)
    monkeypatch.setattr(module, "_FEW_SORTED", 0)
    for by in ("score", "prompt", "note", "name", "empty"):
        for ascending in (True, False):
            query = Query(where="whole is not null", by=by, ascending=ascending)
            # The second takes the order of the column from its file.
            for index in (Index(path), Index(path)):
                assert numbers(index, query) == scan(nan_as_none(rows), query)


@pytest.mark.parametrize("kind", [pa.float32(), pa.int8(), pa.int32(), pa.uint32(), pa.bool_()], ids=str)
def test_many_small_numbers_are_sorted_as_few_are(kind: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    some = {
        "float": [-0.0, 0.0, 1.5, -1.5, float("inf"), float("-inf"), 1e-40],
        "bool": [True, False],
    }.get(str(kind), [0, 1, 100, 127] + [-128, -1] * (str(kind) != "uint32") + [2**32 - 1] * (str(kind) == "uint32"))
    values = [draw.choice([None, *some]) for _ in range(500)]
    column = pa.chunked_array([pa.array(values[:200], kind), pa.array(values[200:], kind)])
    for ascending in (True, False):
        held = [number for number, value in enumerate(values) if value is not None]
        held.sort(key=lambda number: values[number], reverse=not ascending)  # type: ignore[arg-type, return-value]
        expected = held + [number for number, value in enumerate(values) if value is None]
        for many in (10**6, 0):
            monkeypatch.setattr(order, "_MANY", many)
            assert order.argsort(column, ascending).tolist() == expected


def test_a_sample_has_exactly_so_many_rows_of_those_asked_for_and_is_drawn_by_its_seed(small_segments: None) -> None:
    rows = some_rows(1_000)
    index = Index(write_table(rows))
    query = Query(where="score > 0.2")
    expected = set(scan(nan_as_none(rows), query))
    for count in (1, 10, len(expected) - 1, len(expected)):
        drawn = index.sample(count, 7, query).numbers
        assert drawn == sorted(set(drawn))
        assert len(drawn) == count
        assert expected.issuperset(drawn)
    assert index.sample(30, 7).numbers == index.sample(30, 7).numbers != index.sample(30, 8).numbers
    # Of a known table: the same with every version of every package.
    assert index.sample(3, 7).numbers == [175, 458, 546]
    with pytest.raises(UsageError, match="of 1,000 rows cannot be drawn"):
        index.sample(1_001)


def test_every_row_is_drawn_about_equally_often() -> None:
    index = Index(write_table(some_rows(100)))
    drawn = np.bincount([number for seed in range(300) for number in index.sample(20, seed).numbers], minlength=100)
    assert drawn.min() > 30
    assert drawn.max() < 95


def test_a_histogram_counts_as_numpy_does(small_segments: None) -> None:
    rows = some_rows(1_000)
    index = Index(write_table(rows))
    for name in ("score", "whole"):
        values = [row[name] for row in nan_as_none(rows) if row[name] is not None]
        for bins in (1, 7, 20):
            spread = index.histogram(name, bins=bins)
            counts, edges = np.histogram(values, bins)
            assert [one.count for one in spread.bins] == counts.tolist()
            assert [one.low for one in spread.bins] == edges[:-1].tolist()
            assert (spread.nulls, spread.others) == (len(rows) - len(values), 0)
    assert [one.value for one in index.histogram("flag").values] in ([True, False], [False, True])
    found = index.histogram("note", Query(where="score > 0.2"), bins=3)
    notes = [rows[number]["note"] for number in scan(nan_as_none(rows), Query(where="score > 0.2"))]
    assert all(one.count == notes.count(str(one.value)) for one in found.values)
    assert (
        sum(one.count for one in found.values) + found.others
        == len(notes) - notes.count(None)
        == len(notes) - found.nulls
    )


def test_few_whole_numbers_have_a_bin_each_and_infinity_has_none() -> None:
    pq.write_table(pa.table({"step": [1, 1, 3], "value": [0.0, 1.0, float("inf")]}), "t.parquet")
    index = Index("t.parquet")
    assert [(one.low, one.count) for one in index.histogram("step").bins] == [(1, 2), (2, 0), (3, 1)]
    spread = index.histogram("value", bins=2)
    assert ([one.count for one in spread.bins], spread.others) == ([1, 1], 1)


def test_statistics_tell_of_every_column(small_segments: None) -> None:
    rows = some_rows(1_000)
    index = Index(write_table(rows))
    known = nan_as_none(rows)
    found = {one.column: one for one in index.statistics()}
    assert list(found) == list(rows[0])
    for name, one in found.items():
        values = [row[name] for row in known if row[name] is not None]
        assert (one.count, one.nulls) == (len(values), len(rows) - len(values))
        if name in {"score", "whole"}:
            assert (one.min, one.max) == (min(values), max(values))
            assert one.mean == pytest.approx(sum(values) / len(values))
        if name in {"prompt", "note", "name"}:
            assert one.distinct == len(set(values))
    assert found["flag"].mean == pytest.approx(sum(bool(row["flag"]) for row in known) / found["flag"].count)


# only what has changed


def test_a_part_that_has_not_changed_is_not_read_again() -> None:
    folder = dataset_of(3)
    Index(folder)
    metadata = folder / "images" / "part-000002" / "metadata.jsonl"
    state = metadata.stat()
    # Nothing tells that this part is another: who reads it finds no table.
    metadata.write_bytes(b"x" * (state.st_size - 1) + b"\n")
    os.utime(metadata, ns=(state.st_atime_ns, state.st_mtime_ns))
    part(folder, 3, [record(3000, prompt="another")])
    part(folder, 4, [record(4000)])
    prompts = prompts_of(Index(folder))
    assert prompts == [f"picture {n}" for n in [*range(1000, 1010), *range(2000, 2010)]] + ["another", "picture 4000"]
    os.utime(metadata)
    with pytest.raises(ImagemillError, match="damaged lines"):
        Index(folder)


def test_what_is_removed_is_nowhere_in_the_index() -> None:
    folder = dataset_of(2)
    before = Index(folder)
    assert b"picture 1003" in index_bytes(folder / ".imagemill" / "index")
    dataset = Dataset(folder)
    with dataset.lock():
        dataset.part(1).remove(["prompt_1003_image_0.png"])
    now = before.refreshed()
    assert now.count(Query(search="picture 1003")) == 0
    assert len(now) == 19
    assert b"picture 1003" not in index_bytes(folder / ".imagemill" / "index")
    # Who was reading reads on as it was.
    assert before.count(Query(search="picture 1003")) == 1
    shutil.rmtree(folder / "images" / "part-000001")
    assert prompts_of(Index(folder)) == [f"picture {n}" for n in range(2000, 2010)]


def test_a_part_that_is_opened_again_and_grows_is_there_in_plan_order() -> None:
    folder = dataset_of(1, each=2)
    index = Index(folder)
    assert index.refreshed() is index
    dataset = Dataset(folder)
    with dataset.lock():
        dataset.part(1).append([record(1010), record(1005)])
    index = index.refreshed()
    assert prompts_of(index) == ["picture 1000", "picture 1001", "picture 1005", "picture 1010"]
    # A last line without its end is still being written.
    with (folder / "images" / "part-000001" / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "prompt_1')
    assert len(index.refreshed()) == 4
    with dataset.lock():
        dataset.part(1).recover()
        dataset.part(1).seal()
    assert index.refreshed().page().parts == [1] * len(index.refreshed())


def test_columns_that_some_parts_lack_are_null_there_and_numbers_meet() -> None:
    folder = dataset_of(2, each=2)
    part(folder, 3, [record(3000, aesthetic=5, score=None), record(3001, aesthetic=6, score=None)])
    Index(folder)
    part(folder, 4, [record(4000, aesthetic=6.5, taken="2024-05-01T10:00:00")])
    index = Index(folder)
    records = index.page(columns=["aesthetic", "score", "taken"]).records
    assert [found["aesthetic"] for found in records] == [None] * 4 + [5.0, 6.0, 6.5]
    assert [found["taken"] for found in records] == [None] * 6 + ["2024-05-01T10:00:00"]
    assert index.count(Query(where="aesthetic > 5.5")) == 2
    assert index.page(Query(by="aesthetic")).numbers == [6, 5, 4, 0, 1, 2, 3]
    part(folder, 5, [record(5000, aesthetic="high")])
    with pytest.raises(ImagemillError, match="several types"):
        Index(folder)


def test_thousands_of_parts_become_few_files_as_they_come(small_segments: None) -> None:
    folder = dataset_of(1, each=1)
    known = [1000]
    for number in range(2, 20):
        part(folder, number, [record(number * 1000 + place) for place in range(number % 3)])
        known += [number * 1000 + place for place in range(number % 3)]
        assert prompts_of(Index(folder)) == [f"picture {row}" for row in known]
    assert len(list((folder / ".imagemill" / "index").glob("segment-*.arrow"))) <= 2 * 8


def test_a_dataset_without_images_has_no_rows() -> None:
    folder = dataset_of(0)
    shutil.rmtree(folder / "images")
    index = Index(folder)
    assert (len(index), index.page().records, index.count(), index.statistics()) == (0, [], 0, [])
    (folder / "images" / "part-000001").mkdir(parents=True)
    (folder / "images" / "part-000001" / "metadata.jsonl").touch()
    assert Index(folder).page().records == []


# crashes and other readers

BUILD = """
    import os, sys
    from imagemill.dataset.index import building, sources
    from imagemill.dataset.index import Index, Query
    for module in (sources, building):
        module.ROWS = 300
    sources.Table.weight = 300
    query = Query(search="cat")
    # What is imported late must not be read by someone who may not, nor be what takes the time.
    Index(sys.argv[2], cache=sys.argv[2] + ".cache").page(query)
    if len(sys.argv) > 3:
        os.setgroups([])
        os.setgid(int(sys.argv[3]))
        os.setuid(int(sys.argv[3]))
    print("ready", flush=True)
    index = Index(sys.argv[1])
    print(index.count(query), index.folder)
"""


def begun(path: Path, *user: str) -> subprocess.Popen[str]:
    """A process that has imported everything and now opens the index."""
    small = write_table(some_rows(5), "small.parquet")
    command = [sys.executable, "-c", textwrap.dedent(BUILD), path, small, *user]
    environment = {**os.environ, **({"XDG_CACHE_HOME": "/nowhere"} if user else {})}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_build_that_is_killed_leaves_nothing_wrong(small_segments: None) -> None:
    rows = some_rows(12_000)
    path = write_table(rows, row_group_size=5_000)
    expected = scan(rows, Query(search="cat"))
    for delay in (0.02, 0.08):
        with begun(path) as process:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    folder = Path(".table.parquet.index")
    index = Index(path)
    assert numbers(index, Query(search="cat")) == expected
    # What was half made is gone.
    listed = json.loads((folder / "segments.json").read_bytes())["segments"]
    assert len(listed) == 40
    assert {path.name.partition(".")[0] for path in folder.glob("segment-*")} == {line["name"] for line in listed}


def test_several_readers_at_once_build_it_once_and_agree(small_segments: None) -> None:
    rows = some_rows(3_000)
    path = write_table(rows)
    processes = [begun(path) for _ in range(2)]
    counts = {process.communicate(timeout=60)[0].split()[0] for process in processes}
    assert counts == {str(len(scan(rows, Query(search="cat"))))}
    assert len(list(Path(".table.parquet.index").glob("segment-*.words.arrow"))) == 10


@pytest.mark.parametrize("damage", ["shorter", "gone", "nonsense", "list"])
def test_a_damaged_index_is_made_again(damage: str) -> None:
    path = write_table(some_rows(500))
    prompts = prompts_of(Index(path))
    folder = Path(".table.parquet.index")
    victim = next(file for file in folder.glob("segment-*.arrow") if ".words" not in file.name)
    if damage == "shorter":
        os.truncate(victim, 1_000)
    elif damage == "gone":
        victim.unlink()
    elif damage == "nonsense":
        victim.write_bytes(b"x" * victim.stat().st_size)
    else:
        (folder / "segments.json").write_text('{"format": 1, "segm')
    assert prompts_of(Index(path)) == prompts


def test_where_nothing_can_be_written_there_are_answers_all_the_same(
    small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = some_rows(500)
    path = write_table(rows)
    Path(".table.parquet.index").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").resolve()))
    assert numbers(Index(path), Query(search="cat")) == scan(rows, Query(search="cat"))
    assert list(Path("cache").rglob("segments.json"))
    Path("no-cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("no-cache").resolve()))
    index = Index(path)
    temporary = index.folder
    assert numbers(index, Query(search="cat", by="score")) == scan(nan_as_none(rows), Query(search="cat", by="score"))
    assert temporary.is_dir()
    del index
    assert not temporary.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not write")
def test_someone_who_may_only_read_uses_the_index_that_is_there(small_segments: None) -> None:
    rows = some_rows(500)
    expected = str(len(scan(rows, Query(search="cat"))))
    # Others may not enter pytest's own folders.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = write_table(rows, f"{folder}/table.parquet")
        with begun(path, "65534") as process:
            count, temporary = process.communicate(timeout=60)[0].split()
        assert count == expected
        assert not temporary.startswith(folder)
        assert not Path(temporary).exists()
        Index(path)
        with begun(path, "65534") as process:
            count, own = process.communicate(timeout=60)[0].split()
        assert (count, own) == (expected, f"{folder}/.table.parquet.index")


def test_the_index_lies_where_it_is_told_to() -> None:
    path = write_table(some_rows(10))
    assert len(Index(path, cache="elsewhere")) == 10
    assert not Path(".table.parquet.index").exists()
    assert Path("elsewhere/segments.json").is_file()


# tables of others


def test_diffusiondbs_table_is_asked_without_images(imagemill: Command) -> None:
    dataset = package.generate([f"picture {n}" for n in range(5)], "out", model="fake", seed=1, width=8, height=8)
    package.export(dataset, "diffusiondb", "exported")
    shutil.rmtree("exported/images")
    for path in ("exported", "exported/metadata.parquet"):
        index = Index(path)
        assert index.schema.names == columns().names
        assert index.page(Query(search="PICTURE 3")).records[0]["width"] == 8
    assert imagemill("query", "exported", "--search", "picture", "--count").out == "5\n"


def test_types_of_others_become_texts_and_numbers_and_pictures_are_left_out(imagemill: Command) -> None:
    noon = datetime(2022, 8, 7, 12, tzinfo=UTC)
    table = pa.table(
        {
            "image": pa.array([{"bytes": b"x", "path": "a.png"}] * 3),
            "time": pa.array([noon, noon.replace(microsecond=500_000), None], pa.timestamp("us", "UTC")),
            "local": pa.array([datetime(2022, 8, 7)] * 3, pa.timestamp("ms")),
            "day": pa.array([noon.date()] * 3),
            "price": pa.array([Decimal("1.50"), None, Decimal("2.25")]),
            "text": pa.array(["A", "b", None], pa.large_string()),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "half": pa.array(np.array([0.5, 1, np.nan], np.float16)),
            "big": pa.array([2**64 - 1, 0, 1], pa.uint64()),
            "list": pa.array([["a"], [], None], pa.large_list(pa.string())),
            "data": pa.array([b"x"] * 3),
        }
    )
    pq.write_table(table, "t.parquet")
    index = Index("t.parquet")
    assert index.left_out == ("image", "data")
    assert index.page().records[0] == {
        "time": "2022-08-07T12:00:00+00:00", "local": "2022-08-07T00:00:00", "day": "2022-08-07", "price": 1.5,
        "text": "A", "kind": "x", "half": 0.5, "big": 2**64 - 1, "list": ["a"],
    }  # fmt: skip
    assert index.page().records[2]["half"] is None
    assert index.page(Query(where="time > '2022-08-07T12:00:00+00:00'")).numbers == [1]
    assert index.count(Query(where="day = '2022-08-07' and price > 2")) == 1
    assert index.page(Query(by="time")).numbers == [1, 0, 2]
    assert index.page(Query(search="a", search_column="text")).numbers == [0]
    found = imagemill("query", "t.parquet", "--json")
    assert found.err == "without `image`, `data`: neither texts nor numbers\n1 to 3 of 3 rows\n"
    assert found.json["records"][0]["big"] == 2**64 - 1


def test_another_table_at_the_same_path_is_another_index() -> None:
    write_table(some_rows(50))
    index = Index("table.parquet")
    write_table(some_rows(60, seed=1))
    assert prompts_of(index.refreshed()) == [row["prompt"] for row in some_rows(60, seed=1)]


def test_what_is_no_table_is_refused_plainly(imagemill: Command) -> None:
    Path("t.parquet").write_text("prompt\na cat\n")
    assert imagemill("query", "t.parquet").code == 2
    assert "is no Parquet table" in imagemill("query", "t.parquet").err
    assert imagemill("query", "nothing").code == 2
    pq.write_table(pa.table({"image": [b"x"]}), "t.parquet")
    assert "no column of texts or numbers" in imagemill("query", "t.parquet").err
    assert not list(Path().glob(".*.index"))


# the command


def test_the_command_shows_rows_and_counts(imagemill: Command) -> None:
    folder = dataset_of(2, each=3)
    found = imagemill("query", folder, "--by", "score", "--limit", "2", "--offset", "1")
    assert found.err == "2 to 3 of 6 rows\n"
    assert found.out.splitlines() == [
        "file_name                 score  prompt",
        "prompt_2001_image_0.png  1000.5  picture 2001",
        "prompt_2000_image_0.png    1000  picture 2000",
    ]
    found = imagemill(
        "query", folder, "--where", "score > 1000", "--search", "2002", "--json", "--columns", "score,prompt"
    )
    assert found.json == {
        "total": 1,
        "records": [{"score": 1001.0, "prompt": "picture 2002"}],
        "numbers": [5],
        "parts": [2],
    }
    found = imagemill("query", folder, "--search", "nobody")
    assert (found.out, found.err) == ("", "no rows\n")
    assert imagemill("query", folder, "--count", "--json").json == {"count": 6}
    assert imagemill("query", folder, "--histogram", "score", "--bins", "2", "--json").json["bins"][1]["count"] == 3
    assert imagemill("query", folder, "--statistics", "--columns", "score", "--json").json[0]["max"] == 1001.0
    assert len(imagemill("query", folder, "--sample", "4", "--json").json["records"]) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "scor"], "did you mean `score`?"),
        (["--where", "scor > 1"], "did you mean `score`?"),
        (["--where", "score >"], "in the expression"),
        (["--columns", "promt"], "did you mean `prompt`?"),
        (["--search", "x", "--search-column", "score"], "`score` is a number, and no text"),
        (["--histogram", "nothing"], "there is no column `nothing`"),
        (["--histogram", "score", "--bins", "0"], "1 to 1,000 bins"),
        (["--histogram", "score", "--bins", "100000"], "1 to 1,000 bins, got: 100,000"),
        (["--sample", "1", "--search", "nobody"], "ask for other rows"),
        (["--columns", ""], "`--columns` names no column"),
        (["--sample", "3", "--limit", "2"], "`--limit` does not go with `--sample`"),
        (["--sample", "3", "--by", "score"], "`--by` does not go with `--sample`"),
        (["--count", "--offset", "0"], "`--offset` does not go with `--count`"),
        (["--count", "--columns", "score"], "`--columns` does not go with `--count`"),
        (["--seed", "0"], "`--seed` needs `--sample`"),
        (["--statistics", "--bins", "3"], "`--bins` does not go with `--statistics`"),
        (["--bins", "3"], "`--bins` needs `--histogram`"),
        (["--ascending"], "`--ascending` needs `--by`"),
        (["--search-column", "prompt"], "`--search-column` needs `--search`"),
        (["--sample", "99"], "a sample of 99 of 3 rows"),
        (["--sample", "0"], "a sample of 0 of 3 rows"),
        (["--limit", "0"], "a page"),
        (["--offset", "-1"], "a page"),
        (["--count", "--statistics"], "not allowed with"),
        (["--serch", "x"], "did you mean `--search`?"),
    ],
)
def test_what_cannot_be_asked_is_told(imagemill: Command, arguments: list[str], said: str) -> None:
    found = imagemill("query", dataset_of(1, each=3), *arguments)
    assert (found.code, found.out) == (2, "")
    assert said in found.err


def test_numbers_that_json_does_not_know_are_texts_in_it(imagemill: Command) -> None:
    pq.write_table(pa.table({"f": [float("inf"), -float("inf"), 0.5]}), "t.parquet")
    found = imagemill("query", "t.parquet", "--json")
    assert "Infinity," not in found.out
    assert [row["f"] for row in found.json["records"]] == ["Infinity", "-Infinity", 0.5]
    (figures,) = imagemill("query", "t.parquet", "--statistics", "--json").json
    assert (figures["min"], figures["max"], figures["mean"]) == ("-Infinity", "Infinity", None)


def test_a_table_without_rows_has_columns_all_the_same(imagemill: Command) -> None:
    kinds = {"prompt": pa.string(), "note": pa.string(), "score": pa.float32(), "flag": pa.bool_()}
    pq.write_table(pa.table({name: pa.array([], kind) for name, kind in kinds.items()}), "t.parquet")
    for arguments in (
        ("--where", "prompt contains 'a' and note = 'b' and score > 1 and not flag"),
        ("--search", "a", "--by", "score"),
        ("--by", "note", "--columns", "prompt,note"),
    ):
        found = imagemill("query", "t.parquet", *arguments)
        assert (found.code, found.out, found.err) == (0, "", "no rows\n")
    assert [line.split()[0] for line in imagemill("query", "t.parquet", "--statistics").out.splitlines()[1:]] == [
        *kinds
    ]
    assert imagemill("query", "t.parquet", "--histogram", "note").out == ""
    assert imagemill("query", "t.parquet", "--histogram", "score").out == ""
    assert "did you mean `prompt`" in imagemill("query", "t.parquet", "--columns", "promt").err
    assert imagemill("query", dataset_of(0), "--statistics", "--search-column", "x", "--search", "y").code == 2
