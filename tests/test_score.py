"""Scores are columns: filled once, kept through kills, null where there is none, loadable at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagemill as package
from imagemill.dataset.vectors import Vectors
from imagemill.dataset.verify import verify

from .conftest import Command, contents

PLUGIN = '''
import os, time
import numpy as np
from imagemill.scorers.base import Column, Scored, Scorer

class Slow(Scorer):
    """Measures images slowly, and says what it has looked at."""

    pause: float = 0.0
    """Seconds for each image."""
    none_of: str = ""
    """Images with this in their name have no score."""
    fails: str = ""
    """Images with this in their name fail."""
    stops: str = ""
    """Stop at an image with this in its name."""

    def columns(self):
        return {
            "length": Column(None, "length of the file; higher is longer"),
            "said": Column("", "what was seen"),
            "vector": Column(False, "a vector"),
        }

    def score(self, images):
        for seen in images:
            with open(os.environ.get("SEEN_FILE", os.devnull), "a") as file:
                file.write(seen.path.name + "\\n")
            time.sleep(self.pause)
            if self.stops and self.stops in seen.path.name:
                raise RuntimeError("out of order")
            if self.fails and self.fails in seen.path.name:
                yield Scored(seen, reason="timeout", message="too slow")
            elif self.none_of and self.none_of in seen.path.name:
                yield Scored(seen, {"length": None, "said": "no score", "vector": np.zeros(3, np.float16)})
            else:
                size = float(len(seen.data))
                yield Scored(seen, {"length": size, "said": "seen", "vector": np.array([1, 2, size % 7], np.float16)})
        if self.stops == "end":
            raise RuntimeError("out of order")
'''


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "plugins"
    (folder / "slow_scorer-1.0.dist-info").mkdir(parents=True)
    (folder / "slow_scorer.py").write_text(PLUGIN)
    (folder / "slow_scorer-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: slow-scorer\nVersion: 1.0\n"
    )
    (folder / "slow_scorer-1.0.dist-info" / "entry_points.txt").write_text(
        "[imagemill]\nscorers.slow = slow_scorer:Slow\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.delitem(sys.modules, "slow_scorer", raising=False)


def made(images: int, name: str = "out") -> package.Dataset:
    return package.generate([f"picture {number}" for number in range(images)], name, model="fake", seed=1)


def test_every_image_gets_its_scores_and_the_job_says_what_they_mean(imagemill: Command) -> None:
    made(30)
    ran = imagemill("score", "out", "--with", "slow,quality", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["scorers"]["slow"]["done"] == 30
    dataset = package.Dataset("out")
    for record in dataset:
        data = Path("out/images/part-000001", record["file_name"]).read_bytes()
        assert (record["length"], record["said"], record["vector"]) == (len(data), "seen", True)
        assert 0 <= record["brightness"] <= 1
    names, vectors = Vectors(dataset.folder, "vector").read("part-000001")
    lengths = {Path(r["file_name"]).stem: r["length"] for r in dataset}
    assert dict(zip(names, vectors[:, 2].tolist(), strict=True)) == {k: v % 7 for k, v in lengths.items()}
    assert verify(dataset) == []
    steps = tomllib.loads(Path("out/job.toml").read_text())["steps"]
    assert [step.get("scorer") for step in steps] == [None, "slow", "quality"]
    assert steps[1]["scores"] == {"length": "length of the file; higher is longer"}
    card = Path("out/README.md").read_text()
    assert "| `length` | length of the file; higher is longer (slow) |" in card


def test_an_image_is_decoded_once_and_scored_once(
    imagemill: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEN_FILE", str(tmp_path / "seen"))
    made(20)
    assert imagemill("score", "out", "--with", "slow").code == 0
    again = imagemill("score", "out", "--with", "quality,slow")
    assert again.code == 0
    assert "slow: 0 images to score" in again.err
    seen = (tmp_path / "seen").read_text().splitlines()
    assert len(seen) == len(set(seen)) == 20
    made_more = package.generate([f"picture {number}" for number in range(20)], "out", model="fake", seed=1)
    assert len(made_more) == 20


def test_no_score_is_null_and_every_reader_sees_numbers(imagemill: Command, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made(1003)
    # The second part has nothing but images without a score, or that fail.
    none = imagemill("score", "out", "--with", "slow", "--none-of", "prompt_5", "--fails", "prompt_100")
    assert none.code == 3
    assert "not scored by slow (timeout" in none.err
    assert "looked at by slow and without a score" in none.err
    records = {record["file_name"]: record for record in package.Dataset("out")}
    assert records["prompt_5_image_0.png"]["length"] is None
    assert records["prompt_5_image_0.png"]["said"] == "no score"
    assert records["prompt_100_image_0.png"]["said"] == ""
    # What failed is tried again; what has no score is not. The step was begun with these parameters, which stay.
    again = imagemill("score", "out", "--with", "slow", "--none-of", "prompt_5", "--fails", "prompt_100", "--json")
    assert again.json["scorers"]["slow"]["failed"] == {"timeout": 4}
    loaded = datasets.load_dataset("out", split="train", cache_dir=str(tmp_path / "cache"))
    found = dict(zip(loaded["prompt"], loaded["length"], strict=True))
    assert found["picture 5"] is None
    assert found["picture 6"] == records["prompt_6_image_0.png"]["length"]


def test_a_dataset_can_be_loaded_while_it_is_scored(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made(2010)
    command = [sys.executable, "-m", "imagemill", "score", "out", "--with", "slow", "--pause", "0.003", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    journal = Path("out/.imagemill/columns/length.jsonl")
    while b'"length":null' in Path("out/images/part-000001/metadata.jsonl").read_bytes() or not journal.exists():
        assert process.poll() is None, "it has ended already"
        time.sleep(0.05)
    # Of the last part nobody can tell yet what type its scores are of.
    for number in range(2):
        loaded = datasets.load_dataset("out", split="train", cache_dir=str(tmp_path / f"cache{number}"))
        assert len(loaded) == 2010
    assert process.wait(60) == 0
    loaded = datasets.load_dataset("out", split="train", cache_dir=str(tmp_path / "cache"))
    assert all(isinstance(value, float) for value in loaded["length"])


def test_a_run_killed_at_random_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    made(300, "reference")
    made(300, "killed")
    rest = ["--with", "quality,slow", "--pause", "0.01", "--quiet"]
    command = [sys.executable, "-m", "imagemill", "score"]
    assert subprocess.run([*command, "reference", *rest], stdout=subprocess.DEVNULL, check=False).returncode == 0
    rng = random.Random(3)
    seen: set[str] = set()
    environment = {**os.environ, "SEEN_FILE": str(tmp_path / "seen")}
    for _ in range(6):
        process = subprocess.Popen([*command, "killed", *rest], stdout=subprocess.DEVNULL, env=environment)
        time.sleep(rng.uniform(0.6, 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        journal = Path("killed/.imagemill/columns/length.jsonl")
        lines = journal.read_bytes().splitlines() if journal.exists() else []
        names = {json.loads(line)["name"] for line in lines if line.endswith(b"}")}
        names |= {Path(r["file_name"]).stem for r in package.Dataset("killed") if r.get("length") is not None}
        assert seen <= names, "a score was lost"
        seen = names
    ended = subprocess.run([*command, "killed", *rest], stdout=subprocess.DEVNULL, env=environment, check=False)
    assert ended.returncode == 0
    assert contents(Path("killed")) == contents(Path("reference"))
    ours, theirs = (Path(name, ".imagemill/vectors/vector/part-000001.npz") for name in ("killed", "reference"))
    assert ours.read_bytes() == theirs.read_bytes()
    looked = (tmp_path / "seen").read_text().splitlines()
    assert len(looked) < 300 + 6 * 100, "what has been scored is not scored again"


def test_what_a_killed_run_has_found_is_not_taken_for_another_models(imagemill: Command) -> None:
    made(40)
    command = [sys.executable, "-m", "imagemill", "score", "out", "--with", "slow", "--quiet", "--pause"]
    process = subprocess.Popen([*command, "0.05"], stdout=subprocess.DEVNULL)
    journal = Path("out/.imagemill/columns/length.jsonl")
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 5:
        assert process.poll() is None, "it has ended already"
        time.sleep(0.02)
    process.kill()
    process.wait()
    other = imagemill("score", "out", "--with", "slow", "--pause", "0.01")
    assert other.code == 2
    assert "filled in another way: `pause` was `0.05`, now `0.01`" in other.err
    assert imagemill("score", "out", "--with", "slow", "--pause", "0.05").code == 0


def test_a_scored_dataset_grows_over_a_part(imagemill: Command) -> None:
    table = [f"picture {number}" for number in range(1100)]
    package.generate(table, "out", model="fake", seed=1, limit=1000)
    package.score("out", "quality")
    assert len(package.generate(table, "out", model="fake", seed=1)) == 1100
    assert imagemill("score", "out", "--with", "quality").code == 0
    assert verify(package.Dataset("out")) == []


def test_two_workers_score_as_one_does(imagemill: Command) -> None:
    made(60, "one")
    made(60, "two")
    assert imagemill("score", "one", "--with", "quality,hashes").code == 0
    assert imagemill("score", "two", "--with", "quality,hashes", "--workers", 2).code == 0
    assert contents(Path("one")) == contents(Path("two"))


def test_a_scorer_that_breaks_stops_the_run_and_loses_nothing(imagemill: Command) -> None:
    made(120)
    ran = imagemill("score", "out", "--with", "quality,slow", "--stops", "prompt_90_")
    assert ran.code == 1
    assert "out of order" in ran.err
    scored = [record["length"] is not None for record in package.Dataset("out")]
    assert sum(scored) == 90, "those before it are kept"
    assert verify(package.Dataset("out"), reader=False) == []


def test_a_scorer_that_breaks_at_the_end_stops_the_run_too(imagemill: Command) -> None:
    made(20)
    ran = imagemill("score", "out", "--with", "quality,slow", "--stops", "end")
    assert ran.code == 1
    assert "out of order" in ran.err
    assert all(record["length"] is not None for record in package.Dataset("out"))


def test_an_image_that_cannot_be_read_is_told_and_costs_no_other(imagemill: Command) -> None:
    made(10)
    Path("out/images/part-000001/prompt_3_image_0.png").write_bytes(b"no picture")
    ran = imagemill("score", "out", "--with", "quality,hashes", "--json")
    assert ran.code == 3
    assert {name: found["failed"] for name, found in ran.json["scorers"].items()} == {
        "quality": {"bad_image": 1},
        "hashes": {"bad_image": 1},
    }
    scored = [record["brightness"] for record in package.Dataset("out")]
    assert sum(value is None for value in scored) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--with", "qualty"], "quality"),
        (["--with", "quality,quality"], "each once"),
        (["--with", ""], "`` in scorers"),
        (["--with", "quality=MODEL"], "no model to choose"),
        (["--with", "slow,quality", "--pose", "1"], "--pause"),
        (["--with", "alignment,embedding", "--model", "x/y"], "--with alignment=MODEL"),
        (["--with", "alignment", "--text-column", "promt"], "prompt"),
        (["--with", "slow", "--devices", "0"], "none that PyTorch can use"),
    ],
)
def test_what_cannot_be_asked_for_is_said_with_a_suggestion(
    imagemill: Command, arguments: list[str], said: str
) -> None:
    made(2)
    before = contents(Path("out"))
    ran = imagemill("score", "out", *arguments)
    assert ran.code == 2, ran.err
    assert said in ran.err
    assert contents(Path("out")) == before


def test_a_column_of_the_table_is_not_overwritten(imagemill: Command) -> None:
    package.generate([{"prompt": "a", "brightness": "much"}], "out", model="fake", seed=1)
    ran = imagemill("score", "out", "--with", "quality")
    assert ran.code == 2
    assert "`brightness` is a column of the dataset already" in ran.err


def test_python_scores_and_new_images_are_scored_by_the_same_call() -> None:
    table = [f"picture {number}" for number in range(8)]
    dataset = package.generate(table, "out", model="fake", seed=1, limit=4)
    package.score(dataset, "slow,quality")
    package.generate(table, "out", model="fake", seed=1)
    assert [record["length"] is None for record in dataset] == [False] * 4 + [True] * 4
    package.score("out", ["slow", "quality"])
    assert all(record["length"] and record["contrast"] for record in dataset)
    names, _ = Vectors(dataset.folder, "vector").read("part-000001")
    assert len(names) == 8
    assert verify(package.Dataset("out")) == []


def test_scores_that_are_no_numbers_are_failures(imagemill: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    made(3)
    import slow_scorer  # type: ignore[import-not-found]

    from imagemill.scorers.base import Scored

    def score(self: Any, images: Any) -> Any:
        for seen in images:
            yield Scored(seen, {"length": float("nan"), "said": "", "vector": np.zeros(3, np.float16)})

    monkeypatch.setattr(slow_scorer.Slow, "score", score)
    ran = imagemill("score", "out", "--with", "slow")
    assert ran.code == 3
    assert "`length` is nan" in ran.err
