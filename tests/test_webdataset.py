"""Tar shards are what WebDataset's readers take samples from, without any of the ways in which they lose them."""

from __future__ import annotations

import gc
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.errors import ImagemillError, UsageError
from imagemill.layouts.webdataset import read_samples

from .test_augment import picture, table
from .test_export import add, contents, generated, load


def shards(folder: str = "export") -> list[Path]:
    return sorted(Path(folder).glob("*.tar"))


def members(folder: str = "export") -> list[tarfile.TarInfo]:
    found = []
    for path in shards(folder):
        with tarfile.open(path) as archive:
            found += archive.getmembers()
    return found


def edited() -> Dataset:
    picture("a.png"), picture("b.png", (24, 16), 1)
    rows = [{"images": ["a.png", "b.png"], "instruction": f"edit {n}"} for n in range(3)]
    return package.edit(table(rows), "out", model="fake", seed=1, image_format="webp")


# The package leaves it to the collector to close its files.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_package_webdataset_finds_every_sample() -> None:
    webdataset = pytest.importorskip("webdataset", reason="the package `webdataset` is not installed")
    dataset = generated(count=12)
    add(dataset, score=lambda n: None if n < 7 else n / 2)
    package.export(dataset, "webdataset", "export", shard_bytes=30_000)
    assert len(shards()) > 1
    urls = [str(path) for path in shards()]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    records = list(dataset)
    assert [sample["__key__"] for sample in samples] == [Path(record["file_name"]).stem for record in records]
    for sample, record in zip(samples, records, strict=True):
        assert sample["json"] == record
        assert sample["txt"] == record["prompt"]
        assert sample["png"].tobytes() == dataset.image(record["file_name"]).convert("RGB").tobytes()
    gc.collect()


def test_shards_are_plain_and_cut_by_bytes() -> None:
    dataset = generated(count=12)
    package.export(dataset, "webdataset", "export", shard_bytes=30_000)
    assert [path.name for path in shards()] == [f"train-{n:06d}.tar" for n in range(len(shards()))]
    assert all(path.stat().st_size <= 30_000 for path in shards())
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.type) for m in members()} == {(0, 0, 0, "", "", b"0")}
    assert {path.read_bytes()[257:265] for path in shards()} == {b"ustar\x0000"}
    package.export(dataset, "webdataset", "alone", shard_bytes=1)
    assert len(shards("alone")) == 12, "a shard holds at least one sample"


def test_every_sample_has_the_same_members_behind_each_other() -> None:
    generated(count=7)
    package.export("out", "webdataset", "export")
    names = [member.name for member in members()]
    assert names == [f"prompt_{n}_image_0.{suffix}" for n in range(7) for suffix in ("png", "json", "txt")]


def test_the_index_says_where_everything_lies() -> None:
    dataset = generated(count=12)
    package.export(dataset, "webdataset", "export", shard_bytes=30_000)
    found = {}
    for path in shards():
        head, *lines = path.with_suffix(".idx").read_text().splitlines()
        assert head == f"v1.2 {len(lines)}"
        data = path.read_bytes()
        for line in lines:
            words = line.split(" ")
            for suffix, offset, size, name in zip(*[iter(words)] * 4, strict=True):
                assert name.partition(".")[2] == suffix
                found[name] = data[int(offset) : int(offset) + int(size)]
    for record in dataset:
        stem = Path(record["file_name"]).stem
        assert found[f"{stem}.png"] == Path("out/images/part-000001", record["file_name"]).read_bytes()
        assert json.loads(found[f"{stem}.json"]) == record
        assert found[f"{stem}.txt"].decode() == record["prompt"]


def test_what_five_samples_do_not_tell_is_told() -> None:
    """Readers take types from the first five samples, and lose what is of another kind later."""
    dataset = generated(count=8)
    add(dataset, late=lambda n: 0.5 if n > 5 else None, never=lambda _: None, names=lambda n: ["x"] if n > 5 else [])
    package.export(dataset, "webdataset", "export")
    train = load("export")["train"]
    assert [row["json"]["late"] for row in train] == [None] * 6 + [0.5, 0.5]
    assert [row["json"]["names"] for row in train] == [[]] * 6 + [["x"], ["x"]]
    assert str(train.features["json"]["never"]) == "Value('float64')"


def test_shards_alone_are_enough_where_nothing_begins_late() -> None:
    datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed")
    dataset = generated(count=7)
    package.export(dataset, "webdataset", "export", shard_bytes=30_000)
    found = datasets.load_dataset(
        "webdataset", data_files={"train": "export/*.tar"}, cache_dir=str(Path("cache").resolve())
    )
    assert [row["json"] for row in found["train"]] == list(dataset)


def test_all_pictures_of_an_edit_are_members() -> None:
    dataset = edited()
    package.export(dataset, "webdataset", "export")
    suffixes = ["webp", "input.png", "input_1.png", "json", "txt"]
    assert [m.name.partition(".")[2] for m in members()] == suffixes * 3
    row = load("export")["train"][1]
    assert (row["webp"].format, row["input.png"].format, row["input_1.png"].size) == ("WEBP", "PNG", (24, 16))
    assert row["json"]["input_images_file_names"] == ["prompt_1_image_0_input_0.png", "prompt_1_image_0_input_1.png"]


def test_samples_of_different_kinds_are_refused(imagemill: Any) -> None:
    picture("a.png"), Image.new("RGB", (24, 16)).save("b.jpg")
    rows = [{"image": name, "caption": "a fox"} for name in ("a.png", "b.jpg")]
    imagemill("augment", table(rows), "-o", "out", "--model", "fake", "--seed", 3)
    ran = imagemill("export", "out", "webdataset", "-o", "export")
    assert ran.code == 2
    assert "`prompt_0_image_0.png` has `png`, and `prompt_1_image_0.jpg` has `jpg`" in ran.err
    assert "`--image-format png` makes the formats equal" in ran.err
    assert not Path("export").exists()
    assert imagemill("export", "out", "webdataset", "-o", "export", "--image-format", "png").code == 0
    assert len(load("export")["train"]) == 4


def test_pictures_of_different_number_are_refused() -> None:
    picture("a.png"), picture("b.png", (24, 16), 1)
    rows = [{"images": ["a.png", "b.png"][: 1 + n % 2], "instruction": f"edit {n}"} for n in range(2)]
    dataset = package.edit(table(rows), "out", model="fake", seed=1)
    with pytest.raises(UsageError, match=r"has `png`, `input.png`, and `.*` has `png`, `input.png`, `input_1.png`"):
        package.export(dataset, "webdataset", "export")


def test_pictures_that_would_have_one_name_are_refused() -> None:
    Path("in").mkdir()
    for n in range(3):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(f"in/{n}.png")
    row = {"file_name": "0.png", "input_file_name": "1.png", "input_image_file_name": "2.png"}
    Path("in/metadata.jsonl").write_text(json.dumps(row))
    dataset = package.import_dataset("in", "both")
    assert isinstance(dataset, Dataset)
    with pytest.raises(UsageError, match="would be called like another of its files"):
        package.export(dataset, "webdataset", "export")


def test_an_index_that_is_wrong_and_a_shard_that_is_cut_are_told() -> None:
    generated(count=3)
    package.export("out", "webdataset", "export")
    (path,) = shards()
    assert len(list(read_samples(path))) == 3
    data, index = path.read_bytes(), path.with_suffix(".idx")
    path.write_bytes(data[:6000])
    with pytest.raises(ImagemillError, match="is no whole tar file"):
        list(read_samples(path))
    end = data.index(b"prompt_2_image_0.png")
    path.write_bytes(data[:end])
    with pytest.raises(ImagemillError, match="its end is missing"):
        list(read_samples(path))
    path.write_bytes(data)
    index.write_text(index.read_text().replace(" 512 ", " 513 "))
    with pytest.raises(ImagemillError, match="does not say where"):
        list(read_samples(path))


def test_shards_of_others_are_read_as_their_readers_do() -> None:
    with tarfile.open("other.tar", "w") as archive:
        for name in ("__x__/notes.txt", "a/b.c/one.input.png", "a/b.c/one.json", "without", "two.json"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"1"))
    found = [(key, sorted(held)) for key, held in read_samples(Path("other.tar"))]
    assert found == [("a/b.c/one", ["input.png", "json"]), ("two", ["json"])]
    with tarfile.open("double.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("one.png"))
    with pytest.raises(ImagemillError, match=r"two members `one\.png`"):
        list(read_samples(Path("double.tar")))


def test_other_shards_than_before_are_equal_again() -> None:
    generated(count=12)
    for folder in ("one", "two"):
        package.export("out", "webdataset", folder, shard_bytes=30_000)
    assert contents("one") == contents("two")
