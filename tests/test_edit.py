"""Pictures and instructions become edited pictures: source and result together, every turn kept, what changed said."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.dataset.verify import verify
from imagemill.images import decode, open_image

from .conftest import Command, contents
from .servers import KEY, serving
from .test_augment import FAKE, files, picture, table
from .test_faults import finish, start


def turn(text: str, role: str = "user") -> dict[str, str]:
    return {"content": text, "role": role}


def test_source_and_result_stand_in_one_record_as_trainers_read_them(imagemill: Command, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source = picture("a.png")
    rows = [{"image": "a.png", "instruction": f"make it {color}", "topic": color} for color in ("red", "blue")]
    ran = imagemill("edit", table(rows), "-o", "out", *FAKE)
    assert ran.code == 0, ran.err
    for record in Dataset("out"):
        part = Path("out/images/part-000001")
        assert (part / record["input_image_file_name"]).read_bytes() == source.read_bytes()
        assert record["edited_image_file_name"] == record["file_name"]
        assert record["edit_prompt"] == record["prompt"] == f"make it {record['topic']}"
        before, after = (decode((part / record[key]).read_bytes()) for key in ("input_image_file_name", "file_name"))
        assert record["difference"] == pytest.approx(np.abs(before.astype(float) - after).mean() / 255)
        assert record["changed_area"] == pytest.approx((np.abs(before.astype(float) - after).max(2) > 64).mean())
        assert record["no_op"] is False
    assert verify(Dataset("out")) == []
    loaded = datasets.load_dataset("out", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["input_image"].size == loaded[0]["edited_image"].size == (24, 16)
    assert loaded[1]["edit_prompt"] == "make it blue"


def test_an_edit_that_changes_nothing_is_marked(imagemill: Command) -> None:
    picture("a.png")
    assert imagemill("edit", table([{"image": "a.png", "prompt": "x"}]), "-o", "out", *FAKE, "--strength", 0).code == 0
    (record,) = Dataset("out")
    assert (record["difference"], record["changed_area"], record["no_op"]) == (0.0, 0.0, True)


def conversations() -> str:
    picture("a.png"), picture("b.png", (10, 30)), picture("sub/c.png", (30, 10))
    return table(
        [
            {"conversations": [turn("make it red")], "images": ["a.png"], "edited_images": [""]},
            {
                "conversations": [turn("one"), turn("yes", "assistant"), turn("two"), turn("three")],
                "images": "b.png",
                "edited_images": [""],
            },
            {"conversations": [turn("mix")], "images": ["a.png", "sub/c.png"], "edited_images": [""]},
            {"conversations": [turn("nothing")], "images": [""], "edited_images": [""]},
            {"conversations": [turn("gone")], "images": [str(Path("absent.png").resolve())], "edited_images": [""]},
            {"conversations": [], "images": ["a.png"], "edited_images": [""]},
        ],
        "conversations.jsonl",
    )


def test_conversations_are_held_turn_by_turn_and_every_turn_is_kept(imagemill: Command) -> None:
    ran = imagemill("edit", conversations(), "-o", "out", *FAKE, "--images-per-sample", 2)
    assert ran.code == 3
    dataset = Dataset("out")
    assert [(r["prompt"], r["turn"], len(r["input_images_file_names"])) for r in dataset] == [
        *[("make it red", 1, 1)] * 2,
        *[("one", 1, 1), ("two", 2, 1), ("three", 3, 1)] * 2,
        *[("mix", 1, 2)] * 2,
    ]
    part = Path("out/images/part-000001")
    records = {r["file_name"]: r for r in dataset}
    for number in (1, 2, 4, 5):
        later = records[f"prompt_1_image_{number}.png"]
        before = records[f"prompt_1_image_{number - 1}.png"]
        assert later["source_sha256"] == [before["sha256"]]
        assert (part / later["input_image_file_name"]).read_bytes() == (part / before["file_name"]).read_bytes()
    mixed = records["prompt_2_image_0.png"]["input_images_file_names"]
    assert [open_image((part / name).read_bytes()).size for name in mixed] == [(24, 16), (30, 10)]
    assert dataset.counts().failed == {"no_source": 2}
    assert {r["line"]: r["reason"] for r in dataset.rejects()} == {4: "no image", 6: "empty instruction"}
    assert not any(str(Path.cwd()) in path.read_text() for path in Path("out").rglob("*.jsonl") if path.parent == part)
    assert verify(dataset) == []
    for name in ("prompt_1_image_2", "prompt_2_image_1"):
        (result,) = imagemill("reproduce", "out", name, "--json").json
        assert result["verdict"] == "bit-exact"


def test_a_turn_that_fails_takes_the_later_ones_with_it_and_retry_brings_all(imagemill: Command) -> None:
    picture("a.png")
    rows = [{"image": "a.png", "instruction": ["one", "two", "three"]}, {"image": "a.png", "instruction": "good"}]
    failing = (*FAKE, "--fail-text", "two", "--fail-attempts", 1)
    ran = imagemill("edit", table(rows), "-o", "out", *failing)
    assert ran.code == 3
    failures = Dataset("out").failures()
    assert {name: failure["reason"] for name, failure in failures.items()} == {
        "prompt_0_image_1": "model_error",
        "prompt_0_image_2": "no_source",
    }
    assert "`prompt_0_image_1`, has no image" in failures["prompt_0_image_2"]["message"]
    before = Path("out/.imagemill/failures.jsonl").read_text()
    assert imagemill("edit", table(rows), "-o", "out", *failing).code == 3
    assert Path("out/.imagemill/failures.jsonl").read_text() == before, "a finished dataset is left as it is"
    assert imagemill("retry", "out").code == 0
    assert imagemill("edit", table(rows), "-o", "whole", *FAKE).code == 0
    images = [
        [(r["prompt"], r["turn"], r["seed"], r["strength"], decode_of(name, r).tobytes()) for r in Dataset(name)]
        for name in ("out", "whole")
    ]
    assert [(prompt, turn) for prompt, turn, *_ in images[0]] == [("one", 1), ("two", 2), ("three", 3), ("good", 1)]
    assert images[0] == images[1]
    assert verify(Dataset("out")) == []


def decode_of(folder: str, record: dict[str, Any]) -> Any:
    return decode(Path(folder, "images/part-000001", record["file_name"]).read_bytes())


def test_a_part_is_sealed_when_all_turns_have_ended(monkeypatch: pytest.MonkeyPatch, imagemill: Command) -> None:
    from imagemill.dataset.folder import Part

    picture("a.png")
    rows = [{"image": "a.png", "instruction": ["one", "two", "three"]}]
    assert imagemill("edit", table(rows), "-o", "out", *FAKE, "--fail-text", "one", "--fail-attempts", 1).code == 3
    sealed: list[int] = []
    seal = Part.seal
    monkeypatch.setattr(Part, "seal", lambda part: (sealed.append(len(part.records())), seal(part))[1])
    assert imagemill("retry", "out").code == 0
    assert sealed == [3]
    assert verify(Dataset("out")) == []


def test_a_mask_says_where(imagemill: Command) -> None:
    picture("a.png")
    mask = np.zeros((16, 24), np.uint8)
    mask[:, 12:] = 255
    Image.fromarray(mask).save("m.png")
    Image.fromarray(mask[:8]).save("small.png")
    rows = [
        {"image": "a.png", "mask": "m.png", "instruction": "x"},
        {"image": "a.png", "mask": "", "instruction": "x"},
        {"image": "a.png", "mask": "small.png", "instruction": "x"},
        {"image": "a.png", "mask": "m.png", "instruction": ["x", "y"]},
    ]
    ran = imagemill("edit", table(rows), "-o", "out", *FAKE, "--mask-column", "mask", "--strength", 1)
    assert ran.code == 3
    (record,) = Dataset("out")
    part = Path("out/images/part-000001")
    before, after = (decode((part / record[key]).read_bytes()) for key in ("input_image_file_name", "file_name"))
    assert np.array_equal(before[:, :12], after[:, :12])
    assert not np.array_equal(before[:, 12:], after[:, 12:])
    assert np.array_equal(np.asarray(open_image((part / record["mask_file_name"]).read_bytes()).convert("L")), mask)
    assert record["changed_area"] <= 0.5
    assert {r["line"]: r["reason"] for r in Dataset("out").rejects()} == {2: "no mask", 4: "2 turns with one mask"}
    (failure,) = Dataset("out").failures().values()
    assert failure["message"] == "the mask has 24×8 pixels and the picture 24×16"
    assert verify(Dataset("out")) == []
    (result,) = imagemill("reproduce", "out", "prompt_0_image_0", "--json").json
    assert result["verdict"] == "bit-exact"


def test_too_many_pictures_fail_alone(imagemill: Command) -> None:
    picture("a.png")
    rows = [{"image": ["a.png"] * count, "prompt": "x"} for count in (16, 17)]
    assert imagemill("edit", table(rows), "-o", "out", *FAKE).code == 3
    (failure,) = Dataset("out").failures().values()
    assert (failure["reason"], failure["message"]) == ("bad_request", "17 pictures, and `fake` takes 16")


def test_the_prompt_table_of_generate_may_be_a_conversation_too(imagemill: Command) -> None:
    rows = [{"conversations": [turn(f"a {c} circle")], "images": [""]} for c in ("red", "blue")]
    rows.append({"conversations": [turn("one"), turn("two")], "images": [""]})
    assert imagemill("generate", table(rows), "-o", "out", *FAKE).code == 0
    assert [r["prompt"] for r in Dataset("out")] == ["a red circle", "a blue circle"]
    assert Dataset("out").rejects()[0]["reason"] == "a conversation of 2 turns where one prompt is wanted"


def test_remote_models_edit_through_our_own_server(imagemill: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("a.png", (64, 64)), picture("b.png", (64, 64), seed=1)
    Image.new("L", (64, 64), 255).save("m.png")
    rows = [{"images": ["a.png", "b.png"], "instruction": f"number {n}", "mask": "m.png"} for n in range(3)]
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as server:
        ran = imagemill(
            "edit", table(rows), "-o", "out", "--model", "openai:fake", "--base-url", server.url, "--seed", 1,
            "--mask-column", "mask",
        )  # fmt: skip
    assert ran.code == 0, ran.err
    assert [(r["width"], len(r["input_images_file_names"]), r["no_op"]) for r in Dataset("out")] == [(64, 2, False)] * 3
    assert verify(Dataset("out")) == []


def test_a_run_killed_at_random_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    rng = random.Random(6)
    rows = [
        {"image": picture(f"{n}.png", (20 + n % 4, 20), n).name, "instruction": ["one", "two", "three"][: 1 + n % 3]}
        for n in range(120)
    ]
    common = ["edit", table(rows), "--model", "fake", "--seed", 3, "--batch-size", 4, "--quiet", "--latency", 0.03]
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


def test_a_source_that_is_damaged_or_gone_is_found(imagemill: Command) -> None:
    picture("a.png")
    assert imagemill("edit", table([{"image": "a.png", "instruction": "x"}] * 3), "-o", "out", *FAKE).code == 0
    beside = Path("out/images/part-000001/prompt_1_image_0_input_0.png")
    data = bytearray(beside.read_bytes())
    data[len(data) // 2] ^= 4
    beside.unlink()
    beside.write_bytes(data)
    Path("out/images/part-000001/prompt_2_image_0_input_0.png").unlink()
    assert verify(Dataset("out"), reader=False) == [
        "part-000001/prompt_2_image_0.png: its prompt_2_image_0_input_0.png is absent",
        "part-000001/prompt_1_image_0_input_0.png is not the picture that was edited (sha256)",
    ]
    (source,) = Path("out/.imagemill/sources").glob("*.png")
    source.unlink()
    assert sum("the source" in problem for problem in verify(Dataset("out"), reader=False)) == 3
    assert imagemill("reproduce", "out", "prompt_0_image_0").code == 3


def test_python_edits_rows() -> None:
    picture("a.png")
    dataset = package.edit([{"image": "a.png", "instruction": "make it red"}], "out", model="fake", seed=1)
    assert [r["edit_prompt"] for r in dataset] == ["make it red"]
    assert files("out") == ["prompt_0_image_0.png", "prompt_0_image_0_input_0.png"]


def test_one_instruction_holds_for_pictures_without(imagemill: Command) -> None:
    picture("set/a.png"), picture("set/b.png", (10, 30))
    assert imagemill("edit", "set", "-o", "out", *FAKE, "--template", "make it blue").code == 0
    assert [record["edit_prompt"] for record in Dataset("out")] == ["make it blue"] * 2
    refused = imagemill("edit", "set", "-o", "none", *FAKE, "--template", "make {} blue")
    assert refused.code == 2
    assert "names no column" in refused.err


def test_what_edits_nothing_makes_no_text_image_and_the_other_way_round(imagemill: Command) -> None:
    picture("a.png")
    ran = imagemill("edit", table([{"image": "a.png"}]), "-o", "out", *FAKE)
    assert ran.code == 2
    assert "no column is called `instruction`" in ran.err
    assert "--instruction-column" in ran.err
