"""Job files: checked as a whole before anything runs, and continued where they stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import imagemill as package
from imagemill.dataset.verify import verify

from .conftest import Command, contents

ROOT = Path(__file__).resolve().parents[1]
GENEVAL = ROOT.parent / "shared" / "data" / "geneval.jsonl"
STEPS: list[dict[str, Any]] = [
    {"operator": "generate", "model": "fake", "seed": 1, "images_per_prompt": 3},
    {"operator": "score", "scorers": ["quality", "hashes"]},
    {"operator": "select", "where": "brightness > 0.45", "top": 2, "per": "prompt", "by": "brightness"},
    {"operator": "export", "layout": "parquet"},
]


def job(*steps: dict[str, Any], rows: int = 20, name: str = "job.toml", **top: Any) -> Path:
    import tomli_w

    Path("prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"picture {number}", "topic": f"t{number % 3}"}) + "\n" for number in range(rows))
    )
    path = Path(name)
    path.write_text(tomli_w.dumps({"input": "prompts.jsonl", "output": "made", **top, "steps": list(steps)}))
    return path


def test_the_steps_follow_each_other_and_the_same_command_does_nothing_more(imagemill: Command) -> None:
    ran = imagemill("run", job(*STEPS), "--json")
    assert ran.code == 0, ran.err
    assert [step["operator"] for step in ran.json["steps"]] == ["generate", "score", "select", "export"]
    dataset, selection = package.Dataset("made/generate"), package.Dataset("made/select")
    assert len(dataset) == 60
    kept = {record["file_name"]: record for record in selection}
    by_prompt: dict[str, list[float]] = {}
    for record in dataset:
        by_prompt.setdefault(record["prompt"], []).append(record["brightness"])
    expected = sum(len([b for b in sorted(values)[-2:] if b > 0.45]) for values in by_prompt.values())
    assert len(kept) == expected
    assert verify(selection) == []
    assert sorted(Path("made/export/data").iterdir())
    before = {name: contents(Path("made", name)) for name in ("generate", "select")}
    again = imagemill("run", "job.toml")
    assert again.code == 0
    assert "0 made now" in again.err
    assert {name: contents(Path("made", name)) for name in ("generate", "select")} == before


def test_every_problem_is_told_at_once_and_nothing_is_made(imagemill: Command) -> None:
    path = job(
        {"operator": "generate", "model": "fake", "images_per_promt": 3, "width": 4},
        {"operator": "scor", "scorers": ["quality"]},
        {"operator": "score", "scorers": ["qualty"]},
        {"operator": "select", "where": "brightness >"},
        {"operator": "export", "layout": "parqet"},
    )
    ran = imagemill("run", path)
    assert ran.code == 2
    for said in (
        "step 1 (generate): `width`",
        "step 2 (scor): there is no operator `scor`",
        "step 3 (score): there is no `qualty` in scorers",
        "step 4 (select): ",
        "step 5 (export): ",
        "did you mean `score`",
        "did you mean `quality`",
        "did you mean `parquet`",
        "`images_per_promt`",
    ):
        assert said in ran.err, said
    assert not Path("made").exists()


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([STEPS[0], {"operator": "select", "where": "brightness > 0.5"}], "imagemill score"),
        ([STEPS[0], STEPS[1], {"operator": "select", "where": "brightnes > 0.5"}], "did you mean `brightness`"),
        ([STEPS[0], STEPS[1], {"operator": "select", "where": "topic > 0.5"}], "topic"),
        ([STEPS[0], STEPS[1], {"operator": "select", "top": 1, "per": "promt", "by": "contrast"}], "`prompt`"),
        ([STEPS[0], {"operator": "score", "scorers": ["alignment"], "text_column": "topics"}], "did you mean `topic`"),
        ([STEPS[0], {"operator": "score", "scorers": ["difference"]}], "no edits"),
        ([STEPS[0], {"operator": "augment", "model": "fke"}], "fake"),
        ([{"operator": "generate", "model": "shapes_editor"}], "makes none from text"),
        ([{"scorers": ["quality"]}], "names no `operator`"),
        ([STEPS[1]], "holds no dataset"),
        ([{**STEPS[0], "accept": "sharpnes > 1"}], "did you mean `sharpness`"),
        ([*STEPS[:2], {**STEPS[2], "split": "train=0.5,test=0.5"}, STEPS[1]], "can come `export`"),
        ([*STEPS, STEPS[2]], "can come nothing"),
        (
            [STEPS[0], {"operator": "score"}, {"operator": "score", "method": "pick"}],
            "filled in another way: `method` was `cosine`, now `pick`",
        ),
        ([*STEPS[:3], {**STEPS[3], "where": "brightnes > 0"}], "did you mean `brightness`"),
        ([STEPS[0], {"operator": "score", "scorers": ["judge=openai:x"]}], "OPENAI_API_KEY"),
        ([STEPS[0], {"operator": "score", "scorers": ["judge"]}], "--with judge=MODEL"),
        ([STEPS[0], {"operator": "caption", "model": "fake", "column": "topic"}], "column of the dataset already"),
    ],
)
def test_what_a_step_lacks_is_known_before_the_first_one_runs(
    imagemill: Command, monkeypatch: pytest.MonkeyPatch, steps: list[dict[str, Any]], said: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ran = imagemill("run", job(*steps))
    assert ran.code == 2
    assert said in ran.err
    assert not Path("made").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("input = [", "is no TOML"),
        ('input = "a.csv"\noutput = "b"\nsteps = []', "`steps`"),
        ('input = "a.csv"\noutput = "b"\nstep = []', "`step`"),
        ('output = "b"\n[[steps]]\noperator = "generate"', "`input`"),
    ],
)
def test_a_file_that_is_no_job_is_explained(imagemill: Command, content: str, said: str) -> None:
    Path("job.toml").write_text(content)
    ran = imagemill("run", "job.toml")
    assert ran.code == 2
    assert said in ran.err
    assert imagemill("run", "absent.toml").code == 2


def test_paths_are_relative_to_the_file_and_flags_to_the_caller(imagemill: Command) -> None:
    Path("jobs").mkdir()
    shutil.move(job(*STEPS[:2]), "jobs/job.toml")
    shutil.move("prompts.jsonl", "jobs/prompts.jsonl")
    assert imagemill("run", "jobs/job.toml").code == 0
    assert len(package.Dataset("jobs/made/generate")) == 60
    Path("mine.txt").write_text("one\ntwo\n")
    assert imagemill("run", "jobs/job.toml", "--input", "mine.txt", "-o", "here").code == 0
    assert len(package.Dataset("here/generate")) == 6
    assert imagemill("run", "jobs/job.toml", "--dry-run", "-o", "never").code == 0
    assert not Path("never").exists()


def test_a_killed_job_goes_on_and_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    path = job({**STEPS[0], "latency": 0.05}, *STEPS[1:], rows=60)
    command = [sys.executable, "-m", "imagemill", "run", str(path), "--quiet"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    assert subprocess.run([*command, "-o", "reference"], check=False, env=environment).returncode == 0
    rng = random.Random(4)
    for _ in range(6):
        process = subprocess.Popen([*command, "-o", "killed"], env=environment)
        time.sleep(rng.uniform(0.8, 2.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run([*command, "-o", "killed"], check=False, env=environment).returncode == 0
    for name in ("generate", "select"):
        assert contents(tmp_path / "killed" / name) == contents(tmp_path / "reference" / name)
    exported = [sorted((tmp_path / name / "export" / "data").iterdir()) for name in ("killed", "reference")]
    assert [path.read_bytes() for path in exported[0]] == [path.read_bytes() for path in exported[1]]


def test_what_failed_and_is_made_later_goes_through_the_later_steps(imagemill: Command) -> None:
    failing = {**STEPS[0], "fail_text": "picture 7", "fail_attempts": 1}
    assert imagemill("run", job(failing, *STEPS[1:])).code == 3
    first = len(package.Dataset("made/select"))
    assert imagemill("retry", "made/generate").code == 0
    again = imagemill("run", "job.toml")
    assert again.code == 0, again.err
    assert len(package.Dataset("made/generate")) == 60
    assert len(package.Dataset("made/select")) >= first
    assert verify(package.Dataset("made/select")) == []


def test_what_was_added_to_a_selection_goes_over_to_the_one_that_takes_its_place(imagemill: Command) -> None:
    failing = {**STEPS[0], "fail_text": "picture 7", "fail_attempts": 1}
    steps = [failing, STEPS[1], {"operator": "select", "where": "brightness > 0.45"}]
    assert imagemill("run", job(*steps, {"operator": "caption", "model": "fake", "column": "seen"})).code == 3
    captions = {record["sha256"]: record["seen"] for record in package.Dataset("made/select")}
    assert all(captions.values())
    assert imagemill("retry", "made/generate").code == 0
    again = imagemill("run", "job.toml")
    assert again.code == 0, again.err
    found = {record["sha256"]: record["seen"] for record in package.Dataset("made/select")}
    assert len(found) > len(captions)
    assert found.items() > captions.items()
    assert f"{len(found) - len(captions)} captions added" in again.err
    assert not list(Path("made").glob(".*"))
    assert verify(package.Dataset("made/select")) == []


def test_a_question_may_ask_for_the_tries_of_a_quota(imagemill: Command) -> None:
    quota = {**STEPS[0], "accept": "brightness > 0.45"}
    ran = imagemill("run", job(quota, {"operator": "select", "where": "tries < 3 and brightness > 0.46"}))
    assert ran.code in {0, 3}, ran.err
    assert all(record["tries"] < 3 for record in package.Dataset("made/select"))


def test_images_of_a_dataset_and_pictures_in_a_folder_can_be_the_input(imagemill: Command) -> None:
    assert imagemill("run", job(*STEPS[:1])).code == 0
    from_dataset = job(STEPS[1], STEPS[2], name="two.toml", input="made/generate", output="second")
    assert imagemill("run", from_dataset).code == 0
    assert len(package.Dataset("second/select")) > 0
    pictures = job(
        {"operator": "caption", "model": "fake"},
        STEPS[1],
        name="three.toml",
        input="made/generate/images",
        output="third",
    )
    ran = imagemill("run", pictures)
    assert ran.code == 0, ran.err
    (dataset,) = Path("third").iterdir()
    assert all(record["caption"] and record["brightness"] for record in package.Dataset(dataset))


def test_python_runs_a_job() -> None:
    folder = package.run(job(*STEPS), output="elsewhere")
    assert folder == Path("elsewhere/export")
    with pytest.raises(package.UsageError, match="there is no operator"):
        package.run(job({"operator": "sing"}))


@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.toml")))
def test_the_examples_run(imagemill: Command, example: str) -> None:
    shutil.copytree(ROOT / "examples", "examples")
    arguments = ["-o", "out"]
    if example == "curate.toml":
        if not GENEVAL.exists():
            pytest.skip("shared/data/geneval.jsonl is not there")
        # A few of its prompts here; the whole of it is for a quiet hour.
        lines = GENEVAL.read_text().splitlines()
        Path("few.jsonl").write_text("\n".join(lines[::40]) + "\n")
        arguments += ["--input", "few.jsonl"]
    elif example != "best-of-four.toml":
        Path("few.csv").write_text("\n".join(Path("examples/prompts.csv").read_text().splitlines()[:7]) + "\n")
        arguments += ["--input", "few.csv"]
    ran = imagemill("run", f"examples/{example}", *arguments)
    assert ran.code in {0, 3}, ran.err
    assert ran.code == 0 or example in {"quota.toml", "curate.toml"}
    for folder in Path("out").iterdir():
        if (folder / "job.toml").is_file():
            assert verify(package.Dataset(folder), reader=False) == []
