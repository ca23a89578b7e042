"""`datasets.load_dataset(folder)` finds what was put in, at any moment, and no reader's trap is stepped in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import imagemill as package
from imagemill.dataset import Dataset

datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def load(folder: Path, cache: Path) -> Any:
    """Load as a user does."""
    loaded = datasets.load_dataset(str(folder), cache_dir=str(cache))
    assert list(loaded) == ["train"]
    return loaded["train"]


@pytest.mark.parametrize("card", [True, False])
def test_a_dataset_of_several_parts_loads_with_and_without_its_card(tmp_path: Path, card: bool) -> None:
    table = [{"prompt": f"picture {n}", "tags": ["a", n], "size": n if n < 1010 else n + 0.5} for n in range(1020)]
    package.generate(table, tmp_path / "out", model="fake", seed=1, width=8, height=8)
    if not card:
        (tmp_path / "out" / "README.md").unlink()
    train = load(tmp_path / "out", tmp_path / "cache")
    assert len(train) == 1020
    # The reader goes through the files in an order of its own.
    rows = {row["id"]: row for row in train}
    assert {row["prompt"] for row in rows.values()} == {row["prompt"] for row in table}
    last = rows["1019"]
    assert last["image"].size == (8, 8)
    assert last["size"] == 1019.5, "a column that begins with integers keeps its fractions"
    assert last["tags"] == '["a", 1019]'
    assert str(train.features["seed"]) == "Value('int64')"


@pytest.mark.parametrize("card", [True, False])
def test_a_dataset_loads_while_it_is_made_and_after_a_kill(tmp_path: Path, card: bool) -> None:
    table = tmp_path / "prompts.txt"
    table.write_text("".join(f"picture {number}\n" for number in range(1200)))
    command = [
        *(sys.executable, "-m", "imagemill", "generate", str(table), "-o", str(tmp_path / "out")),
        *("--model", "fake", "--seed", "1", "--latency", "0.04", "--width", "8", "--height", "8", "--quiet"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "out" / "images" / "part-000001" / "metadata.jsonl").exists():
            time.sleep(0.02)
        if not card:
            (tmp_path / "out" / "README.md").unlink()
        during = load(tmp_path / "out", tmp_path / "during")
        assert 0 < len(during) < 1200
        assert during[len(during) - 1]["image"].size == (8, 8)
    finally:
        process.kill()
        process.wait()
    after = load(tmp_path / "out", tmp_path / "after")
    assert len(after) >= len(during)
    assert after[len(after) - 1]["image"].size == (8, 8)


def test_what_was_cached_of_another_or_a_smaller_dataset_is_not_loaded_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, second = tmp_path / "a" / "same", tmp_path / "b" / "same"
    for count in (1, 2, 7):
        package.generate([f"picture {n}" for n in range(7)], first, model="fake", seed=1, limit=count)
        assert len(load(first, cache)) == count
    with (dataset := Dataset(first)).lock():
        dataset.update(lambda _: {"score": 0.5})
    assert load(first, cache)[0]["score"] == 0.5
    package.generate(["another"], second, model="fake", seed=1)
    assert load(second, cache)["prompt"] == ["another"]
    shutil.rmtree(second)
    shutil.copytree(first, second)
    shutil.rmtree(first)
    assert load(second, cache)[6]["image"].size == (64, 64), "a dataset that was moved"


def test_columns_whose_names_mislead_readers_are_kept_under_others(tmp_path: Path) -> None:
    row = {
        "prompt": "a",
        "image": "cat.png",
        "label": "cat",
        "file_name": "cat.png",
        "lora_file_name": "style.safetensors",
        "masks_file_names": "m.png",
        "sha256": "0",
    }
    package.generate([row], tmp_path / "out", model="fake", seed=1)
    train = load(tmp_path / "out", tmp_path / "cache")
    assert train[0]["image"].size == (64, 64)
    assert {name: train[0][name] for name in train.column_names if name.startswith(("table_", "lora", "masks"))} == {
        "table_image": "cat.png",
        "table_label": "cat",
        "table_filename": "cat.png",
        "lora_filename": "style.safetensors",
        "masks_filenames": "m.png",
        "table_sha256": "0",
    }


def test_columns_that_are_empty_mixed_or_huge_load_as_they_are(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"p{n}"} for n in range(1005)]
    for number, row in enumerate(rows):
        row["late"] = "here" if number == 1004 else None
        row["mixed"] = number if number % 2 else f"text {number}"
        row["date"] = "2026-01-01" if number < 1000 else ""
        row["huge"] = 2**63 + number
        row["ratio"] = 7 if number < 1000 else 7.5
        row["flag"] = number % 2 == 0
        row["deep"] = {"a": 1} if number < 1000 else {"b": [1, None]}
    package.generate(rows, tmp_path / "out", model="fake", seed=1, width=8, height=8)
    train = load(tmp_path / "out", tmp_path / "cache")
    by_id = {row["id"]: row for row in train}
    first, last = by_id["0"], by_id["1004"]
    assert (last["late"], first["late"]) == ("here", "")
    assert (first["mixed"], by_id["1"]["mixed"]) == ("text 0", "1")
    assert (first["date"].strip(), last["date"]) == ("2026-01-01", "")
    assert last["huge"] == str(2**63 + 1004)
    assert (first["ratio"], last["ratio"]) == (7.0, 7.5)
    assert last["flag"] is True
    assert json.loads(last["deep"]) == {"b": [1, None]}
    assert package.verify(Dataset(tmp_path / "out")) == []
