"""An export is what other tools read, holds all that the dataset holds, and is there whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.errors import ImagemillError, UsageError
from imagemill.exporting.marks import Stale
from imagemill.images import embedded_recipe, is_marked, psnr
from imagemill.layouts.webdataset import read_samples

from .conftest import Command
from .test_augment import FAKE, picture, table

LAYOUTS = ("imagefolder", "parquet", "webdataset")
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def generated(folder: str = "out", count: int = 5, **parameters: Any) -> Dataset:
    rows = [{"prompt": f"picture {n}", "topic": f"t{n % 3}", "weight": n + 0.0} for n in range(count)]
    return package.generate(rows, folder, model="fake", seed=1, width=8, height=8, **parameters)


def add(dataset: Dataset, **columns: Any) -> None:
    """Add columns, each by the number of the image."""
    names = [record["file_name"] for record in dataset]
    with dataset.lock():
        dataset.update(lambda r: {name: make(names.index(r["file_name"])) for name, make in columns.items()})


def contents(folder: Path | str) -> dict[str, str]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def load(folder: Path | str, config: str | None = None, cache: Path | str = "cache") -> Any:
    """Load as a user does."""
    datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed")
    datasets.disable_progress_bars()
    return datasets.load_dataset(str(folder), config, cache_dir=str(Path(cache).resolve()))


def as_loaded(key: str) -> str:
    return {"file_name": "image"}.get(key, key.removesuffix("_file_name").removesuffix("_file_names"))


def as_row(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sample of WebDataset as the others load it."""
    if "__url__" not in sample:
        return sample
    record = sample["json"]
    assert sample["txt"] == record["prompt"]
    assert record["file_name"].startswith(f"{sample['__key__']}.")
    (suffix,) = sample.keys() - {"json", "txt", "__key__", "__url__"}
    return {"image": sample[suffix], **{key: value for key, value in record.items() if key != "file_name"}}


def type_of(column: str, features: Any) -> str:
    return str(features.get("json", features)[column])


def assert_equal(loaded: Any, dataset: Dataset) -> None:
    """Every value of every record, every pixel of every picture, in order."""
    rows = list(map(as_row, loaded))
    assert len(rows) == len(dataset)
    pairs = [(part, record) for part in dataset.parts for record in part.records()]
    for row, (part, record) in zip(rows, pairs, strict=True):
        assert set(row) == {as_loaded(key) for key in record}
        for key, value in record.items():
            found = row[as_loaded(key)]
            if key.endswith(("file_name", "file_names")):
                names = [value] if isinstance(value, str) else value
                for name, image in zip(names, [found] if isinstance(value, str) else found, strict=True):
                    with Image.open(part.folder / name) as expected:
                        assert (image.mode, image.size) == (expected.mode, expected.size)
                        assert image.tobytes() == expected.tobytes()
            else:
                assert (found, type(found)) == (value, type(value)), key


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Edits: several pictures, one among them a list, with a mask."""
    folder, before = tmp_path_factory.mktemp("edited"), Path.cwd()
    os.chdir(folder)
    picture("a.png"), picture("b.png", (24, 16), 1)
    Image.new("L", (24, 16), 255).save("m.png")
    rows = [{"images": ["a.png", "b.png"][: 1 + n % 2], "instruction": f"edit {n}", "mask": "m.png"} for n in range(5)]
    package.edit(table(rows), "out", model="fake", seed=1, mask_column="mask", strength=0.5, image_format="webp")
    os.chdir(before)
    return folder / "out"


# what others read


@every_layout
def test_load_dataset_finds_every_value_and_every_pixel(layout: str) -> None:
    dataset = generated()
    add(dataset, score=lambda n: None if n % 2 else n / 2, note=lambda n: "" if n else "né\n", flat=lambda n: n == 3)
    folder = package.export(dataset, layout, "export")
    found = load(folder)
    assert list(found) == ["train"]
    assert_equal(found["train"], dataset)
    assert type_of("score", found["train"].features) == "Value('float64')"


@pytest.mark.parametrize("layout", ["imagefolder", "parquet"])
def test_all_pictures_of_an_edit_are_images(layout: str, edited: Path) -> None:
    package.export(edited, layout, "export")
    train = load("export")["train"]
    assert_equal(train, Dataset(edited))
    for column in ("image", "input_image", "edited_image", "mask"):
        assert str(train.features[column]).startswith("Image(")
    assert str(train.features["input_images"]).startswith("List(Image(")


@every_layout
def test_one_image_is_enough(layout: str) -> None:
    dataset = generated(count=1)
    assert_equal(load(package.export(dataset, layout, "export"))["train"], dataset)


@every_layout
def test_parts_follow_each_other_and_folders_stay_small(layout: str) -> None:
    dataset = generated(count=1030)
    add(dataset, late=lambda n: 0.5 if n > 1020 else None)
    package.export(dataset, layout, "export")
    assert_equal(load("export")["train"], dataset)
    assert all(len(list(path.iterdir())) <= 1000 for path in Path("export").rglob("*") if path.is_dir())


def splits(layout: str, **columns: Any) -> dict[str, Dataset]:
    found = {
        "train": generated("all/train", 6),
        "test": generated("all/test", 3),
        "holdout": generated("all/holdout", 2),
    }
    for dataset in found.values():
        add(dataset, **columns)
    package.export("all", layout, "export")
    return found


@every_layout
def test_a_folder_of_datasets_becomes_splits(layout: str) -> None:
    expected = splits(layout, score=lambda n: n / 4)
    found = load("export")
    assert list(found) == ["train", "test", "holdout"]
    for name, dataset in expected.items():
        assert_equal(found[name], dataset)
    card = Path("export/README.md").read_text()
    assert "11 images in 3 splits." in card
    assert "| `holdout` | 2 images made by an AI model, `fake`, from a table of 2 prompts. |" in card
    assert "- n<1K\n" in card


def test_splits_with_other_columns_are_refused() -> None:
    generated("all/train")
    add(generated("all/test"), score=lambda n: n / 4)
    with pytest.raises(UsageError, match="`train` and `test` have different columns: `score`"):
        package.export("all", "parquet", "export")


@every_layout
def test_a_score_that_nothing_has_is_null(layout: str) -> None:
    dataset = generated()
    add(dataset, score=lambda _: None)
    assert_equal(load(package.export(dataset, layout, "export"))["train"], dataset)


@pytest.mark.parametrize(
    ("layout", "more"), [("parquet", {}), ("imagefolder", {"metadata": "parquet"}), ("webdataset", {})]
)
def test_types_are_those_of_the_whole_dataset(layout: str, more: dict[str, Any]) -> None:
    train, test = generated("all/train"), generated("all/test")
    add(train, score=lambda n: n / 4, day=lambda n: f"2026-01-0{n + 1}")
    add(test, score=lambda _: None, day=lambda n: f"2026-01-0{n + 1}")
    package.export("all", layout, "export", **more)
    found = load("export")
    assert_equal(found["train"], train)
    assert_equal(found["test"], test)
    assert type_of("score", found["test"].features) == "Value('float64')"


def test_a_split_without_a_score_cannot_be_json_lines(imagemill: Command) -> None:
    add(generated("all/train"), score=lambda n: n / 4)
    add(generated("all/test"), score=lambda _: None)
    ran = imagemill("export", "all", "imagefolder", "-o", "export")
    assert ran.code == 2
    assert "would take `score` in `test` for null, and it is double" in ran.err
    assert "`--metadata parquet` keeps the types" in ran.err
    assert not Path("export").exists()
    assert imagemill("export", "all", "imagefolder", "-o", "export", "--metadata", "parquet").code == 0


def test_texts_that_look_like_dates_cannot_be_json_lines() -> None:
    dataset = generated()
    add(dataset, day=lambda n: f"2026-01-0{n + 1}")
    with pytest.raises(UsageError, match=r"would take `day` in `train` for timestamp\[s\], and it is string"):
        package.export(dataset, "imagefolder", "export")


@pytest.mark.parametrize("late", [True, False])
def test_what_begins_after_ten_megabytes_is_not_lost(late: bool) -> None:
    dataset = generated(count=12)
    add(dataset, filler=lambda _: "x" * (1 << 20), score=lambda n: n / 2 if (n == 11) == late else None)
    if late:
        with pytest.raises(UsageError, match="would take `score`"):
            package.export(dataset, "imagefolder", "export")
    else:
        package.export(dataset, "imagefolder", "export")
        assert_equal(load("export")["train"], dataset)
    for layout in ("parquet", "webdataset"):
        package.export(dataset, layout, f"export-{layout}")
        assert_equal(load(f"export-{layout}")["train"], dataset)


def test_trainers_find_files_beside_their_metadata() -> None:
    dataset = generated()
    package.export(dataset, "imagefolder", "export")
    lines = [json.loads(line) for line in Path("export/train/metadata.jsonl").read_text().splitlines()]
    assert list(lines[0])[:3] == ["file_name", "prompt", "negative_prompt"]
    for line, record in zip(lines, dataset, strict=True):
        path = Path("export/train", line["file_name"])
        assert path.samefile(Path("out/images/part-000001", record["file_name"])), "a hard link, not a copy"
        assert {**line, "file_name": path.name} == record


def test_files_are_copied_where_there_are_no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = generated()

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    package.export(dataset, "imagefolder", "export")
    assert Path("export/train/00000/prompt_0_image_0.png").stat().st_nlink == 1
    assert_equal(load("export")["train"], dataset)


def test_the_tables_are_as_the_hub_writes_them(edited: Path) -> None:
    package.export(edited, "parquet", "export", shard_bytes=10_000)
    paths = sorted(Path("export/data").iterdir())
    assert len(paths) > 1
    assert [path.name for path in paths] == [f"train-{n:05d}-of-{len(paths):05d}.parquet" for n in range(len(paths))]
    for path in paths:
        file = pq.ParquetFile(path)
        assert file.schema_arrow.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        told = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
        assert told["image"] == told["mask"] == {"_type": "Image"}
        assert told["prompt"] == {"dtype": "string", "_type": "Value"}
        assert told["strength"] == {"dtype": "float64", "_type": "Value"}
        columns = [file.metadata.row_group(0).column(n) for n in range(file.metadata.num_columns)]
        kinds = {column.path_in_schema: column.compression for column in columns}
        assert kinds["image.bytes"] == kinds["input_images.list.element.bytes"] == "UNCOMPRESSED"
        assert kinds["prompt"] == "SNAPPY"
        assert all(column.has_offset_index for column in columns)
        for row in file.read().to_pylist():
            size = sum(len(row[name]["bytes"]) for name in ("image", "input_image", "mask"))
            assert path.stat().st_size < max(60_000, 3 * size)
            assert Image.open(io.BytesIO(row["image"]["bytes"])).format == "WEBP"
            assert row["image"]["path"].endswith(".webp")


def test_row_groups_and_shards_are_cut_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from imagemill.layouts import parquet

    dataset = generated(count=40)
    size = sum(path.stat().st_size for path in Path("out/images").rglob("*.png")) // 40
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 5 * size)
    package.export(dataset, "parquet", "export", shard_bytes=20 * size)
    files = [pq.ParquetFile(path) for path in sorted(Path("export/data").iterdir())]
    assert 2 <= len(files) <= 4
    assert all(file.num_row_groups >= 2 for file in files)
    assert_equal(load("export")["train"], dataset)


@pytest.mark.parametrize("layout", ["imagefolder", "parquet"])
def test_other_readers_find_the_same(layout: str) -> None:
    dataset = generated()
    add(dataset, score=lambda n: None if n % 2 else n / 2)
    folder = package.export(dataset, layout, "export")
    if layout == "parquet":
        pandas = pytest.importorskip("pandas", reason="pandas is not installed")
        frame = pandas.read_parquet(next((folder / "data").iterdir()))
    else:
        pandas = pytest.importorskip("pandas", reason="pandas is not installed")
        frame = pandas.read_json(folder / "train" / "metadata.jsonl", lines=True)
    assert list(frame["prompt"]) == [record["prompt"] for record in dataset]
    assert list(frame["score"].isna()) == [False, True, False, True, False]


@every_layout
def test_what_was_cached_of_another_export_is_not_loaded_again(layout: str) -> None:
    for count in (2, 5):
        dataset = generated(f"out-{count}", count)
        shutil.rmtree("same", ignore_errors=True)
        package.export(dataset, layout, "same")
        assert_equal(load("same")["train"], dataset)
    Path("elsewhere").mkdir()
    shutil.move("same", "elsewhere/same")
    assert_equal(load("elsewhere/same")["train"], dataset)


@every_layout
def test_a_folder_named_like_a_split_is_none(layout: str) -> None:
    dataset = generated()
    for folder in ("eval", "test/validation"):
        assert list(load(package.export(dataset, layout, folder).resolve())) == ["train"]


@every_layout
def test_two_exports_are_equal_and_hold_nothing_of_ours(layout: str) -> None:
    dataset = generated()
    package.export(dataset, layout, "one")
    package.export(dataset, layout, "two")
    assert contents("one") == contents("two")
    kinds = {Path(name).name.partition(".")[2] for name in contents("one")}
    own = {"imagefolder": {"jsonl", "png"}, "parquet": {"parquet"}, "webdataset": {"tar", "idx"}}[layout]
    assert kinds == {"md", "imagemill-export.json", "imagemill-manifest.jsonl", *own}
    card = Path("one/README.md").read_text()
    assert "job.toml" not in card
    assert "`.imagemill/" not in card
    assert "license: " in card
    assert "| `prompt` | what was asked for" in card


# when it is there


@every_layout
def test_the_same_again_is_done_and_anything_else_is_refused(layout: str, imagemill: Command) -> None:
    dataset = generated()
    ran = imagemill("export", "out", layout, "-o", "export", "--json")
    assert (ran.code, ran.json["done_before"], ran.json["splits"]) == (0, False, {"train": 5})
    before = contents("export")
    again = imagemill("export", "out", layout, "-o", "export", "--json")
    assert (again.code, again.json["done_before"]) == (0, True)
    assert "exported before" in again.err
    other = next(name for name in LAYOUTS if name != layout)
    ran = imagemill("export", "out", other, "-o", "export")
    assert (ran.code, f"`export` is in the layout `{layout}`" in ran.err) == (2, True)
    generated("another", 3)
    ran = imagemill("export", "another", layout, "-o", "export")
    assert (ran.code, "was exported from another dataset" in ran.err) == (2, True)
    add(dataset, score=lambda n: n / 2)
    with pytest.raises(Stale, match="has changed since"):
        package.export("out", layout, "export")
    assert contents("export") == before


def test_other_parameters_are_another_export() -> None:
    generated()
    package.export("out", "parquet", "export")
    with pytest.raises(UsageError, match="was exported with other parameters: `shard_bytes` 500000000"):
        package.export("out", "parquet", "export", shard_bytes=1000)


def test_folders_that_hold_something_else_are_left_alone(imagemill: Command) -> None:
    generated()
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("x")
    Path("file").write_text("x")
    for target, problem in {
        "mine": "is not empty and holds no export",
        "mine/notes.txt": "is a file",
        "out": "is a dataset, or inside of one",
        "out/images/new": "is a dataset, or inside of one",
    }.items():
        ran = imagemill("export", "out", "parquet", "-o", target)
        assert (ran.code, problem in ran.err) == (2, True), ran.err
    assert contents("mine") == {"notes.txt": hashlib.sha256(b"x").hexdigest()}
    package.export("out", "imagefolder", "plain")
    ran = imagemill("export", "out", "parquet", "-o", "plain/more")
    assert (ran.code, "is inside of an export" in ran.err) == (2, True), ran.err
    Path("empty").mkdir()
    assert imagemill("export", "out", "parquet", "-o", "empty").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("out", "parquets", "-o", "x"), "did you mean `parquet`?"),
        (("out", "parquet", "-o", "x", "--shard-byte", "1"), "did you mean `--shard-bytes`?"),
        (("out", "parquet", "-o", "x", "--shard-bytes", "0"), "greater than or equal to 1, got: `0`"),
        (("out", "imagefolder", "-o", "x", "--metadata", "csv"), "got: `csv`"),
        (("out", "imagefolder", "-o", "x", "--shard-bytes", "1"), "there is no argument `--shard-bytes`"),
        (("out", "webdataset", "-o", "x", "--image-format", "gif"), "got: `gif`"),
        (("out", "parquet", "-o", "x", "--quality", "90"), "`quality` has no effect"),
        (("out", "parquet", "-o", "x", "--image-format", "png", "--quality", "90"), "`quality` has no effect"),
        (("out", "parquet", "-o", "x", "--max-side", "0"), "greater than or equal to 1, got: `0`"),
        (("out", "parquet", "-o", "x", "--where", "weigt > 1"), "did you mean `weight`?"),
        (("out", "parquet", "-o", "x", "--where", "weight >"), "in the expression"),
        (("out", "parquet", "-o", "x", "--where", "alignment > 0.2"), "imagemill score out --with alignment"),
        (("out", "parquet", "-o", "x", "--where", "weight > 99"), "is true of no image"),
        (("out", "parquet"), "required: -o/--output"),
        (("absent", "parquet", "-o", "x"), "holds no dataset"),
    ],
)
def test_wrong_arguments_are_told(imagemill: Command, arguments: tuple[str, ...], said: str) -> None:
    generated()
    ran = imagemill("export", *arguments)
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert not Path("x").exists()


def test_a_dataset_that_is_not_finished_is_exported_as_it_stands(imagemill: Command) -> None:
    dataset = generated(count=5, limit=3)
    rows = Dataset("out").counts()
    ran = imagemill("export", "out", "parquet", "-o", "export")
    assert ran.code == 0
    assert ("lacks" in ran.err) == (rows.pending > 0)
    picture("a.png")
    failing = ("--fail-text", "bad", "--fail-attempts", 9)
    imagemill("generate", table([{"prompt": text} for text in ("good", "bad")]), "-o", "half", *FAKE, *failing)
    ran = imagemill("export", "half", "parquet", "-o", "half-export")
    assert ran.code == 0
    assert "`half` lacks 1 image: exported as it stands" in ran.err
    assert len(dataset) == 3
    assert_equal(load("half-export")["train"], Dataset("half"))


def test_nothing_is_written_on_a_dry_run(imagemill: Command) -> None:
    generated()
    ran = imagemill("export", "out", "parquet", "-o", "deep/export", "--dry-run")
    assert (ran.code, ran.out) == (0, "deep/export\n")
    assert "5 images · parquet" in ran.err
    assert not Path("deep").exists()


def test_a_dataset_that_is_being_written_is_not_exported(imagemill: Command) -> None:
    with generated().lock():
        ran = imagemill("export", "out", "parquet", "-o", "export")
    assert ran.code == 5
    assert not Path("export").exists()


@every_layout
@pytest.mark.parametrize("damage", ["changed", "absent"])
def test_a_damaged_image_is_not_exported(layout: str, damage: str) -> None:
    generated()
    path = Path("out/images/part-000001/prompt_2_image_0.png")
    if damage == "changed":
        path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    else:
        path.unlink()
    with pytest.raises(ImagemillError, match=r"prompt_2_image_0\.png` (is not the image|cannot be read)") as caught:
        package.export("out", layout, "export")
    assert "verify --repair" in caught.value.hint
    assert {path.name for path in Path().iterdir()} == {"out"}


@pytest.mark.parametrize("what", ["record", "picture", "number"])
@every_layout
def test_what_reads_back_otherwise_is_no_export(layout: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layout that writes something wrong is caught, whatever it is."""
    from imagemill.layouts.base import find_layout

    kind = type(find_layout(layout, {}))
    write = kind.write

    def wrong(self: Any, content: Any, folder: Path) -> None:
        write(self, content, folder)
        if layout == "parquet":
            (path,) = (folder / "data").iterdir()
            rows = pq.read_table(path)
            found = rows.to_pylist()
            if what == "record":
                found[1]["weight"] += 0.5
            elif what == "picture":
                found[1]["image"]["bytes"] = found[0]["image"]["bytes"]
            else:
                found.pop()
            pq.write_table(pa.Table.from_pylist(found, rows.schema), path)
            return
        if layout == "webdataset":
            shard = folder / "train-000000.tar"
            shard.with_suffix(".idx").unlink()
            samples = [dict(members) for _, members in read_samples(shard)]
            if what == "record":
                samples[1]["json"] = samples[1]["json"].replace(b'"weight":1.0', b'"weight":1')
            elif what == "picture":
                samples[1]["png"] = samples[0]["png"]
            else:
                samples.pop()
            with tarfile.open(shard, "w") as archive:
                for number, sample in enumerate(samples):
                    for suffix, data in sample.items():
                        member = tarfile.TarInfo(f"prompt_{number}_image_0.{suffix}")
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))
            return
        path = folder / "train" / "metadata.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        if what == "record":
            lines[1] = lines[1].replace('"weight":1.0', '"weight":1')
        elif what == "picture":
            (folder / "train/00000/prompt_1_image_0.png").unlink()
            shutil.copy(folder / "train/00000/prompt_0_image_0.png", folder / "train/00000/prompt_1_image_0.png")
        else:
            lines.pop()
        path.write_text("".join(lines))

    monkeypatch.setattr(kind, "write", wrong)
    generated()
    with pytest.raises(ImagemillError, match="what was written is not what was exported") as caught:
        package.export("out", layout, "export")
    assert {"record": "`weight` differs", "picture": "file `prompt_1", "number": "fewer images"}[what] in str(
        caught.value
    )
    assert {path.name for path in Path().iterdir()} == {"out"}


STOPPED = """
import os, signal, sys
from imagemill.cli import run
place, seen = int(sys.argv[1]), 0
def watched(name):
    original = getattr(os, name)
    def call(*arguments, **options):
        global seen
        seen += 1
        if seen == place:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    setattr(os, name, call)
for name in ("link", "fsync", "rename", "mkdir", "rmdir", "unlink", "open"):
    watched(name)
sys.exit(run(sys.argv[2:]))
"""


@every_layout
def test_a_kill_anywhere_leaves_all_or_nothing(layout: str) -> None:
    generated("out", 3)
    reference = contents(package.export("out", layout, "reference"))
    codes: list[int] = []
    for place in (3, 8, 13, 18, 22):
        target = f"export-{place}"
        arguments = [sys.executable, "-c", STOPPED, str(place), "export", "out", layout, "-o", target]
        code = subprocess.run(arguments, capture_output=True, check=False).returncode
        assert code in {0, -signal.SIGKILL}
        codes.append(code)
        assert not Path(target).exists() or contents(target) == reference
        assert contents(package.export("out", layout, target)) == reference
        assert not Path(f".{target}.tmp").exists(), "what the killed run had left is gone"
    assert codes.count(-signal.SIGKILL) >= 4


@every_layout
def test_a_full_disk_leaves_nothing(layout: str, tmp_path: Path) -> None:
    generated("out", 40)
    size = 4_000 if layout == "imagefolder" else 9_000
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        "from imagemill.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    arguments = [sys.executable, "-c", code, "export", "out", layout, "-o", "export"]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ran.returncode == 6, ran.stderr
    assert "no space left to write `export`" in ran.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


# the manifest


@every_layout
def test_every_file_is_in_the_manifest(layout: str) -> None:
    generated()
    package.export("out", layout, "export")
    lines = [json.loads(line) for line in Path("export/.imagemill-manifest.jsonl").read_text().splitlines()]
    found = {line["file"]: line["sha256"] for line in lines}
    assert {**found, ".imagemill-manifest.jsonl": contents("export")[".imagemill-manifest.jsonl"]} == contents("export")
    assert all(Path("export", line["file"]).stat().st_size == line["size"] for line in lines)


@every_layout
def test_an_export_that_was_damaged_is_not_called_done(layout: str, imagemill: Command) -> None:
    generated()
    package.export("out", layout, "export")
    Path("export/README.md").write_text("edited by hand")
    assert imagemill("export", "out", layout, "-o", "export").code == 0
    largest = max((path for path in Path("export").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.rename("elsewhere")
    ran = imagemill("export", "out", layout, "-o", "export")
    assert (ran.code, f"`{largest}` is not as it was written" in ran.err) == (2, True), ran.err


@pytest.mark.parametrize("text", ["no JSON\n", "[1]\n", '{"file": "README.md"}\n'])
def test_a_damaged_manifest_is_told(text: str, imagemill: Command) -> None:
    generated()
    package.export("out", "parquet", "export")
    Path("export/.imagemill-manifest.jsonl").write_text(text)
    ran = imagemill("export", "out", "parquet", "-o", "export")
    assert (ran.code, "`export/.imagemill-manifest.jsonl` is damaged" in ran.err) == (2, True), ran.err


# a selection, other formats


@every_layout
def test_a_selection_is_exported(layout: str, imagemill: Command) -> None:
    dataset = generated()
    add(dataset, score=lambda n: None if n == 4 else n / 4)
    ran = imagemill("export", "out", layout, "-o", "export", "--where", "score >= 0.5", "--json")
    assert (ran.code, ran.json["splits"]) == (0, {"train": 2})
    assert "2 of 5 images" in ran.err
    assert [as_row(row)["prompt"] for row in load("export")["train"]] == ["picture 2", "picture 3"]
    card = Path("export/README.md").read_text()
    assert "2 of 5 images made by an AI model" in card
    assert "Here are the images of which `score >= 0.5` is true." in card
    with pytest.raises(UsageError, match=r"was exported with other parameters: `where` score >= 0\.5"):
        package.export("out", layout, "export")


def picture_files(layout: str) -> list[tuple[dict[str, Any], bytes]]:
    """The records and images of an export as its layout reads them."""
    from imagemill.layouts.base import find_layout

    loaded = find_layout(layout, {}).read(Path("export"), "train")
    return [(found.record, found.files[found.record["file_name"]]) for found in loaded]


@every_layout
@pytest.mark.parametrize(
    ("parameters", "kind", "least"),
    [
        ({"image_format": "jpeg"}, "JPEG", 30),
        ({"image_format": "jpeg", "quality": 60}, "JPEG", 20),
        ({"image_format": "webp"}, "WEBP", 99),
        ({"image_format": "webp", "quality": 80}, "WEBP", 20),
    ],
    ids=str,
)
def test_pictures_are_converted_and_keep_what_they_say(
    layout: str, parameters: dict[str, Any], kind: str, least: float
) -> None:
    import numpy as np

    dataset = package.generate([{"prompt": 'a, "b" é'}] * 2, "out", model="fake", seed=1, width=64, height=48)
    before = contents("out")
    package.export(dataset, layout, "export", **parameters)
    package.export(dataset, layout, "again", **parameters)
    assert contents("export") == contents("again")
    for record, (now, data) in zip(dataset, picture_files(layout), strict=True):
        assert Path(now["file_name"]).suffix == {"JPEG": ".jpg", "WEBP": ".webp"}[kind]
        assert now["sha256"] == hashlib.sha256(data).hexdigest()
        changed = {"file_name", "sha256"}
        assert {key: now[key] for key in now.keys() - changed} == {key: record[key] for key in record.keys() - changed}
        image = Image.open(io.BytesIO(data))
        assert (image.format, image.size) == (kind, (64, 48))
        assert is_marked(image)
        recipe = embedded_recipe(image)
        assert recipe is not None
        assert recipe["prompt"] == record["prompt"]
        made = np.asarray(dataset.image(record["file_name"]).convert("RGB"))
        assert psnr(made, np.asarray(image.convert("RGB"))) > least
    assert contents("out") == before
    assert "The pictures were converted: " in Path("export/README.md").read_text()
    rows = load("export")["train"]
    assert [as_row(row)["image"].size for row in rows] == [(64, 48)] * 2


@every_layout
def test_pictures_are_made_smaller_and_never_larger(layout: str) -> None:
    rows = [{"prompt": "x", "width": 64, "height": 32}, {"prompt": "y", "width": 16, "height": 8}]
    dataset = package.generate(rows, "out", model="fake", seed=1, per_row=True)
    package.export(dataset, layout, "export", max_side=24)
    (large, _), (small, data) = picture_files(layout)
    assert [(found["width"], found["height"]) for found in (large, small)] == [(24, 12), (16, 8)]
    assert data == Path("out/images/part-000001/prompt_1_image_0.png").read_bytes(), "what fits stays as it is"


@pytest.mark.parametrize("layout", ["imagefolder", "parquet"])
def test_masks_stay_lossless_and_all_pictures_of_an_edit_are_converted(layout: str, edited: Path) -> None:
    package.export(edited, layout, "export", image_format="jpeg", max_side=12)
    row = load("export")["train"][1]
    assert {name: (row[name].format, row[name].size) for name in ("image", "input_image", "mask")} == {
        "image": ("JPEG", (12, 8)),
        "input_image": ("JPEG", (12, 8)),
        "mask": ("PNG", (12, 8)),
    }
    assert [image.format for image in row["input_images"]] == ["JPEG", "JPEG"]
    assert is_marked(row["image"])
    assert not is_marked(row["input_image"])


def test_a_damaged_image_is_not_converted() -> None:
    generated()
    path = Path("out/images/part-000001/prompt_2_image_0.png")
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(ImagemillError, match=r"prompt_2_image_0\.png` is not the image"):
        package.export("out", "parquet", "export", image_format="jpeg")
    assert {path.name for path in Path().iterdir()} == {"out"}


# subsets


@every_layout
def test_a_subset_loads_by_its_name(layout: str) -> None:
    dataset = generated(count=12)
    add(dataset, late=lambda n: n / 2 if n == 11 else None)
    package.export(dataset, layout, "export", subsets="first_5,random_7,first_1", subset_seed=3)
    records = {record["prompt"]: record for record in dataset}
    assert_equal(load("export")["train"], dataset)
    found = {name: list(load("export", name)["train"]) for name in ("first_1", "first_5", "random_7")}
    assert [as_row(row)["prompt"] for row in found["first_5"]] == [f"picture {n}" for n in range(5)]
    assert {name: len(rows) for name, rows in found.items()} == {"first_1": 1, "first_5": 5, "random_7": 7}
    for row in map(as_row, (row for rows in found.values() for row in rows)):
        record = records[row["prompt"]]
        assert row["image"].tobytes() == dataset.image(record["file_name"]).tobytes()
        assert {key: row[key] for key in row if key != "image"} == {
            key: value for key, value in record.items() if key != "file_name"
        }
    assert type_of("late", load("export", "first_1")["train"].features) == "Value('float64')"
    assert 'load_dataset("path/to/this/folder", "first_5"' in Path("export/README.md").read_text()


@every_layout
def test_subsets_are_drawn_as_select_draws_them(layout: str) -> None:
    dataset = generated(count=12)
    for folder, seed in (("one", 3), ("two", 3), ("other", 4)):
        package.export(dataset, layout, folder, subsets=["random_7", "random_3"], subset_seed=seed)
    assert contents("one") == contents("two")
    drawn = {
        (folder, name): [as_row(row)["prompt"] for row in load(folder, name)["train"]]
        for folder in ("one", "other")
        for name in ("random_7", "random_3")
    }
    selected = package.select(dataset, "selected", sample=7, seed=3)
    assert drawn["one", "random_7"] == [record["prompt"] for record in selected]
    assert set(drawn["one", "random_3"]) < set(drawn["one", "random_7"])
    assert drawn["one", "random_7"] != drawn["other", "random_7"]


@every_layout
def test_a_subset_is_of_what_is_exported(layout: str) -> None:
    dataset = generated(count=12)
    package.export(
        dataset, layout, "export", where="weight >= 4", subsets="first_2,random_8", image_format="webp", max_side=4
    )
    rows = [as_row(row) for row in load("export", "first_2")["train"]]
    assert [(row["prompt"], row["image"].format, row["image"].size) for row in rows] == [
        (f"picture {n}", "WEBP", (4, 4)) for n in (4, 5)
    ]
    assert len(load("export", "random_8")["train"]) == 8
    with pytest.raises(UsageError, match="`first_9` holds 9 images, and there are 8"):
        package.export(dataset, layout, "more", where="weight >= 4", subsets="first_9")


@pytest.mark.parametrize("layout", ["imagefolder", "parquet"])
def test_a_subset_of_edits_has_all_their_pictures(layout: str, edited: Path) -> None:
    package.export(edited, layout, "export", subsets="first_2")
    (whole, part) = load("export")["train"], load("export", "first_2")["train"]
    assert part.features == whole.features
    for row, expected in zip(part, whole, strict=False):
        assert row["mask"].tobytes() == expected["mask"].tobytes()
        assert [image.tobytes() for image in row["input_images"]] == [
            image.tobytes() for image in expected["input_images"]
        ]


@every_layout
def test_a_subset_that_reads_back_otherwise_is_no_export(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from imagemill.layouts.base import find_layout

    kind = type(find_layout(layout, {}))
    write = kind.write

    def wrong(self: Any, content: Any, folder: Path) -> None:
        write(self, content, folder)
        for path in list(folder.rglob("first_2*")):
            shutil.copy(str(path).replace("first_2", "first_3"), path)

    monkeypatch.setattr(kind, "write", wrong)
    with pytest.raises(ImagemillError, match="`first_2` has more images than the dataset"):
        package.export(generated(), layout, "export", subsets="first_2,first_3")
    assert not Path("export").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("first_0", "there is no `first_0`"),
        ("last_1k", "there is no `last_1k`"),
        ("first_1.5k", "there is no"),
        ("first_1k", "`first_1k` holds 1,000 images, and there are 5"),
        ("random-1m", "`random_1m` holds 1,000,000 images, and there are 5"),
    ],
)
def test_subsets_that_cannot_be_are_told(imagemill: Command, given: str, said: str) -> None:
    generated()
    ran = imagemill("export", "out", "parquet", "-o", "x", "--subsets", given)
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert not Path("x").exists()


def test_splits_have_no_subsets(imagemill: Command) -> None:
    generated("all/train"), generated("all/test")
    ran = imagemill("export", "all", "parquet", "-o", "x", "--subsets", "first_2")
    assert (ran.code, "those of a dataset without splits" in ran.err) == (2, True), ran.err


# captions and classes


@pytest.mark.parametrize("layout", ["imagefolder", "parquet"])
def test_captions_stand_where_trainers_look(layout: str) -> None:
    """`train_text_to_image.py` of diffusers reads the columns `image` and `text`."""
    dataset = generated()
    package.export(dataset, layout, "export", caption_column="prompt", subsets="first_2")
    train = load("export")["train"]
    assert train.column_names[0] == "image"
    assert [row["text"] for row in train] == [record["prompt"] for record in dataset]
    assert_equal(train.remove_columns("text"), dataset)
    assert [row["text"] for row in load("export", "first_2")["train"]] == ["picture 0", "picture 1"]


def test_a_trainer_that_takes_a_folder_finds_images_and_texts() -> None:
    """As diffusers' scripts call it with `--train_data_dir`."""
    datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed")
    dataset = generated()
    package.export(dataset, "imagefolder", "export", caption_column="prompt", subsets="random_3")
    files = {"train": str(Path("export").resolve() / "**")}
    train = datasets.load_dataset("imagefolder", data_files=files, cache_dir=str(Path("cache").resolve()))["train"]
    assert [row["text"] for row in train] == [record["prompt"] for record in dataset]
    assert train[4]["image"].tobytes() == dataset.image("prompt_4_image_0").tobytes()


@pytest.mark.parametrize("layout", ["imagefolder", "parquet"])
def test_edits_have_the_columns_that_trainers_read(layout: str, edited: Path) -> None:
    """`train_instruct_pix2pix.py` of diffusers reads `input_image`, `edit_prompt` and `edited_image`."""
    package.export(edited, layout, "export")
    for row, record in zip(load("export")["train"], Dataset(edited), strict=True):
        assert row["edit_prompt"] == record["edit_prompt"]
        for column in ("input_image", "edited_image"):
            path = edited / "images/part-000001" / record[f"{column}_file_name"]
            with Image.open(path) as expected:
                assert row[column].tobytes() == expected.tobytes()


def test_webdataset_takes_its_captions_from_a_column() -> None:
    dataset = generated()
    package.export(dataset, "webdataset", "export", caption_column="topic", subsets="first_2")
    assert [row["txt"] for row in load("export")["train"]] == [record["topic"] for record in dataset]
    assert [row["txt"] for row in load("export", "first_2")["train"]] == ["t0", "t1"]


def test_caption_files_lie_beside_images_and_everything_still_loads() -> None:
    dataset = generated()
    add(dataset, caption=lambda n: f"a fox,\n  number {n}")
    package.export(
        dataset, "imagefolder", "export", caption_files=True, caption_column="caption", repeats=10, subsets="first_2"
    )
    folder = Path("export/train/10_00000")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"prompt_{n}_image_0.{kind}" for n in range(5) for kind in ("png", "txt")
    )
    assert (folder / "prompt_3_image_0.txt").read_text() == "a fox, number 3", "kohya's scripts read the first line"
    train = load("export")["train"]
    assert_equal(train.remove_columns("text"), dataset)
    assert train[3]["text"] == "a fox,\n  number 3"
    assert len(load("export", "first_2")["train"]) == 2
    package.export(dataset, "imagefolder", "prompts", caption_files=True)
    assert Path("prompts/train/1_00000/prompt_3_image_0.txt").read_text() == "picture 3"
    Path("prompts/README.md").unlink()
    assert "image" not in load("prompts")["train"].column_names, "as others' folders of this kind load: texts alone"


def test_classes_are_folders_and_labels() -> None:
    rows = [{"prompt": f"p{n}", "animal": ("dog", "test", "a/b c", "Über-Katze")[n % 4]} for n in range(8)]
    dataset = package.generate(rows, "out", model="fake", seed=1, width=8, height=8)
    package.export(dataset, "imagefolder", "export", class_column="animal", subsets="random_3")
    folders = {path.name for path in Path("export/train").iterdir() if path.is_dir()}
    assert folders == {"dog", "class_test", "a_b_c", "Über-Katze"}
    assert_equal(load("export")["train"], dataset)
    labels = load("export", "labels")["train"]
    assert (labels.column_names, len(labels)) == (["image", "label"], 8)
    assert labels.features["label"].names == sorted(folders)
    expected = {dataset.image(record["file_name"]).tobytes(): record["animal"] for record in dataset}
    names = {"class_test": "test", "a_b_c": "a/b c"}
    for row in labels:
        name = labels.features["label"].int2str(row["label"])
        assert names.get(name, name) == expected[row["image"].tobytes()]
    assert len(load("export", "random_3")["train"]) == 3
    assert "* the folder `class_test` is the class `test`" in Path("export/README.md").read_text()


def test_labels_are_the_same_in_all_splits() -> None:
    splits = {"train": ("a", "b", "c"), "test": ("b", "c")}
    for name, classes in splits.items():
        rows = [{"prompt": f"{name} {topic}", "topic": topic} for topic in classes]
        package.generate(rows, f"all/{name}", model="fake", seed=1, width=8, height=8)
    package.export("all", "imagefolder", "export", class_column="topic")
    found = load("export", "labels")
    assert {name: split.features["label"].names for name, split in found.items()} == {
        "train": ["a", "b", "c"],
        "test": ["a", "b", "c"],
    }
    assert [row["label"] for row in found["test"]] == [1, 2]
    assert list(load("export")["test"]["topic"]) == ["b", "c"]


@pytest.mark.parametrize(
    ("topics", "arguments", "said"),
    [
        (("a", ""), ("--class-column", "topic"), "`prompt_1_image_0.png` has no class: `topic` is ``"),
        (("a", "??"), ("--class-column", "topic"), "has no class: `topic` is `??`"),
        (("a b", "a_b"), ("--class-column", "topic"), "`a b` and `a_b` would be one folder"),
        (("Dog", "dog"), ("--class-column", "topic"), "would be one folder"),
        (("a", "b"), ("--class-column", "topics"), "did you mean `topic`?"),
        (("a", "b"), ("--class-column", "guidance_scale"), "`guidance_scale` holds no classes"),
        (("a", "b"), ("--caption-column", "topics"), "did you mean `topic`?"),
        (("a", "b"), ("--caption-column", "seed"), "`seed` holds no texts"),
        (("a", ""), ("--caption-files", "--caption-column", "topic"), "`prompt_1_image_0.png` has no caption"),
        (("a", "b"), ("--repeats", "3"), "`repeats` has no effect without `caption_files`"),
    ],
)
def test_captions_and_classes_that_cannot_be_are_told(
    imagemill: Command, topics: tuple[str, ...], arguments: tuple[str, ...], said: str
) -> None:
    rows = [{"prompt": f"p{n}", "topic": topic} for n, topic in enumerate(topics)]
    package.generate(rows, "out", model="fake", seed=1, width=8, height=8)
    ran = imagemill("export", "out", "imagefolder", "-o", "x", *arguments)
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert not Path("x").exists()


def test_a_column_called_text_is_not_replaced() -> None:
    dataset = package.generate([{"prompt": "a", "text": "mine"}], "out", model="fake", seed=1)
    for layout in ("imagefolder", "parquet"):
        with pytest.raises(UsageError, match="there is a column `text` already"):
            package.export(dataset, layout, "x", caption_column="prompt")
        package.export(dataset, layout, f"out-{layout}", caption_column="text")
        assert list(load(f"out-{layout}")["train"]["text"]) == ["mine"]


@pytest.mark.parametrize("parameters", [{"caption_files": True}, {"class_column": "edit_prompt"}], ids=str)
def test_pictures_beside_an_image_are_not_trained_on(parameters: dict[str, Any], edited: Path) -> None:
    with pytest.raises(UsageError, match="would be taken for another image to train on"):
        package.export(edited, "imagefolder", "x", **parameters)


# what there is


def test_layouts_are_listed_with_their_parameters(imagemill: Command) -> None:
    listed: Mapping[str, str] = imagemill("layouts", "--json").json
    assert set(LAYOUTS) <= set(listed)
    assert "--shard-bytes integer" in imagemill("layouts", "parquet").out
    assert imagemill("layouts", "no-such").code == 2
