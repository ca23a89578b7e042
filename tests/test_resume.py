"""A large job goes on: tables kept by column, requests made when they are asked for, complete parts left alone."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imagemill.dataset import Dataset
from imagemill.dataset.verify import verify
from imagemill.errors import UsageError
from imagemill.plan import PART_SIZE, Plan
from imagemill.records import SEED_LIMIT, Row, Sample, Sampling
from imagemill.seeds import Seeds, derive_seed
from imagemill.tables import Table, read_table, readers, texts
from imagemill.tables.columns import PromptTable
from imagemill.tables.readers import read_source
from imagemill.tables.texts import MAX_SPAN, TextRows
from tests.conftest import Command

FULL = {"seed": 42, "width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 3.0, "scheduler": "euler"}


def both(monkeypatch: pytest.MonkeyPatch, path: Path, read: Any) -> tuple[Any, Any]:
    """What is read line by line, and what is read as if the table were large."""
    found = []
    for large in (2**60, 0):
        monkeypatch.setattr(readers, "_LARGE", large)
        try:
            found.append(read(path))
        except UsageError as error:
            found.append(str(error))
    return found[0], found[1]


# tables by column

CELLS = st.text(st.sampled_from('a,"\n é;\t\ufeff'), max_size=5)


@settings(max_examples=300, deadline=None)
@given(
    content=st.text(st.sampled_from('a,"\n\r é\0'), max_size=40),
    rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=5),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)
@example(content='"a\n\n\n"",b"\n', rows=[["a", "b"]], end="\n")
@example(content='""""",\n', rows=[], end="\n")
@example(content='a"",b\n"",""""\n\n"x"', rows=[], end="\n")
@example(content="", rows=[["\ufeffa", "b"]], end="\n")
@example(content="", rows=[["a", "\n" * (MAX_SPAN - 1)], ["b", "c"]], end="\n")
@example(content="", rows=[["a", "b"], ["c", "\n" * MAX_SPAN]], end="\r\n")
@example(content="", rows=[["a", "\n" * MAX_SPAN], ["b", ""]], end="\n")
def test_a_large_table_has_the_rows_of_one_that_is_read_line_by_line(
    tmp_path_factory: pytest.TempPathFactory, content: str, rows: list[list[str]], end: str
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerows([["prompt", "n"], *rows])
    path = tmp_path_factory.mktemp("table") / "t.csv"
    path.write_bytes((text.getvalue() + content).encode())
    with pytest.MonkeyPatch.context() as monkeypatch:
        slow, fast = both(monkeypatch, path, read_source)
    if isinstance(slow, str) or isinstance(fast, str):
        assert slow == fast
        return
    assert [(row.index, row.line, dict(row.values)) for row in fast[0]] == [
        (row.index, row.line, dict(row.values)) for row in slow[0]
    ]
    assert [(row.start) for row in fast[0]] == [row.start for row in slow[0]]
    assert fast[1:] == slow[1:]


def table_of(path: Path) -> Table:
    return read_table(path, PromptTable())


TIMES = ["2024-01-31", "soon"]


@pytest.mark.parametrize(
    "lines",
    [
        ["prompt", *(f"picture {number}" for number in range(20))],
        [
            "id,prompt,note",
            "b,one,x",
            "a,two,",
            'c,"a, b",y',
            "a,again,z",
            ",none,z",
            "d, \t,z",
            "e,\u3000,z",
            "f,last,z",
        ],
        ["prompt,negative_prompt", "a,rain", "b,nan", "c,", "d, NULL "],
        ["prompt,negative_prompt", "a,nan", "b,"],
        ["prompt,when,count", f"a,{TIMES[0]},1", f"b,{TIMES[1]},2", f"c,{TIMES[0]},3"],
        ["prompt,when", f"a,{TIMES[0]}", ",later", f"c,{TIMES[0]}"],
        ["prompt,when", f"a,{TIMES[0]}", "b,2024-02-30"],
        ["prompt,when", f"a,{TIMES[0]}", "b,٢٠٢٤-01-31", "c,"],
        ["prompt,note", "a,\ufeffb", "\ufeffc,d", " ,e"],
        ["prompt", " ", "　"],
        ["prompt,note", ",x", f'"{chr(10).join(["😀" * 999, "", "more"])}",y', " ,z"],
        ["id,prompt", "a,", *["😀" * 999 + ',""', "b,c"]],
        ["seed,prompt", "1,a", "2,b"],
        ["prompt,n", "\u00a0,1", ",2"],
    ],
)
def test_a_large_table_is_used_like_a_small_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: list[str]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    slow, fast = both(monkeypatch, path, table_of)
    if isinstance(slow, str):
        assert slow == fast
        return
    assert isinstance(fast.rows, TextRows)
    assert isinstance(slow.rows, list)
    assert list(fast.rows) == slow.rows
    assert [fast.rows[place] for place in range(len(fast.rows))] == slow.rows
    assert list(fast.rows[1:3]) == slow.rows[1:3]
    assert (fast.rejects, fast.sha256, fast.talk) == (slow.rejects, slow.sha256, slow.talk)


def test_of_more_text_than_arrow_joins_some_rows_are_taken() -> None:
    column = pa.chunked_array([pa.array(["x" * 2**20] * 8)] * 300)
    assert column.nbytes > 2**31
    rows = TextRows(np.arange(len(column)), np.arange(len(column)), column, None, column, {"note": column})
    few = rows.take(np.array([0, 9, 2_399]))
    assert [(row.index, len(row.prompt), len(row.columns["note"])) for row in few] == [
        (0, 2**20, 2**20),
        (9, 2**20, 2**20),
        (2_399, 2**20, 2**20),
    ]
    assert len(list(rows.ids(np.array([5, 5, 2_000])))) == 3


@pytest.mark.parametrize("size", [1, 7])
def test_the_hash_of_a_table_does_not_depend_on_what_holds_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    monkeypatch.setattr(texts, "_BLOCK", size)
    path = tmp_path / "t.csv"
    path.write_text("id,prompt,negative_prompt,note\n" + "".join(f"r{n},p {n},{'no' * (n % 2)},x\n" for n in range(20)))
    slow, fast = both(monkeypatch, path, table_of)
    assert slow.sha256 == fast.sha256


def test_one_bad_line_in_a_large_table_is_still_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('id,prompt\na,one\nb,"two" or so\nc,three\n')
    slow, fast = both(monkeypatch, path, table_of)
    assert list(fast.rows) == list(slow.rows)
    assert [reject.line for reject in fast.rejects] == [3]


def test_rows_that_set_parameters_are_read_whatever_the_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("prompt,seed\na,1\nb,many\nc,\n")
    slow, fast = both(monkeypatch, path, lambda path: read_table(path, PromptTable(per_row=True)))
    assert list(fast.rows) == list(slow.rows)
    assert fast.rejects == slow.rejects
    assert fast.sha256 == slow.sha256


# the plan


def plan(rows: Any, sampling: dict[str, Any] | None = None, **options: Any) -> Plan:
    return Plan(rows, PromptTable.parse(options), Sampling.parse({**FULL, **(sampling or {})}))


def mixed(count: int) -> list[Row]:
    """Rows of which each makes another number of images, some with a seed of their own."""
    return [
        Row(
            number * 2,
            number,
            f"row-{number}",
            "p",
            "n" * (number % 2),
            {"images_per_prompt": number % 4} | ({"seed": number} if number % 3 == 0 else {}),
            {},
            {},
            (Sample(keep_original=number % 5 == 0), Sample(keep_original=number % 7 == 0)),
        )
        for number in range(count)
    ]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_stretch_of_a_plan_is_what_stands_there_in_the_whole(data: st.DataObject) -> None:
    options: dict[str, Any] = {"vary": ["guidance_scale=3,7"]} if data.draw(st.booleans()) else {}
    made = plan(mixed(60), sample=data.draw(st.sampled_from([None, 25])), **options)
    whole = list(made.requests())
    assert len(whole) == len(made)
    first = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(0, len(whole) + 5))
    assert list(made.requests(first, end)) == whole[first:end]


def test_a_part_of_a_plan_is_its_thousand_requests() -> None:
    made = plan([Row(n, n, str(n), "p", "", {}, {}, {}) for n in range(833)], {"images_per_prompt": 3})
    whole = list(made.requests())
    assert made.parts == 3
    for number in (1, 2, 3):
        assert list(made.part(number)) == whole[(number - 1) * PART_SIZE : number * PART_SIZE]
        assert {request.part for request in made.part(number)} == {number}


def test_rows_by_column_are_planned_like_a_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "id,prompt,negative_prompt,note\n" + "".join(f"r{n},p {n},{'no' * (n % 2)},x\n" for n in range(300))
    )
    slow, fast = both(monkeypatch, path, table_of)
    for sampling, options in [
        ({"images_per_prompt": 4}, {"sample": 50, "limit": 20}),
        ({}, {"limit": 7, "vary": ["width=32,64"]}),
        ({"images_per_prompt": 9}, {}),
    ]:
        one, other = plan(slow.rows, sampling, **options), plan(fast.rows, sampling, **options)
        assert list(one.requests()) == list(other.requests())
        assert one.sizes() == other.sizes()
        assert sorted(count for _, count in one.examples()) == sorted(count for _, count in other.examples())
        assert list(one.of_rows({4, 17, 299})) == list(other.of_rows({4, 17, 299}))


def test_examples_stand_for_all_that_is_asked_for() -> None:
    made = plan(mixed(60))
    assert sum(len(requests) * count for requests, count in made.examples()) == len(made)


# seeds


def test_the_seeds_of_a_table_are_those_derived_one_by_one() -> None:
    rows = [Row(n, n, f"row-{n}", "p", "", {}, {}, {}) for n in range(50)]
    seeds = Seeds(rows, [20], 42)
    for place, row in enumerate(rows):
        assert seeds.of(place).tolist() == [derive_seed(42, row.id, image) >> 32 for image in range(20)]
    assert seeds.hashes(-1).tolist() == [derive_seed(42, row.id, -1) for row in rows]


def test_many_seeds_are_all_different_whatever_the_order() -> None:
    count, each = 600, 1_000
    rows = [Row(n, n, f"row-{n}", "p", "", {}, {}, {}) for n in range(count)]
    rows[7] = Row(7, 7, "row-7", "p", "", {"seed": 5}, {}, {})
    seeds = Seeds(rows, [each], 42)
    own = np.concatenate([seeds.of(place) for place in range(count)])
    told = (5 + np.arange(each)) % SEED_LIMIT
    assert len(own) == (count - 1) * each
    assert len(np.unique(np.concatenate([own, told]))) == count * each
    order = np.random.default_rng(1).permutation(count)
    shuffled = Seeds([rows[place] for place in order], [each], 42)
    assert all((shuffled.of(place) == seeds.of(int(old))).all() for place, old in enumerate(order))
    # Of so many some meet in 32 bits, and only those are drawn again.
    first = np.concatenate([derived(row, each) for row in rows if row.id != "row-7"])
    assert 0 < (own != first).sum() < 200


def derived(row: Row, count: int) -> list[int]:
    return [derive_seed(42, row.id, image) >> 32 for image in range(count)]


# going on

COMMON = (
    "generate", "prompts.txt", "-o", "out", "--model", "fake", "--seed", "7", "--width", "8", "--height", "8",
    "--quiet",
)  # fmt: skip


@pytest.fixture
def begun(imagemill: Command) -> Dataset:
    """A dataset of 2,020 images, of which 2,008 are made: two parts are complete, one is begun."""
    Path("prompts.txt").write_text("".join(f"picture {number}\n" for number in range(1_010)))
    assert imagemill(*COMMON, "--images-per-prompt", 2, "--max-images", 2_008).code == 4
    dataset = Dataset("out")
    assert list(dataset.seals) == ["part-000001", "part-000002"]
    return dataset


WATCHED = """
import sys
opened = []
sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == "open" else None)
from imagemill.cli import run
code = run(sys.argv[1:])
print(len([path for path in opened if "part-000003" in path]), [path for path in opened if "part-000002" in path])
sys.exit(code)
"""


def test_only_parts_that_are_not_complete_are_read_and_completed(begun: Dataset, imagemill: Command) -> None:
    arguments = [*COMMON, "--images-per-prompt", "2"]
    done = subprocess.run([sys.executable, "-c", WATCHED, *arguments], check=True, capture_output=True, text=True)
    last = done.stdout.splitlines()[-1]
    assert last.endswith(" []")
    assert int(last.split()[0]) > 12
    dataset = Dataset("out")
    assert (dataset.counts().done, dataset.counts().pending) == (2_020, 0)
    # Now for a part that has lost images, which is not complete any more.
    with dataset.lock():
        dataset.part(1).remove(["prompt_3_image_1.png", "prompt_400_image_0.png"])
    assert imagemill(*arguments).code == 0
    assert len(dataset.part(1).records()) == PART_SIZE
    assert verify(Dataset("out"), reader=False) == []


def test_where_all_have_failed_those_that_were_removed_are_not_counted(imagemill: Command) -> None:
    Path("prompts.txt").write_text("a\nb\nc\n")
    assert "all 3 requests failed" in imagemill(*COMMON, "--fail-rate", 1).err
    assert imagemill("remove", "out", "--id", "1").code == 0
    assert "all 2 requests failed" in imagemill(*COMMON, "--fail-rate", 1).err


def test_a_limit_that_grows_goes_on_in_the_last_part(imagemill: Command) -> None:
    Path("prompts.txt").write_text("".join(f"picture {number}\n" for number in range(1_100)))
    for limit, names in ((300, [1]), (1_050, [1, 2]), (1_100, [1, 2])):
        assert imagemill(*COMMON, "--limit", limit).code == 0
        dataset = Dataset("out")
        assert len(dataset) == limit
        assert [part.number for part in dataset.parts if part.sealed] == names
    assert verify(Dataset("out"), reader=False) == []


def test_failures_of_complete_parts_are_not_tried_again_and_counted_once(imagemill: Command) -> None:
    Path("prompts.txt").write_text("".join(f"picture {number}\n" for number in range(1_100)))
    fails = ("--fail-rate", 0.01, "--fail-attempts", 1)
    assert imagemill(*COMMON, *fails, "--max-images", 1_050).code in {3, 4}
    assert imagemill(*COMMON, *fails).code == 3
    counts = Dataset("out").counts()
    failed = sum(counts.failed.values())
    assert failed
    assert (counts.done + failed, counts.pending) == (1_100, 0)
    lines = Path("out/.imagemill/failures.jsonl").read_text().splitlines()
    assert len({json.loads(line)["name"] for line in lines}) == len(lines) == failed
    assert imagemill("retry", "out").code == 0
    assert (Dataset("out").counts().done, Dataset("out").counts().failed) == (1_100, {})
    assert verify(Dataset("out"), reader=False) == []
