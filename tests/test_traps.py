"""What the readers of others silently do wrong with a naive export: each trap with the readers that it was seen in.

Numbers in the names are those of the list of traps: 1 imagefolder, 2 WebDataset, 3 Parquet, 5 DiffusionDB, 9 what the
Hugging Face hub expects. Traps that are held elsewhere:

* 1.6, 1.8, 1.11, 9 types that begin late, or are guessed wrong: `test_export.py` (after ten megabytes, look like
  dates, a split without a score), and for datasets themselves `test_load_dataset.py`;
* 1.9 splits: `test_export.py` (a folder of datasets becomes splits, other columns are refused);
* 1.10 texts beside images, 1.14 the names that trainers read: `test_export.py` (captions and classes);
* 2.2 two members of one name, 2.7 index, 2.8 no times, equal bytes: `test_webdataset.py`;
* 2.9 nothing of an export is there before all of it is: `test_export.py` (a kill anywhere);
* 3.4 names, row groups and compression: `test_export.py` (as the hub writes them, cut by bytes);
* 5 parts, names, samplers, limits: `test_diffusiondb.py`.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.json
import pyarrow.parquet as pq
import pytest
from PIL import Image

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.layouts import imagefolder

from .test_augment import picture, table
from .test_export import add, assert_equal, generated, load

LAYOUTS = ("imagefolder", "parquet", "webdataset", "diffusiondb")
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
with_pictures = pytest.mark.parametrize("layout", LAYOUTS[:3])

PROMPTS = [
    'a "quoted" fox, with commas',
    "two\nlines\tand a tab",
    "né 中文 🎨",
    "007",
    "1e5",
    "2026-01-01",
    "null",
    "{} \\ 'x'",
    "",
    " blanks ",
    "last",
]


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose table has every name and every value that misleads readers."""
    rows = [
        {
            "prompt": prompt or "x",
            "id": f"sdxl-1.0/{number}",
            "image": "cat.png",
            "images": "cats",
            "label": f"l{number}",
            "lora_file_name": "style.safetensors",
            "masks_file_names": "m.png",
            "json": "theirs",
            "__key__": f"k{number}",
            "caption": prompt,
            "huge": 2**63 + number,
            "large": 2**62 + number,
            "ratio": 7 if number < 10 else 7.5,
            "mixed": number if number % 2 else f"text {number}",
            "not_a_number": float("nan") if number else 1.0,
            "deep": {"a": 1} if number < 6 else {"b": [1, None]},
            "late": None if number < 10 else "here",
            "flag": number % 2 == 0,
        }
        for number, prompt in enumerate(PROMPTS)
    ]
    folder = tmp_path_factory.mktemp("hard") / "out"
    dataset = package.generate(rows, folder, model="fake", seed=2**32 - 6, width=8, height=8)
    add(dataset, score=lambda n: None if n < 7 else n / 8)
    return folder


# every layout, every reader

Found = tuple[Mapping[str, Any], bytes]
"""A record as a reader gives it, without the names of files, and the pixels of its image."""


def pixels(data: bytes | Path) -> bytes:
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
        return image.convert("RGB").tobytes()


def as_record(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sample of WebDataset has its record as one of its fields."""
    found: Mapping[str, Any] = row["json"] if "__url__" in row else row
    return found


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in {"file_name", "image"}}


def by_datasets(folder: Path, layout: str, streaming: bool = False) -> Iterator[Found]:
    datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed")
    options = {"streaming": True} if streaming else {"cache_dir": str(Path("cache").resolve())}
    for row in datasets.load_dataset(str(folder.resolve()), split="train", **options):
        yield plain(as_record(row)), row["png" if layout == "webdataset" else "image"].convert("RGB").tobytes()


def by_datasets_in_a_stream(folder: Path, layout: str) -> Iterator[Found]:
    return by_datasets(folder, layout, streaming=True)


def by_webdataset(folder: Path, _: str) -> Iterator[Found]:
    webdataset = pytest.importorskip("webdataset", reason="the package `webdataset` is not installed")
    for sample in webdataset.WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=False):
        yield plain(json.loads(sample["json"])), pixels(sample["png"])


def named(folder: Path, layout: str, rows: list[dict[str, Any]]) -> Iterator[Found]:
    """Rows of a table with their images, wherever the layout has them."""
    for row in rows:
        if layout == "imagefolder":
            yield plain(row), pixels(folder / "train" / row["file_name"])
        elif layout == "parquet":
            yield plain(row), pixels(row["image"]["bytes"])
        else:
            name, part = row.pop("image_name"), row.pop("part_id")
            yield plain(row), pixels(folder / f"images/part-{part:06d}" / name)


def by_pyarrow(folder: Path, layout: str) -> Iterator[Found]:
    if layout == "imagefolder":
        found = pyarrow.json.read_json(folder / "train/metadata.jsonl")
    elif layout == "parquet":
        found = pq.read_table(folder / "data")
    else:
        parts = pq.read_table(folder / "metadata.parquet", columns=["part_id"])
        found = pq.read_table(folder / "metadata-extra.parquet").append_column("part_id", parts.column(0))
    return named(folder, layout, found.to_pylist())


def by_pandas(folder: Path, layout: str) -> Iterator[Found]:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    if layout == "imagefolder":
        # It takes texts for numbers and dates unless told not to.
        frame = pandas.read_json(folder / "train/metadata.jsonl", lines=True, dtype=False)
    elif layout == "parquet":
        frame = pandas.read_parquet(folder / "data")
    else:
        frame = pandas.read_parquet(folder / "metadata-extra.parquet")
        frame["part_id"] = pandas.read_parquet(folder / "metadata.parquet")["part_id"]
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return named(folder, layout, rows)


def by_duckdb(folder: Path, layout: str) -> Iterator[Found]:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    question = {
        "imagefolder": f"SELECT * FROM read_json('{folder}/train/metadata.jsonl')",
        "parquet": f"SELECT * FROM '{folder}/data/*.parquet'",
        "diffusiondb": f"SELECT e.*, m.part_id FROM '{folder}/metadata-extra.parquet' e "
        f"POSITIONAL JOIN '{folder}/metadata.parquet' m",
    }[layout]
    return named(folder, layout, duckdb.sql(question).to_arrow_table().to_pylist())


def by_polars(folder: Path, layout: str) -> Iterator[Found]:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    if layout == "imagefolder":
        frame = polars.read_ndjson(folder / "train/metadata.jsonl")
    elif layout == "parquet":
        frame = polars.read_parquet(folder / "data/*.parquet")
    else:
        parts = polars.read_parquet(folder / "metadata.parquet", columns=["part_id"])
        frame = polars.read_parquet(folder / "metadata-extra.parquet").hstack(parts)
    return named(folder, layout, frame.to_dicts())


TABLES = [by_pyarrow, by_pandas, by_duckdb, by_polars]
READERS: dict[str, list[Callable[[Path, str], Iterator[Found]]]] = {
    "imagefolder": [by_datasets, by_datasets_in_a_stream, *TABLES],
    "parquet": [by_datasets, by_datasets_in_a_stream, *TABLES],
    "webdataset": [by_datasets, by_datasets_in_a_stream, by_webdataset],
    "diffusiondb": [*TABLES],
}
"""Who can read what; of DiffusionDB's layout `load_dataset` gives the table alone."""


# `webdataset` leaves it to the collector to close its files.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("layout", "reader"),
    [(layout, reader) for layout in LAYOUTS for reader in READERS[layout]],
    ids=lambda it: getattr(it, "__name__", it),
)
def test_every_reader_finds_what_was_put_in(
    layout: str, reader: Callable[[Path, str], Iterator[Found]], hard: Path
) -> None:
    dataset = Dataset(hard)
    more = {"subsets": "random_3"} if layout != "diffusiondb" else {}
    folder = package.export(dataset, layout, "export", **more)
    found = list(reader(folder, layout))
    assert len(found) == len(dataset)
    for (row, image), record in zip(found, dataset, strict=True):
        assert row == {key: value for key, value in record.items() if key != "file_name"}
        assert image == dataset.image(record["file_name"]).convert("RGB").tobytes()


# 1 imagefolder


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train/metadata.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("metadata", ["jsonl", "parquet"])
def test_1_1_all_metadata_files_have_one_extension(metadata: str) -> None:
    """With `metadata.csv` beside `metadata.jsonl` nothing loads; here subsets lie beside either."""
    dataset = generated()
    package.export(dataset, "imagefolder", "export", metadata=metadata, subsets="first_2")
    assert [path.name for path in Path("export").rglob("metadata.*")] == [f"metadata.{metadata}"]
    assert len(load("export")["train"]) == 5
    assert len(load("export", "first_2")["train"]) == 2


@pytest.mark.parametrize("parameters", [{}, {"class_column": "topic"}, {"caption_files": True}], ids=str)
def test_1_2_files_are_called_from_their_metadata(parameters: dict[str, Any]) -> None:
    """An absolute path, `..` and `://` are refused by readers."""
    package.export(generated(), "imagefolder", "export", subsets="first_2", **parameters)
    names = [record["file_name"] for record in records_of(Path("export"))]
    below = pq.read_table("export/first_2.parquet").column("file_name").to_pylist()
    assert below == [f"train/{name}" for name in names[:2]]
    for name in names:
        assert Path("export/train", name).is_file()
        assert not re.search(r"^/|\\|\.\.|://", name)


@with_pictures
def test_1_3_and_1_4_no_column_replaces_a_picture_or_becomes_one(layout: str, hard: Path) -> None:
    package.export(hard, layout, "export")
    train = load("export")["train"]
    row = as_record(train[0])
    assert {key: row[key] for key in ("table_image", "table_label", "lora_filename", "masks_filenames")} == {
        "table_image": "cat.png",
        "table_label": "l0",
        "lora_filename": "style.safetensors",
        "masks_filenames": "m.png",
    }
    pictures = [name for name, kind in train.features.items() if "Image(" in str(kind)]
    assert pictures == ["png" if layout == "webdataset" else "image"]


def test_1_5_every_file_has_a_row_and_every_row_a_file() -> None:
    """Readers pass over an image without a row, and fail at a row without an image only when it is looked at."""
    package.export(generated(count=12), "imagefolder", "export", where="weight >= 3")
    rows = Counter(record["file_name"] for record in records_of(Path("export")))
    files = Counter(str(path.relative_to("export/train")) for path in Path("export/train").rglob("*.png"))
    assert rows == files
    assert set(rows.values()) == {1}
    assert len(rows) == 9


@every_layout
def test_1_6_and_2_5_every_record_has_every_key(layout: str, hard: Path) -> None:
    """A key that is first seen late is dropped; a fraction behind whole numbers is cut; an object loses its keys."""
    package.export(hard, layout, "export")
    if layout == "imagefolder":
        lines = [list(record) for record in records_of(Path("export"))]
        assert all(keys == lines[0] for keys in lines)
        assert '"ratio":7.0' in Path("export/train/metadata.jsonl").read_text()
    if layout == "webdataset":
        with tarfile.open("export/train-000000.tar") as archive:
            held = [archive.extractfile(member).read() for member in archive if member.name.endswith(".json")]  # type: ignore[union-attr]
        keys = [list(json.loads(data)) for data in held]
        assert all(found == keys[0] for found in keys)
    if layout == "diffusiondb":
        last = pq.read_table("export/metadata-extra.parquet").to_pylist()[-1]
    else:
        row = list(load("export")["train"])[-1]
        last = as_record(row)
    assert (last["ratio"], last["late"], json.loads(last["deep"])) == (7.5, "here", {"b": [1, None]})


@every_layout
def test_1_7_no_integer_becomes_a_fraction(layout: str, hard: Path) -> None:
    package.export(hard, layout, "export")
    if layout == "diffusiondb":
        rows = pq.read_table("export/metadata-extra.parquet").to_pylist()
    else:
        rows = [as_record(row) for row in load("export")["train"]]
    assert [row["huge"] for row in rows] == [str(2**63 + n) for n in range(len(PROMPTS))]
    assert [row["large"] for row in rows] == [2**62 + n for n in range(len(PROMPTS))]
    assert [row["seed"] for row in rows] == [record["seed"] for record in Dataset(hard)]


def test_1_8_and_9_no_line_holds_what_is_no_number(hard: Path) -> None:
    package.export(hard, "imagefolder", "export")
    text = Path("export/train/metadata.jsonl").read_text()
    assert not re.search(r"[:,\[](NaN|-?Infinity)", text)


@pytest.mark.parametrize("layout", ["imagefolder", "parquet", "webdataset", "diffusiondb"])
@pytest.mark.parametrize("name", ["eval", "test", "validation-1", "dev/export", "train"])
def test_9_the_name_of_a_folder_makes_no_split(layout: str, name: str) -> None:
    """`eval/` would become a split `test` where readers look for files themselves."""
    dataset = generated()
    Path(name).parent.mkdir(exist_ok=True)
    package.export(dataset, layout, name)
    found = load(Path(name).resolve())
    assert {split: len(rows) for split, rows in found.items()} == {"train": 5}


@every_layout
def test_1_10_nothing_of_ours_is_taken_for_data(layout: str) -> None:
    """Stray `.json` and `.jsonl` files change what readers take a folder for."""
    package.export(generated(), layout, "export")
    known = {"imagefolder": {"metadata.jsonl"}, "diffusiondb": {"part-000001.json"}}.get(layout, set())
    stray = {path.name for path in Path("export").rglob("*.json*") if not path.name.startswith(".")}
    assert stray == known
    assert not Path("export/.imagemill").exists()
    assert Path("export/README.md").is_file()


@every_layout
def test_1_12_and_2_4_extensions_are_in_lower_case(layout: str) -> None:
    """`PNG` and `png` are two columns for one reader of tar files, and one for the other."""
    picture("A.PNG")
    package.augment(table([{"image": "A.PNG", "caption": "a fox"}]), "out", model="fake", seed=3)
    package.export("out", layout, "export")
    names = [path.name for path in Path("export").rglob("*")]
    if layout == "webdataset":
        with tarfile.open("export/train-000000.tar") as archive:
            names += archive.getnames()
    if layout == "parquet":
        names += [row["path"] for row in pq.read_table("export/data").column("image").to_pylist()]
    assert not [name for name in names if name.lower() != name and name != "README.md"]


@pytest.mark.parametrize("parameters", [{}, {"caption_files": True}], ids=str)
def test_1_13_no_folder_is_too_large_for_the_hub(parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagefolder, "_FOLDER_SIZE", 10)
    dataset = generated(count=23)
    package.export(dataset, "imagefolder", "export", **parameters)
    sizes = [len(list(path.iterdir())) for path in Path("export/train").rglob("*") if path.is_dir()]
    assert max(sizes) == 10
    assert_equal(load("export")["train"], dataset)


# 2 WebDataset


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_2_1_a_point_in_an_id_merges_no_samples(hard: Path) -> None:
    """`sdxl-1.0_0.png` and `sdxl-1.0_1.png` are one sample, `sdxl-1`, with no error."""
    package.export(hard, "webdataset", "export")
    with tarfile.open("export/train-000000.tar") as archive:
        keys = {member.name.partition(".")[0] for member in archive}
    assert len(keys) == len(PROMPTS)
    assert all(re.fullmatch(r"[\w-]+", key, re.ASCII) for key in keys)
    assert len(list(by_webdataset(Path("export"), ""))) == len(PROMPTS)


def test_2_2_and_2_3_members_of_a_sample_lie_together_and_none_is_passed_over(hard: Path) -> None:
    package.export(hard, "webdataset", "export")
    with tarfile.open("export/train-000000.tar") as archive:
        names = archive.getnames()
    keys = [name.partition(".")[0] for name in names]
    assert keys == [key for key in dict.fromkeys(keys) for _ in range(3)]
    assert all("." in name and not re.match(r"__.*__/", name) for name in names)


def test_2_6_pairs_have_the_names_that_both_readers_take() -> None:
    picture("a.png")
    Image.new("L", (24, 16), 255).save("m.png")
    rows = [{"image": "a.png", "instruction": f"edit {n}", "mask": "m.png"} for n in range(6)]
    package.edit(table(rows), "out", model="fake", seed=1, mask_column="mask")
    package.export("out", "webdataset", "export")
    train = load("export")["train"]
    assert {"png", "input.png", "mask.png", "json", "txt"} <= set(train.column_names)
    assert train[5]["input.png"].size == (24, 16)


# 3 Parquet


def test_3_1_to_3_3_images_are_images_and_not_bytes(hard: Path) -> None:
    """Without the metadata, in another order, or as large types they load as dictionaries, without a warning."""
    package.export(hard, "parquet", "export", subsets="first_2", caption_column="caption")
    for path in Path("export").rglob("*.parquet"):
        schema = pq.read_schema(path)
        assert str(schema.field("image").type) == "struct<bytes: binary, path: string>"
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        assert features["image"] == {"_type": "Image"}
        assert list(features) == schema.names
        assert not [field.name for field in schema if "large" in str(field.type)]
        for row in pq.read_table(path).to_pylist():
            assert row["image"]["path"].endswith(".png")
            assert row["image"]["bytes"].startswith(b"\x89PNG")
    assert_equal(load("export")["train"].remove_columns("text"), Dataset(hard))


@with_pictures
def test_3_5_no_picture_is_turned_by_its_reader(layout: str) -> None:
    """`Image` turns pictures as EXIF says: one of 8 × 16 would have the sizes of its record the wrong way round."""
    turned = Image.new("RGB", (8, 16), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save("turned.png", exif=exif)
    package.augment(table([{"image": "turned.png", "caption": "a fox"}]), "out", model="fake", seed=3)
    package.export("out", layout, "export")
    for row in load("export")["train"]:
        record = as_record(row)
        image = row["png"] if layout == "webdataset" else row["image"]
        assert image.size == (record["width"], record["height"]) == (16, 8)


# 5 DiffusionDB


def test_5_the_json_files_alone_are_as_its_readers_expect(hard: Path) -> None:
    dataset = Dataset(hard)
    package.export(dataset, "diffusiondb", "export")
    entries = json.loads(Path("export/images/part-000001/part-000001.json").read_text())
    assert [entry["p"] for entry in entries.values()] == [record["prompt"] for record in dataset]
    assert {tuple(entry) for entry in entries.values()} == {("p", "se", "c", "st", "sa")}
    for name, record in zip(entries, dataset, strict=True):
        assert pixels(Path("export/images/part-000001", name)) == pixels(
            hard / "images/part-000001" / record["file_name"]
        )


def test_5_an_image_that_was_blurred_is_2() -> None:
    dataset = generated()
    add(dataset, image_nsfw=lambda n: 2.0 if n == 1 else 0.25)
    package.export(dataset, "diffusiondb", "export", subsets="first_2")
    assert load("export")["train"]["image_nsfw"][:2] == [0.25, 2.0]
    assert str(load("export", "first_2")["train"].features["image_nsfw"]) == "Value('float32')"


# and back


@pytest.mark.parametrize(
    ("layout", "parameters"),
    [
        *((layout, {"subsets": "first_2,random_5"}) for layout in LAYOUTS),
        ("imagefolder", {"caption_column": "topic", "subsets": "first_2"}),
        ("imagefolder", {"caption_files": True, "repeats": 3}),
        ("imagefolder", {"class_column": "topic"}),
        ("parquet", {"caption_column": "topic"}),
        ("webdataset", {"caption_column": "topic"}),
    ],
    ids=str,
)
def test_what_is_written_for_others_is_not_imported_twice(layout: str, parameters: dict[str, Any]) -> None:
    """Subsets, captions and classes say what the records say already."""
    dataset = generated(count=12)
    package.export(dataset, layout, "export", **parameters)
    back = package.import_dataset("export", "back")
    assert list(back) == list(dataset)
