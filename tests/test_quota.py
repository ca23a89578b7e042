"""`generate --accept`: images are drawn again until enough of them are what they should be."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import imagemill as package
from imagemill.dataset.verify import verify
from imagemill.seeds import derive_seed

from .conftest import Command, contents

PROMPTS = [f"picture {number}" for number in range(20)]
BRIGHT = {"model": "fake", "seed": 5, "accept": "brightness > 0.5", "until": 3}


def tries(folder: str | Path) -> list[dict[str, object]]:
    path = Path(folder, ".imagemill", "tries.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_prompt_gets_as_many_accepted_images_as_wanted() -> None:
    dataset = package.generate(PROMPTS, "out", **BRIGHT, max_tries=50)
    records = list(dataset)
    assert len(records) == 60
    assert all(record["brightness"] > 0.5 for record in records)
    assert verify(dataset) == []
    refused = tries("out")
    assert sum(record["tries"] - 1 for record in records) == len(refused) > 20
    assert all(line["brightness"] <= 0.5 for line in refused)
    assert refused[0]["reason"] == f"brightness {refused[0]['brightness']:.4g} <= 0.5"
    assert len({record["seed"] for record in [*records, *refused]}) == 60 + len(refused)


def test_the_seed_of_a_try_follows_from_that_of_the_first_and_each_image_is_made_again_from_its_record() -> None:
    dataset = package.generate(PROMPTS, "out", **BRIGHT, max_tries=50)
    plain = {
        r["file_name"]: r["seed"] for r in package.generate(PROMPTS, "plain", model="fake", seed=5, images_per_prompt=3)
    }
    for record in dataset:
        first, image = plain[record["file_name"]], int(record["file_name"].partition("image_")[2][:-4])
        before = record["tries"] - 1
        assert record["seed"] == (derive_seed(first, record["id"], image, -before) >> 32 if before else first)
    late = max(dataset, key=lambda record: record["tries"])
    assert late["tries"] > 2
    assert package.reproduce(dataset, late["file_name"]).verdict == "bit-exact"


def test_rows_that_never_pass_are_told_and_more_tries_go_on(imagemill: Command) -> None:
    Path("prompts.txt").write_text("\n".join(PROMPTS))
    common = ["generate", "prompts.txt", "-o", "out", "--model", "fake", "--seed", 5, "--accept", "brightness > 0.52"]
    few = imagemill(*common, "--max-tries", 2)
    assert few.code == 3
    failures = package.Dataset("out").failures()
    assert {failure["reason"] for failure in failures.values()} == {"not_accepted"}
    assert "max-tries" in few.err
    assert f"{len(failures)} requests failed (not_accepted {len(failures)})" in few.err
    assert all("2 tries, the last one with brightness" in failure["message"] for failure in failures.values())
    assert imagemill("retry", "out").code == 3, "to draw them the same way again would help nobody"
    assert imagemill(*common, "--max-tries", 1).code == 2
    assert imagemill(*common, "--max-tries", 60).code == 0
    at_once = imagemill(*common[:3], "once", *common[4:], "--max-tries", 60)
    assert at_once.code == 0
    images = {name: digest for name, digest in contents(Path("once")).items() if name.startswith("images")}
    assert images == {name: digest for name, digest in contents(Path("out")).items() if name.startswith("images")}


def test_a_run_killed_at_random_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    Path("prompts.txt").write_text("\n".join(PROMPTS * 3))
    common = [
        sys.executable, "-m", "imagemill", "generate", "prompts.txt", "--model", "fake", "--seed", "3", "--quiet",
        "--latency", "0.05", "--accept", "brightness > 0.51", "--until", "2", "--max-tries", "40",
    ]  # fmt: skip
    assert subprocess.run([*common, "-o", "reference"], check=False).returncode == 0
    rng = random.Random(6)
    for _ in range(8):
        process = subprocess.Popen([*common, "-o", "killed"])
        time.sleep(rng.uniform(0.6, 1.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run([*common, "-o", "killed"], check=False).returncode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "reference")

    def drawn(folder: str) -> set[tuple[object, ...]]:
        return {(line["file_name"], line["tries"], line["sha256"], line["reason"]) for line in tries(folder)}

    assert drawn("killed") == drawn("reference")
    assert len(tries("killed")) == len(drawn("killed")), "no try is counted twice"


def test_a_limit_of_images_counts_those_that_are_not_accepted(imagemill: Command) -> None:
    Path("prompts.txt").write_text("\n".join(PROMPTS))
    common = ["generate", "prompts.txt", "-o", "out", "--model", "fake", "--seed", 5, "--accept", "brightness > 0.5"]
    stopped = imagemill(*common, "--max-images", 25)
    assert stopped.code == 4
    assert len(package.Dataset("out")) + len(tries("out")) == 25
    assert imagemill(*common).code == 0
    assert len(package.Dataset("out")) == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"accept": "brightnes > 0.5"}, "brightness"),
        ({"accept": "brightness >"}, "brightness >"),
        ({"accept": "not flat"}, "flat"),
        ({"accept": "width > 5"}, "known only of a finished image"),
        ({"accept": "judge_score > 3"}, "judge_score"),
        ({"accept": "brightness > 0.5", "score": "hashes"}, "brightness"),
        ({"until": 3}, "need `accept`"),
        ({"max_tries": 3}, "need `accept`"),
        ({"accept": "brightness > 0.5", "until": 3, "images_per_prompt": 2}, "leave out one"),
    ],
)
def test_what_cannot_be_asked_for_is_said_before_anything_is_made(options: dict[str, object], said: str) -> None:
    with pytest.raises(package.UsageError) as caught:
        package.generate(PROMPTS, "out", model="fake", **options)
    assert said in str(caught.value)
    assert not Path("out").exists()


def test_a_quota_over_more_than_one_part_is_filled(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = [f"picture {number}" for number in range(1300)]
    dataset = package.generate(table, "out", model="fake", seed=1, accept="brightness >= 0.4")
    assert len(dataset) == 1300
    assert verify(dataset, reader=False) == []
    assert len(datasets.load_dataset("out", split="train", cache_dir=str(tmp_path / "cache"))) == 1300


def test_a_quota_that_nothing_can_fill_ends_in_good_order(imagemill: Command) -> None:
    Path("prompts.txt").write_text("\n".join(PROMPTS))
    common = ["generate", "prompts.txt", "-o", "out", "--model", "fake", "--seed", 5, "--accept", "brightness > 2"]
    ran = imagemill(*common, "--max-tries", 2)
    assert ran.code == 3
    assert "no image was accepted" in ran.err
    assert "more `--max-tries`" in ran.err
    assert verify(package.Dataset("out"), reader=False) == []
    assert len(tries("out")) == 40


def test_a_column_of_the_table_is_not_overwritten_by_what_scores() -> None:
    table = [{"prompt": "a", "sharpness": "x"}]
    with pytest.raises(package.UsageError, match="`sharpness` is a column of the dataset already"):
        package.generate(table, "out", model="fake", seed=1, accept="contrast > 0")
    assert not Path("out").exists()


def test_another_question_is_another_dataset() -> None:
    package.generate(PROMPTS, "out", **BRIGHT, max_tries=50)
    with pytest.raises(package.UsageError, match="`accept` was"):
        package.generate(PROMPTS, "out", **{**BRIGHT, "accept": "brightness > 0.49"}, max_tries=50)
    steps = tomllib.loads(Path("out/job.toml").read_text())["steps"]
    assert [step["operator"] for step in steps] == ["generate", "score"]
    assert "higher" in steps[1]["scores"]["contrast"]
