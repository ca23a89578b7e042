"""Selecting: what is kept is a dataset by itself, and what is not has its reason."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.dataset.lock import locked
from imagemill.dataset.vectors import Vectors
from imagemill.errors import ImagemillError, LockedError
from imagemill.making.collecting import collect
from imagemill.operators.select import Stale, choose, prepare, write
from imagemill.selecting.duplicates import near, similar

from .conftest import Command

LABELS = ("cat", "cat", "cat", "dog", "dog", "cow")


def score(dataset: Dataset) -> Dataset:
    """With columns as scorers write them; of every seventh image there is none."""

    def scores(record: dict[str, Any]) -> dict[str, Any]:
        row, image = (int(part) for part in record["file_name"].removesuffix(".png").split("_")[1::2])
        place = 2 * row + image
        alignment = None if place % 7 == 6 else (place * 37 % 100) / 100
        return {"alignment": alignment, "flat": place % 5 == 0, "animal": LABELS[row % 6]}

    with dataset.lock():
        dataset.update(scores)
    return Dataset(dataset.folder)


def with_step(dataset: Dataset, step: dict[str, Any]) -> None:
    """One more in its job."""
    Dataset.write_job(dataset.folder, {**dataset.job, "steps": [*dataset.job["steps"], step]})


SCORED = {
    "operator": "score", "scorer": "test", "model": "", "model_revision": "", "license": "", "model_parameters": {},
    "scores": {"alignment": "how well it shows the prompt"}, "columns": {}, "meanings": {},
}  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Twelve prompts with two images each."""
    prompts = [{"id": f"row-{number}", "prompt": f"picture {number}"} for number in range(12)]
    return score(package.generate(prompts, tmp_path / "source", model="fake", seed=1, images_per_prompt=2))


def names(dataset: Dataset) -> list[str]:
    return [record["file_name"] for record in dataset]


def select(dataset: Dataset, output: str, **parameters: Any) -> Dataset:
    selected = package.select(dataset, output, **parameters)
    assert isinstance(selected, Dataset)
    return selected


def left_out(folder: Path) -> dict[str, str]:
    lines = (folder / ".imagemill" / "left_out.jsonl").read_text().splitlines()
    return {line["file_name"]: line["figure"] for line in map(json.loads, lines)}


def test_what_passes_is_a_dataset_of_the_same_files(dataset: Dataset, imagemill: Command) -> None:
    done = imagemill("select", dataset.folder, "-o", "good", "--where", "alignment > 0.5 and not flat", "--json")
    assert done.code == 0
    good = Dataset("good")
    wanted = [record for record in dataset if (record["alignment"] or 0) > 0.5 and not record["flat"]]
    assert list(good) == wanted
    assert done.json["kept"] == len(wanted)
    assert done.json["images"] == len(wanted) + sum(done.json["left_out"].values()) == 24
    for name in names(good):
        assert (good.part(1).folder / name).samefile(dataset.part(1).folder / name)
    assert package.verify(good) == []
    assert imagemill("status", "good").out.splitlines()[1].startswith(f"{len(wanted)} done · 0 failed · 0 pending")
    assert package.reproduce(good, wanted[0]["file_name"]).verdict == "bit-exact"


def test_each_image_that_is_left_out_has_its_reason_and_figure(dataset: Dataset) -> None:
    good = select(dataset, "good", where="alignment > 0.28 and not flat")
    reasons = left_out(good.folder)
    assert reasons.keys() | names(good) == set(names(dataset))
    assert reasons["prompt_0_image_0.png"] == "alignment 0 <= 0.28"
    assert reasons["prompt_2_image_1.png"] == "flat is true"
    assert reasons["prompt_3_image_0.png"] == "alignment is null"
    step = good.job["steps"][-1]
    assert sum(step["left_out"].values()) == len(reasons)
    assert step["where"] == "alignment > 0.28 and not flat"
    assert (
        f"| source | {step['left_out']['flat is true']} | `flat is true` |" in (good.folder / "README.md").read_text()
    )


def test_missing_scores_stay_only_when_that_is_said(dataset: Dataset) -> None:
    kept = select(dataset, "kept", where="alignment > 0.5", keep_missing=True)
    assert {record["alignment"] for record in kept if record["alignment"] is None} == {None}
    best = select(dataset, "best", top=1, per="id", by="alignment")
    assert None not in {record["alignment"] for record in best}
    assert "alignment is null" in left_out(best.folder).values()


def test_the_best_of_each_prompt(dataset: Dataset) -> None:
    for ascending in (False, True):
        best = select(dataset, f"best-{ascending}", top=1, per="prompt", by="alignment", ascending=ascending)
        known = [record for record in dataset if record["alignment"] is not None]
        for record in best:
            rivals = [rival["alignment"] for rival in known if rival["prompt"] == record["prompt"]]
            assert record["alignment"] == (min(rivals) if ascending else max(rivals))
        assert len({record["prompt"] for record in best}) == len(best) == 12
    assert left_out(Path("best-False"))["prompt_0_image_0.png"] == "alignment 0 is place 2 of its prompt"


def test_rows_are_kept_or_left_out_as_a_whole(dataset: Dataset) -> None:
    passing = {record["file_name"] for record in dataset if (record["alignment"] or 0) > 0.3}
    rows = [{f"prompt_{row}_image_{image}.png" for image in range(2)} for row in range(12)]
    some = select(dataset, "any", where="alignment > 0.3", keep_rows="any")
    assert set(names(some)) == set().union(*(row for row in rows if row & passing))
    every = select(dataset, "all", where="alignment > 0.3", keep_rows="all")
    assert set(names(every)) == set().union(*(row for row in rows if row <= passing))
    assert left_out(every.folder)["prompt_0_image_0.png"] == "alignment 0 <= 0.3"
    lonely = next(row & passing for row in rows if len(row & passing) == 1).pop()
    assert ": alignment " in left_out(every.folder)[lonely]


def test_as_many_of_each(dataset: Dataset) -> None:
    balanced = select(dataset, "balanced", balance="animal", seed=7)
    counts = {label: sum(record["animal"] == label for record in balanced) for label in set(LABELS)}
    assert counts == {"cat": 4, "dog": 4, "cow": 4}
    assert set(names(balanced)) != set(names(select(dataset, "other", balance="animal", seed=8)))


def test_a_sample_of_what_was_balanced_is_balanced(tmp_path: Path) -> None:
    prompts = [f"picture {number}" for number in range(240)]
    source = package.generate(prompts, tmp_path / "source", model="fake", seed=1, width=8, height=8)
    with source.lock():
        source.update(lambda record: {"rare": record["file_name"].split("_")[1].endswith(("3", "6"))})
    sample = select(Dataset(source.folder), "sample", balance="rare", sample=48)
    assert 18 <= sum(record["rare"] for record in sample) <= 30


def test_what_was_left_out_before_a_balance_keeps_its_reason(dataset: Dataset) -> None:
    balanced = select(dataset, "balanced", where="flat", balance="alignment")
    assert left_out(balanced.folder)["prompt_3_image_0.png"] == "flat is false"
    assert left_out(balanced.folder)["prompt_10_image_0.png"] == "alignment is null"


def test_whole_numbers_may_be_large(tmp_path: Path, imagemill: Command) -> None:
    prompts = [{"prompt": f"picture {number}", "big": 2**53 + number} for number in range(3)]
    package.generate(prompts, tmp_path / "source", model="fake", seed=1)
    for where, kept in (("big > 1", 3), ("big >= 1.5", 3), ("big = 9007199254740993", 1)):
        done = imagemill("select", "source", "-o", f"out-{where[4:7]}", "--where", where, "--json")
        assert (done.code, done.json["kept"]) == (0, kept)
    assert imagemill("select", "source", "-o", "best", "--top", 1, "--by", "big").code == 0
    assert names(Dataset("best")) == ["prompt_2_image_0.png"]


def test_texts_that_look_like_times_are_texts(tmp_path: Path) -> None:
    prompts = [{"prompt": f"picture {number}", "taken": f"2020-01-0{number + 1}"} for number in range(3)]
    source = package.generate(prompts, tmp_path / "source", model="fake", seed=1)
    assert names(select(source, "late", where="taken > '2020-01-02'")) == ["prompt_2_image_0.png"]


def test_a_sample_is_the_same_in_another_process_and_for_a_shuffled_table(dataset: Dataset) -> None:
    sample = {(record["id"], record["seed"]) for record in select(dataset, "sample", sample=8, seed=7)}
    arguments = ["select", dataset.folder, "-o", "again", "--sample", "8", "--seed", "7"]
    subprocess.run([sys.executable, "-m", "imagemill", *map(str, arguments)], check=True, capture_output=True)
    assert {(record["id"], record["seed"]) for record in Dataset("again")} == sample
    prompts = [{"id": f"row-{number}", "prompt": f"picture {number}"} for number in reversed(range(12))]
    shuffled = package.generate(prompts, "shuffled", model="fake", seed=1, images_per_prompt=2)
    assert {(record["id"], record["seed"]) for record in select(shuffled, "other", sample=8, seed=7)} == sample
    assert {(record["id"], record["seed"]) for record in select(dataset, "new", sample=8, seed=8)} != sample


def test_splits_are_datasets_with_whole_prompts_and_stay_when_the_data_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    prompts = [{"id": f"row-{number}", "prompt": f"picture {number // 2}"} for number in range(80)]
    small = package.generate(prompts[:60], "small", model="fake", seed=1, images_per_prompt=2)
    large = package.generate(prompts, "large", model="fake", seed=1, images_per_prompt=2)
    found = package.select(small, "splits", split="train=0.7,held_out=0.3")
    assert isinstance(found, dict)
    assert all(package.verify(split) == [] for split in found.values())
    inside = {name: {record["prompt"] for record in split} for name, split in found.items()}
    assert not inside["train"] & inside["held_out"]
    assert sum(map(len, found.values())) == 120
    grown = package.select(large, "grown", split="train=0.7,held_out=0.3")
    assert isinstance(grown, dict)
    assert inside["train"] <= {record["prompt"] for record in grown["train"]}
    loaded = datasets.load_dataset(str(Path("splits").resolve()), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {name: len(split) for name, split in found.items()}
    assert loaded["held_out"][0]["image"].size == (64, 64)


def test_tiny_splits_load_too(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source = package.generate([f"picture {number}" for number in range(4)], "few", model="fake", seed=1)
    found = package.select(source, "splits", split="train=0.5,test=0.5", seed=2)
    assert isinstance(found, dict)
    loaded = datasets.load_dataset(str(Path("splits").resolve()), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {name: len(split) for name, split in found.items()}


@pytest.mark.parametrize("operator", ["generate", "edit"])
def test_splits_of_one_image_without_a_score_load_too(tmp_path: Path, operator: str) -> None:
    datasets = pytest.importorskip("datasets")
    for number in range(2):
        drawing(number).save(tmp_path / f"{number}.png")
    table = [{"image": str(tmp_path / f"{number}.png"), "prompt": f"p {number}"} for number in range(2)]
    if operator == "edit":
        source = package.edit(table, "source", model="fake", seed=1)
    else:
        source = package.generate([row["prompt"] for row in table], "source", model="fake", seed=1)
    with source.lock():
        source.update(lambda _: {"alignment": None})
    with_step(source, SCORED)
    found = package.select(Dataset("source"), "splits", split="a=0.5,b=0.5")
    assert isinstance(found, dict)
    loaded = datasets.load_dataset(str(Path("splits").resolve()), cache_dir=str(tmp_path / "cache"))
    for name, split in loaded.items():
        (record,) = found[name]
        assert (split.features["alignment"].dtype, split["prompt"][0]) == ("float64", record["prompt"])
        for column in {"image", "input_image"} & set(split.column_names):
            file = record["file_name" if column == "image" else "input_image_file_name"]
            assert split[column][0].tobytes() == Image.open(found[name].part(1).folder / file).tobytes()


def test_without_a_single_score_it_loads_as_numbers(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    prompts = [f"picture {number}" for number in range(30)]
    source = package.generate(prompts, tmp_path / "source", model="fake", seed=1, width=8, height=8)
    probed = package.select(source, "probe", split="train=0.5,test=0.5")
    assert isinstance(probed, dict)
    first = set(names(probed["train"]))
    with source.lock():
        source.update(lambda record: {"alignment": 0.5 if record["file_name"] in first else None})
    with_step(source, SCORED)
    source = Dataset(source.folder)

    absent = select(source, "absent", where="alignment is null")
    assert package.verify(absent) == []
    loaded = datasets.load_dataset(str(absent.folder.resolve()), cache_dir=str(tmp_path / "cache"))["train"]
    assert (loaded.features["alignment"].dtype, set(loaded["alignment"])) == ("float64", {None})

    split = package.select(source, "splits", split="train=0.5,test=0.5")
    assert isinstance(split, dict)
    assert all(package.verify(one) == [] for one in split.values())
    both = datasets.load_dataset(str(Path("splits").resolve()), cache_dir=str(tmp_path / "cache"))
    assert {name: set(one["alignment"]) for name, one in both.items()} == {"train": {0.5}, "test": {None}}
    assert {one.features["alignment"].dtype for one in both.values()} == {"float64"}
    assert both["test"][0]["image"].size == (8, 8)


# Duplicates


def drawing(seed: int) -> Image.Image:
    """A picture with the spectrum of a photograph."""
    noise = np.random.default_rng(seed).standard_normal((96, 96, 3))
    frequency = np.hypot(np.fft.fftfreq(96)[:, None], np.fft.fftfreq(96)[None, :])
    frequency[0, 0] = 1
    planes = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) / frequency[..., None] ** 1.3, axes=(0, 1)).real
    return Image.fromarray((128 + 45 * planes / planes.std()).clip(0, 255).astype(np.uint8))


def pictures(folder: Path) -> Dataset:
    """1, 2, 3, 1', 2', 3', 3'', of which the primed ones are slight variants."""
    folder.mkdir()
    images = [drawing(number) for number in (1, 2, 3)]
    jpeg = io.BytesIO()
    images[0].save(jpeg, "JPEG", quality=80)
    noise = np.random.default_rng(0).normal(0, 3, (96, 96, 3))
    pixels = [np.asarray(image).astype(float) for image in images]
    images += [
        Image.open(jpeg),
        Image.fromarray((pixels[1] + 2).clip(0, 255).astype(np.uint8)),
        Image.fromarray((pixels[2] + noise).clip(0, 255).astype(np.uint8)),
        images[2].crop((1, 1, 95, 95)).resize((96, 96)),
    ]
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
    return collect(folder, folder.with_name("collected"))


def test_of_similar_pictures_one_stays(tmp_path: Path) -> None:
    source = pictures(tmp_path / "pictures")
    kept = select(source, "kept", deduplicate="perceptual")
    assert names(kept) == names(source)[:3]
    figures = list(left_out(kept.folder).values())
    assert figures[0].startswith(f"duplicate of {names(source)[0]} (distance ")
    with source.lock():
        source.update(lambda record: {"score": float(record["file_name"] == names(source)[6])})
    best = select(Dataset(source.folder), "best", deduplicate="perceptual", by="score")
    assert names(best) == [names(source)[number] for number in (0, 1, 6)]


def test_equal_pixels_are_found_whatever_the_file_says(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    drawing(1).save(folder / "a.png")
    drawing(1).save(folder / "b.png", compress_level=1)
    drawing(2).save(folder / "c.png")
    kept = select(collect(folder, "collected"), "kept", deduplicate="exact")
    assert len(kept) == 2
    assert "same pixels" in left_out(kept.folder)["prompt_1_image_0.png"]


def test_of_similar_vectors_one_stays_and_vectors_come_along(dataset: Dataset) -> None:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(5, 16))
    vectors = {
        name.removesuffix(".png"): centers[number % 5] + rng.normal(0, 0.01, 16)
        for number, name in enumerate(names(dataset)[:20])
    }
    Vectors(dataset.folder, "embedding").write("part-000001", vectors)
    with dataset.lock():
        dataset.update(lambda record: {"embedding": record["file_name"].removesuffix(".png") in vectors})
    kept = select(Dataset(dataset.folder), "kept", deduplicate="embedding", threshold=0.98)
    assert names(kept) == names(dataset)[:5]
    assert "embedding is null" in left_out(kept.folder).values()
    carried, found = Vectors(kept.folder, "embedding").read("part-000001")
    assert carried == sorted(name.removesuffix(".png") for name in names(kept))
    assert np.allclose(found, np.stack([vectors[name] for name in carried]), atol=0.01)


def test_a_vector_of_an_image_that_was_there_before_is_not_looked_at(dataset: Dataset) -> None:
    rng = np.random.default_rng(0)
    Vectors(dataset.folder, "embedding").write(
        "part-000001", {name.removesuffix(".png"): rng.normal(size=16) for name in names(dataset)}
    )
    with dataset.lock():
        dataset.update(lambda record: {"embedding": record["file_name"] != "prompt_1_image_0.png"})
    kept = select(Dataset(dataset.folder), "kept", deduplicate="embedding")
    assert left_out(kept.folder) == {"prompt_1_image_0.png": "embedding is null"}
    every = select(Dataset(dataset.folder), "every", sample=24)
    carried, _ = Vectors(every.folder, "embedding").read("part-000001")
    assert "prompt_1_image_0" not in carried
    assert len(carried) == 23


def test_equal_vectors_are_as_near_as_can_be() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 33)).astype(np.float16)
    assert [place for place, _, _ in near(np.concatenate([vectors, vectors]), 1.0)] == list(range(300, 600))


def test_a_chain_of_small_steps_does_not_swallow_what_differs() -> None:
    hashes = [f"{(1 << 3 * number) - 1:016x}" for number in range(8)]
    assert [(place, kept, far) for place, kept, far in similar(hashes, 4)] == [
        (place, place - 1, 3.0) for place in (1, 3, 5, 7)
    ]
    angles = np.arange(8) * 0.1
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float16)
    assert [place for place, _, _ in near(vectors, float(np.cos(0.15)))] == [1, 3, 5, 7]


def test_pairs_are_found_as_by_comparing_all() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 40, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 7), replace=False)) for _ in range(400)]
    numbers = [int(base[number % 40]) ^ flip for number, flip in enumerate(flips)]
    kept: list[int] = []
    for number in numbers:
        if all((number ^ other).bit_count() > 5 for other in kept):
            kept.append(number)
    dropped = {place for place, _, _ in similar([f"{number:016x}" for number in numbers], 5)}
    assert [number for place, number in enumerate(numbers) if place not in dropped] == kept


# The folder


def test_parts_are_packed_anew_and_a_selection_can_be_selected_from(tmp_path: Path) -> None:
    prompts = [f"picture {number}" for number in range(2_200)]
    source = package.generate(prompts, "source", model="fake", seed=1, width=8, height=8)
    with source.lock():
        source.update(lambda record: {"score": record["seed"] / 2**32})
    half = select(source, "half", where="score > 0.5")
    assert [len(part.records()) for part in half.parts] == [1_000, len(half) - 1_000]
    assert names(half) == [record["file_name"] for record in source if record["score"] > 0.5]
    few = select(half, "few", sample=10)
    assert package.verify(few) == []
    assert [step["operator"] for step in few.job["steps"]] == ["generate", "select", "select"]


def test_edits_bring_the_pictures_beside_them_and_their_sources(tmp_path: Path) -> None:
    drawing(1).save(tmp_path / "one.png")
    drawing(2).save(tmp_path / "two.png")
    table = [{"image": str(tmp_path / name), "instruction": "make it red"} for name in ("one.png", "two.png")]
    source = package.edit(table, "edits", model="fake", seed=1)
    kept = select(source, "kept", where="id in ('1')")
    assert package.verify(kept) == []
    assert len(list((kept.folder / ".imagemill" / "sources").iterdir())) == 1
    assert package.reproduce(kept, names(kept)[0]).verdict == "bit-exact"


def test_again_is_done_and_another_is_refused(dataset: Dataset, imagemill: Command) -> None:
    command = ("select", dataset.folder, "-o", "good", "--where", "alignment > 0.5")
    first = imagemill(*command, "--json")
    again = imagemill(*command, "--json")
    assert (again.code, again.json) == (0, first.json)
    assert "done before" in again.err
    other = imagemill("select", dataset.folder, "-o", "good", "--where", "alignment > 0.6")
    assert (other.code, "`where` was `alignment > 0.5`, now `alignment > 0.6`" in other.err) == (2, True)
    assert imagemill("select", dataset.folder, "-o", "good", "--split", "a=0.5,b=0.5").code == 2
    with dataset.lock():
        dataset.update(lambda _: {"more": 1})
    changed = imagemill(*command)
    assert (changed.code, "its source has changed" in changed.err) == (2, True)


def test_a_source_with_one_more_step_has_changed(dataset: Dataset) -> None:
    good = select(dataset, "good", where="alignment > 0.5")
    with dataset.lock():
        dataset.update(lambda _: {"more": 1.0})
    with_step(dataset, {**SCORED, "scores": {"more": "more"}})
    with pytest.raises(Stale, match="its source has changed since"):
        select(Dataset(dataset.folder), "good", where="alignment > 0.5")
    few = select(good, "few", where="alignment > 0.5", sample=3)
    with_step(few, SCORED)
    assert list(select(good, "few", where="alignment > 0.5", sample=3)) == list(few)
    with pytest.raises(package.UsageError, match="its source was `good`"):
        select(dataset, "few", where="alignment > 0.5")


def test_who_comes_late_harms_nothing(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = []
    rename = Path.rename

    def watched(path: Path, target: Path) -> Path:
        with pytest.raises(LockedError), locked(path):
            pass
        renamed.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", watched)
    prepared = prepare(dataset, "parts", {"split": "a=0.5,b=0.5"})
    write(prepared, choose(prepared))
    assert renamed == [".parts.tmp"]
    assert sorted(path.name for path in Path("parts").iterdir()) == ["README.md", "a", "b"]
    with pytest.raises(ImagemillError, match="was written meanwhile"):
        write(prepared, choose(prepared))
    assert not list(Path.cwd().glob(".*.tmp"))
    assert package.verify(Dataset("parts/a")) == []


def test_all_names_are_on_disk_before_it_is_there(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = set()
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    vectors = {name.removesuffix(".png"): np.ones(4) for name in names(dataset)}
    Vectors(dataset.folder, "embedding").write("part-000001", vectors)
    with dataset.lock():
        dataset.update(lambda _: {"embedding": True})
    monkeypatch.setattr(os, "fsync", watched)
    good = select(Dataset(dataset.folder), "good", sample=3)
    folders = [path for path in good.folder.rglob("*") if path.is_dir()]
    assert len(folders) == 5
    assert {path.stat().st_ino for path in [*folders, good.folder, good.folder.parent]} <= synced


def test_a_damaged_selection_is_selected_again(dataset: Dataset, imagemill: Command) -> None:
    good = select(dataset, "good", sample=3)
    (good.part(1).folder / names(good)[0]).unlink()
    done = imagemill("verify", "good", "--repair")
    assert "1 image given up; delete this selection and select again" in done.err
    (dataset.part(1).folder / names(dataset)[0]).unlink()
    assert "`imagemill generate` as before makes them again" in imagemill("verify", dataset.folder, "--repair").err


def test_a_dry_run_writes_nothing(dataset: Dataset, imagemill: Command) -> None:
    before = sorted(Path.cwd().rglob("*"))
    done = imagemill("select", dataset.folder, "-o", "good", "--sample", 3, "--dry-run")
    assert (done.code, "3 of 24 images kept" in done.err) == (0, True)
    assert sorted(Path.cwd().rglob("*")) == before


def test_a_kill_leaves_nothing_and_the_same_command_goes_through(tmp_path: Path) -> None:
    prompts = [f"picture {number}" for number in range(3_000)]
    source = package.generate(prompts, "source", model="fake", seed=1, width=8, height=8)
    command = [sys.executable, "-m", "imagemill", "select", "source", "-o", "good", "--sample", "2900"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not Path(".good.tmp/images/part-000001").exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("good").exists()
    assert Path(".good.tmp").exists()
    assert len(select(source, "good", sample=2_900)) == 2_900
    assert not Path(".good.tmp").exists()
    assert package.verify(Dataset("good"), reader=False) == []


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, "nothing says what to keep"),
        ({"where": "alignmet > 0.5"}, "did you mean `alignment`"),
        ({"where": "image_nsfw < 0.5"}, "there is no column `image_nsfw` yet\n.*imagemill score .* --with image_nsfw"),
        ({"top": 1, "by": "sharpness"}, "there is no column `sharpness` yet\n.*--with quality"),
        ({"top": 1, "by": "prompt"}, "holds no numbers"),
        ({"top": 1}, "`top` has no effect without `by`"),
        ({"sample": 3, "by": "alignment"}, "`by` has no effect without"),
        ({"top": 1, "by": "alignment", "per": "promt"}, "did you mean `prompt`"),
        ({"deduplicate": "exact", "threshold": 3}, "`threshold` has no effect"),
        ({"deduplicate": "perceptual", "threshold": 0.5}, "a whole number of bits"),
        ({"deduplicate": "embedding"}, "imagemill score .* --with embedding"),
        ({"split": "train=0.9,test=0.2"}, "add up to 1.1"),
        ({"split": "../train=0.9,test=0.1"}, "names with shares"),
        ({"sampel": 3}, "did you mean `sample`"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    dataset: Dataset, parameters: dict[str, Any], said: str
) -> None:
    with pytest.raises(package.UsageError, match=f"(?s){said}"):
        package.select(dataset, "good", **parameters)
    assert not list(Path.cwd().glob("*good*"))


def test_nothing_left_is_no_dataset(dataset: Dataset, imagemill: Command) -> None:
    done = imagemill("select", dataset.folder, "-o", "good", "--where", "alignment > 2")
    assert done.code == 3
    assert "nothing is left of 24 images: 21 × alignment <= 2; 3 × alignment is null; `alignment` is from 0 to" in (
        done.err
    )
    assert not Path("good").exists()


def test_a_folder_of_something_else_is_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for output in ("mine", dataset.folder, dataset.folder / "inside"):
        with pytest.raises(package.UsageError):
            package.select(dataset, output, sample=3)
    other = package.generate(["one"], "other", model="fake", seed=1)
    with pytest.raises(package.UsageError, match="is a dataset already"):
        package.select(dataset, other.folder, sample=3)


def test_all_columns_that_are_not_there_are_told_at_once() -> None:
    dataset = package.generate(["a", "b"], "out", model="fake", seed=1)
    with pytest.raises(package.UsageError) as caught:
        package.select(dataset, "few", where="promt = 'a'", top=1, per="ids", by="sharpness")
    for said in ("`promt`", "did you mean `prompt`", "`per`: there is no column `ids`", "no column `sharpness` yet"):
        assert said in str(caught.value)
