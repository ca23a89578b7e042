"""Take-downs: nothing of what was removed stays in a dataset, nothing of it is made again, and an event tells of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagemill as package
from imagemill.cli import run
from imagemill.dataset import Dataset
from imagemill.dataset.lock import locked
from imagemill.dataset.vectors import Vectors
from imagemill.dataset.verify import verify
from imagemill.errors import LockedError, UsageError
from imagemill.making.collecting import collect
from imagemill.operators.select import Stale

from .conftest import Command, contents
from .faults.sweep import fork, stop_at
from .test_augment import FAKE, picture, table
from .test_select import SCORED, with_step

ROWS = [{"id": f"name-{number}", "prompt": f"a portrait, number {number}."} for number in range(12)]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def dataset() -> Dataset:
    """Twelve prompts with two images each."""
    return package.generate(ROWS, "out", model="fake", seed=1, images_per_prompt=2)


def whole(folder: str | Path) -> bytes:
    """All that stands in any file of a folder, and the hashes of its files."""
    files = [path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return b"\n".join([*files, *(hashlib.sha256(file).hexdigest().encode() for file in files)])


def holds(folder: str | Path, *texts: str) -> list[str]:
    content = whole(folder)
    return [text for text in texts if text.encode() in content]


def events(folder: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, ".imagemill", "events.jsonl").read_text().splitlines()]


def names(dataset: Dataset) -> list[str]:
    return [Path(record["file_name"]).stem for record in dataset]


def test_nothing_of_a_removed_row_is_left_but_its_event(dataset: Dataset, imagemill: Command) -> None:
    gone = [record for record in dataset if record["id"] == "name-3"]
    told = [gone[0]["prompt"], "name-3", *(record["sha256"] for record in gone)]
    state = dataset.folder / ".imagemill"
    vectors = {name: np.full(4, place, np.float16) for place, name in enumerate(names(dataset))}
    Vectors(dataset.folder, "embedding").write("part-000001", vectors)
    said = {name: told[0] if name.startswith("prompt_3_") else "another one" for name in vectors}
    lines = [{"part": 1, "name": name, "sha256": "", "columns": {"caption": text}} for name, text in said.items()]
    failed = {"part": 1, "name": "prompt_3_image_1", "reason": "blocked", "message": told[0]}
    (state / "columns").mkdir()
    (state / "columns" / "caption.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (state / "columns" / "caption-failures.jsonl").write_text(json.dumps(failed) + "\n")
    (state / "index").mkdir()
    (state / "index" / "anything").write_text(told[0])
    assert holds("out", *told) == told
    ran = imagemill("remove", "out", "--id", "name-3", "--reason", "reported by a person")
    assert ran.code == 0
    assert ran.err.splitlines()[0] == "2 images removed"
    assert holds("out", *told) == []
    assert not list(Path("out").rglob("prompt_3_image_*"))
    found = events("out")
    assert [event.get("name", event.get("row")) for event in found] == ["prompt_3_image_0", "prompt_3_image_1", 3]
    assert {event["reason"] for event in found} == {"reported by a person"}
    assert all(
        event["time"].endswith("Z") and set(event) <= {"event", "name", "part", "row", "reason", "time"}
        for event in found
    )
    left, kept = Vectors(dataset.folder, "embedding").read("part-000001")
    assert left == [name for name in sorted(vectors) if not name.startswith("prompt_3_")]
    assert all((kept[place] == vectors[name]).all() for place, name in enumerate(left))
    assert (state / "columns" / "caption.jsonl").read_text().count("\n") == 22
    assert verify(Dataset("out")) == []


def test_a_removed_image_is_not_made_again_nor_exported_nor_selected(dataset: Dataset, imagemill: Command) -> None:
    before = contents(dataset.folder)
    assert package.remove("out", ["prompt_5_image_1.png", "prompt_7_image_0"]) == [
        "prompt_5_image_1",
        "prompt_7_image_0",
    ]
    after = contents(dataset.folder)
    assert before.keys() - after.keys() == {f"images/part-000001/prompt_{n}.png" for n in ("5_image_1", "7_image_0")}
    again = package.generate(ROWS, "out", model="fake", seed=1, images_per_prompt=2)
    counts = again.counts()
    assert (counts.requests, counts.done, counts.removed, counts.pending) == (24, 22, 2, 0)
    assert contents(dataset.folder) == after
    assert imagemill("status", "out", "--json").json["removed"] == 2
    assert "22 done · 0 failed · 2 removed · 0 pending" in imagemill("status", "out").out
    assert imagemill("retry", "out").code == 0
    assert contents(dataset.folder) == after
    selected = package.select("out", "few", where="id = 'name-5' or id = 'name-7'")
    assert isinstance(selected, Dataset)
    assert names(selected) == ["prompt_5_image_0", "prompt_7_image_1"]
    assert imagemill("export", "out", "imagefolder", "-o", "plain").code == 0
    assert holds("plain", "prompt_5_image_1", "prompt_7_image_0") == []
    assert verify(again) == []


def test_load_dataset_reads_what_is_left(dataset: Dataset, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    package.remove(dataset, [f"name-{number}" for number in range(1, 12)])
    loaded = datasets.load_dataset("out", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["prompt"] == [ROWS[0]["prompt"]] * 2
    package.remove(dataset, "prompt_0_image_0")
    loaded = datasets.load_dataset("out", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 1
    assert verify(Dataset("out")) == []


def test_a_part_without_any_image_is_gone() -> None:
    prompts = [f"picture {number}" for number in range(1_003)]
    small: dict[str, Any] = {"model": "fake", "seed": 1, "width": 8, "height": 8}
    prompts = [f"picture {number}" for number in range(1_003)]
    small: dict[str, Any] = {"model": "fake", "seed": 1, "width": 8, "height": 8}
    dataset = package.generate(prompts, "out", **small)
    package.remove(dataset, [f"prompt_{number}_image_0" for number in range(1_000, 1_003)])
    assert [part.name for part in dataset.parts] == ["part-000001"]
    assert verify(Dataset("out"), reader=False) == []
    again = package.generate(prompts, "out", **small)
    assert (len(again), again.counts().removed, again.counts().pending) == (1_000, 3, 0)
    assert verify(again, reader=False) == []


def test_of_a_removed_row_nothing_more_is_made(imagemill: Command) -> None:
    job = {"model": "fake", "seed": 1, "images_per_prompt": 4, "batch_size": 2}
    with pytest.raises(package.LimitReached):
        package.generate(ROWS, "out", **job, max_images=6)
    assert package.remove("out", prompts=ROWS[1]["prompt"]) == ["prompt_1_image_0", "prompt_1_image_1"]
    assert package.remove("out", "prompt_0_image_2") == ["prompt_0_image_2"]
    dataset = Dataset("out")
    assert (dataset.counts().done, dataset.counts().removed, dataset.counts().pending) == (3, 3, 42)
    dataset = package.generate(ROWS, "out", **job)
    counts = dataset.counts()
    assert (counts.done, counts.removed, counts.pending) == (43, 5, 0)
    assert not [name for name in names(dataset) if name.startswith("prompt_1_")]
    assert holds("out", ROWS[1]["prompt"]) == []
    assert verify(dataset) == []
    whole_one = package.generate(ROWS, "whole", **job)
    kept = {record["file_name"]: record for record in whole_one if not record["file_name"].startswith("prompt_1_")}
    kept.pop("prompt_0_image_2.png")
    assert {record["file_name"]: record for record in dataset} == kept


def test_a_failed_request_is_removed_and_not_tried_again(imagemill: Command) -> None:
    failing = {"fail_text": "number 4", "fail_attempts": 1}
    dataset = package.generate(ROWS, "out", model="fake", seed=1, **failing)
    assert list(dataset.failures()) == ["prompt_4_image_0"]
    assert package.remove(dataset, "name-4") == ["prompt_4_image_0"]
    assert holds("out/.imagemill", "name-4", ROWS[4]["prompt"]) == []
    assert imagemill("retry", "out").code == 0
    assert package.generate(ROWS, "out", model="fake", seed=1, **failing).counts().done == 11
    assert verify(Dataset("out")) == []


def test_a_quota_is_not_filled_up_again(imagemill: Command) -> None:
    job = {"model": "fake", "seed": 5, "accept": "brightness > 0.5", "until": 2, "max_tries": 30}
    prompts = [f"picture {number}." for number in range(6)]
    dataset = package.generate(prompts, "out", **job)
    tried = Path("out/.imagemill/tries.jsonl")
    row = next(number for number in range(6) if f'"id":"{number}"' in tried.read_text())
    package.remove(dataset, str(row))
    assert holds("out", f"picture {row}.") == []
    assert len(dataset) == 10
    before = contents(Path("out"))
    again = package.generate(prompts, "out", **job)
    assert contents(Path("out")) == before
    assert (again.counts().removed, again.counts().pending) == (2, 0)
    assert verify(again) == []


def test_edits_that_start_from_a_removed_one_go_with_it_and_pictures_that_others_need_stay(imagemill: Command) -> None:
    shared, own = picture("a.png"), picture("b.png", (10, 30))
    rows = [
        {"image": "a.png", "instruction": ["one", "two", "three"]},
        {"image": "a.png", "instruction": ["four", "five"]},
        {"image": "b.png", "instruction": ["six"]},
    ]
    assert imagemill("edit", table(rows), "-o", "out", *FAKE).code == 0
    records = {Path(record["file_name"]).stem: record for record in Dataset("out")}
    dry = imagemill("remove", "out", "--id", "prompt_0_image_1", "--dry-run", "--json").json
    assert dry["images"] == ["prompt_0_image_1", "prompt_0_image_2"]
    assert dry["made_from"] == ["prompt_0_image_2"]
    assert len(Dataset("out")) == 6
    ran = imagemill("remove", "out", "--id", "prompt_0_image_1", "2", "--json")
    assert ran.code == 0
    assert "among them, since they were made from one that goes: prompt_0_image_2" in ran.err
    assert ran.json["images"] == ["prompt_0_image_1", "prompt_0_image_2", "prompt_2_image_0"]
    hashes = [records[name]["sha256"] for name in ran.json["images"]]
    assert holds("out", *hashes, hashlib.sha256(own.read_bytes()).hexdigest(), "b.png") == []
    assert holds("out", hashlib.sha256(shared.read_bytes()).hexdigest())
    assert imagemill("edit", table(rows), "-o", "out", *FAKE).code == 0
    assert holds("out", *hashes, hashlib.sha256(own.read_bytes()).hexdigest(), "b.png") == []
    assert sorted(names(Dataset("out"))) == ["prompt_0_image_0", "prompt_1_image_0", "prompt_1_image_1"]
    assert verify(Dataset("out")) == []


def test_an_original_that_another_row_has_as_well_stays_there(imagemill: Command) -> None:
    picture("a.png")
    rows = [{"image": "a.png", "caption": "a fox"}, {"image": "a.png", "caption": "a dog"}]
    assert imagemill("augment", table(rows), "-o", "out", *FAKE).code == 0
    ran = imagemill("remove", "out", "--id", "0")
    assert ran.code == 0
    assert "have the same bytes as an image that goes, and stay: prompt_1_image_0" in ran.err
    assert names(Dataset("out")) == ["prompt_1_image_0", "prompt_1_image_1"]
    assert verify(Dataset("out")) == []
    assert imagemill("remove", "out", "--id", "prompt_1_image_0").code == 0
    assert names(Dataset("out")) == [], "what was made from a removed picture goes with it"
    assert not list(Path("out/.imagemill/sources").glob("*.png"))


def test_a_table_of_pictures_that_were_taken_in_does_not_bring_them_back(imagemill: Command) -> None:
    for number in range(3):
        picture(f"pictures/{number}.png", seed=number)
    gone = hashlib.sha256(Path("pictures/1.png").read_bytes()).hexdigest()
    collect("pictures", "out")
    (name,) = [Path(record["file_name"]).stem for record in Dataset("out") if record["sha256"] == gone]
    assert imagemill("remove", "out", "--id", name).code == 0
    assert holds("out", gone) == []
    assert len(collect("pictures", "out")) == 2
    assert holds("out", gone) == []
    assert verify(Dataset("out")) == []


def test_an_import_does_not_bring_back_what_was_removed_of_it(dataset: Dataset, imagemill: Command) -> None:
    assert imagemill("export", "out", "parquet", "-o", "exported").code == 0
    assert imagemill("import", "exported", "-o", "back").code == 0
    package.remove("back", [f"name-{number}" for number in range(11)])
    assert imagemill("import", "exported", "-o", "back").code == 0
    assert names(Dataset("back")) == ["prompt_11_image_0", "prompt_11_image_1"]
    package.remove("back", "name-11")
    assert imagemill("import", "exported", "-o", "back").code == 0
    assert names(Dataset("back")) == []
    assert holds("back", *(row["prompt"] for row in ROWS)) == []
    assert verify(Dataset("back")) == []


def test_what_could_not_be_read_of_the_same_row_goes_and_stays_away() -> None:
    Path("p.csv").write_text("id,prompt\na,a portrait\nb,a house\na,a portrait\n,\n")
    dataset = package.generate("p.csv", "out", model="fake", seed=1)
    assert [reject["line"] for reject in dataset.rejects()] == [4, 5]
    package.remove(dataset, "a")
    again = package.generate("p.csv", "out", model="fake", seed=1)
    assert holds("out", "a portrait") == []
    assert next((reject["line"], reject["raw"]) for reject in again.rejects()) == (4, "")
    assert verify(again) == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--id", "name-3", "nobody", "prompt_99_image_0.png"], "no image or row `nobody`, `prompt_99_image_0.png`"),
        (["--prompt", "a portrait"], "no image or row `a portrait`"),
        (["--prompt", "A portrait, number 3."], "letters are compared exactly: `a portrait, number 3.`"),
        (["--id", "name_3"], "no image or row `name_3`"),
        (["--id", "PROMPT_2_image_0"], "letters are compared exactly: `prompt_2_image_0`"),
        (["--id", "prompt_0_image_0,prompt_1_image_0"], "put blanks between names, no commas"),
        (["--id", "/etc/prompt_7_image_0.png"], "no image or row `/etc/prompt_7_image_0.png`"),
        (["--id", "images/part-000009/prompt_7_image_0.png"], "no image or row"),
        (["--id", "prompt_5_image_0.jpg"], "no image or row `prompt_5_image_0.jpg`"),
        ([], "nothing says what to remove"),
        (["--from-file", "absent.txt"], "`absent.txt` cannot be read"),
        (["--from-file", "empty.txt"], "`empty.txt` names nothing"),
        (["--from-file", "latin.txt"], "`latin.txt` is not UTF-8 text"),
    ],
)
def test_what_nobody_knows_is_told_and_nothing_is_removed(
    dataset: Dataset, imagemill: Command, asked: list[str], message: str
) -> None:
    Path("empty.txt").write_text("\n \n")
    Path("latin.txt").write_bytes(b"caf\xe9\n")
    before = contents(dataset.folder)
    ran = imagemill("remove", "out", *asked)
    assert ran.code == 2
    assert message in ran.err
    assert contents(dataset.folder) == before
    assert not Path("out/.imagemill/events.jsonl").exists()


def test_a_list_of_images_and_rows_and_the_same_again(dataset: Dataset, imagemill: Command) -> None:
    Path("list.txt").write_text("﻿prompt_1_image_0.png\r\nname-2\n\nimages/part-000001/prompt_4_image_1.png\n")
    before = contents(dataset.folder)
    dry = imagemill("remove", "out", "--from-file", "list.txt", "--dry-run")
    assert dry.err.splitlines()[0] == "4 images would be removed"
    assert contents(dataset.folder) == before
    assert imagemill("remove", "out", "--from-file", "list.txt").code == 0
    assert len(Dataset("out")) == 20
    again = imagemill("remove", "out", "--id", "prompt_1_image_0.png", "--json")
    assert again.code == 0
    assert again.json["removed_before"] == ["prompt_1_image_0.png"]
    assert len(events("out")) == 5


def test_a_list_can_be_given_again_and_to_other_datasets(dataset: Dataset, imagemill: Command) -> None:
    Path("list.txt").write_text("# reported\n  prompt_1_image_0 \nprompt_1_image_0.png\nname-2\n")
    first = imagemill("remove", "out", "--from-file", "list.txt", "--json")
    assert first.json["images"] == ["prompt_1_image_0", "prompt_2_image_0", "prompt_2_image_1"]
    package.generate([{"prompt": text} for text in ("one", "two", "three")], "other", model="fake", seed=1)
    for folder, before, unknown in (
        ("out", ["prompt_1_image_0", "prompt_1_image_0.png"], ["name-2"]),
        ("other", [], ["name-2"]),
    ):
        ran = imagemill("remove", folder, "--from-file", "list.txt")
        assert (ran.code, "no image or row `name-2`: nothing was removed" in ran.err) == (2, True), ran.err
        assert "--ignore-unknown" in ran.err
        again = imagemill("remove", folder, "--from-file", "list.txt", "--ignore-unknown", "--json")
        assert (again.code, again.json["removed_before"], again.json["unknown"]) == (0, before, unknown)
        assert "passed over, since nobody knows them here: name-2" in again.err
    # Rows without ids of their own are called as they are counted, also when nothing is left of one.
    package.remove("other", "0")
    assert imagemill("remove", "other", "--id", "0", "--json").json["removed_before"] == ["0"]


def test_a_row_of_which_nothing_is_made_yet_is_named_by_its_number(imagemill: Command) -> None:
    job = {"model": "fake", "seed": 1, "images_per_prompt": 2, "batch_size": 2}
    for folder, rows in (("out", ROWS), ("plain", [{"prompt": row["prompt"]} for row in ROWS])):
        with pytest.raises(package.LimitReached):
            package.generate(rows, folder, **job, max_images=4)
        before = contents(Path(folder))
        for asked in ("12", "prompt_12", "prompt_9_image_0", "prompt_0", *(["9"] if folder == "out" else [])):
            with pytest.raises(UsageError, match=f"no image or row `{asked}`") as error:
                package.remove(folder, asked)
            assert "did you mean" not in error.value.hint
        assert contents(Path(folder)) == before
        ran = imagemill("remove", folder, "--id", "prompt_9" if folder == "out" else "9", "--json")
        assert (ran.code, ran.json["images"], ran.json["rows"]) == (0, [], [9]), ran.err
        assert "1 row without an image yet removed" in ran.err
        counts = package.generate(rows, folder, **job).counts()
        assert (counts.done, counts.removed, counts.pending) == (22, 2, 0)
        assert not list(Path(folder).rglob("prompt_9_*"))


def test_what_stands_above_splits_is_right_after_a_kill_before_it(dataset: Dataset) -> None:
    from imagemill.dataset import splits

    package.select(dataset, "parted", split="train=0.6,test=0.4")
    gone = next(iter(Dataset("parted/train")))

    def killed() -> int:
        splits.write_file = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        return run(["remove", "parted/train", "--id", gone["id"], "-q"])

    assert fork(killed) == -signal.SIGKILL
    left = Dataset("parted/train")
    with left.lock():
        pass
    assert f"| `train` | {len(left)} |" in Path("parted/README.md").read_text()
    assert not Path("parted/train/.imagemill/removing.json").exists()
    assert verify(left) == []


def test_an_id_that_looks_like_an_image_of_another_row_is_not_guessed() -> None:
    rows = [{"id": "prompt_1_image_0", "prompt": "one"}, {"id": "b", "prompt": "two"}]
    dataset = package.generate(rows, "out", model="fake", seed=1)
    with pytest.raises(UsageError, match="is an image, and the id of another one's row"):
        package.remove(dataset, "prompt_1_image_0")
    assert package.remove(dataset, "prompt_1_image_0.png") == ["prompt_1_image_0"]


def test_only_one_writes_at_a_time(dataset: Dataset) -> None:
    with locked(dataset.folder), pytest.raises(LockedError):
        package.remove("out", "name-1")


def test_a_selection_loses_images_too_and_the_one_before_does_not_bring_them_back(
    dataset: Dataset, imagemill: Command
) -> None:
    package.select(dataset, "some", where="prompt not contains 'number 7.'", sample=20)
    source = contents(dataset.folder)
    kept = names(Dataset("some"))[0]
    row = int(kept.split("_")[1])
    package.remove("some", [f"name-{row}", "name-7"])
    assert holds("some", f"number {row}.", f"name-{row}") == [], "nor does it remember what it left out"
    assert verify(Dataset("some")) == []
    assert contents(dataset.folder) == source
    assert Dataset("some").counts().pending == 0
    assert (
        imagemill("select", "out", "-o", "some", "--where", "prompt not contains 'number 7.'", "--sample", 20).code == 0
    )
    package.remove(dataset, "name-1")
    with pytest.raises(Stale):
        package.select(dataset, "some", where="prompt not contains 'number 7.'", sample=20)


@pytest.mark.parametrize("typed", [False, True])
def test_what_stands_above_splits_forgets_it_too(dataset: Dataset, tmp_path: Path, typed: bool) -> None:
    datasets = pytest.importorskip("datasets")
    if typed:
        with_step(dataset, SCORED)
        with dataset.lock():
            dataset.update(lambda _: {"alignment": None})
    package.select(dataset, "parted", split="train=0.6,test=0.4")
    assert Path("parted/train.parquet").exists() == typed
    train = Dataset("parted/train")
    gone = next(iter(train))
    kept = len(train)
    package.remove(train, gone["id"])
    assert holds("parted", gone["prompt"], gone["sha256"]) == []
    loaded = datasets.load_dataset("parted", cache_dir=str(tmp_path / "cache"))
    assert len(loaded["train"]) == kept - 2
    assert len(loaded["test"]) == 24 - kept
    assert f"| `train` | {kept - 2} |" in Path("parted/README.md").read_text()


@pytest.mark.parametrize("typed", [False, True])
def test_what_stands_above_imported_splits_forgets_it_too(dataset: Dataset, typed: bool) -> None:
    if typed:
        with_step(dataset, SCORED)
        with dataset.lock():
            dataset.update(lambda _: {"alignment": None})
    package.select(dataset, "parted", split="train=0.6,test=0.4")
    package.export("parted", "imagefolder", "export", metadata="parquet")
    package.import_dataset("export", "back")
    assert Path("back/train.parquet").exists() == typed
    train = Dataset("back/train")
    gone = next(iter(train))
    package.remove(train, gone["id"])
    assert holds("back", gone["prompt"], gone["sha256"]) == []
    assert f"| `train` | {len(train)} |" in Path("back/README.md").read_text()
    assert "# Imported from export" in Path("back/README.md").read_text()


def test_the_card_above_splits_names_a_license_as_readers_know_it(dataset: Dataset) -> None:
    yaml = pytest.importorskip("yaml")
    step, *more = dataset.job["steps"]
    Dataset.write_job(dataset.folder, {**dataset.job, "steps": [{**step, "license": "ours: no, 1"}, *more]})
    package.select(dataset, "parted", split="train=0.6,test=0.4")
    front = yaml.safe_load(Path("parted/README.md").read_text().split("---")[1])
    assert (front["license"], front["license_name"]) == ("other", "ours: no, 1")


def test_nobody_takes_over_what_an_interrupted_removal_has_left(dataset: Dataset, imagemill: Command) -> None:
    package.generate([{"prompt": "another"}], "other", model="fake", seed=1)

    def killed(place: int) -> int:
        stop_at(place, "kill")
        return run(["remove", "out", "--id", "name-1", "-q"])

    begun = Path("out/.imagemill/removing.json")
    assert any(fork(lambda place=place: killed(place)) == -signal.SIGKILL and begun.exists() for place in range(1, 20))  # type: ignore[misc]
    for command in (
        ["select", "out", "-o", "some", "--sample", "5"],
        ["split", "out", "-o", "parted", "--into", "2"],
        ["merge", "out", "other", "-o", "all"],
        ["export", "out", "parquet", "-o", "exported"],
    ):
        ran = imagemill(*command)
        assert (ran.code, "has not come to its end" in ran.err) == (2, True), ran.err
        assert not Path(command[command.index("-o") + 1]).exists()
    assert imagemill("remove", "out", "--id", "name-1").code == 0
    assert imagemill("select", "out", "-o", "some", "--sample", "5").code == 0


def test_damaged_records_are_not_lost_by_a_removal_and_can_be_repaired(dataset: Dataset, imagemill: Command) -> None:
    before = whole("out/images")
    metadata = Path("out/images/part-000001/metadata.jsonl")
    metadata.write_text("{" + metadata.read_text())
    damaged = contents(dataset.folder)
    ran = imagemill("remove", "out", "--id", "name-7")
    assert (ran.code, "has damaged lines" in ran.err) == (2, True), ran.err
    assert contents(dataset.folder) == damaged
    imagemill("verify", "out", "--repair")
    package.generate(ROWS, "out", model="fake", seed=1, images_per_prompt=2)
    assert verify(Dataset("out")) == []
    assert whole("out/images") == before


def test_records_that_name_files_elsewhere_touch_none(dataset: Dataset, imagemill: Command) -> None:
    precious = Path("precious.png")
    precious.write_bytes(b"precious")
    with_step(dataset, {**SCORED, "scores": {}, "columns": {"edited_image_file_name": ""}})
    metadata = Path("out/images/part-000001/metadata.jsonl")
    lines = [json.loads(line) for line in metadata.read_text().splitlines()]
    told = [json.dumps({**line, "edited_image_file_name": "../../../precious.png"}) for line in lines]
    metadata.write_text("\n".join(told) + "\n")
    for command in (["remove", "out", "--id", "name-1"], ["select", "out", "-o", "some", "--sample", "5"]):
        ran = imagemill(*command)
        assert (ran.code, "is not beside it" in ran.err) == (2, True), ran.err
    assert precious.read_bytes() == b"precious"
    assert not Path("some").exists()


def sweep(folder: Path) -> int:
    """Kill a removal at each of its calls in turn, of which it returns the number; the next command ends it."""
    table(ROWS[:3], str(folder / "rows.jsonl"))
    generate = [
        "generate",
        str(folder / "rows.jsonl"),
        "--model",
        "fake",
        "--seed",
        "1",
        "--images-per-prompt",
        "2",
        "-q",
    ]
    source, reference = folder / "source", folder / "reference"
    assert run([*generate, "-o", str(source)]) == 0
    shutil.copytree(source, reference)
    asked = ["--id", "name-1", "prompt_0_image_1", "-q"]
    assert run(["remove", str(reference), *asked]) == 0
    expected = contents(reference)
    for place in range(1, 1_000):
        killed = folder / f"place-{place}"
        shutil.copytree(source, killed)

        def disturbed(place: int = place, killed: Path = killed) -> int:
            stop_at(place, "kill")
            return run(["remove", str(killed), *asked])

        status = fork(disturbed)
        begun = (killed / ".imagemill" / "removing.json").exists()
        counts = Dataset(killed).counts()
        assert counts.done + counts.removed == 6 or begun, f"place {place}: {counts}"
        assert counts.pending >= 0, f"place {place}: {counts}"
        # The same command, or another one that writes.
        again = ["remove", str(killed), *asked] if place % 2 else [*generate, "-o", str(killed)]
        done = status == 0 or (not begun and contents(killed) == expected)
        if begun or (place % 2 and not done):
            assert fork(lambda again=again: run(again)) == 0, f"place {place}"  # type: ignore[misc]
        elif not done:
            again = ["remove", str(killed), *asked]
            assert fork(lambda again=again: run(again)) == 0, f"place {place}"  # type: ignore[misc]
        assert contents(killed) == expected, f"place {place}"
        assert holds(killed, ROWS[1]["prompt"], "name-1") == [], f"place {place}"
        assert len(events(killed)) == len(events(reference)), f"place {place}"
        assert verify(Dataset(killed), reader=False) == [], f"place {place}"
        assert not list(killed.rglob(".*.tmp")), f"place {place}"
        if status == 0:
            return place - 1
        assert status == -signal.SIGKILL
        shutil.rmtree(killed)
    raise AssertionError("the removal never ended undisturbed")


def test_a_removal_killed_at_any_call_is_gone_through_with(tmp_path: Path) -> None:
    call = "import sys, pathlib; from tests.test_remove import sweep; print(sweep(pathlib.Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", call, tmp_path], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 15
