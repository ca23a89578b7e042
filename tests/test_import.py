"""An export comes back as it was, and what others have written becomes a dataset with all that they tell of it."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.dataset.manifest import write_manifest
from imagemill.dataset.verify import verify
from imagemill.embedded import read_embedded
from imagemill.errors import ImagemillError, LockedError, SomeFailed, UsageError
from imagemill.images import is_marked
from imagemill.records import RECORD_KEYS

from .conftest import Command
from .hub_server import hub_server
from .test_augment import picture, table
from .test_export import add, contents, edited, generated, load

__all__ = ["edited"]

LAYOUTS = ("diffusiondb", "imagefolder", "parquet", "webdataset")
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def files(dataset: Dataset) -> dict[str, str]:
    return {name: digest for name, digest in contents(dataset.folder / "images").items() if "metadata" not in name}


def taken(source: str = "in", output: str = "back", **parameters: Any) -> list[dict[str, Any]]:
    """The records of an import that verifies."""
    dataset = package.import_dataset(source, output, **parameters)
    assert isinstance(dataset, Dataset)
    assert verify(dataset) == []
    return list(dataset)


def png(color: int = 0, size: tuple[int, int] = (8, 8), **texts: str) -> bytes:
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, text in texts.items():
        info.add_itxt(key, text)
    Image.new("RGB", size, (color % 256, 90, 160)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def write(path: str, content: bytes | str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())


def tar(path: str, members: Iterable[tuple[str, bytes]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def rejects(folder: str = "back") -> dict[str, str]:
    return {line["raw"]: line["reason"] for line in Dataset(folder).rejects()}


# what we have exported


@every_layout
def test_an_export_comes_back_as_it_was(layout: str, imagemill: Command) -> None:
    dataset = generated(count=4, images_per_prompt=2)
    add(
        dataset,
        score=lambda n: None if n % 2 else n / 2,
        never=lambda n: None,
        note=lambda n: "" if n else "né\n",
        flat=lambda n: n == 3,
        words=lambda n: ["a", "b"][: n % 2 + 1],
    )
    job = dataset.job
    step = {
        "operator": "score",
        "scorer": "x",
        "model": "",
        "scores": {"score": "how good", "never": "nothing"},
        "model_parameters": {},
    }
    with dataset.lock():
        dataset.write_job(dataset.folder, {**job, "steps": [*job["steps"], {**step, "columns": {}, "meanings": {}}]})
    more = {"metadata": "parquet"} if layout == "imagefolder" else {}
    package.export(dataset, layout, "export", **more)
    ran = imagemill("import", "export", "-o", "back", "--json")
    assert ran.code == 0
    assert (ran.json["layout"], ran.json["restored"], ran.json["splits"]) == (layout, True, {"train": 8})
    back = Dataset("back")
    assert [json.dumps(record) for record in back] == [json.dumps(record) for record in dataset]
    assert contents("back/images") == contents("out/images")
    assert [one["scores"] for one in back.job["steps"] if one["operator"] == "score"] == [step["scores"]]
    assert verify(back) == []
    assert load("back")["train"].features["never"].dtype == "float64"
    assert package.export("back", layout, "again", **more) == Path("again")
    names = [".imagemill-export.json", ".imagemill-manifest.jsonl", "README.md"]
    different = {name for name, digest in contents("export").items() if contents("again").get(name) != digest}
    assert different <= set(names)


@every_layout
def test_pictures_of_edits_come_back(layout: str, edited: Path) -> None:
    if layout == "webdataset":
        # Its samples must be alike.
        pictures = [{"image": "a.png", "instruction": f"edit {n}", "mask": "m.png"} for n in range(3)]
        picture("a.png")
        Image.new("L", (32, 24), 255).save("m.png")
        with Image.open("a.png") as opened:
            Image.new("L", opened.size, 255).save("m.png")
        package.edit(table(pictures), "edits", model="fake", seed=1, mask_column="mask")
        edited = Path("edits")
    package.export(edited, layout, "export")
    back = package.import_dataset("export", "back")
    assert isinstance(back, Dataset)
    assert list(back) == list(Dataset(edited))
    assert contents("back/images") == contents(edited / "images")
    assert verify(back) == []


@pytest.mark.parametrize("layout", ["imagefolder", "parquet", "webdataset"])
def test_splits_become_a_folder_of_datasets(layout: str) -> None:
    dataset = generated(count=8)
    add(dataset, score=lambda n: None if n < 7 else 0.5)
    package.select(dataset, "parted", split="train=0.5,test=0.3,extra=0.2", seed=3)
    # JSON lines do not tell the type of a column without a value.
    more = {"metadata": "parquet"} if layout == "imagefolder" else {}
    package.export("parted", layout, "export", **more)
    for _ in range(2):
        back = package.import_dataset("export", "back")
        assert isinstance(back, dict)
        assert list(back) == ["train", "test", "extra"]
        for split, each in back.items():
            assert contents(each.folder / "images") == contents(f"parted/{split}/images")
            assert verify(each) == []
    found = load("back")
    assert {split: len(rows) for split, rows in found.items()} == {split: len(each) for split, each in back.items()}
    package.export("back", layout, "again", **more)
    assert not Path("back/.imagemill").exists()


@every_layout
def test_without_our_mark_an_export_is_still_what_it_was(layout: str) -> None:
    dataset = generated(count=3)
    add(dataset, score=lambda n: None if n % 2 else n / 2)
    package.export(dataset, layout, "export")
    for path in Path("export").glob(".imagemill-*"):
        path.unlink()
    records = taken("export")
    if layout == "diffusiondb":
        # Only its own columns are read then.
        assert [record["prompt"] for record in records] == [record["prompt"] for record in dataset]
        assert [record["seed"] for record in records] == [record["seed"] for record in dataset]
        assert all(Path(record["source_image"]).suffix == ".png" for record in records)
    else:
        assert records == list(dataset)
        assert contents("back/images") == contents("out/images")


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_an_export_that_is_damaged_says_so(damage: str) -> None:
    dataset = generated(count=3)
    package.export(dataset, "imagefolder", "export")
    path = Path("export/train/00000/prompt_1_image_0.png")
    data = path.read_bytes()
    path.unlink()
    if damage == "flip":
        path.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
        assert [record["id"] for record in taken("export")] == ["0", "2"]
        assert list(rejects().values()) == ["the file is not the one that was exported (sha256)"]
        return
    if damage == "cut":
        path.write_bytes(data[:-20])
    with pytest.raises(UsageError, match=r"prompt_1_image_0\.png` is not as it was written") as raised:
        package.import_dataset("export", "back")
    assert not Path("back").exists()
    assert "delete" not in str(raised.value.hint)
    assert "`.imagemill-export.json`" in str(raised.value.hint)
    for state in Path("export").glob(".imagemill-*"):
        state.unlink()
    assert [record["id"] for record in taken("export")] == ["0", "2"]
    assert len(rejects()) == 1


def test_pictures_that_were_converted_come_back_as_they_are_there() -> None:
    dataset = generated(count=3)
    package.export(dataset, "parquet", "export", image_format="jpeg", max_side=6)
    records = taken("export")
    assert [(record["file_name"], record["width"]) for record in records] == [
        (f"prompt_{n}_image_0.jpg", 6) for n in range(3)
    ]


def test_parts_of_a_thousand_are_parts_again() -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": png(n, (1, 1)), "path": f"{n}.png"} for n in range(1_003)], kind)
    pq.write_table(pa.table({"image": column, "text": [f"text {n}" for n in range(1_003)]}), "t.parquet")
    package.import_dataset("t.parquet", "back")
    dataset = Dataset("back")
    assert [record["prompt"] for record in dataset] == [f"text {n}" for n in range(1_003)]
    assert [len(part.records()) for part in dataset.parts] == [1_000, 3]
    assert all("text" not in record for record in dataset)
    package.export("back", "diffusiondb", "export", zips=True)
    package.import_dataset("export", "again")
    assert contents("again/images") == contents("back/images")


# what others have written


def test_a_folder_of_pictures_keeps_its_files_and_their_names() -> None:
    picture("in/b.png"), picture("in/sub/a.jpg"), picture("in/c.webp")
    write("in/notes.md", "nothing to see")
    write("in/.hidden.png", b"nothing")
    records = taken()
    assert [record["source_image"] for record in records] == ["b.png", "c.webp", "sub/a.jpg"]
    assert [record["file_name"] for record in records] == [
        "prompt_0_image_0.png",
        "prompt_1_image_0.webp",
        "prompt_2_image_0.jpg",
    ]
    assert list(records[0])[: len(RECORD_KEYS)] == list(RECORD_KEYS)
    blank = {"prompt": "", "seed": -1, "model": "", "num_inference_steps": 0, "guidance_scale": 0.0, "id": "0"}
    assert records[0].items() >= blank.items()
    kept = Path("back/images/part-000001/prompt_2_image_0.jpg").read_bytes()
    assert kept == Path("in/sub/a.jpg").read_bytes()
    assert Dataset("back").job["steps"][0]["operator"] == "import"


def test_captions_beside_pictures_are_prompts() -> None:
    for name in "abc":
        picture(f"in/5_dog/{name}.png")
    write("in/5_dog/a.txt", "\ufeffa dog, sitting\n")
    write("in/5_dog/b.json", json.dumps({"caption": "a dog, running", "score": 3}))
    records = taken()
    assert [record["prompt"] for record in records] == ["a dog, sitting", "a dog, running", ""]
    assert [record["score"] for record in records] == [None, 3.0, None]


def test_folders_that_divide_pictures_are_classes() -> None:
    picture("in/cat/1.png"), picture("in/dog/1.png")
    assert [record["class_name"] for record in taken()] == ["cat", "dog"]
    picture("parted/train/cat/1.png"), picture("parted/test/dog/1.png"), picture("parted/train/dog/1.png")
    found = package.import_dataset("parted", "splits")
    assert isinstance(found, dict)
    assert {split: [record["source_image"] for record in each] for split, each in found.items()} == {
        "train": ["train/cat/1.png", "train/dog/1.png"],
        "test": ["test/dog/1.png"],
    }


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_an_imagefolder_of_others_is_read(kind: str) -> None:
    rows = [
        {"file_name": f"{n}.png", "text": f"a, {n}", "steps": n + 20, "width": 8, "rank": n / 2, "label": n % 2}
        for n in range(3)
    ]
    for row in rows:
        write(f"in/train/{row['file_name']}", png(row["steps"]))
    path = Path(f"in/train/metadata.{kind}")
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    write("in/train/nobody.png", png())
    write("in/README.md", "---\nlicense: cc0-1.0\n---\n")
    records = taken()
    assert [record["prompt"] for record in records] == [row["text"] for row in rows]
    assert [record["num_inference_steps"] for record in records] == [20, 21, 22]
    assert [float(record["rank"]) for record in records] == [0.0, 0.5, 1.0]
    assert "text" not in records[0]
    assert [str(record["table_label"]) for record in records] == ["0", "1", "0"]
    assert rejects()["train/nobody.png"] == "no row of the metadata names it"
    assert len(rejects()) == (2 if kind == "jsonl" else 1)
    assert Dataset("back").job["steps"][0]["license"] == "cc0-1.0"


def test_pictures_beside_others_stay_beside_them() -> None:
    rows = [
        {"input_image_file_name": "a.png", "edited_image_file_name": "b.png", "edit_prompt": "greener"},
        {"input_image_file_name": "b.png", "edited_image_file_name": "a.png", "edit_prompt": "redder"},
    ]
    write("in/a.png", png(1)), write("in/b.png", png(2))
    write("in/metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    records = taken()
    assert [record["prompt"] for record in records] == ["greener", "redder"]
    assert records[0]["input_image_file_name"] == "prompt_0_image_0_input_0.png"
    assert records[0]["edited_image_file_name"] == records[0]["file_name"]
    train = load("back")["train"]
    assert train[0]["input_image"].getpixel((0, 0))[0] == 1
    assert train[0]["image"].getpixel((0, 0))[0] == 2


def test_columns_have_one_type_whatever_came() -> None:
    rows: list[dict[str, Any]] = [
        {"mixed": 1, "floats": 1, "big": 2**63, "flag": True, "tags": ["a"], "some": 1, "nan": 0.5, "n": {"a": 1}},
        {"mixed": "x", "floats": 0.5, "big": 1, "flag": False, "tags": ["b", "c"], "nan": float("nan"), "n": None},
    ]
    for n, row in enumerate(rows):
        write(f"in/{n}.png", png(n))
        row |= {
            "when": ["2024-01-02", "soon"][n],
            "file_name": f"{n}.png",
            "lora_file_name_": "x",
            "model": 3,
            "empty": None,
        }
    write("in/metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    one, two = taken()
    assert (one["mixed"], two["mixed"]) == ("1", "x")
    assert (one["floats"], two["floats"]) == (1.0, 0.5)
    assert (one["big"], two["big"]) == (str(2**63), "1")
    assert (one["flag"], two["flag"]) == (True, False)
    assert (one["tags"], two["tags"]) == (["a"], ["b", "c"])
    assert (one["some"], two["some"]) == (1.0, None)
    assert (one["nan"], two["nan"]) == (0.5, None)
    assert (one["n"], two["n"]) == ('{"a": 1}', "")
    assert (one["model"], one["table_model"]) == ("", 3)
    assert one["empty"] == ""
    assert (one["when"], two["when"]) == ("2024-01-02", "soon")
    loaded = load("back")["train"]
    assert (loaded["some"], loaded["when"]) == ([1.0, None], ["2024-01-02", "soon"])


@every_layout
def test_times_of_which_some_are_blank_come_back(layout: str) -> None:
    """Readers of JSON must not take a whole piece for times where there are texts in others."""
    times = ["2024-01-02T10:00:00", "", "2024-01-04T10:00:00"]
    write("in/metadata.csv", "file_name,timestamp\n" + "".join(f"{n}.png,{time}\n" for n, time in enumerate(times)))
    for n in range(len(times)):
        write(f"in/{n}.png", png(n))
    assert [record["timestamp"] for record in taken()] == times
    package.export("back", layout, "export")
    again = taken("export", "again")
    assert [record["timestamp"] for record in again] == times
    if layout == "diffusiondb":
        found = pq.read_table("export/metadata.parquet")["timestamp"].to_pylist()
        assert [time and time.isoformat()[:19] for time in found] == [time or None for time in times]


def test_times_of_a_prompt_table_of_which_some_are_blank_are_times_of_diffusiondb() -> None:
    write("prompts.csv", "prompt,timestamp\na red circle,2024-01-02T10:00:00\na blue star,\n")
    package.generate("prompts.csv", "out", model="fake")
    package.export("out", "diffusiondb", "ddb")
    assert pq.read_table("ddb/metadata.parquet")["timestamp"].null_count == 1
    package.import_dataset("ddb", "back")
    assert list(package.Dataset("back")) == list(package.Dataset("out"))


def test_a_part_of_nothing_but_times_is_no_other_than_the_next() -> None:
    Path("in").mkdir()
    rows = "".join(f"{n:04d}.png,2024-01-02\n" for n in range(1_000))
    write("in/metadata.csv", f"file_name,day\n{rows}1000.png,\n")
    for n in range(1_001):
        write(f"in/{n:04d}.png", png(n % 7))
    package.import_dataset("in", "back")
    loaded = load("back")["train"]["day"]
    assert {day.strip() for day in loaded} == {"2024-01-02", ""}


def test_seeds_that_are_too_large_are_kept_as_texts(imagemill: Command) -> None:
    seeds = [5, 2**32, 2**63 + 5, None]
    for n, seed in enumerate(seeds):
        write(f"in/{n}.png", png(n))
        write(f"in/{n}.json", json.dumps({"seed": seed}))
    ran = imagemill("import", "in", "-o", "back")
    assert ran.code == 0
    assert "2 × `seed` is -1, and what the source says is in `seed_str`" in ran.err
    records = list(Dataset("back"))
    assert [record["seed"] for record in records] == [5, -1, -1, -1]
    assert [record["seed_str"] for record in records] == ["", str(2**32), str(2**63 + 5), ""]


A1111 = """a fox, (sharp:1.2)
Negative prompt: blurry
Steps: 25, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 77, Size: 8x8, Model hash: 0123456789, \
Model: "a, b", Clip skip: 2"""
COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 2**60,
            "steps": 20,
            "cfg": 7,
            "sampler_name": "euler_ancestral",
            "scheduler": "karras",
            "positive": ["6", 0],
            "negative": ["7", 0],
            "model": ["4", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 8, "height": 8, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}, "is_changed": [float("nan")]},
}


def test_what_pictures_say_of_themselves_becomes_columns() -> None:
    invoke = {"positive_prompt": "a dog", "seed": 4, "steps": 9, "cfg_scale": 5.0, "scheduler": "euler_a"}
    write("in/a.png", png(1, parameters=A1111))
    write("in/b.png", png(2, prompt=json.dumps(COMFY), workflow="{}"))
    write("in/c.png", png(3, invokeai_metadata=json.dumps(invoke)))
    write("in/d.png", png(4))
    shutil.copyfile(next(iter(generated(count=1).folder.glob("images/*/*.png"))), "in/e.png")
    a, b, c, d, e = taken()
    assert a["prompt"] == "a fox, (sharp:1.2)"
    assert (a["model"], a["model_revision"], a["scheduler"]) == ("a, b", "0123456789", "dpmpp_2m")
    assert (a["seed"], a["guidance_scale"], a["clip_skip"]) == (77, 6.5, 2.0)
    assert (b["seed"], b["seed_str"], b["model"]) == (-1, str(2**60), "base.safetensors")
    assert (b["prompt"], b["scheduler"], b["schedule_type"]) == ("a fox", "euler_ancestral", "karras")
    assert (c["prompt"], c["num_inference_steps"], c["scheduler"]) == ("a dog", 9, "euler_ancestral")
    assert (d["prompt"], d["clip_skip"], d["made_with"]) == ("", None, "")
    assert (e["prompt"], e["model"], e["made_with"]) == ("picture 0", "fake", "imagemill")
    assert [record["made_with"] for record in (a, b, c)] == ["a1111", "comfyui", "invokeai"]
    assert "size" not in a


def test_what_the_table_says_and_what_the_file_says_are_both_kept() -> None:
    write("in/a.png", png(1, parameters=A1111))
    write("in/metadata.jsonl", json.dumps({"file_name": "a.png", "prompt": "mine", "steps": 25}) + "\n")
    (record,) = taken()
    assert (record["prompt"], record["embedded_prompt"], record["seed"]) == ("mine", "a fox, (sharp:1.2)", 77)
    assert "embedded_num_inference_steps" not in record
    write("in/metadata.jsonl", json.dumps({"file_name": "a.png", "clip_skip": 9, "made_with": "a1111"}) + "\n")
    (record,) = taken(output="again")
    assert (record["clip_skip"], record["embedded_clip_skip"]) == (9, 2)
    assert "embedded_made_with" not in record


def test_tar_files_of_img2dataset_are_read() -> None:
    told = {"caption": "a fox", "url": "http://127.0.0.1/x", "key": "000000000", "status": "success", "width": 8}
    tar(
        "in/00000.tar",
        [
            ("000000000.jpg", picture_bytes("JPEG")),
            ("000000000.txt", b"a fox"),
            ("000000000.json", json.dumps(told).encode()),
            ("000000001.jpg", picture_bytes("JPEG", 3)),
            ("000000001.txt", b"a dog"),
            ("000000001.json", json.dumps({**told, "caption": "a dog", "key": "000000001"}).encode()),
        ],
    )
    write("in/00000_stats.json", "{}")
    pq.write_table(pa.table({"key": ["000000000"], "url": ["x"]}), "in/00000.parquet")
    records = taken()
    assert [record["prompt"] for record in records] == ["a fox", "a dog"]
    assert [record["key"] for record in records] == ["000000000", "000000001"]
    assert "caption" not in records[0]
    assert "table_width" not in records[0]


def picture_bytes(kind: str, color: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (color, 40, 90)).save(file, kind)
    return file.getvalue()


def test_members_need_not_lie_beside_each_other_and_keys_may_have_points() -> None:
    tar(
        "shard.tar",
        [
            ("sdxl-1.0_0.PNG", png(0)),
            ("sdxl-1.0_1.png", png(1)),
            ("sdxl-1.0_0.txt", b"zero"),
            ("sdxl-1.0_1.txt", b"one"),
            ("pair.input.png", png(2)),
            ("pair.edited.png", png(3)),
            ("pair.txt", b"greener"),
            ("pair.cls", b"4"),
        ],
    )
    records = taken("shard.tar")
    assert [record["prompt"] for record in records] == ["zero", "one", "greener"]
    assert [len(record["input_image_file_names"]) for record in records] == [0, 0, 1]
    assert [record["cls"] for record in records] == [None, None, 4.0]
    assert Path("back/images/part-000001/prompt_2_image_0.png").read_bytes() == png(3)


@pytest.mark.parametrize("order", [("bytes", "path"), ("path", "bytes"), ("large",), ("plain",)])
def test_tables_of_others_are_read_however_their_pictures_are_stored(order: tuple[str, ...]) -> None:
    value: Any = [{"bytes": png(n), "path": f"{n}.png"} for n in range(3)]
    if order == ("plain",):
        column = pa.array([item["bytes"] for item in value])
    elif order == ("large",):
        column = pa.array(value, pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]))
    else:
        kinds = {"bytes": pa.binary(), "path": pa.string()}
        column = pa.array(value, pa.struct([(name, kinds[name]) for name in order]))
    for split in ("train", "test"):
        Path("in/data").mkdir(parents=True, exist_ok=True)
        rows = pa.table({"image": column, "caption": ["a", "b", None], "n": [1, None, 3]})
        pq.write_table(rows, f"in/data/{split}-00000-of-00001.parquet")
    found = package.import_dataset("in", "back")
    assert isinstance(found, dict)
    assert list(found) == ["train", "test"]
    for each in found.values():
        assert [record["prompt"] for record in each] == ["a", "b", ""]
        assert [record["n"] for record in each] == [1.0, None, 3.0]
        assert verify(each) == []
    assert {split: len(rows) for split, rows in load("back").items()} == {"train": 3, "test": 3}


def test_a_dataset_that_was_saved_by_hugging_face_is_read() -> None:
    datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "text": datasets.Value("string"),
        }
    )
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(4)], "label": [0, 1, 1, 0], "text": list("abcd")}
    made = datasets.Dataset.from_dict(rows, features)
    made.save_to_disk("single")
    datasets.DatasetDict({"train": made.select([0, 1]), "test": made.select([2, 3])}).save_to_disk("several")
    records = taken("single")
    assert [record["table_label"] for record in records] == ["cat", "dog", "dog", "cat"]
    assert [record["prompt"] for record in records] == list("abcd")
    found = package.import_dataset("several", "splits")
    assert isinstance(found, dict)
    assert {split: [record["prompt"] for record in each] for split, each in found.items()} == {
        "train": ["a", "b"],
        "test": ["c", "d"],
    }


def test_a_dataset_of_the_hub_is_loaded(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the package `datasets` is not installed")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.table({"image": pa.array([{"bytes": png(n), "path": None} for n in range(3)], kind), "text": list("abc")})
    files: dict[str, bytes] = {"README.md": b"---\nlicense: cc0-1.0\n---\n"}
    told = {"info": {"features": {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}}}
    for split in ("train", "test"):
        sink = pa.BufferOutputStream()
        pq.write_table(rows.replace_schema_metadata({"huggingface": json.dumps(told)}), sink)
        files[f"data/{split}-00000-of-00001.parquet"] = sink.getvalue().to_pybytes()
    with hub_server() as server:
        server.add("someone/pictures", files, private=False)
        server.add("someone/texts", {"a.csv": b"text\nno picture\n"}, private=False)
        told_of = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "imagemill", "import", *arguments]
            return subprocess.run(command, env=told_of, capture_output=True, text=True, timeout=120, check=False)

        ran = run("hf://datasets/someone/pictures", "-o", "back", "--json")
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)["splits"] == {"train": 3, "test": 3}
        absent = run("someone/nothing", "-o", "x")
        texts = run("someone/texts", "-o", "x")
    assert (absent.returncode, texts.returncode) == (1, 2)
    assert "cannot be loaded" in absent.stderr
    assert "has no column of images" in texts.stderr
    assert "Traceback" not in absent.stderr
    assert not Path("x").exists()
    assert [record["prompt"] for record in Dataset("back/test")] == ["a", "b", "c"]
    assert verify(Dataset("back/test")) == []


def test_diffusiondb_as_others_have_it() -> None:
    name = "0b7a5e0e-4e32-4d4c-8f0e-0123456789ab.png"
    entries = {name: {"p": "a fox", "se": 7, "c": 7.0, "st": 50, "sa": "k_lms"}, "absent.png": {"p": "x"}}
    entries["../../secret.png"] = {"p": "traversal"}
    write("secret.png", png())
    write("in/part-000001/" + name, png(1))
    write("in/part-000001/part-000001.json", json.dumps(entries))
    write("in/part-000002/part-000002.json", "{cut")
    shutil.move("in", "images"), Path("in").mkdir(), shutil.move("images", "in/images")
    (record,) = taken()
    assert (record["prompt"], record["seed"], record["scheduler"]) == ("a fox", 7, "lms")
    assert (record["num_inference_steps"], record["guidance_scale"]) == (50, 7.0)
    assert record["source_image"] == name
    assert rejects()["absent.png"] == "its file is absent"
    assert rejects()["part-000002"].startswith("the part cannot be read")
    assert "../../secret.png" in rejects()


@pytest.mark.parametrize("zips", [False, True])
def test_parts_of_diffusiondb_are_known_wherever_one_begins(zips: bool) -> None:
    package.generate([{"prompt": f"shape {n}"} for n in range(2)], "out", model="fake", seed=7)
    package.export("out", "diffusiondb", "ddb", zips=zips)
    part = "part-000001.zip" if zips else "part-000001"
    for number, source in enumerate(["ddb/images", f"ddb/images/{part}"]):
        records = taken(source, f"back{number}")
        assert [record["prompt"] for record in records] == ["shape 0", "shape 1"]
        assert [record["seed"] for record in records] == [record["seed"] for record in Dataset("out")]
        assert "class_name" not in records[0]
    assert taken(f"ddb/images/{part}", "named", layout="diffusiondb")[1]["prompt"] == "shape 1"


def test_edits_of_others_keep_the_column_that_trainers_read() -> None:
    image = {"bytes": png(1), "path": None}
    Path("in").mkdir()
    row = {"input_image": image, "edit_prompt": "make it red", "edited_image": {"bytes": png(2), "path": None}}
    pq.write_table(pa.Table.from_pylist([row]), "in/train.parquet")
    (record,) = taken()
    assert (record["prompt"], record["edit_prompt"]) == ("make it red", "make it red")
    package.export("back", "parquet", "export")
    assert {"input_image", "edit_prompt", "edited_image"} <= set(pq.read_table("export/data").column_names)


def test_cells_of_csv_files_are_what_readers_take_them_for() -> None:
    write(
        "in/metadata.csv",
        "file_name,prompt,score,some,count,flag,code,version\n"
        "0.png,7,0.5,,3,true,007,1.0\n1.png,8,1.5,2,4,False,008,1.0.1\n",
    )
    for n in range(2):
        write(f"in/{n}.png", png(n))
    one, two = taken()
    assert (one["score"], one["some"], one["count"], one["flag"]) == (0.5, None, 3, True)
    assert (two["score"], two["some"], two["count"], two["flag"]) == (1.5, 2.0, 4, False)
    assert (one["prompt"], one["code"], one["version"]) == ("7", "007", "1.0")
    package.select("back", "high", where="score > 1")
    assert len(Dataset("high")) == 1


def test_a_column_that_only_sounds_like_files_is_one_of_texts() -> None:
    rows = [{"file_name": f"{n}.png", "lora_file_name": "style.safetensors"} for n in range(2)]
    write("in/metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for n in range(2):
        write(f"in/{n}.png", png(n))
    assert [record["lora_filename"] for record in taken()] == ["style.safetensors"] * 2
    write("in/metadata.jsonl", json.dumps({"file_name": "0.png", "mask_file_name": "masks/0.png"}) + "\n")
    with pytest.raises(SomeFailed, match=r"`masks/0\.png`, which it names, is absent"):
        package.import_dataset("in", "named")


def test_what_is_left_out_of_a_folder_is_told(imagemill: Command) -> None:
    write("in/a.png", png(1))
    write("in/a.txt", "a fox")
    Image.new("RGB", (8, 8)).save("in/b.jfif", "JPEG")
    for name in ("m.pkl", "n.pkl", "captions.csv", "noext", "README.md"):
        write(f"in/{name}", "text")
    ran = imagemill("import", "in", "-o", "back")
    assert ran.code == 0
    assert "left out: 2 × `.pkl`, 1 × `.csv`, 1 × `noext`" in ran.err
    assert len(Dataset("back")) == 2
    write("in/metadata.jsonl", '{"file_name": "a.png"}\n{"file_name": "b.jfif"}\n')
    assert "2 × `.pkl`, 1 × `.txt`, 1 × `.csv`" in imagemill("import", "in", "-o", "named").err


def test_a_folder_of_splits_says_what_is_in_it(imagemill: Command) -> None:
    for split in ("train", "test"):
        write(f"in/{split}/a.png", png(1))
    assert imagemill("import", "in", "-o", "back").code == 0
    ran = imagemill("verify", "back")
    assert ran.code == 2
    assert "name `back/test` or `back/train`" in ran.err


def test_the_numbers_of_kohya_are_no_part_of_classes() -> None:
    for n, folder in enumerate(["10_cat", "5_dog"]):
        write(f"in/{folder}/{n}.png", png(n))
        write(f"other/{folder[0]}_cat/{n}.png", png(n))
    assert [record["class_name"] for record in taken()] == ["cat", "dog"]
    assert [record["class_name"] for record in taken("other", "kept")] == ["1_cat", "5_cat"]


def test_samplers_beside_pictures_have_one_name() -> None:
    for n, sampler in enumerate(["k_euler", "euler"]):
        write(f"in/{n}.png", png(n))
        write(f"in/{n}.json", json.dumps({"sampler": sampler}))
    assert [record["scheduler"] for record in taken()] == ["euler", "euler"]


def test_what_cannot_be_a_source_says_why() -> None:
    write("in/a.png", png(1))
    write("in/metadata.csv", "file_name;text\na.png;a fox\n")
    with pytest.raises(SomeFailed, match=r"there is no `file_name` among `file_name;text`"):
        package.import_dataset("in", "back")
    write("pictures.tar.gz", b"\x1f\x8b")
    with pytest.raises(UsageError) as raised:
        package.import_dataset("pictures.tar.gz", "back")
    assert raised.value.hint == "unpack it first"
    write("broken.parquet", b"PAR1")
    with pytest.raises(UsageError, match="cannot be read as a table"):
        package.import_dataset("broken.parquet", "back")
    generated(count=1)
    package.export("out", "parquet", "export")
    with pytest.raises(UsageError) as raised:
        package.export("export", "webdataset", "again")
    assert "`imagemill import export -o FOLDER`" in str(raised.value.hint)


# what cannot be taken in


def test_what_cannot_be_taken_in_is_told_and_the_rest_goes_on(imagemill: Command) -> None:
    write("in/a.png", png(1))
    write("in/cut.png", png(2, (300, 300))[:-30])
    write("in/text.png", "no picture")
    write("in/empty.jpg", b"")
    write("in/other.gif", b"GIF89a")
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save("in/moves.webp", save_all=True, append_images=frames[1:])
    Image.new("1", (7_000, 6_000)).save("in/bomb.png")
    Path("in/gone.png").symlink_to("nowhere.png")
    os.mkfifo("in/pipe.png")
    (Path("in") / os.fsdecode(b"na\xffme.png")).write_bytes(png(4))
    ran = imagemill("import", "in", "-o", "back", "--json")
    assert ran.code == 3
    assert ran.json["rejected"] == 8
    assert "8 pictures not taken in" in ran.err
    found = rejects()
    assert "pixels are more than" in found["bomb.png"]
    assert found["moves.webp"] == "it moves: 2 pictures in one file"
    assert found["other.gif"] == "neither a PNG nor a JPEG nor a WebP image"
    assert set(found) == {
        *("bomb.png", "cut.png", "empty.jpg", "gone.png", "moves.webp", "other.gif", "pipe.png", "text.png")
    }
    assert [record["source_image"] for record in Dataset("back")] == ["a.png", "na\ufffdme.png"]
    assert verify(Dataset("back")) == []
    assert Dataset("back").counts().rows_read == 10
    assert imagemill("import", "in", "-o", "back").code == 3


def test_turned_and_transparent_pictures_are_what_readers_show(imagemill: Command) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Path("in").mkdir()
    Image.new("RGB", (8, 16), "red").save("in/turned.jpg", exif=exif)
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save("in/clear.png")
    ran = imagemill("import", "in", "-o", "back")
    assert "2 × upright and without transparency, as PNG" in ran.err
    clear, turned = Dataset("back")
    assert (turned["width"], turned["height"], turned["file_name"]) == (16, 8, "prompt_1_image_0.png")
    assert Dataset("back").image(clear["file_name"]).getpixel((0, 0)) == (255, 255, 255)
    assert verify(Dataset("back")) == []


MARK = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType='
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>'
)
PARAMETERS = "a red fox\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5"


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_conversion_keeps_what_a_picture_tells_of_its_origin(mode: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", PARAMETERS)
    info.add_text("workflow", '{"nodes": []}')
    info.add_itxt("XML:com.adobe.xmp", MARK)
    Path("in").mkdir()
    Image.new(mode, (8, 8)).save("in/a.png", pnginfo=info)
    (record,) = taken()
    assert (record["prompt"], record["seed"]) == ("a red fox", 5)
    image = Dataset("back").image(record["file_name"])
    assert is_marked(image)
    assert (image.info["parameters"], image.info["workflow"]) == (PARAMETERS, '{"nodes": []}')
    for image_format, quality in (("jpeg", 90), ("webp", None), ("webp", 80)):
        output = f"as-{image_format}-{quality}"
        package.export("back", "imagefolder", output, image_format=image_format, quality=quality)
        (path,) = Path(output).glob("train/*/prompt_0*")
        with Image.open(path) as image:
            assert is_marked(image)
            assert (read_embedded(image)["seed"], read_embedded(image)["prompt"]) == (5, "a red fox")


def test_archives_lead_nowhere(imagemill: Command) -> None:
    with zipfile.ZipFile("in.zip", "w") as archive:
        archive.writestr("a/one.png", png(1))
        archive.writestr("a/one.txt", "a fox")
        archive.writestr("../out.png", png(2))
        archive.writestr("/abs.png", png(3))
        archive.writestr("a\\..\\..\\b.png", png(3))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("large.png", bytes(70 << 20), zipfile.ZIP_DEFLATED)
        archive.writestr("__MACOSX/._one.png", b"x")
    (record,) = taken("in.zip")
    assert (record["source_image"], record["prompt"]) == ("a/one.png", "a fox")
    assert set(rejects()) >= {"../out.png", "/abs.png", "link.png", "large.png"}
    assert len(rejects()) == 5
    with tarfile.open("in.tar", "w") as shard:
        for name, kind in (("a.png", b""), ("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            if kind:
                info.type, info.linkname = kind, "/etc/passwd"
                shard.addfile(info)
            else:
                info.size = len(png())
                shard.addfile(info, io.BytesIO(png()))
        for name, data in (("../up.png", png()), ("a.pkl", b"cos\nsystem\n(S'touch pwned'\ntR."), ("a.pyd", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("fifo.png")
        info.type = tarfile.FIFOTYPE
        shard.addfile(info)
    ran = imagemill("import", "in.tar", "-o", "tarred")
    assert ran.code == 3
    assert "left out: 1 × .pkl, 1 × .pyd" in ran.err
    assert set(rejects("tarred")) == {f"in.tar/{name}" for name in ("link.png", "hard.png", "../up.png", "fifo.png")}
    assert not Path("pwned").exists()
    assert not Path("up.png").exists()


def test_what_is_cut_is_told() -> None:
    tar("in/00000.tar", [(f"{n}.png", png(n)) for n in range(3)])
    data = Path("in/00000.tar").read_bytes()
    Path("in/00000.tar").write_bytes(data[: 512 * 5])
    records = taken()
    assert records
    assert len(records) < 3
    assert rejects()
    write("zip.zip", b"PK\3\4 no archive")
    with pytest.raises(UsageError, match="no whole ZIP archive"):
        package.import_dataset("zip.zip", "x")
    assert not Path("x").exists()


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "http://127.0.0.1/a.png", "b\0.png", "", 5, None])
def test_a_table_names_files_of_its_own_folder_only(name: Any) -> None:
    write("a.png", png())
    write("in/a.png", png())
    rows = [{"file_name": "a.png"}, {"file_name": name}]
    write("in/metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert len(taken()) == 1
    assert len(rejects()) == 1


def test_a_row_of_a_table_with_a_path_reads_no_file_elsewhere() -> None:
    write("secret.png", png(9))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [
        {"bytes": png(1), "path": "/etc/x.png"},
        *({"bytes": None, "path": path} for path in ("../secret.png", "b.png")),
    ]
    write("in/b.png", png(2))
    pq.write_table(pa.table({"image": pa.array([*rows, None], kind)}), "in/t.parquet")
    assert [record["source_image"] for record in taken()] == ["/etc/x.png", "b.png"]
    assert len(rejects()) == 2


def archived(path: str, members: Iterable[tuple[str, bytes]], **options: Any) -> None:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members:
            archive.writestr(name, data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_not_taken_for_one() -> None:
    archived("in.zip", [("a.png", png(1)), ("b.png", png(2)), ("a.png", png(3))])
    assert [record["source_image"] for record in taken("in.zip")] == ["b.png"]
    assert rejects() == {"a.png": "the archive has two members of this name"}


def test_packed_members_that_are_damaged_are_told() -> None:
    archived("in.zip", [("a.png", png(1)), ("b.png", png(2))], compression=zipfile.ZIP_DEFLATED)
    data = bytearray(Path("in.zip").read_bytes())
    data[35:45] = b"\xff" * 10
    Path("in.zip").write_bytes(data)
    assert len(taken("in.zip")) == 1
    assert "cannot be read from the archive" in rejects()["a.png"]


def test_what_an_archive_must_not_hold_is_told_once_and_in_one_order() -> None:
    members = [("test/a.png", png(1)), ("train/b.png", png(2))]
    archived("in.zip", [*members, *((f"../{n}.txt", b"") for n in range(9))])
    found = package.import_dataset("in.zip", "back")
    assert isinstance(found, dict)
    assert [line["raw"] for line in found["train"].rejects()] == [f"../{n}.txt" for n in range(9)]
    assert found["test"].rejects() == []


@pytest.mark.parametrize("entry", [{"sa": [1]}, {"timestamp": "2022"}, {"timestamp": 5, "sa": {}}])
def test_a_part_may_say_what_it_wants(entry: dict[str, Any]) -> None:
    write("in/images/part-000001/a.png", png())
    write("in/images/part-000001/part-000001.json", json.dumps({"a.png": {"p": "a fox", **entry}}))
    (record,) = taken()
    assert record["prompt"] == "a fox"


def test_texts_without_end_are_told() -> None:
    for n, text in enumerate(["[" * 100_000, '{"caption": "fine"}']):
        write(f"in/{n}.png", png(n))
        write(f"in/{n}.json", text)
    assert [record["prompt"] for record in taken()] == ["fine"]
    assert "what stands beside it cannot be read" in rejects()["0.png"]
    write("parts/images/part-000001/part-000001.json", "[" * 100_000)
    with pytest.raises(SomeFailed, match="the part cannot be read"):
        package.import_dataset("parts", "x")


@pytest.mark.parametrize("state", ['{"_data_files": ["x"]}', '{"_data_files": 3}', "[" * 100_000, "[]"])
def test_a_file_that_only_looks_like_that_of_a_saved_dataset_is_passed_over(state: str) -> None:
    write("in/a.png", png())
    write("in/state.json", state)
    assert len(taken()) == 1


def test_lists_of_pictures_without_a_first_one_are_read() -> None:
    for n in range(3):
        write(f"in/{n}.png", png(n))
    rows = [{"file_names": ["0.png", "1.png"], "text": "both"}, {"file_names": ["2.png"], "text": "one"}]
    write("in/metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    records = taken()
    assert [record["prompt"] for record in records] == ["both", "one"]
    assert [len(record["other_file_names"]) for record in records] == [1, 0]


def test_a_table_is_not_held_in_memory() -> None:
    from imagemill.foreign.folders import read_folder

    write("in/a.png", png())
    write("in/metadata.jsonl", (json.dumps({"file_name": "a.png", "text": "x" * 1_000}) + "\n") * 5_000)
    archived("in.zip", [(name, Path("in", name).read_bytes()) for name in ("a.png", "metadata.jsonl")])
    for source in ("in", "in.zip"):
        tracemalloc.start()
        assert sum(1 for _ in read_folder(Path(source), "train")) == 5_000
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 2 << 20


def marked(**changes: Any) -> None:
    """An export that says other things of itself."""
    mark = json.loads(Path("export/.imagemill-export.json").read_text())
    write("export/.imagemill-export.json", json.dumps({**mark, **changes}))
    Path("export/.imagemill-manifest.jsonl").unlink()
    write_manifest(Path("export"))


@pytest.mark.parametrize(
    "changes",
    [
        {"splits": {"../evil": {"images": 2}}},
        {"splits": {"/tmp/evil": {"images": 2}}},
        {"format": 2},
        {"splits": {"train": {"images": 2, "steps": [{}]}}},
    ],
)
def test_an_export_cannot_say_where_it_goes(changes: dict[str, Any]) -> None:
    generated()
    package.export("out", "parquet", "export")
    marked(**changes)
    with pytest.raises(UsageError, match="cannot be read"):
        package.import_dataset("export", "sub/back")
    assert not Path("sub").exists()


@pytest.mark.parametrize("layout", ["imagefolder", "diffusiondb"])
def test_an_export_names_files_of_its_own_only(layout: str, edited: Path) -> None:
    write("secret.png", png(9))
    package.export(edited, layout, "export")
    name = "train/metadata.jsonl" if layout == "imagefolder" else "metadata-extra.parquet"
    path, above = Path("export", name), "../../../secret.png"
    if layout == "imagefolder":
        lines = [{**json.loads(line), "mask_file_name": above} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        found = pq.read_table(path)
        place = found.column_names.index("input_image_file_name")
        found = found.set_column(place, found.field(place), pa.array([above] * len(found)))
        pq.write_table(found, path)
    marked()
    with pytest.raises(ImagemillError, match="leads elsewhere"):
        package.import_dataset("export", "back")
    assert not list(Path("back").rglob("*.png"))


def test_what_stands_in_the_folder_already_is_left_alone() -> None:
    write("pictures/a.png", png())
    package.import_dataset("pictures", "out/mine")
    before = contents("out")
    for split in ("train", "test"):
        write(f"in/{split}/a.png", "no picture")
    with pytest.raises(UsageError, match="holds something else"):
        package.import_dataset("in", "out")
    assert contents("out") == before
    write("kept/.imagemill/queue", "mine")
    write("kept/notes.txt", "mine")
    with pytest.raises(SomeFailed):
        package.import_dataset("in", "kept")
    assert {path.name for path in Path("kept").rglob("*") if path.is_file()} == {"queue", "notes.txt"}


@pytest.mark.parametrize("divided", [True, False])
def test_stopped_before_the_last_card_it_is_written_next_time(divided: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from imagemill.making import importing
    from imagemill.operators import import_

    for split in ("train", "test"):
        write(f"in/{split}/{split}.png", png(len(split)))
    source = "in" if divided else "in/train"
    package.import_dataset(source, "whole")

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    module, name = (import_, "write_above") if divided else (importing, "write_card")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, stopped)
        with pytest.raises(KeyboardInterrupt):
            package.import_dataset(source, "back")
    package.import_dataset(source, "back")
    assert contents("back") == contents("whole")


def test_a_folder_that_may_not_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    write("in/a.png", png())
    write("in/locked/b.png", png())
    looked = os.scandir

    def look(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return looked(path)

    monkeypatch.setattr(os, "scandir", look)
    with pytest.raises(UsageError, match="locked` cannot be read: Permission denied"):
        package.import_dataset("in", "back")
    assert not Path("back").exists()


def test_texts_that_are_none_are_told() -> None:
    for n, text in enumerate(["a\0b", "\ud800", "fine"]):
        write(f"in/{n}.png", png(n))
        write(f"in/{n}.json", json.dumps({"caption": text}))
    assert [record["prompt"] for record in taken()] == ["fine"]
    assert len(rejects()) == 2


def test_nothing_to_take_in_leaves_nothing() -> None:
    write("in/a.png", "no picture")
    with pytest.raises(SomeFailed, match=r"none of 1 pictures can be taken in; the first, `a.png`"):
        package.import_dataset("in", "back")
    Path("empty").mkdir()
    for source, told in {
        "empty": "holds no picture",
        "nowhere": "there is no",
        "./user/name": "there is no",
        "table.csv": "is a table without pictures",
        "out": "is a dataset already",
    }.items():
        write("table.csv", "prompt\na\n")
        if source == "out":
            generated(count=1)
        with pytest.raises(UsageError, match=told):
            package.import_dataset(source, "back")
    with pytest.raises(UsageError, match="did you mean `webdataset`"):
        package.import_dataset("in", "back", layout="webdatasets")
    with pytest.raises(UsageError, match="is not in the layout `parquet`"):
        package.import_dataset("in", "back", layout="parquet")
    with pytest.raises(UsageError, match="is inside of"):
        package.import_dataset("in", "in/back")
    assert not Path("back").exists()


# the same command again


def test_the_same_command_again_does_nothing_and_another_is_refused(imagemill: Command) -> None:
    write("in/a.png", png(1))
    assert imagemill("import", "in", "-o", "back", "--dry-run").code == 0
    assert not Path("back").exists()
    assert imagemill("import", "in", "-o", "back").code == 0
    before = contents("back")
    ran = imagemill("import", "in", "-o", "back")
    assert (ran.code, "imported before" in ran.err) == (0, True)
    assert contents("back") == before
    write("in/a.png", png(2))
    assert imagemill("import", "in", "-o", "back").code == 2
    write("other/a.png", png(2))
    assert "was imported from something else" in imagemill("import", "other", "-o", "back").err
    assert contents("back") == before
    generated()
    assert "was not imported" in imagemill("import", "in", "-o", "out").err
    with Dataset("back").lock():
        assert imagemill("import", "in", "-o", "back").code == 5
    with pytest.raises(LockedError), Dataset("back").lock():
        package.import_dataset("in", "back")


def test_scores_that_were_added_since_stay() -> None:
    write("in/a.png", png(1)), write("in/b.png", png(2))
    dataset = package.import_dataset("in", "back")
    package.score("back", "quality")
    before = contents("back")
    package.import_dataset("in", "back")
    assert isinstance(dataset, Dataset)
    assert contents("back") == before
    assert verify(dataset) == []


PROGRAM = """
import sys
import imagemill
from imagemill.dataset import folder
from imagemill.making import importing

folder.PART_SIZE = importing.PART_SIZE = 40
imagemill.import_dataset(sys.argv[1], sys.argv[2])
"""


def test_killed_at_any_moment_the_same_command_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from imagemill.dataset import folder
    from imagemill.making import importing

    for module in (folder, importing):
        monkeypatch.setattr(module, "PART_SIZE", 40)
    members: list[tuple[str, bytes]] = []
    for n in range(300):
        text = f"prompt {n}\nSteps: {n}, Sampler: Euler, CFG scale: 7"
        data = png(n, (48, 48), parameters=text)
        members += [(f"{n:05d}.png", data if n != 170 else data[:60]), (f"{n:05d}.txt", f"caption {n}".encode())]
    tar("in/00000.tar", members)
    whole = package.import_dataset("in", "whole")
    kills = 0
    chance = random.Random(5)
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, "in", "back"], start_new_session=True)
        deadline = time.monotonic() + 20
        while not Path("back").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            process.wait(0.05 + 0.12 * attempt + chance.random() / 8)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        for path in Path("back").glob("images/*/metadata.jsonl"):
            records = [json.loads(line) for line in path.read_text().splitlines()]
            assert all(path.with_name(record["file_name"]).is_file() for record in records)
    package.import_dataset("in", "back")
    assert kills >= 1
    assert contents("back/images") == contents("whole/images")
    assert Dataset("back").rejects() == Dataset("whole").rejects()
    assert isinstance(whole, Dataset)
    assert len(whole) == 299
    assert len(whole.parts) == 8
    assert verify(Dataset("back"), reader=False) == []


def test_a_source_that_changes_between_two_kills_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from imagemill.making import importing

    for n in range(6):
        write(f"in/{n}.png", png(n))
    seal = importing._seal

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "_seal", stopped)
    with pytest.raises(KeyboardInterrupt):
        package.import_dataset("in", "back")
    monkeypatch.setattr(importing, "_seal", seal)
    write("in/3.png", png(99))
    with pytest.raises(UsageError, match="has changed since"):
        package.import_dataset("in", "back")
    write("in/3.png", png(3))
    assert len(taken()) == 6
    assert not Path("back/.imagemill/import").exists()


def test_what_was_looked_at_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from imagemill.making import surveying

    for n in range(600):
        write(f"in/{n:03d}.png", png(n, (1, 1)))
    look, seen = surveying._looked, []

    def looked(found: Any, *others: Any) -> Any:
        seen.append(found.place)
        if len(seen) == 400:
            raise KeyboardInterrupt
        return look(found, *others)

    monkeypatch.setattr(surveying, "_looked", looked)
    with pytest.raises(KeyboardInterrupt):
        package.import_dataset("in", "back")
    del seen[:]
    seen += [0] * 1_000
    package.import_dataset("in", "back")
    assert min(seen[1_000:]) == 256
    assert len(Dataset("back")) == 600


def test_a_source_that_changes_meanwhile_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from imagemill.operators import import_

    write("in/a.png", png(1))
    settle = import_.settle

    def changing(*arguments: Any) -> Any:
        write("in/a.png", png(2))
        return settle(*arguments)

    monkeypatch.setattr(import_, "settle", changing)
    with pytest.raises(ImagemillError, match="has changed while it was imported"):
        package.import_dataset("in", "back")
    assert list(Dataset("back")) == []
