"""The layout of DiffusionDB: what its readers expect, and every record and byte back."""

from __future__ import annotations

import hashlib
import json
import uuid
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.errors import ImagemillError, UsageError
from imagemill.foreign import diffusiondb as format_of_diffusiondb
from imagemill.foreign.diffusiondb import SAMPLERS, columns, read_foreign
from imagemill.layouts import diffusiondb
from imagemill.layouts.base import Content, Picture
from imagemill.layouts.diffusiondb import Diffusiondb, image_name
from imagemill.models.diffusers.schedulers import SCHEDULERS

from .conftest import Command
from .test_augment import picture, table
from .test_export import add, contents, generated, load

COLUMNS = {
    "image_name": pa.string(),
    "prompt": pa.string(),
    "part_id": pa.uint16(),
    "seed": pa.uint32(),
    "step": pa.uint16(),
    "cfg": pa.float32(),
    "sampler": pa.uint8(),
    "width": pa.uint16(),
    "height": pa.uint16(),
    "user_name": pa.string(),
    "timestamp": pa.timestamp("us", "UTC"),
    "image_nsfw": pa.float32(),
    "prompt_nsfw": pa.float32(),
}
CODES = {
    "ddim": (1, "ddim"),
    "plms": (2, "plms"),
    "euler": (3, "k_euler"),
    "euler_ancestral": (4, "k_euler_ancestral"),
    "heun": (5, "k_heun"),
    "dpm_2": (6, "k_dpm_2"),
    "dpm_2_ancestral": (7, "k_dpm_2_ancestral"),
    "lms": (8, "k_lms"),
    "dpmpp_2m": (9, "others"),
}


def content(*changes: dict[str, Any]) -> Content:
    """Images with records that no model here makes: each the usual one with changes."""
    Path("pictures").mkdir(exist_ok=True)
    pictures = []
    for number, change in enumerate(changes):
        name = change.get("file_name", f"prompt_{number}_image_0.png")
        Image.new("RGB", (8, 8), (number % 256, 0, 0)).save(Path("pictures", name))
        digest = hashlib.sha256(Path("pictures", name).read_bytes()).hexdigest()
        record = {
            "file_name": name, "prompt": f"picture {number}", "negative_prompt": "", "id": f"row-{number}",
            "seed": number, "width": 8, "height": 8, "num_inference_steps": 20, "guidance_scale": 7.1,
            "scheduler": "lms", "model": "m", "model_revision": "r", "model_parameters": "{}", "batch_size": 1,
            "sha256": digest, **change,
        }  # fmt: skip
        pictures.append(Picture(Path("pictures", name), record))
    schema = pa.Table.from_pylist([picture.record for picture in pictures]).schema
    return Content({"train": pictures}, schema, "license: cc0-1.0\n", "# Card\n", "0")


def written(what: Content, folder: str = "export", **parameters: Any) -> list[dict[str, Any]]:
    """Write, read back, compare; return the rows of the table."""
    layout = Diffusiondb(**parameters)
    Path(folder).mkdir()
    layout.write(what, Path(folder))
    for meant, loaded in zip(what.splits["train"], layout.read(Path(folder), "train"), strict=True):
        assert loaded.record == layout.exported(meant.record)
        assert list(loaded.files.values()) == [meant.read(name) for name in meant.files]
    name = "metadata-large.parquet" if layout.large else "metadata.parquet"
    found: list[dict[str, Any]] = pq.read_table(Path(folder, name)).to_pylist()
    return found


# what readers of DiffusionDB find


def test_the_table_has_the_thirteen_columns() -> None:
    generated()
    package.export("out", "diffusiondb", "export")
    schema = pq.read_schema("export/metadata.parquet")
    assert dict(zip(schema.names, schema.types, strict=True)) == COLUMNS
    assert schema.names == list(COLUMNS)
    assert all(field.nullable for field in schema)


def test_parts_hold_a_thousand_images_and_what_made_them() -> None:
    dataset = generated(count=2030)
    package.export(dataset, "diffusiondb", "export")
    rows = pq.read_table("export/metadata.parquet").to_pylist()
    assert [row["part_id"] for row in rows] == [1] * 1000 + [2] * 1000 + [3] * 30
    entries: dict[str, dict[str, Any]] = {}
    for number, count in ((1, 1000), (2, 1000), (3, 30)):
        part = Path(f"export/images/part-{number:06d}")
        found = json.loads((part / f"{part.name}.json").read_text())
        assert len(found) == count
        assert {path.name for path in part.iterdir()} == {*found, f"{part.name}.json"}
        entries |= found
    for row, record in zip(rows, dataset, strict=True):
        entry = entries[row["image_name"]]
        assert list(entry) == ["p", "se", "c", "st", "sa"]
        assert entry["p"] == row["prompt"] == record["prompt"]
        assert entry["se"] == row["seed"] == record["seed"]
        assert entry["c"] == row["cfg"] == record["guidance_scale"]
        assert entry["st"] == row["step"] == record["num_inference_steps"]
        assert (row["width"], row["height"]) == (8, 8)
        path = Path(f"export/images/part-{row['part_id']:06d}", row["image_name"])
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]


def test_names_are_uuids_of_version_4_and_no_two_are_equal() -> None:
    names = {image_name({"file_name": f"prompt_{n}_image_0.png", "sha256": "0" * 64}) for n in range(100_000)}
    assert len(names) == 100_000
    for name in sorted(names)[:1000]:
        stem, _, extension = name.partition(".")
        found = uuid.UUID(stem)
        assert (str(found), found.version, found.variant, extension) == (stem, 4, uuid.RFC_4122, "png")


def test_a_score_does_not_rename_images() -> None:
    dataset = generated()
    package.export(dataset, "diffusiondb", "before")
    add(dataset, score=lambda n: n / 2)
    package.export(dataset, "diffusiondb", "after")
    names = [pq.read_table(f"{name}/metadata.parquet").column("image_name") for name in ("before", "after")]
    assert names[0].equals(names[1])


@pytest.mark.parametrize("scheduler", CODES)
def test_every_sampler_has_its_code_and_comes_back(scheduler: str) -> None:
    (row,) = written(content({"scheduler": scheduler}))
    entry = json.loads(Path("export/images/part-000001/part-000001.json").read_text())[row["image_name"]]
    assert (row["sampler"], entry["sa"]) == CODES[scheduler]
    if scheduler != "dpmpp_2m":
        # Without a word of ours: the code alone tells.
        extra = pq.read_table("export/metadata-extra.parquet").to_pylist()
        changed = pa.Table.from_pylist([{**extra[0], "scheduler": "unipc"}])
        pq.write_table(changed, "export/metadata-extra.parquet")
        (loaded,) = Diffusiondb().read(Path("export"), "train")
        assert loaded.record["scheduler"] == scheduler


def test_all_schedulers_have_a_code() -> None:
    assert set(SAMPLERS) == set(CODES) - {"dpmpp_2m"}
    assert set(SAMPLERS) <= set(SCHEDULERS)


def test_texts_survive() -> None:
    prompts = ['"quoted", with a comma', "two\nlines\r\n\tand a tab", "né 中文 🎨 \u202e", "", "\\ {} 'x' \x00 \x7f"]
    rows = written(content(*({"prompt": prompt} for prompt in prompts)))
    assert [row["prompt"] for row in rows] == prompts
    entries = json.loads(Path("export/images/part-000001/part-000001.json").read_text())
    assert [entry["p"] for entry in entries.values()] == prompts


def test_scores_stand_in_the_table_and_what_is_not_scored_is_null() -> None:
    dataset = generated()
    add(dataset, image_nsfw=lambda n: None if n == 1 else n / 4, prompt_nsfw=lambda n: 2.0)
    package.export(dataset, "diffusiondb", "export")
    found = pq.read_table("export/metadata.parquet")
    assert found.column("image_nsfw").to_pylist() == [0.0, None, 0.5, 0.75, 1.0]
    assert found.column("prompt_nsfw").to_pylist() == [2.0] * 5


def test_times_are_in_utc() -> None:
    times = ["2022-08-07T22:57:00+02:00", "2022-08-07 20:57:00", "", "2022-08-07T20:57:00.123456Z"]
    rows = written(content(*({"timestamp": time} for time in times)))
    expected = datetime(2022, 8, 7, 20, 57, tzinfo=UTC)
    assert [row["timestamp"] for row in rows] == [expected, expected, None, expected.replace(microsecond=123456)]
    (row,) = written(content({"made": 1659905820}), "seconds", timestamp_column="made")
    assert row["timestamp"] == expected


@pytest.mark.parametrize("zips", [False, True])
def test_users_are_known_by_a_hash_alone(zips: bool) -> None:
    known = hashlib.sha256(b"someone").hexdigest()
    changes = [{"author": "Grace-Hopper"}, {"author": known}, {"author": ""}, {"author": "Grace-Hopper"}]
    rows = written(content(*changes), user_column="author", zips=zips)
    grace = hashlib.sha256(b"Grace-Hopper").hexdigest()
    assert [row["user_name"] for row in rows] == [grace, known, None, grace]
    for path in Path("export").rglob("*"):
        assert not path.is_file() or b"Grace-Hopper" not in path.read_bytes()
    (row,) = written(content({"user_name": "Grace-Hopper"}), "usual")
    assert row["user_name"] == grace


def test_other_tools_read_the_table() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    dataset = generated()
    add(dataset, image_nsfw=lambda n: n / 4)
    package.export(dataset, "diffusiondb", "export")
    frame = pandas.read_parquet("export/metadata.parquet")
    assert list(frame["prompt"]) == [record["prompt"] for record in dataset]
    assert list(frame["seed"]) == [record["seed"] for record in dataset]
    assert str(frame["seed"].dtype) == "uint32"
    assert str(frame["timestamp"].dtype) == "datetime64[us, UTC]"
    assert list(load("export")["train"]["seed"]) == [record["seed"] for record in dataset]
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    found = duckdb.sql(
        "SELECT m.prompt, model FROM 'export/metadata.parquet' m JOIN 'export/metadata-extra.parquet' "
        "USING (image_name) WHERE m.image_nsfw >= 0.5 ORDER BY m.image_nsfw"
    ).fetchall()
    assert found == [(record["prompt"], record["model"]) for record in list(dataset)[2:]]


# zips, formats, the large layout


def test_a_part_as_a_zip_holds_the_same() -> None:
    dataset = generated()
    package.export(dataset, "diffusiondb", "plain")
    package.export(dataset, "diffusiondb", "zipped", zips=True)
    assert [path.name for path in Path("zipped/images").iterdir()] == ["part-000001.zip"]
    with zipfile.ZipFile("zipped/images/part-000001.zip") as archive:
        assert archive.testzip() is None
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {member.date_time[0] for member in archive.infolist()} == {1980}
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found == {path.name: path.read_bytes() for path in Path("plain/images/part-000001").iterdir()}
    assert contents("plain")["metadata.parquet"] == contents("zipped")["metadata.parquet"]


@pytest.mark.parametrize("parameters", [{}, {"zips": True}, {"large": True}])
def test_two_exports_are_equal(parameters: dict[str, Any]) -> None:
    dataset = generated()
    for name in ("one", "two"):
        package.export(dataset, "diffusiondb", name, **parameters)
    assert contents("one") == contents("two")


def test_webp_keeps_every_pixel() -> None:
    generated("png")
    generated("webp", image_format="webp")
    pixels: dict[str, list[Any]] = {}
    for name in ("png", "webp"):
        package.export(name, "diffusiondb", f"{name}-export")
        names = pq.read_table(f"{name}-export/metadata.parquet").column("image_name").to_pylist()
        assert all(one.endswith(f".{name}") for one in names)
        paths = [Path(f"{name}-export/images/part-000001", one) for one in names]
        pixels[name] = [np.asarray(Image.open(path)) for path in paths]
    assert np.array_equal(pixels["png"], pixels["webp"])


def test_the_large_layout_has_a_second_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Diffusiondb(large=True)._part(Path(), 10_000) == Path("diffusiondb-large-part-1/part-010000")
    assert Diffusiondb(large=True)._part(Path(), 10_001) == Path("diffusiondb-large-part-2/part-010001")
    monkeypatch.setattr(diffusiondb, "PART_SIZE", 2)
    monkeypatch.setattr(format_of_diffusiondb, "_DIRECTORY", 1)
    rows = written(content({}, {}, {}), large=True)
    assert [row["part_id"] for row in rows] == [1, 1, 2]
    assert {path.name for path in Path("export").iterdir()} == {
        "diffusiondb-large-part-1",
        "diffusiondb-large-part-2",
        "metadata-large.parquet",
        "metadata-extra.parquet",
        "README.md",
    }


# what does not fit


def test_what_does_not_fit_is_told_and_kept() -> None:
    changes: list[dict[str, Any]] = [
        {"seed": 2**32},
        {"seed": -1, "scheduler": "unipc"},
        {"seed": 2**32 - 1, "num_inference_steps": 65536},
        {"width": 65536, "height": 65535, "scheduler": "dpmpp_2m"},
    ]
    what = content(*changes)
    rows = written(what)
    assert [row["seed"] for row in rows] == [None, None, 2**32 - 1, 3]
    assert [row["step"] for row in rows] == [20, 20, None, 20]
    assert [(row["width"], row["height"]) for row in rows] == [(8, 8)] * 3 + [(None, 65535)]
    assert [row["sampler"] for row in rows] == [8, 9, 8, 9]
    extra = pq.read_table("export/metadata-extra.parquet").to_pylist()
    assert [row["image_name"] for row in extra] == [row["image_name"] for row in rows]
    assert [row["seed"] for row in extra] == [2**32, -1, 2**32 - 1, 3]
    assert extra[3]["scheduler"] == "dpmpp_2m"
    assert extra[0]["model"] == "m"
    entries = json.loads(Path("export/images/part-000001/part-000001.json").read_text())
    assert [entry["se"] for entry in entries.values()] == [2**32, -1, 2**32 - 1, 3]
    assert Diffusiondb().notes(what) == [
        "`seed` is null for 2 images: it holds integers from 0 to 4,294,967,295 only",
        "`step` is null for 1 image: it holds integers from 0 to 65,535 only",
        "`width` is null for 1 image: it holds integers from 0 to 65,535 only",
        "`sampler` is 9, others, for 2 images: `dpmpp_2m`, `unipc`",
    ]
    card = Path("export/README.md").read_text()
    assert all(note in card for note in Diffusiondb().notes(what))


def test_more_parts_than_the_table_can_number_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusiondb, "PART_SIZE", 1)
    monkeypatch.setitem(diffusiondb._BITS, "part_id", 1)
    rows = written(content({}, {}, {}))
    assert [row["part_id"] for row in rows] == [1, None, None]


def test_what_fits_is_not_talked_about() -> None:
    what = content({}, {"scheduler": "euler"})
    written(what)
    assert Diffusiondb().notes(what) == []
    assert "cannot hold.\n" in Path("export/README.md").read_text()


def test_a_column_called_image_name_stays() -> None:
    written(content({"image_name": "theirs.png", "table_image_name": "x", "score": None, "tags": ["a", "b"]}))
    extra = pq.read_table("export/metadata-extra.parquet").to_pylist()[0]
    assert (extra["table_image_name"], extra["table_table_image_name"]) == ("theirs.png", "x")


def test_all_pictures_of_an_edit_come_back() -> None:
    picture("a.png"), picture("b.png", (24, 16), 1)
    Image.new("L", (24, 16), 255).save("m.png")
    rows = [{"images": ["a.png", "b.png"][: 1 + n % 2], "instruction": f"edit {n}", "mask": "m.png"} for n in range(3)]
    package.edit(table(rows), "out", model="fake", seed=1, mask_column="mask", strength=0.5)
    before = contents("out/images")
    for zips in (False, True):
        package.export("out", "diffusiondb", f"export-{zips}", zips=zips)
    kept = {Path(name).name: digest for name, digest in contents("export-True/images-extra").items()}
    assert kept
    assert kept.items() <= {Path(name).name: digest for name, digest in before.items()}.items()
    assert contents("out/images") == before


# what others have written


@pytest.mark.parametrize("parameters", [{}, {"zips": True}, {"large": True}])
def test_a_folder_of_others_is_read(parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusiondb, "PART_SIZE", 2)
    scored = {"user_name": "x", "timestamp": "2022-08-07T20:57:00Z", "image_nsfw": 0.5, "prompt_nsfw": 0.25}
    what = content(*({**scored, "scheduler": scheduler} for scheduler in CODES))
    written(what, **parameters)
    Path("export/metadata-extra.parquet").unlink()
    found = list(read_foreign(Path("export")))
    for meant, loaded in zip(what.splits["train"], found, strict=True):
        record = meant.record
        kept = ("prompt", "seed", "num_inference_steps", "guidance_scale", "width", "height")
        assert loaded.record == {
            "file_name": image_name(record),
            **{key: record[key] for key in kept},
            "scheduler": record["scheduler"].replace("dpmpp_2m", ""),
            "user_name": hashlib.sha256(b"x").hexdigest(),
            "timestamp": "2022-08-07T20:57:00+00:00",
            "image_nsfw": 0.5,
            "prompt_nsfw": 0.25,
        }
        assert loaded.files == {image_name(record): meant.read(record["file_name"])}


def test_parts_alone_can_be_read() -> None:
    what = content({}, {})
    written(what)
    names = [image_name(meant.record) for meant in what.splits["train"]]
    Path("export/metadata.parquet").unlink()
    Path("export/images/part-000001", names[1]).unlink()
    first, second = read_foreign(Path("export"))
    kept = ("prompt", "seed", "num_inference_steps", "guidance_scale", "scheduler")
    record = next(iter(what.splits["train"])).record
    assert first.record == {"file_name": names[0], **{key: record[key] for key in kept}}
    assert (second.record["prompt"], second.files) == ("picture 1", {})


# export, whole or not at all


@pytest.mark.parametrize("name", [*COLUMNS, "p", "se", "c", "st", "sa", "pixels", "rows"])
def test_a_difference_anywhere_is_found(name: str) -> None:
    what = content(*[{"timestamp": "2022-08-07", "user_name": "x", "image_nsfw": 0.1, "prompt_nsfw": 0.7}] * 2)
    first = next(iter(what.splits["train"]))
    written(what)
    path = Path("export/metadata.parquet")
    rows = pq.read_table(path).to_pylist()
    part = Path("export/images/part-000001")
    entries = json.loads((part / "part-000001.json").read_text())
    image = rows[0]["image_name"]
    wrong = {"image_name": rows[1]["image_name"], "timestamp": datetime(2023, 1, 1, tzinfo=UTC), "part_id": 2}
    if name in COLUMNS:
        usual = "other" if COLUMNS[name] == pa.string() else 1
        rows[0][name] = wrong.get(name, 9 if name in {"width", "seed"} else usual)
    elif name in entries[image]:
        entries[image][name] = "k_euler" if name == "sa" else "other" if name == "p" else 3
    elif name == "pixels":
        (part / rows[1]["image_name"]).replace(part / image)
    else:
        rows.pop()
    pq.write_table(pa.Table.from_pylist(rows, columns()), path)
    (part / "part-000001.json").write_text(json.dumps(entries))
    try:
        found = next(Diffusiondb().read(Path("export"), "train"))
        same = found.record == Diffusiondb().exported(first.record)
        same &= list(found.files.values()) == [first.read(first.record["file_name"])]
        if name == "rows":
            with pytest.raises(ValueError, match="zip"):
                list(Diffusiondb().read(Path("export"), "train"))
        else:
            assert not same
    except (OSError, ImagemillError):
        assert name in {"part_id", "image_name"}


@pytest.mark.parametrize(
    ("changes", "parameters", "said"),
    [
        ({"file_name": "prompt_0_image_0.jpg"}, {}, r"PNG and WebP images, got: `prompt_0_image_0\.jpg`"),
        ({"timestamp": "yesterday"}, {}, "`timestamp` of `prompt_0_image_0.png` is no time, got: `yesterday`"),
        ({"timestamp": 1e18}, {}, "is no time"),
        ({"image_nsfw": "high"}, {}, "`image_nsfw` must be a number, got: string"),
        ({"author": "x"}, {"user_column": "auhtor"}, "did you mean `author`"),
        ({"author": "x"}, {"timestamp_column": "prompt"}, "there is no such column, got: `prompt`"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    changes: dict[str, Any], parameters: dict[str, Any], said: str
) -> None:
    Path("export").mkdir()
    with pytest.raises(UsageError, match=said):
        Diffusiondb(**parameters).write(content(changes), Path("export"))
    assert not list(Path("export").iterdir())


def test_columns_can_be_left_alone() -> None:
    what = content({"timestamp": "yesterday", "user_name": "Bot"})
    (row,) = written(what, timestamp_column="", user_column="")
    assert (row["timestamp"], row["user_name"]) == (None, None)


def test_splits_are_refused(imagemill: Command) -> None:
    generated("all/train")
    generated("all/test")
    ran = imagemill("export", "all", "diffusiondb", "-o", "export")
    assert (ran.code, "diffusiondb has no splits, got: `train`, `test`" in ran.err) == (2, True)
    assert not Path("export").exists()


def test_the_command_exports(imagemill: Command) -> None:
    dataset = generated()
    ran = imagemill("export", "out", "diffusiondb", "-o", "export", "--zips", "--large", "--json")
    assert (ran.code, ran.json["parameters"]["zips"], ran.json["splits"]) == (0, True, {"train": 5})
    assert Path("export/diffusiondb-large-part-1/part-000001.zip").is_file()
    assert imagemill("export", "out", "diffusiondb", "-o", "export", "--zips", "--large", "--json").json["done_before"]
    loaded = list(Diffusiondb(zips=True, large=True).read(Path("export"), "train"))
    assert [one.record for one in loaded] == list(Dataset(dataset.folder))


def test_a_dataset_with_names_of_users_is_exported_without_them(imagemill: Command) -> None:
    rows = [{"prompt": f"picture {n}", "user_name": "Grace-Hopper" if n else ""} for n in range(3)]
    package.generate(rows, "users", model="fake", seed=1, width=8, height=8)
    ran = imagemill("export", "users", "diffusiondb", "-o", "export", "--zips")
    assert (ran.code, "`sampler` is 9, others, for 3 images: `none`" in ran.err) == (0, True), ran.err
    grace = hashlib.sha256(b"Grace-Hopper").hexdigest()
    assert pq.read_table("export/metadata.parquet").column("user_name").to_pylist() == [None, grace, grace]
    for path in Path("export").rglob("*"):
        assert not path.is_file() or b"Grace-Hopper" not in path.read_bytes()


def test_pictures_are_converted_without_loss() -> None:
    generated()
    package.export("out", "diffusiondb", "png")
    package.export("out", "diffusiondb", "webp", image_format="webp")
    pixels: dict[str, list[Any]] = {}
    for name in ("png", "webp"):
        found = pq.read_table(f"{name}/metadata.parquet").column("image_name").to_pylist()
        paths = [Path(name, "images/part-000001", one) for one in found]
        assert all(path.suffix == f".{name}" for path in paths)
        pixels[name] = [np.asarray(Image.open(path)) for path in paths]
    assert np.array_equal(pixels["png"], pixels["webp"])


# subsets


@pytest.mark.parametrize("parameters", [{}, {"zips": True}, {"large": True}], ids=str)
def test_subsets_have_the_columns_and_the_pictures(parameters: dict[str, Any]) -> None:
    dataset = generated(count=12)
    add(dataset, image_nsfw=lambda n: n / 16 if n > 3 else None)
    subsets = ["first_2", "random_5"]
    package.export(dataset, "diffusiondb", "export", subsets=subsets, subset_seed=7, **parameters)
    name = "metadata-large.parquet" if "large" in parameters else "metadata.parquet"
    rows = {row["image_name"]: row for row in pq.read_table(f"export/{name}").to_pylist()}
    pictures = {row["image_name"]: record["file_name"] for row, record in zip(rows.values(), dataset, strict=True)}
    found = {subset: load("export", subset)["train"] for subset in subsets}
    assert list(found["first_2"]["image_name"]) == list(rows)[:2]
    selected = package.select(dataset, "selected", sample=5, seed=7)
    assert list(found["random_5"]["prompt"]) == [record["prompt"] for record in selected]
    for subset in found.values():
        assert subset.column_names == ["image", *COLUMNS]
        for row in subset:
            image = row.pop("image")
            assert row == rows[row["image_name"]]
            assert image.tobytes() == dataset.image(pictures[row["image_name"]]).tobytes()
    for config in (None, "metadata_only"):
        whole = load("export", config)["train"]
        assert (whole.column_names, list(whole["image_name"])) == (list(COLUMNS), list(rows))
    assert "Subsets have these columns with the picture" in Path("export/README.md").read_text()


def test_subsets_of_edits_are_compared_with_all_their_pictures() -> None:
    picture("a.png"), picture("b.png", (24, 16), 1)
    rows = [{"images": ["a.png", "b.png"][: 1 + n % 2], "instruction": f"edit {n}"} for n in range(3)]
    dataset = package.edit(table(rows), "out", model="fake", seed=1)
    package.export(dataset, "diffusiondb", "export", subsets="first_2")
    assert list(load("export", "first_2")["train"]["prompt"]) == [record["prompt"] for record in list(dataset)[:2]]
    loaded = list(Diffusiondb().read_subset(Path("export"), "first_2"))
    assert [one.record for one in loaded] == list(dataset)[:2]
    assert len(loaded[1].files) == 3


# names and losses


def test_nobody_is_named_in_what_was_asked(imagemill: Command) -> None:
    rows = [{"prompt": f"picture {n}", "user_name": "Grace-Hopper" if n else "Ada"} for n in range(4)]
    package.generate(rows, "users", model="fake", seed=1, width=8, height=8)
    where = "user_name = 'Grace-Hopper'"
    ran = imagemill("export", "users", "diffusiondb", "-o", "export", "--where", where)
    assert ran.code == 2
    assert "`where` would tell what stands in `user_name`" in ran.err
    assert "`imagemill select` first" in ran.err
    assert not Path("export").exists()
    package.select("users", "selected", where=where)
    assert imagemill("export", "selected", "diffusiondb", "-o", "export").code == 0
    assert len(pq.read_table("export/metadata.parquet")) == 3
    for path in Path("export").rglob("*"):
        assert not path.is_file() or b"Grace-Hopper" not in path.read_bytes()
    assert imagemill("export", "users", "parquet", "-o", "table", "--where", where).code == 0


@pytest.mark.parametrize("arguments", [("webp", "--quality", 100), ("webp", "--quality", 80), ("jpeg",)])
def test_pictures_that_lose_something_are_refused(imagemill: Command, arguments: tuple[object, ...]) -> None:
    generated()
    ran = imagemill("export", "out", "diffusiondb", "-o", "export", "--image-format", *arguments)
    assert (ran.code, "diffusiondb holds images without loss" in ran.err) == (2, True), ran.err
    assert not Path("export").exists()


@pytest.mark.parametrize("large", [False, True])
def test_parts_are_numbered_beyond_what_the_table_can_say(large: bool) -> None:
    layout = Diffusiondb(large=large)
    (held,) = content({}).splits["train"]
    assert layout._row(held.record, 65_535)["part_id"] == 65_535
    row = layout._row(held.record, 65_536)
    assert row["part_id"] is None
    pa.Table.from_pylist([row], columns())
    assert layout._part(Path(), 65_536).name == "part-065536"
    assert layout._part(Path(), 1_000_000).name == "part-1000000"


# there and back


def quirks(count: int) -> Content:
    """Images with everything in them that DiffusionDB's columns cannot hold, or hold otherwise."""
    schedulers = [*CODES, "unipc", ""]
    prompts = [
        "a fox",
        '"quoted", with a comma',
        "two\nlines\r\n",
        "né 中文 🎨 \u202e",
        "",
        "\\ {} 'x' \x00 \x7f",
        " x ",
    ]
    changes = [
        {
            "prompt": prompts[n % len(prompts)],
            "scheduler": schedulers[n % len(schedulers)],
            "seed": (n, 2**32 - 1, 2**32, -1)[n % 4],
            "num_inference_steps": 65_536 if n % 13 == 0 else n % 150,
            "guidance_scale": (7.1, 0.0, 1e-3, 30.0)[n % 4],
            "user_name": f"user {n % 5}" if n % 3 else "",
            "timestamp": f"2022-08-07T20:57:{n % 60:02d}.{n % 1000:06d}Z" if n % 7 else "",
            "image_nsfw": None if n % 4 == 0 else n / count,
            "prompt_nsfw": None,
            "late": n / 2 if n == count - 1 else None,
            "tags": [f"t{n % 3}"] * (n % 3),
            "flag": n % 2 == 0,
            "image_name": f"theirs-{n}.png",
        }
        for n in range(count)
    ]
    return content(*changes)


@pytest.mark.parametrize("zips", [False, True])
@pytest.mark.parametrize("count", [60, pytest.param(10_000, marks=pytest.mark.slow)])
def test_images_with_every_quirk_come_back_as_they_were(
    count: int, zips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if count < 1000:
        monkeypatch.setattr(diffusiondb, "PART_SIZE", 25)
    what = quirks(count)
    rows = written(what, zips=zips)
    assert [row["part_id"] for row in rows] == [n // diffusiondb.PART_SIZE + 1 for n in range(count)]
    assert len({row["image_name"] for row in rows}) == count


@pytest.mark.parametrize("parameters", [{}, {"zips": True, "large": True}], ids=str)
@pytest.mark.parametrize("count", [60, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_dataset_with_every_quirk_is_exported_and_imported_with_nothing_changed(
    count: int, parameters: dict[str, Any]
) -> None:
    meant = [picture.record for picture in quirks(count).splits["train"]]
    asked = ("prompt", "seed", "num_inference_steps", "guidance_scale", "timestamp", "tags", "flag", "image_name")
    rows = [{name: record[name] for name in asked} for record in meant]
    for number, row in enumerate(rows):
        row["prompt"] = row["prompt"].replace("\x00", "").strip() or "x"
        row["seed"] = number if number % 2 else 2**32 - 1 - number
        row["num_inference_steps"] = 1 + number % 150
        row["user_name"] = hashlib.sha256(f"user {number % 5}".encode()).hexdigest() if number % 3 else ""
    dataset = package.generate(rows, "out", model="fake", seed=1, width=8, height=8, per_row=True)
    scores = ("image_nsfw", "prompt_nsfw", "late")
    add(dataset, **{name: lambda n, name=name: meant[n][name] for name in scores})
    package.export(dataset, "diffusiondb", "export", **parameters)
    back = package.import_dataset("export", "back")
    assert contents("back/images") == contents("out/images")
    assert list(back) == list(dataset)
    assert len({record["seed"] for record in back}) == count
