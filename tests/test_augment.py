"""Pictures and captions become more pictures: which ones, from what, in what order; nothing lost, nothing twice."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.dataset.verify import verify
from imagemill.errors import UsageError
from imagemill.images import decode, embedded_recipe

from .conftest import Command, contents
from .test_faults import finish, start

FAKE = ("--model", "fake", "--seed", 3)


def picture(path: str, size: tuple[int, int] = (24, 16), seed: int = 0) -> Path:
    rng = np.random.default_rng([*size, seed])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return Path(path)


def table(rows: Sequence[dict[str, Any]], path: str = "table.jsonl") -> str:
    Path(path).write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def files(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder, "images/part-000001").glob("*.*") if path.suffix != ".jsonl")


def test_one_row_with_three_per_sample_gives_its_original_and_three_new_images(imagemill: Command) -> None:
    source = picture("a.png")
    ran = imagemill(
        "augment", table([{"image": "a.png", "caption": "a fox"}]), "-o", "out", *FAKE, "--images-per-sample", 3
    )
    assert ran.code == 0, ran.err
    records = list(Dataset("out"))
    assert [record["original"] for record in records] == [True, False, False, False]
    first = Path("out/images/part-000001", records[0]["file_name"])
    assert first.read_bytes() == source.read_bytes()
    assert len({record["sha256"] for record in records}) == 4
    assert len({record["seed"] for record in records}) == 4
    assert {record["prompt"] for record in records} == {"a fox"}
    assert {tuple(record["source_sha256"]) for record in records} == {(records[0]["sha256"],)}
    assert {record["source_image"] for record in records} == {"a.png"}
    assert verify(Dataset("out")) == []


def test_two_images_with_two_captions_and_two_per_sample_without_originals(imagemill: Command) -> None:
    picture("a.png"), picture("b.png", (10, 30))
    rows = [{"images": ["a.png", "b.png"], "captions": ["a fox", "an owl"]}]
    ran = imagemill(
        "augment", table(rows), "-o", "out", *FAKE, "--images-per-sample", 2, "--drop-original",
        "--image-column", "images",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert [(r["prompt"], r["source_image"], r["width"], r["height"], r["original"]) for r in Dataset("out")] == [
        ("a fox", "a.png", 24, 16, False),
        ("a fox", "a.png", 24, 16, False),
        ("an owl", "b.png", 10, 30, False),
        ("an owl", "b.png", 10, 30, False),
    ]
    assert len(files("out")) == 4
    assert verify(Dataset("out")) == []


def test_one_caption_is_used_for_all_images_of_a_row(imagemill: Command) -> None:
    picture("a.png"), picture("b.png", (10, 30))
    assert imagemill("augment", table([{"image": ["a.png", "b.png"], "caption": "two"}]), "-o", "out", *FAKE).code == 0
    assert [(r["prompt"], r["original"]) for r in Dataset("out")] == [("two", True), ("two", False)] * 2


def test_bad_rows_are_rejected_alone_and_say_why(imagemill: Command) -> None:
    picture("a.png"), picture("b.png")
    rows: list[dict[str, Any]] = [
        {"image": "a.png", "caption": "good"},
        {"image": [""], "caption": "x"},
        {"image": [], "caption": "x"},
        {"image": None, "caption": "x"},
        {"image": ["a.png", "b.png"], "caption": ["x", "y", "z"]},
        {"image": "a.png", "caption": ""},
        {"image": ["a.png", "b.png"], "caption": ["x", ""]},
        {"image": 7, "caption": "x"},
        {"image": "https://example.org/a.png", "caption": "x"},
    ]
    ran = imagemill("augment", table(rows), "-o", "out", *FAKE)
    assert ran.code == 0, ran.err
    assert {reject["line"]: reject["reason"] for reject in Dataset("out").rejects()} == {
        2: "no image",
        3: "no image",
        4: "no image",
        5: "2 images and 3 captions",
        6: "empty caption",
        7: "an empty text among several",
        8: "the image is neither a path nor a file but a int",
        9: "the image is behind a URL, and pictures are not fetched from the network",
    }
    assert verify(Dataset("out")) == []


def test_a_second_run_asks_no_model(imagemill: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in/a.png"), picture("in/b.png", (30, 30))
    common = ("augment", "in", "-o", "out", *FAKE, "--captioner", "fake")
    assert imagemill(*common).code == 0
    before = contents(Path("out"))
    from imagemill.models.fake import Fake

    def refuse(*_: object) -> None:
        raise AssertionError("a model was asked")

    monkeypatch.setattr(Fake, "make", refuse)
    monkeypatch.setattr(Fake, "answer", refuse)
    # Nor is the source needed any more.
    assert imagemill(*common).code == 0
    assert contents(Path("out")) == before


def test_a_picture_that_comes_late_is_made_by_the_same_command(imagemill: Command) -> None:
    picture("a.png")
    common = ("augment", table([{"image": n, "caption": n} for n in ("a.png", "b.png")]), "-o", "out", *FAKE)
    ran = imagemill(*common)
    assert ran.code == 3
    assert "1 of the pictures cannot be used; the first: `b.png`: the picture cannot be read" in ran.err
    assert Dataset("out").counts().failed == {"no_source": 2}
    assert imagemill("retry", "out").code == 3
    picture("b.png", (9, 9))
    assert imagemill(*common).code == 0
    assert [(r["width"], r["height"]) for r in Dataset("out")] == [(24, 16)] * 2 + [(9, 9)] * 2
    assert verify(Dataset("out")) == []


def test_what_was_taken_in_stays_when_the_file_changes_or_goes(imagemill: Command) -> None:
    picture("a.png")
    common = ("augment", table([{"image": "a.png", "caption": "x"}] * 40), "-o", "out", *FAKE)
    assert imagemill(*common, "--max-images", 5).code == 4
    Path("a.png").unlink()
    assert imagemill(*common).code == 0
    assert len({record["source_sha256"][0] for record in Dataset("out")}) == 1


def test_an_image_is_made_again_from_its_record(imagemill: Command) -> None:
    picture("a.png", (33, 21))
    assert imagemill("augment", table([{"image": "a.png", "caption": "x"}]), "-o", "out", *FAKE).code == 0
    Path("a.png").unlink()
    (result,) = imagemill("reproduce", "out", "prompt_0_image_1", "--json").json
    assert (result["verdict"], result["detail"]) == ("bit-exact", "the file is the same, byte by byte")
    recipe = embedded_recipe(Dataset("out").image("prompt_0_image_1"))
    assert recipe
    assert recipe["source_sha256"] == Dataset("out").find("prompt_0_image_1")[1]["source_sha256"]
    assert b"compositeWithTrainedAlgorithmicMedia" in Path("out/images/part-000001/prompt_0_image_1.png").read_bytes()


@pytest.mark.parametrize("strength", ["-0.1", "1.01", "nan", "much"])
def test_a_strength_outside_of_0_to_1_is_refused_before_anything_is_made(imagemill: Command, strength: str) -> None:
    picture("in/a.png")
    ran = imagemill("augment", "in", "-o", "out", *FAKE, "--strength", strength, "--captioner", "fake")
    assert ran.code == 2
    assert "`strength`" in ran.err
    assert not Path("out").exists()


def test_strength_0_is_the_source_and_can_be_varied_and_set_by_row(imagemill: Command) -> None:
    picture("a.png")
    rows = [{"image": "a.png", "caption": "x", "strength": 0.25}, {"image": "a.png", "caption": "x", "strength": None}]
    assert imagemill("augment", table(rows), "-o", "rows", *FAKE, "--per-row", "--strength", 0).code == 0
    assert [r["strength"] for r in Dataset("rows")] == [0.0, 0.25, 0.0, 0.0]
    source, _, _, same = (Dataset("rows").image(r["file_name"]) for r in Dataset("rows"))
    assert np.array_equal(np.asarray(source), np.asarray(same))
    ran = imagemill("augment", table(rows[1:]), "-o", "vary", *FAKE, "--vary", "strength=0.1,0.5,1")
    assert ran.code == 0, ran.err
    records = [r for r in Dataset("vary") if not r["original"]]
    assert [r["strength"] for r in records] == [0.1, 0.5, 1.0]
    assert len({r["seed"] for r in records}) == 1


def test_a_dataset_a_folder_and_an_imagefolder_come_in_alike(imagemill: Command) -> None:
    Path("prompts.txt").write_text("a fox\nan owl\n")
    assert imagemill("generate", "prompts.txt", "-o", "made", "--model", "fake", "--seed", 1).code == 0
    assert imagemill("augment", "made", "-o", "from-dataset", *FAKE, "--images-per-sample", 2).code == 0
    dataset = Dataset("from-dataset")
    assert [r["prompt"] for r in dataset] == ["a fox"] * 3 + ["an owl"] * 3
    assert [r["id"] for r in dataset][::3] == ["prompt_0_image_0", "prompt_1_image_0"]
    # The first of each is the image of the other dataset, though it carries another recipe.
    assert [r["sha256"] for r in dataset][::3] == [r["sha256"] for r in Dataset("made")]
    assert verify(dataset) == []
    shutil.copytree("made/images/part-000001", "folder")
    ran = imagemill("augment", "folder", "-o", "from-imagefolder", *FAKE, "--caption-column", "prompt")
    assert ran.code == 0, ran.err
    assert [r["prompt"] for r in Dataset("from-imagefolder")][::2] == ["a fox", "an owl"]
    Path("folder/metadata.jsonl").unlink()
    for number, path in enumerate(sorted(Path("folder").glob("*.png"))):
        path.with_suffix(".txt").write_text(f"caption {number}\n")
    Path("folder/movie.gif").write_bytes(b"GIF89a")
    assert imagemill("augment", "folder", "-o", "from-folder", *FAKE).code == 0
    assert [r["prompt"] for r in Dataset("from-folder")][::2] == ["caption 0", "caption 1"]
    assert [reject["reason"] for reject in Dataset("from-folder").rejects()] == [
        "neither a PNG nor a JPEG nor a WebP image"
    ]


def test_without_o_it_goes_where_the_environment_says_else_beside_the_source(
    imagemill: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture("in/a.png")
    assert imagemill("augment", "in", *FAKE, "--captioner", "fake").code == 0
    assert len(Dataset("in-augmented")) == 2
    monkeypatch.setenv("IMAGEMILL_OUTPUT_DIR", "elsewhere")
    assert imagemill("augment", "in", *FAKE, "--captioner", "fake").code == 0
    assert len(Dataset("elsewhere")) == 2
    assert imagemill("augment", "in", "-o", "here", *FAKE, "--captioner", "fake").code == 0
    assert len(Dataset("here")) == 2


# captions that are made


def test_candidates_are_chosen_by_seed_by_similarity_or_all_used(imagemill: Command) -> None:
    for number in range(6):
        picture(f"p{number}.png", seed=number)
    rows = [{"image": f"p{number}.png", "text": "a green heart"} for number in range(6)]
    common = ("augment", table(rows), *FAKE, "--captioner", "fake", "--captions-per-image", 5)
    assert imagemill(*common, "-o", "all", "--keep-candidates", "all").code == 0
    records = list(Dataset("all"))
    assert [r["original"] for r in records[:6]] == [True] + [False] * 5
    made: dict[str, list[str]] = {}
    for record in records:
        if not record["original"]:
            made.setdefault(record["source_image"], []).append(record["prompt"])
    assert {len(captions) for captions in made.values()} == {5}
    assert {record["captioner"] for record in records} == {"fake"}
    assert imagemill(*common, "-o", "one", "--keep-candidates", "random").code == 0
    chosen = {r["source_image"]: r["prompt"] for r in Dataset("one")}
    assert all(chosen[name] in captions for name, captions in made.items())
    assert len({made[name].index(caption) for name, caption in chosen.items()}) > 1
    assert imagemill(*common, "-o", "near", "--keep-candidates", "similar").code == 0

    def near(caption: str) -> int:
        return len({"green", "heart"} & set(caption.split()))

    for record in Dataset("near"):
        assert near(record["prompt"]) == max(map(near, made[record["source_image"]]))


def test_captions_are_made_once_for_each_picture_and_kept(imagemill: Command) -> None:
    picture("a.png")
    common = ("augment", table([{"image": "a.png"}] * 3), "-o", "out", *FAKE, "--captioner", "fake")
    assert imagemill(*common, "--max-images", 1).code == 4
    lines = Path("out/.imagemill/captions.jsonl").read_text()
    assert lines.count("\n") == 1
    assert imagemill(*common).code == 0
    assert Path("out/.imagemill/captions.jsonl").read_text() == lines
    assert len({record["prompt"] for record in Dataset("out")}) == 1


def test_what_has_no_caption_and_no_captioner_is_said(imagemill: Command) -> None:
    picture("in/a.png")
    ran = imagemill("augment", "in", "-o", "out", *FAKE)
    assert ran.code == 2
    assert "no column is called `caption`" in ran.err
    assert "--captioner" in ran.err
    ran = imagemill("augment", "in", "-o", "out", *FAKE, "--captioner", "fake", "--caption-column", "x")
    assert (ran.code, Path("out").exists()) == (2, False)
    ran = imagemill("augment", "in", "-o", "out", *FAKE, "--captioner", "fake", "--keep-candidates", "similar")
    assert "compares with a text of the row" in ran.err
    ran = imagemill("augment", "nowhere", "-o", "out", *FAKE)
    assert (ran.code, Path("out").exists()) == (2, False)


# size


def test_large_sources_are_made_smaller_only_when_asked(imagemill: Command) -> None:
    picture("a.png", (300, 120))
    common = ("augment", table([{"image": "a.png", "caption": "x"}]), *FAKE)
    assert imagemill(*common, "-o", "whole").code == 0
    assert [(r["width"], r["height"]) for r in Dataset("whole")] == [(300, 120)] * 2
    assert imagemill(*common, "-o", "small", "--max-side", 100).code == 0
    assert [(r["width"], r["height"]) for r in Dataset("small")] == [(300, 120), (100, 40)]
    assert verify(Dataset("small")) == []


def test_many_sizes_share_what_is_measured(imagemill: Command) -> None:
    rows = [{"image": picture(f"{n}.png", (20 + n, 20)).name, "caption": "x"} for n in range(30)]
    assert imagemill("augment", table(rows), "-o", "out", *FAKE, "--drop-original").code == 0
    assert len(Dataset("out").job["steps"][0]["batch_sizes"]) == 30
    assert Counter((r["width"], r["height"]) for r in Dataset("out")) == Counter((20 + n, 20) for n in range(30))


# in Python, elsewhere, and interrupted


def test_python_takes_paths_bytes_and_pillows_images() -> None:
    path = picture("a.png")
    image = Image.open(path)
    rows = [
        {"image": path, "caption": "by path"},
        {"image": path.read_bytes(), "caption": "as bytes"},
        {"image": image, "caption": "as an image"},
        {"image": {"bytes": path.read_bytes(), "path": "x"}, "caption": "as a hub's dataset has it"},
    ]
    dataset = package.augment(rows, "out", model="fake", seed=1, keep_original=False)
    assert [r["prompt"] for r in dataset] == [row["caption"] for row in rows]
    assert len(dataset) == 4
    assert package.augment([path, str(path)], "bare", model="fake", captioner="fake", seed=1)
    with pytest.raises(UsageError, match="nothing says where the dataset goes"):
        package.augment(rows, model="fake")


def test_workers_and_order_change_nothing(imagemill: Command) -> None:
    rows = [{"image": picture(f"{n}.png", (20 + n % 3, 20)).name, "caption": "x"} for n in range(12)]
    common = ("augment", table(rows), *FAKE, "--images-per-sample", 2)
    assert imagemill(*common, "-o", "one").code == 0
    assert imagemill(*common, "-o", "two", "--workers", 2).code == 0
    assert contents(Path("one")) == contents(Path("two"))


def test_a_run_killed_at_random_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    rng = random.Random(5)
    rows = [{"image": picture(f"{n}.png", (20 + n % 4, 20), n).name} for n in range(150)]
    common = [
        "augment", table(rows), "--model", "fake", "--seed", 3, "--batch-size", 4, "--captioner", "fake",
        "--images-per-sample", 2, "--quiet", "--latency", 0.02,
    ]  # fmt: skip
    assert finish(*common, "-o", tmp_path / "reference") == 0
    folder, seen = tmp_path / "killed", set[str]()
    for _ in range(8):
        process = start(*common, "-o", folder)
        time.sleep(rng.uniform(0.5, 1.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (folder / "job.toml").exists():
            records = {record["file_name"] for record in Dataset(folder)}
            assert seen <= records, "a committed image was lost"
            seen = records
    assert finish(*common, "-o", folder) == 0
    assert contents(folder) == contents(tmp_path / "reference")
    assert verify(Dataset(folder), reader=False) == []
    assert decode((folder / "images/part-000001/prompt_0_image_0.png").read_bytes()).shape == (20, 20, 3)


def test_a_model_that_starts_from_no_pictures_is_refused(imagemill: Command) -> None:
    picture("in/a.png")
    common = ("augment", "in", "-o", "out", "--caption-column", "c", "--model", "openai:dall-e-3")
    ran = imagemill(*common)
    assert ran.code == 2
    assert "cannot start from pictures" in ran.err


# what a review has found


def test_names_of_a_template_do_not_stand_in_for_what_records_say(imagemill: Command) -> None:
    picture("a.png")
    ran = imagemill(
        "augment", table([{"image": "a.png", "turn": 7, "redrawn": 3}]), "-o", "out", *FAKE,
        "--template", "a {original}", "--vary", "original=Monet,Klimt",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert [r["original"] for r in Dataset("out")] == [True, False, False]
    assert [r["table_original"] for r in Dataset("out")][1:] == ["Monet", "Klimt"]
    assert {(r["table_turn"], r["table_redrawn"]) for r in Dataset("out")} == {(7, 3)}
    assert verify(Dataset("out")) == []
    assert imagemill("caption", "out", "--model", "fake", "--column", "original").code == 2


def test_pictures_in_other_columns_are_not_kept_as_text(imagemill: Command) -> None:
    data = picture("a.png").read_bytes()
    rows = [{"image": data, "edited_image": {"bytes": data, "path": None}, "caption": "x", "topic": "y"}]
    dataset = package.augment(rows, "out", model="fake", seed=1)
    (record, _) = dataset
    assert "edited_image" not in record
    assert record["topic"] == "y"


def test_only_the_rows_that_are_used_are_taken_in_and_described(imagemill: Command) -> None:
    for number in range(6):
        picture(f"in/{number}.png", seed=number)
    common = ("augment", "in", "-o", "out", *FAKE, "--captioner", "fake")
    assert imagemill(*common, "--limit", 2).code == 0
    assert len(list(Path("out/.imagemill/sources").glob("*.png"))) == 2
    assert imagemill(*common).code == 0
    assert imagemill("augment", "in", "-o", "whole", *FAKE, "--captioner", "fake").code == 0
    seeds = [[r["seed"] for r in Dataset(name)] for name in ("out", "whole")]
    assert seeds[0] == seeds[1]
    assert verify(Dataset("out")) == []


def test_a_damaged_source_is_taken_in_again_after_a_repair(imagemill: Command) -> None:
    picture("in/a.png")
    common = ("augment", "in", "-o", "out", *FAKE, "--captioner", "fake", "--images-per-sample", 2)
    assert imagemill(*common).code == 0
    (source,) = Path("out/.imagemill/sources").glob("*.png")
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 1
    # In place: the original has the same bytes on disk.
    source.write_bytes(data)
    assert len(verify(Dataset("out"))) >= 2
    assert imagemill("verify", "out", "--repair").code in {0, 3}
    assert imagemill(*common).code == 0
    assert verify(Dataset("out")) == []
    assert Dataset("out").image("prompt_0_image_0").tobytes() == Image.open("in/a.png").tobytes()


def test_a_column_that_came_while_a_job_was_prepared_stays(imagemill: Command) -> None:
    from imagemill.making.execution import execute
    from imagemill.making.preparation import prepare
    from imagemill.operators.augment import Augment

    picture("in/a.png"), picture("in/b.png", seed=1)
    options = {"model": "fake", "seed": 3, "captioner": "fake"}
    package.augment("in", "out", limit=1, **options)
    prepared = prepare(Augment, "in", "out", options)
    package.caption("out", model="fake")
    execute(prepared)
    assert [bool(r["caption"]) for r in Dataset("out")] == [True, True, False, False]
    package.caption("out", model="fake")
    assert all(r["caption"] for r in Dataset("out"))
    assert verify(Dataset("out")) == []


def test_a_torn_list_of_what_was_taken_in_costs_nothing(imagemill: Command) -> None:
    rows = [{"image": picture(f"{n}.png", seed=n).name, "caption": "x"} for n in range(3)]
    common = ("augment", table(rows), "-o", "out", *FAKE)
    assert imagemill(*common, "--limit", 2).code == 0
    for name in ("sources/taken.jsonl",):
        path = Path("out/.imagemill", name)
        path.write_bytes(path.read_bytes() + b'{"name": "cut')
    assert imagemill(*common).code == 0
    assert len(Dataset("out")) == 6
    assert all(line.endswith("}") for line in Path("out/.imagemill/sources/taken.jsonl").read_text().splitlines())


def test_odd_tables_are_refused_row_by_row(imagemill: Command) -> None:
    picture("a.png")
    deep: Any = "a.png"
    for _ in range(900):
        deep = [deep]
    rows = [
        {"image": "a.png", "caption": "good"},
        {"image": "~nobody-of-this-name/x.png", "caption": "x"},
        {"image": Image.new("F", (4, 4)), "caption": "float"},
        {"image": deep, "caption": "deep"},
    ]
    dataset = package.augment(rows, "out", model="fake", seed=1, keep_original=False)
    assert [r["prompt"] for r in dataset][:1] == ["good"]
    assert verify(dataset) == []


def test_an_output_inside_of_the_source_is_refused(imagemill: Command) -> None:
    picture("in/a.png")
    ran = imagemill("augment", "in", "-o", "in/out", *FAKE, "--captioner", "fake")
    assert (ran.code, "is inside of" in ran.err) == (2, True)


# what a new user has found


def test_operators_can_follow_each_other(imagemill: Command) -> None:
    Path("prompts.txt").write_text("a fox\nan owl\n")
    assert imagemill("generate", "prompts.txt", "-o", "a", *FAKE).code == 0
    assert imagemill("caption", "a", "--model", "fake").code == 0
    assert imagemill("augment", "a", "-o", "b", *FAKE).code == 0
    # What was seen in the source is not said of what was made from it.
    assert not any("caption" in record for record in Dataset("b"))
    assert imagemill("caption", "b", "--model", "fake").code == 0
    assert imagemill("edit", "b", "-o", "c", *FAKE, "--instruction-column", "prompt").code == 0
    assert imagemill("augment", "c", "-o", "d", *FAKE, "--caption-column", "prompt").code == 0
    assert imagemill("edit", "d", "-o", "e", *FAKE, "--instruction-column", "source_image").code in {0, 2}
    for name in "abcd":
        assert verify(Dataset(name)) == []
    ran = imagemill("augment", "a", "-o", "a/inside", *FAKE)
    assert (ran.code, "is inside of" in ran.err) == (2, True)


def test_a_column_added_to_the_source_stops_nothing(imagemill: Command) -> None:
    Path("prompts.txt").write_text("a fox\nan owl\n")
    assert imagemill("generate", "prompts.txt", "-o", "a", *FAKE).code == 0
    common = ("augment", "a", "-o", "b", *FAKE, "--caption-column", "prompt")
    assert imagemill(*common, "--max-images", 1).code == 4
    assert imagemill("caption", "a", "--model", "fake", "--column", "seen").code == 0
    assert imagemill(*common).code == 0
    assert verify(Dataset("b")) == []


def test_datasets_are_taken_as_objects_too(imagemill: Command) -> None:
    Path("prompts.txt").write_text("a fox\n")
    assert imagemill("generate", "prompts.txt", "-o", "a", *FAKE).code == 0
    assert len(package.augment(Dataset("a"), "b", model="fake", seed=1)) == 2
    assert len(package.augment(Dataset("a"), model="fake", seed=1)) == 2
    assert Path("a-augmented/job.toml").is_file()
    assert "caption" in next(iter(package.caption(Dataset("a"), "c", model="fake")))
    assert "caption" not in next(iter(Dataset("a")))


def test_columns_named_like_the_pictures_of_an_edit_do_not_hide_them(imagemill: Command, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    picture("a.png"), picture("b.png", seed=1)
    rows = [{"input_image": "a.png", "edit_prompt": "x", "edited_image": "b.png", "mask": "m"}] * 2
    assert imagemill("edit", table(rows), "-o", "out", *FAKE).code == 0
    loaded = datasets.load_dataset("out", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["edited_image"].size == loaded[0]["input_image"].size == (24, 16)
    assert loaded[0]["table_edited_image"] == "b.png"
    assert imagemill("caption", "out", "--model", "fake", "--column", "edited_image").code == 2


def test_a_single_picture_is_a_source_and_unreadable_ones_are_named(imagemill: Command) -> None:
    picture("a.png")
    assert imagemill("augment", "a.png", "-o", "one", *FAKE, "--captioner", "fake").code == 0
    Path("bad").mkdir()
    Path("bad/x.png").write_bytes(b"")
    ran = imagemill("caption", "bad", "--model", "fake")
    assert ran.code == 3
    assert "`x.png`: not a whole PNG, JPEG or WebP image" in ran.err
    rows = [{"image": ["a.png", "gone.png"], "prompt": "x"}]
    ran = imagemill("edit", table(rows), "-o", "two", *FAKE)
    assert "`gone.png`: the picture cannot be read" in ran.err


def test_a_column_that_has_brought_nothing_can_be_begun_anew(imagemill: Command) -> None:
    picture("in/a.png")
    assert imagemill("caption", "in", "-o", "out", "--model", "fake", "--fail-text", " ").code == 3
    assert imagemill("caption", "out", "--model", "fake", "--prompt", "other").code == 0
    assert [record["caption"] != "" for record in Dataset("out")] == [True]
    assert len(Dataset("out").job["steps"]) == 2
