"""The main job, with the fake model: plan, files, records, seeds, continuing, failing, retrying."""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.images import decode, embedded_recipe, is_marked, open_image
from imagemill.models.fake import Fake
from imagemill.produce import Report

from .conftest import Command, contents

FAKE = ("--model", "fake", "--seed", "42")


def by_id(folder: Path) -> dict[tuple[str, int], str]:
    """The hash of every image by its row's id and its number in the row."""
    return {
        (record["id"], int(record["file_name"].split("_")[3].split(".")[0])): record["sha256"]
        for record in Dataset(folder)
    }


def test_the_plan_line_comes_first_and_counts_everything(imagemill: Command, tmp_path: Path) -> None:
    table = tmp_path / "prompts.jsonl"
    table.write_text('{"prompt": "a"}\n{"prompt": ""}\n{"prompt": "b"}\nnot json\n')
    ran = imagemill("generate", table, "-o", "out", *FAKE, "--images-per-prompt", 3)
    assert ran.code == 0
    assert re.match(r"2 prompts × 3 = 6 images · fake · ~0:00 · \d+ kB · 2 rows rejected\n", ran.err)
    assert ran.out == "out\n"
    assert [reject["line"] for reject in Dataset("out").rejects()] == [2, 4]


def test_a_wrong_size_is_blamed_on_who_asked_for_it(imagemill: Command, tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text("prompt,width\na,64\nb,63\n")
    by_row = imagemill("generate", table, "-o", "out", "--per-row")
    assert "generate: row `1`: `width`: 63 is not a multiple of 8" in by_row.err
    by_flag = imagemill("generate", table, "-o", "out", "--width", 63)
    assert "error: generate: `width`: 63 is not a multiple of 8" in by_flag.err


def test_a_dry_run_refuses_a_folder_that_a_run_would_refuse(imagemill: Command, prompts: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    ran = imagemill("generate", prompts, "-o", "mine", *FAKE, "--dry-run")
    assert (ran.code, "is not empty and holds no dataset" in ran.err) == (2, True)


def test_rejected_rows_are_told_also_when_quiet(imagemill: Command, tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text("prompt,other\na,b\nragged\n")
    ran = imagemill("generate", table, "-o", "out", *FAKE, "--quiet")
    assert (ran.code, ran.err.startswith("1 row rejected: see ")) == (0, True)


def test_a_dry_run_shows_final_prompts_and_makes_nothing(imagemill: Command, prompts: Path) -> None:
    ran = imagemill("generate", prompts, "-o", "out", *FAKE, "--prompt-postfix", "in ink", "--dry-run")
    assert ran.code == 0
    assert ran.out.splitlines() == [f"picture number {number} in ink" for number in range(3)]
    assert not Path("out").exists()
    as_json = imagemill("generate", prompts, "-o", "out", *FAKE, "--dry-run", "--json").json
    assert as_json["images"] == as_json["pending"] == 12
    assert as_json["model"] == "fake"


def test_the_plan_tells_what_has_failed_and_what_was_removed(imagemill: Command, prompts: Path) -> None:
    job = ("generate", prompts, "-o", "out", *FAKE, "--fail-text", "number 4")
    assert imagemill(*job, "--max-images", 6).code == 4
    package.remove("out", ["row-0", "prompt_1_image_0"])
    ran = imagemill(*job, "--dry-run")
    assert " · 3 done before · 1 failed before · 2 removed\n" in ran.err
    assert ran.out.splitlines() == [f"picture number {number}" for number in (2, 3, 4)]
    plan = imagemill(*job, "--dry-run", "--json").json
    told = {name: plan[name] for name in ("images", "done", "failed", "removed", "pending")}
    assert told == {"images": 12, "done": 3, "failed": {"model_error": 1}, "removed": 2, "pending": 6}
    imagemill(*job)
    package.remove("out", [f"prompt_{row}_image_0" for row in range(2, 12)])
    ran = imagemill(*job, "--dry-run")
    assert (" · 12 removed\n" in ran.err, ran.out) == (True, "")


def test_files_are_named_by_row_and_image_and_records_are_in_numeric_order(imagemill: Command, prompts: Path) -> None:
    assert imagemill("generate", prompts, "-o", "out", *FAKE, "--images-per-prompt", 12).code == 0
    names = [record["file_name"] for record in Dataset("out")]
    assert names == [f"prompt_{row}_image_{image}.png" for row in range(12) for image in range(12)]
    assert all((Path("out/images/part-000001") / name).is_file() for name in names)


def test_a_record_says_everything_and_table_columns_pass_through(imagemill: Command, prompts: Path) -> None:
    imagemill("generate", prompts, "-o", "out", *FAKE, "--negative-prompt", "blur", "--width", 32, "--height", 48)
    record = next(iter(Dataset("out")))
    assert list(record)[:12] == [
        "file_name",
        "prompt",
        "negative_prompt",
        "id",
        "seed",
        "width",
        "height",
        "num_inference_steps",
        "guidance_scale",
        "scheduler",
        "model",
        "model_revision",
    ]
    assert (record["prompt"], record["negative_prompt"], record["id"]) == ("picture number 0", "blur", "row-0")
    assert (record["width"], record["height"], record["topic"], record["model"]) == (32, 48, "t0", "fake")
    assert Dataset("out").image("prompt_0_image_0").size == (32, 48)


@pytest.mark.parametrize(("image_format", "extension"), [("png", "png"), ("jpeg", "jpg"), ("webp", "webp")])
def test_the_extension_is_the_true_format_and_the_file_carries_its_recipe(
    imagemill: Command, prompts: Path, image_format: str, extension: str
) -> None:
    assert imagemill("generate", prompts, "-o", "out", *FAKE, "--image-format", image_format).code == 0
    for record in Dataset("out"):
        assert record["file_name"].endswith(f".{extension}")
        image = Dataset("out").image(record["file_name"])
        assert image.format == image_format.upper()
        recipe = embedded_recipe(image)
        assert recipe is not None
        assert recipe == {key: record[key] for key in recipe}
        assert is_marked(image)
    assert imagemill("verify", "out").code == 0
    assert "bit-exact" in imagemill("reproduce", "out", "prompt_3_image_0").out


def test_metadata_and_mark_can_be_left_out_and_that_is_on_record(imagemill: Command, prompts: Path) -> None:
    imagemill("generate", prompts, "-o", "marked", *FAKE, "--no-metadata")
    image = Dataset("marked").image("prompt_0_image_0")
    assert embedded_recipe(image) is None
    assert "parameters" not in image.info
    assert is_marked(image)
    imagemill("generate", prompts, "-o", "bare", *FAKE, "--no-metadata", "--no-mark")
    assert Dataset("bare").image("prompt_0_image_0").info == {}
    assert Dataset("bare").job["steps"][0]["mark"] is False
    assert "--no-mark" in Path("bare/README.md").read_text()


def test_the_same_seed_gives_the_same_bytes_and_minus_one_draws_a_seed_that_is_kept(
    imagemill: Command, prompts: Path
) -> None:
    for folder in ("one", "two"):
        imagemill("generate", prompts, "-o", folder, *FAKE)
    assert contents(Path("one")) == contents(Path("two"))
    for folder in ("three", "four"):
        imagemill("generate", prompts, "-o", folder, "--model", "fake")
    three, four = (Dataset(folder).job["steps"][0]["seed"] for folder in ("three", "four"))
    assert three != four
    before = contents(Path("three"))
    assert imagemill("generate", prompts, "-o", "three", "--model", "fake").code == 0
    assert contents(Path("three")) == before


def test_another_job_on_the_same_folder_is_refused_with_the_difference_named(
    imagemill: Command, prompts: Path, tmp_path: Path
) -> None:
    imagemill("generate", prompts, "-o", "out", *FAKE)
    before = contents(Path("out"))
    ran = imagemill("generate", prompts, "-o", "out", *FAKE, "--guidance-scale", 3)
    assert ran.code == 2
    assert "`guidance_scale` was `1.0`, now `3.0`" in ran.err
    ran = imagemill("generate", prompts, "-o", "out", *FAKE, "--fail-rate", 0.5)
    assert "`fail_rate` was `0.0`, now `0.5`" in ran.err
    other = tmp_path / "other.csv"
    other.write_text(prompts.read_text().replace("number 3", "number III"))
    ran = imagemill("generate", other, "-o", "out", *FAKE)
    assert ran.code == 2
    assert "other rows" in ran.err
    assert contents(Path("out")) == before


def test_a_table_that_has_moved_continues_its_dataset(imagemill: Command, prompts: Path, tmp_path: Path) -> None:
    imagemill("generate", prompts, "-o", "out", *FAKE)
    before = contents(Path("out"))
    assert imagemill("generate", prompts.rename(tmp_path / "moved.csv"), "-o", "out", *FAKE).code == 0
    assert contents(Path("out")) == before


def test_a_limited_run_and_then_the_rest_equal_one_whole_run(imagemill: Command, prompts: Path) -> None:
    imagemill("generate", prompts, "-o", "whole", *FAKE, "--images-per-prompt", 2)
    imagemill("generate", prompts, "-o", "out", *FAKE, "--images-per-prompt", 2, "--limit", 5)
    assert len(Dataset("out")) == 10
    imagemill("generate", prompts, "-o", "out", *FAKE, "--images-per-prompt", 2, "--limit", 7)
    assert len(Dataset("out")) == 14
    assert imagemill("verify", "out", "--no-reader").code == 0
    imagemill("generate", prompts, "-o", "out", *FAKE, "--images-per-prompt", 2)
    assert contents(Path("out")) == contents(Path("whole"))
    ran = imagemill("generate", prompts, "-o", "out", *FAKE, "--images-per-prompt", 2, "--limit", 5)
    assert ran.code == 2
    assert "limit" in ran.err


def test_a_shuffled_table_with_ids_gives_every_row_the_same_image(imagemill: Command, prompts: Path) -> None:
    header, *lines = prompts.read_text().splitlines()
    random.Random(1).shuffle(lines)
    shuffled = prompts.with_name("shuffled.csv")
    shuffled.write_text("\n".join([header, *lines]))
    imagemill("generate", prompts, "-o", "one", *FAKE, "--images-per-prompt", 2)
    imagemill("generate", shuffled, "-o", "two", *FAKE, "--images-per-prompt", 2)
    assert by_id(Path("one")) == by_id(Path("two"))
    assert contents(Path("one")) != contents(Path("two"))


def test_two_workers_write_the_same_bytes_as_one(imagemill: Command, prompts: Path) -> None:
    imagemill("generate", prompts, "-o", "one", *FAKE, "--images-per-prompt", 3)
    assert imagemill("generate", prompts, "-o", "two", *FAKE, "--images-per-prompt", 3, "--workers", 2).code == 0
    assert contents(Path("one")) == contents(Path("two"))


def test_unicode_long_and_equal_prompts_are_kept_as_they_are(imagemill: Command, tmp_path: Path) -> None:
    texts = ["ein Häuschen", "🦊🌲 狐狸 ثعلب", "e\u0301 + \u202e", "x" * 100_000, "equal", "equal", "a\tb\\n'\"<&>"]
    table = tmp_path / "prompts.jsonl"
    table.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    for image_format in ("png", "jpeg", "webp"):
        assert imagemill("generate", table, "-o", image_format, *FAKE, "--image-format", image_format).code == 0
        assert [record["prompt"] for record in Dataset(image_format)] == texts
        assert imagemill("verify", image_format).code == 0
    equal = [record for record in Dataset("png") if record["prompt"] == "equal"]
    assert equal[0]["seed"] != equal[1]["seed"]
    assert equal[0]["sha256"] != equal[1]["sha256"]


def test_a_failing_row_leaves_its_neighbors_and_can_be_tried_again(imagemill: Command, prompts: Path) -> None:
    arguments = (*FAKE, "--fail-text", "number 3", "--fail-attempts", 1, "--fail-reason", "timeout")
    ran = imagemill("generate", prompts, "-o", "out", *arguments)
    assert ran.code == 3
    assert "1 request failed (timeout 1)" in ran.err
    assert "hint: imagemill retry out" in ran.err
    assert len(Dataset("out")) == 11
    (failure,) = Dataset("out").failures().values()
    assert (failure["id"], failure["reason"], failure["attempts"]) == ("row-3", "timeout", 1)
    status = imagemill("status", "out", "--json").json
    assert (status["requests"], status["done"], status["failed"], status["pending"]) == (12, 11, {"timeout": 1}, 0)
    assert imagemill("verify", "out").code == 0
    assert imagemill("retry", "out", "--reason", "timeuot").err.endswith("hint: did you mean `timeout`?\n")
    prompts.unlink()
    assert imagemill("retry", "out", "--reason", "timeout").code == 0
    assert Dataset("out").failures() == {}
    assert imagemill("verify", "out").code == 0
    names = [record["file_name"] for record in Dataset("out")]
    assert names == [f"prompt_{row}_image_0.png" for row in range(12)]
    assert list(Dataset("out"))[3]["topic"] == "t0"


def test_a_request_that_fails_again_counts_its_attempts(imagemill: Command, prompts: Path) -> None:
    imagemill("generate", prompts, "-o", "out", *FAKE, "--fail-text", "number 3")
    assert imagemill("retry", "out").code == 3
    assert imagemill("retry", "out").code == 3
    (failure,) = Dataset("out").failures().values()
    assert failure["attempts"] == 3
    assert Dataset("out").counts().failed == {"model_error": 1}


def test_when_everything_fails_the_job_has_failed_and_says_why(imagemill: Command, prompts: Path) -> None:
    ran = imagemill("generate", prompts, "-o", "out", *FAKE, "--fail-rate", 1)
    assert ran.code == 3
    assert "all 12 requests failed, the first with model_error: asked to fail, attempt 1" in ran.err
    assert imagemill("verify", "out").code == 0


def test_per_row_parameters_and_products_reach_the_records(imagemill: Command, tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text("prompt,seed,width,animal\na,7,32,cat\nb,,64,dog\n")
    ran = imagemill("generate", table, "-o", "kept", *FAKE)
    assert "the columns `seed`, `width` are kept but not used" in ran.err
    assert [record["table_seed"] for record in Dataset("kept")] == ["7", ""]
    imagemill("generate", table, "-o", "used", *FAKE, "--per-row", "--images-per-prompt", 2)
    assert [(record["seed"], record["width"]) for record in Dataset("used")][:2] == [(7, 32), (8, 32)]
    imagemill(
        "generate", table, "-o", "grid", *FAKE, "--template", "a {size} {animal}", "--vary", "size=big,small",
        "--vary", "guidance_scale=3,7.5",
    )  # fmt: skip
    grid = list(Dataset("grid"))
    assert [record["prompt"] for record in grid[:4]] == ["a big cat", "a big cat", "a small cat", "a small cat"]
    assert [record["guidance_scale"] for record in grid[:4]] == [3.0, 7.5, 3.0, 7.5]
    assert len({record["seed"] for record in grid[:4]}) == 1
    assert grid[4]["prompt"] == "a big dog"
    assert imagemill("verify", "grid").code == 0


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (("--guidence-scale", 3), "there is no argument `--guidence-scale`", "did you mean `--guidance-scale`?"),
        (("--width", 4), "`width`: input should be greater than or equal to 8, got: `4`", ""),
        (("--images-per-prompt", 0), "`images_per_prompt`: input should be greater than or equal to 1", ""),
        (("--image-format", "gif"), "`image_format`: input should be 'png', 'jpeg' or 'webp', got: `gif`", ""),
        (("--prompt-column", "promt"), "the table has no column `promt`", "did you mean `prompt`?"),
        (("--vary", "guidance"), "write NAME=VALUE, not `guidance`", ""),
        (("--batch-size", 0), "`batch_size`: input should be greater than or equal to 1", ""),
        (("--devices", "7"), "`devices` names CUDA devices of this machine", ""),
        (("--devices", "all", "--workers", 2), "each once, without `workers`", ""),
    ],
)
def test_a_wrong_argument_is_explained_before_anything_is_made(
    imagemill: Command, prompts: Path, arguments: tuple[object, ...], said: str, hint: str
) -> None:
    ran = imagemill("generate", prompts, "-o", "out", *FAKE, *arguments)
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert said in ran.err
    assert hint in ran.err
    assert not Path("out").exists()


def test_a_missing_model_table_or_folder_is_explained(imagemill: Command, prompts: Path, tmp_path: Path) -> None:
    assert "did you mean `fake`?" in imagemill("generate", prompts, "-o", "out", "--model", "fakes").err
    assert "there is no file `nothing.csv`" in imagemill("generate", "nothing.csv", "-o", "out", *FAKE).err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    ran = imagemill("generate", prompts, "-o", "full", *FAKE)
    assert ran.code == 2
    assert "is not empty and holds no dataset" in ran.err
    assert imagemill("status", "full").code == 2
    assert imagemill("genrate").err == "error: there is no command `genrate`\n\nhint: did you mean `generate`?\n"


def test_verify_finds_every_kind_of_damage(imagemill: Command, prompts: Path) -> None:
    imagemill("generate", prompts, "-o", "good", *FAKE)
    part = Path("images/part-000001")

    def problems() -> list[str]:
        ran = imagemill("verify", "bad", "--json", "--no-reader")
        assert ran.code == (3 if ran.json["problems"] else 0)
        shutil.rmtree("bad")
        return list(ran.json["problems"])

    rng = random.Random(7)
    for number in range(12):
        shutil.copytree("good", "bad")
        path = "bad" / part / f"prompt_{number}_image_0.png"
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        assert any(path.name in problem for problem in problems())
    shutil.copytree("good", "bad")
    ("bad" / part / "prompt_5_image_0.png").unlink()
    assert problems() == ["part-000001/prompt_5_image_0.png: the file is absent"]
    shutil.copytree("good", "bad")
    ("bad" / part / "stray.png").write_bytes(b"")
    assert problems() == ["part-000001/stray.png has no record"]
    shutil.copytree("good", "bad")
    metadata = "bad" / part / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("picture number 4", "picture number 5"))
    assert "part-000001/metadata.jsonl was changed after it was sealed" in problems()
    shutil.copytree("good", "bad")
    Path("bad/README.md").write_text("mine")
    assert problems() == ["README.md does not tell how the dataset stands now"]
    shutil.copytree("good", "bad")
    Path("bad/.imagemill/rejects.jsonl").write_text('{"line": 1, "reason": "", "raw": ""}\n')
    assert problems() == ["rejects.jsonl has 1 rows and job.toml says 0"]
    shutil.copytree("good", "bad")
    assert problems() == []


def test_reproduce_tells_equal_from_similar_from_impossible(imagemill: Command, prompts: Path) -> None:
    imagemill("generate", prompts, "-o", "out", *FAKE)
    ran = imagemill("reproduce", "out", "prompt_0_image_0.png", "prompt_7_image_0")
    assert ran.code == 0
    assert ran.out.count("bit-exact") == 2
    path = Path("out/images/part-000001/prompt_1_image_0.png")
    pixels = decode(path.read_bytes()).copy()
    pixels[0, 0] ^= 1
    from PIL import Image

    Image.fromarray(pixels).save(path)
    (result,) = imagemill("reproduce", "out", "prompt_1_image_0", "--json").json
    assert result["verdict"] == "PSNR"
    assert result["psnr"] > 60
    metadata = Path("out/images/part-000001/metadata.jsonl")
    metadata.write_text(metadata.read_text().replace('"model_revision":"1"', '"model_revision":"0"'))
    ran = imagemill("reproduce", "out", "prompt_2_image_0")
    assert ran.code == 3
    assert "cannot: the model is now `1`, it was `0`" in ran.out
    assert "has no image `prompt_99_image_0`" in imagemill("reproduce", "out", "prompt_99_image_0").err


def test_quiet_says_nothing_and_json_is_json(imagemill: Command, prompts: Path) -> None:
    ran = imagemill("generate", prompts, "-o", "out", *FAKE, "--quiet", "--json")
    assert ran.err == ""
    assert ran.json["done"] == 12


def test_standard_input_is_a_table_too(imagemill: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_text("a cat\na dog\n")
    with path.open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert imagemill("generate", "-", "-o", "out", *FAKE).code == 0
    assert [record["prompt"] for record in Dataset("out")] == ["a cat", "a dog"]


def test_the_python_call_takes_the_same_names_and_returns_the_dataset(tmp_path: Path) -> None:
    dataset = package.generate(
        [{"prompt": "a cat", "mood": "calm"}, "a dog"], tmp_path / "out", model="fake", images_per_prompt=2, seed=1
    )
    assert [record["prompt"] for record in dataset] == ["a cat", "a cat", "a dog", "a dog"]
    assert [record["mood"] for record in dataset] == ["calm", "calm", "", ""]
    assert dataset.image("prompt_1_image_1").size == (64, 64)
    with pytest.raises(package.UsageError, match="did you mean `images_per_prompt`"):
        package.generate(["a cat"], tmp_path / "other", model="fake", image_per_prompt=2)
    with pytest.raises(package.SomeFailed):
        package.generate(["a cat"], tmp_path / "failed", model="fake", fail_rate=1)
    with pytest.raises(package.UsageError, match="another job"):
        package.generate(["a bird"], tmp_path / "out", model="fake", images_per_prompt=2, seed=1)


def test_a_contact_sheet_shows_the_images(imagemill: Command, prompts: Path) -> None:
    imagemill("generate", prompts, "-o", "out", *FAKE)
    assert imagemill("sheet", "out", "-o", "sheet.png", "--columns", 4).code == 0
    sheet = open_image(Path("sheet.png").read_bytes())
    assert sheet.width == 4 * (160 + 12) + 12
    assert len(sheet.convert("RGB").getcolors(2**24) or []) > 100


def test_more_than_a_thousand_images_make_several_parts(imagemill: Command, tmp_path: Path) -> None:
    table = tmp_path / "prompts.txt"
    table.write_text("".join(f"picture {number}\n" for number in range(1050)))
    assert imagemill("generate", table, "-o", "out", *FAKE, "--width", 8, "--height", 8).code == 0
    assert [(part.name, len(part.records()), part.sealed) for part in Dataset("out").parts] == [
        ("part-000001", 1000, True),
        ("part-000002", 50, True),
    ]
    assert imagemill("verify", "out").code == 0


@pytest.mark.parametrize(("name", "column"), [("parti-prompts.tsv", "Category"), ("geneval.jsonl", "include")])
def test_real_prompt_tables_become_datasets(imagemill: Command, name: str, column: str) -> None:
    table = Path(__file__).parents[2] / "shared" / "data" / name
    if not table.exists():
        pytest.skip(f"the real prompt table {name} is not beside this checkout")
    ran = imagemill("generate", table, "-o", "out", *FAKE, "--images-per-prompt", 2, "--json")
    assert ran.code == 0
    assert ran.json["done"] == 2 * {"parti-prompts.tsv": 1632, "geneval.jsonl": 553}[name]
    assert ran.json["rows_rejected"] == 0
    assert all(isinstance(record[column], str) for record in Dataset("out"))
    assert imagemill("verify", "out").code == 0


def test_a_retry_does_not_seal_what_an_interrupted_run_has_left(tmp_path: Path) -> None:
    def stop(report: Report) -> None:
        if report.failed:
            raise KeyboardInterrupt

    job: dict[str, Any] = {"model": "fake", "seed": 1, "batch_size": 1, "fail_text": "2", "fail_attempts": 1}
    prompts = [f"picture {number}" for number in range(9)]
    with pytest.raises(KeyboardInterrupt):
        package.generate(prompts, "out", **job, latency=0.05, progress=stop)
    package.retry(Dataset("out"))
    assert Dataset("out").counts().pending > 0
    assert not Dataset("out").part(1).sealed
    assert package.verify(package.generate(prompts, "out", **job, latency=0.05), reader=False) == []


def test_a_retry_seals_what_a_killed_one_has_completed(imagemill: Command, prompts: Path) -> None:
    imagemill("generate", prompts, "-o", "out", *FAKE, "--fail-text", "number 3", "--fail-attempts", 1)
    assert imagemill("retry", "out").code == 0
    seals = Path("out/.imagemill/seals.jsonl")
    seals.write_text("".join(seals.read_text().splitlines(keepends=True)[:-1]))  # killed before the seal
    assert imagemill("verify", "out", "--no-reader").code == 3
    assert imagemill("retry", "out").code == 0
    assert imagemill("verify", "out", "--no-reader").code == 0


def test_a_model_that_leaves_requests_without_a_result_has_failed(
    imagemill: Command, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Fake.make
    monkeypatch.setattr(Fake, "make", lambda *arguments: islice(make(*arguments), 5))
    ran = imagemill("generate", prompts, "-o", "out", *FAKE)
    assert ran.code == 1
    assert "left 7 of 12 requests without a result" in ran.err


def test_a_folder_called_like_a_model_does_not_hide_it(imagemill: Command, prompts: Path) -> None:
    for _ in range(2):
        assert imagemill("generate", prompts, "-o", "fake", *FAKE).code == 0


def test_a_retried_image_names_the_model_like_its_neighbors(
    imagemill: Command, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = Fake.info
    monkeypatch.setattr(Fake, "info", lambda self: replace(info(self), name="other"))  # as `diffusers:NAME` does
    imagemill("generate", prompts, "-o", "out", *FAKE, "--fail-text", "number 3", "--fail-attempts", 1)
    assert imagemill("retry", "out").code == 0
    assert {record["model"] for record in Dataset("out")} == {"other"}


def test_a_dataset_without_our_own_state_is_still_one(imagemill: Command, prompts: Path) -> None:
    imagemill("generate", prompts, "-o", "out", *FAKE)
    shutil.rmtree("out/.imagemill")
    assert imagemill("retry", "out").code == 0
    shutil.rmtree("out/.imagemill")
    assert imagemill("generate", prompts, "-o", "out", *FAKE).code == 0
    assert imagemill("verify", "out", "--no-reader").code == 0


@pytest.mark.parametrize("job", ["a = 1", "a = ", "\udcff"])
def test_a_job_file_of_another_program_is_explained(imagemill: Command, job: str) -> None:
    Path("out").mkdir()
    Path("out/job.toml").write_bytes(job.encode(errors="surrogateescape"))
    assert imagemill("status", "out").code == 2


def test_an_error_leaves_no_writer_behind() -> None:
    with pytest.raises(ZeroDivisionError):
        package.generate(["a"], "out", model="fake", progress=lambda _: 1 // 0)  # type: ignore[arg-type,return-value]
    assert Dataset("out").writer == ""


def test_half_a_surrogate_pair_in_a_python_text_is_rejected() -> None:
    dataset = package.generate(["a", "\ud800"], "out", model="fake")
    assert [reject["line"] for reject in dataset.rejects()] == [2]


def test_a_run_prints_one_json_text_whatever_came_of_it(imagemill: Command, prompts: Path) -> None:
    arguments = ("generate", prompts, "-o", "out", *FAKE, "--json")
    assert imagemill(*arguments).json["done"] == 12
    assert imagemill(*arguments).json["done"] == 12, "nothing was left to do"
    failed = imagemill("generate", prompts, "-o", "bad", *FAKE, "--fail-rate", 1, "--json")
    assert (failed.code, failed.json["failed"]) == (3, {"model_error": 12})
