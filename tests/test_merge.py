"""Merging and splitting: every image is there once, under a name of its own, and nothing is taken for another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.dataset.lock import locked
from imagemill.dataset.vectors import Vectors
from imagemill.dataset.verify import verify
from imagemill.errors import LockedError, UsageError
from imagemill.making.collecting import collect
from imagemill.operators.merge import Stale, prepare, write

from .conftest import Command, contents
from .test_augment import FAKE, picture, table
from .test_select import SCORED, with_step


def made(folder: str, prompts: list[dict[str, Any]], **parameters: Any) -> Dataset:
    return package.generate(prompts, folder, **{"model": "fake", "seed": 1, **parameters})


def rows(*numbers: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"row-{number}", "prompt": f"picture {number}", **more} for number in numbers]


def scored(dataset: Dataset, value: float | None = 0.5) -> Dataset:
    with_step(dataset, SCORED)
    with dataset.lock():
        dataset.update(lambda _: {"alignment": value})
    return dataset


def of(dataset: Dataset, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(record[column] for column in columns) for record in dataset]


def test_images_of_all_are_there_by_hard_links_under_names_of_their_own(imagemill: Command, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    first = made("first", rows(0, 1, 2), images_per_prompt=2)
    second = made("second", rows(3, 4), seed=2)
    ran = imagemill("merge", "first", "second", "-o", "all", "--json")
    assert ran.code == 0
    assert "8 images of 2 datasets: first 6 · second 2" in ran.err
    assert ran.json["images"] == {"first": 6, "second": 2}
    merged = Dataset("all")
    stems = [f"prompt_{row}_image_{image}.png" for row in range(3) for image in range(2)]
    assert of(merged, "file_name") == [(name,) for name in [*stems, "prompt_3_image_0.png", "prompt_4_image_0.png"]]
    kept = ("prompt", "id", "seed", "sha256", "model", "model_parameters")
    assert of(merged, *kept) == [*of(first, *kept), *of(second, *kept)]
    part = Path("all/images/part-000001")
    assert (part / "prompt_3_image_0.png").samefile("second/images/part-000001/prompt_0_image_0.png")
    assert verify(merged) == []
    loaded = datasets.load_dataset("all", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["seed"] == [seed for (seed,) in of(merged, "seed")]
    counts = merged.counts()
    assert (counts.requests, counts.done, counts.rows_read, counts.pending) == (8, 8, 5, 0)
    step = merged.job["steps"][0]
    assert (step["operator"], step["model"], step["model_revision"], step["license"]) == (
        "merge",
        "fake",
        "1",
        "cc0-1.0",
    )
    assert [(s["name"], s["images"], s["steps"][0]["seed"]) for s in step["sources"]] == [
        ("first", 6, 1),
        ("second", 2, 2),
    ]
    assert package.reproduce(merged, "prompt_4_image_0").verdict == "bit-exact"


def test_the_same_again_is_done_and_changed_datasets_are_told(imagemill: Command) -> None:
    made("a", rows(0)), made("b", rows(1)), made("c", rows(2))
    assert imagemill("merge", "a", "b", "-o", "all", "--dry-run").code == 0
    assert not Path("all").exists()
    assert imagemill("merge", "a", "b", "-o", "all").code == 0
    before = contents(Path("all"))
    again = imagemill("merge", "a", "b", "-o", "all")
    assert (again.code, again.err.splitlines()[-1]) == (0, "done before")
    assert contents(Path("all")) == before
    other = imagemill("merge", "a", "c", "-o", "all")
    assert other.code == 2
    assert "`all` holds another merge: of a, b" in other.err
    package.remove("a", "row-0")
    package.generate(rows(0, 5), "a2", model="fake", seed=1)
    with pytest.raises(UsageError, match="`a` has no image yet"):
        package.merge(["a", "b"], "all")
    package.remove("a2", "row-5")
    scored(Dataset("b"))
    made("d", rows(7, 8))
    package.merge(["d", "c"], "dc")
    package.remove("d", "row-8")
    with pytest.raises(Stale):
        package.merge(["d", "c"], "dc")
    ran = imagemill("generate", table(rows(0)), "-o", "all", "--model", "fake")
    assert ran.code == 2
    assert "`all` is a merge of `a`, `b`" in ran.err


def test_an_id_that_means_another_prompt_elsewhere_gets_the_name_of_its_dataset(imagemill: Command) -> None:
    one = [{"prompt": "a fox"}, {"prompt": "an owl"}]
    two = [{"prompt": "a fox"}, {"prompt": "a hare"}, {"prompt": "a crow"}]
    made("one", one), made("x/two", two, seed=3)
    ran = imagemill("merge", "one", "x/two", "-o", "all")
    assert ran.code == 0
    assert "1 id of `two` means another prompt elsewhere: `two:` stands before it" in ran.err
    assert of(Dataset("all"), "id", "prompt") == [
        ("0", "a fox"), ("one:1", "an owl"), ("0", "a fox"), ("two:1", "a hare"), ("2", "a crow"),
    ]  # fmt: skip
    assert verify(Dataset("all")) == []
    made("y/two", [{"prompt": "a fox"}, {"prompt": "a whale"}], seed=3)
    merged = package.merge(["x/two", "y/two", "all"], "more")
    assert [identity for (identity,) in of(merged, "id")] == [
        "0", "two:two:1", "2", "0", "two-2:1", "0", "one:1", "0", "two:1", "2",
    ]  # fmt: skip
    assert verify(merged) == []


def test_columns_that_are_absent_are_blank_where_a_blank_says_so(imagemill: Command, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    scored(made("a", rows(0, 1, topic="birds")))
    made("b", rows(2, style="oil"))
    merged = package.merge(["a", "b"], "all")
    assert of(merged, "topic", "style", "alignment") == [("birds", "", 0.5), ("birds", "", 0.5), ("", "oil", None)]
    assert [step["operator"] for step in merged.job["steps"]] == ["merge", "score"]
    assert verify(merged) == []
    assert imagemill("status", "all", "--json").json["unfilled"] == {"alignment": 1}
    loaded = datasets.load_dataset("all", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["alignment"] == [0.5, 0.5, None]
    selected = package.select("all", "good", where="alignment > 0.4")
    assert isinstance(selected, Dataset)
    assert len(selected) == 2
    assert imagemill("export", "all", "parquet", "-o", "exported").code == 0


def test_columns_that_cannot_be_one_are_all_named_and_can_be_left_out(imagemill: Command) -> None:
    step = {**SCORED, "model": "another"}
    a = scored(made("a", rows(0, year=1990, shared="x", code=7)))
    b = made("b", rows(1, shared="y", code="k"))
    Dataset.write_job(b.folder, {**b.job, "steps": [*b.job["steps"], step]})
    with b.lock():
        b.update(lambda _: {"alignment": 0.25})
    ran = imagemill("merge", "a", "b", "-o", "all")
    assert ran.code == 2
    assert "the column `year` (whole numbers) is in `a` and not in `b`" in ran.err
    assert "the column `code` holds whole numbers in `a` and texts in `b`" in ran.err
    assert "the column `alignment` was filled in another way in `b` than in `a`" in ran.err
    assert "hint: `--columns common`" in ran.err
    assert not Path("all").exists()
    ran = imagemill("merge", "a", "b", "-o", "all", "--columns", "common")
    assert ran.code == 0
    assert "left out, since not common to all: year, code, alignment" in ran.err
    assert of(Dataset("all"), "shared") == [("x",), ("y",)]
    assert not {"year", "code", "alignment"} & {*next(iter(Dataset("all")))}
    assert len(Dataset("all").job["steps"]) == 1
    assert a.job["steps"] == Dataset("all").job["steps"][0]["sources"][0]["steps"]
    assert verify(Dataset("all")) == []


def test_edits_come_with_the_pictures_beside_them_and_their_sources(imagemill: Command) -> None:
    picture("a.png"), picture("b.png", (10, 30))
    for name, image in (("one", "a.png"), ("two", "b.png")):
        assert imagemill("edit", table([{"image": image, "instruction": ["x", "y"]}]), "-o", name, *FAKE).code == 0
    merged = package.merge(["one", "two"], "all")
    assert of(merged, "file_name", "input_image_file_name") == [
        (f"prompt_{row}_image_{image}.png", f"prompt_{row}_image_{image}_input_0.png")
        for row in (0, 1)
        for image in (0, 1)
    ]
    assert verify(merged) == []
    assert package.reproduce(merged, "prompt_1_image_1").verdict == "bit-exact"
    made("drawn", rows(0))
    ran = imagemill("merge", "one", "drawn", "-o", "mixed")
    assert "the column `input_image_file_name` (texts) is in `one` and not in `drawn`" in ran.err
    assert imagemill("merge", "one", "drawn", "-o", "mixed", "--columns", "common").code == 0
    assert verify(Dataset("mixed")) == []


def test_vectors_follow_their_images_and_pictures_taken_in_mix_with_made_ones(imagemill: Command) -> None:
    picture("pictures/a.png"), picture("pictures/b.png", seed=1)
    step = {
        **SCORED,
        "scorer": "embedding",
        "scores": {},
        "columns": {"embedding": False},
        "meanings": {"embedding": "x"},
    }
    for dataset in (collect("pictures", "taken"), made("drawn", rows(0, 1))):
        with_step(dataset, step)
        with dataset.lock():
            dataset.update(lambda record: {"embedding": "_0_" not in record["file_name"]})
        names = [Path(record["file_name"]).stem for record in dataset]
        Vectors(dataset.folder, "embedding").write("part-000001", {name: np.ones(3) for name in names})
    common = package.merge(["taken", "drawn"], "all", columns="common")
    assert of(common, "file_name", "embedding") == [
        ("prompt_0_image_0.png", False), ("prompt_1_image_0.png", True),
        ("prompt_2_image_0.png", False), ("prompt_3_image_0.png", True),
    ]  # fmt: skip
    names, vectors = Vectors(common.folder, "embedding").read("part-000001")
    assert (names, vectors.shape) == (["prompt_1_image_0", "prompt_3_image_0"], (2, 3))
    assert common.job["steps"][0]["model"] == ""
    assert common.job["steps"][0]["license"] == "unknown"
    assert "all · merged · 4 images asked for" in imagemill("status", "all").out
    assert "`all` is a merge, which has no failed requests" in imagemill("retry", "all").err
    assert imagemill("report", "all", "-o", "report.html").code == 0
    assert verify(common) == []


def test_parts_are_filled_and_half_done_datasets_are_merged_as_they_stand(imagemill: Command) -> None:
    made("large", [{"prompt": f"picture {number}"} for number in range(998)], width=8, height=8)
    with pytest.raises(package.LimitReached):
        made("half", rows(0, 1, 2, 3, 4, 5), max_images=4, batch_size=1)
    ran = imagemill("merge", "large", "half", "-o", "all")
    assert "`half` lacks 2 images: merged as it stands" in ran.err
    assert [len(part.records()) for part in Dataset("all").parts] == [1_000, 2]
    assert verify(Dataset("all"), reader=False) == []
    package.remove("all", "prompt_1000_image_0")
    assert verify(Dataset("all"), reader=False) == []


def test_what_is_removed_is_looked_for_in_all_parts(imagemill: Command) -> None:
    made("large", [{"prompt": f"picture {number}"} for number in range(998)], width=8, height=8)
    package.select("large", "some", where="prompt = 'picture 5' or prompt = 'picture 7' or prompt = 'picture 997'")
    package.merge(["large", "some"], "all")
    twin, other, last = (record["file_name"].split(".")[0] for record in list(Dataset("all"))[998:])
    ran = imagemill("remove", "all", "--id", "prompt_5_image_0", "--json")
    assert (ran.json["images"], ran.json["same_bytes"]) == (["prompt_5_image_0"], [twin])
    ran = imagemill("remove", "all", "--prompt", "picture 7", "picture 997", "--json")
    assert ran.code == 2
    ran = imagemill("remove", "all", "--prompt", "picture 7", "--id", last, "--json")
    assert ran.json["images"] == ["prompt_7_image_0", other, last]
    assert ran.json["same_bytes"] == ["prompt_997_image_0"]
    assert verify(Dataset("all"), reader=False) == []


def test_damaged_lines_are_not_left_out_in_silence(imagemill: Command) -> None:
    made("a", rows(0, 1)), made("b", rows(2))
    metadata = Path("a/images/part-000001/metadata.jsonl")
    metadata.write_text("{" + metadata.read_text())
    ran = imagemill("merge", "a", "b", "-o", "all")
    assert (ran.code, "has damaged lines" in ran.err) == (2, True), ran.err
    assert not Path("all").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "-o", "all"], "it takes two datasets at least"),
        (["a", "./a", "-o", "all"], "`a` is given twice"),
        (["a", "b", "-o", "b"], "`b` is one of the datasets that are merged"),
        (["a", "b", "-o", "a/inside"], "is inside of the dataset"),
        (["a", "b", "-o", "full"], "`full` is not empty"),
        (["a", "b", "-o", "c"], "`c` is a dataset already"),
        (["a", "nothing", "-o", "all"], "`nothing` holds no dataset"),
        (["a", "b", "-o", "all", "--columns", "commen"], "`columns`"),
    ],
)
def test_what_cannot_be_merged_is_told(imagemill: Command, arguments: list[str], message: str) -> None:
    made("a", rows(0)), made("b", rows(1)), made("c", rows(2))
    Path("full").mkdir()
    Path("full/file").touch()
    ran = imagemill("merge", *arguments)
    assert (ran.code, message in ran.err) == (2, True), ran.err


def test_a_dataset_that_changes_meanwhile_and_another_writer_are_told() -> None:
    made("a", rows(0, 1)), made("b", rows(2))
    prepared = prepare(["a", "b"], "all")
    with locked(Path(".all.tmp")), pytest.raises(LockedError):
        write(prepared)
    package.remove("a", "row-0")
    with pytest.raises(package.ImagemillError, match="`a` was changed meanwhile"):
        write(prepared)
    assert not Path("all").exists()
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


def test_split_is_a_selection_of_all_images(imagemill: Command) -> None:
    made("a", rows(*range(20)), images_per_prompt=2)
    ran = imagemill("split", "a", "-o", "parted", "train=0.7", "test=0.3", "--seed", 4, "--json")
    assert ran.code == 0
    assert sum(ran.json["splits"].values()) == 40
    assert imagemill("select", "a", "-o", "parted", "--split", "train=0.7,test=0.3", "--seed", 4).err.endswith(
        "done before\n"
    )
    ids = [{identity for (identity,) in of(Dataset(f"parted/{name}"), "id")} for name in ("train", "test")]
    assert not ids[0] & ids[1]
    ran = imagemill("split", "a", "-o", "shares", "--into", 3, "--json")
    assert list(ran.json["splits"]) == ["split_0", "split_1", "split_2"]
    assert sorted(ran.json["splits"].values()) == [12, 14, 14]
    merged = package.merge([f"shares/split_{number}" for number in range(3)], "again")
    kept = ("id", "seed", "sha256")
    assert sorted(of(merged, *kept)) == sorted(of(Dataset("a"), *kept))
    for into, shares in ((2, [20, 20]), (19, [2] * 18 + [4])):
        ran = imagemill("split", "a", "-o", f"into-{into}", "--into", into, "--json")
        assert sorted(ran.json["splits"].values()) == shares
    assert "ask for fewer" in imagemill("split", "a", "-o", "wrong", "--into", 21).err
    for wrong in (["train=0.9"], ["--into", 1], ["train=0.5", "test=0.5", "--into", 2], []):
        assert imagemill("split", "a", "-o", "wrong", *wrong).code == 2


def test_a_dataset_that_is_being_written_is_neither_divided_nor_merged(imagemill: Command) -> None:
    with pytest.raises(package.LimitReached):
        package.generate(rows(*range(4)), "a", model="fake", seed=1, images_per_prompt=2, max_images=6)
    made("b", rows(5, 6))
    assert "`a` lacks 2 images: divided as it stands" in imagemill("split", "a", "-o", "parted", "--into", 2).err
    with Dataset("a").lock():
        for command in (["merge", "a", "b"], ["split", "a", "--into", 3]):
            ran = imagemill(*command, "-o", "wrong")
            assert (ran.code, "`a` is being written by process" in ran.err) == (5, True), ran.err
    assert not Path("wrong").exists()


def test_nothing_is_left_of_a_merge_without_one_of_its_files() -> None:
    made("a", rows(0)), made("b", rows(1))
    Path("b/images/part-000001/prompt_0_image_0.png").unlink()
    with pytest.raises(UsageError, match="is absent"):
        package.merge(["a", "b"], "all")
    assert not Path("all").exists()
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []
