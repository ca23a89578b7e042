"""The card says what the dataset is, where it comes from and how to make it again, in terms that Hugging Face reads."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.dataset.card import render_card, size_category
from imagemill.dataset.files import encode_lines
from imagemill.errors import UsageError
from imagemill.licenses import check_license, is_limited, is_non_commercial

from .conftest import Command
from .test_augment import picture, table

SECTIONS = (
    *("Details", "Uses", "Structure", "Creation", "Annotations", "Personal and Sensitive Information"),
    *("Bias and Risks", "AI-generated Content", "Citation"),
)


def generated(folder: str = "out", count: int = 4, **parameters: Any) -> Dataset:
    rows = [{"prompt": f"picture {n}", "topic": f"t{n % 2}"} for n in range(count)]
    Path("prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return package.generate(
        "prompts.jsonl", folder, **{"model": "fake", "seed": 1, "width": 8, "height": 8, **parameters}
    )


def card(folder: str | Path = "out") -> str:
    return Path(folder, "README.md").read_text()


def front(folder: str | Path = "out") -> dict[str, Any]:
    """The front matter as the hub reads it."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found: dict[str, Any] = yaml.safe_load(card(folder).split("---\n")[1])
    return found


def relicensed(folder: str, **step: str) -> None:
    """Let a job say something else of its first step."""
    path = Path(folder, "job.toml")
    text = path.read_text()
    for name, value in step.items():
        text = re.sub(rf"^{name} = .*$", f"{name} = {json.dumps(value)}", text, count=1, flags=re.MULTILINE)
    path.write_text(text)


def scored(dataset: Dataset, column: str = "image_nsfw", **step: Any) -> None:
    """Give a dataset a score as a scorer does."""
    import tomli_w

    job = dataset.job
    told = {"operator": "score", "scorer": "image_nsfw", "model": "org/judge", "model_revision": "abc", **step}
    told |= {"license": "cc-by-nc-4.0", "scores": {column: "how unsafe; higher is worse"}, "columns": {}}
    job["steps"].append({**told, "meanings": {}, "model_parameters": {"threads": 1}})
    dataset.job_file.write_text(tomli_w.dumps(job))
    with dataset.lock():
        dataset.update(lambda record: {column: record["seed"] % 7 / 7})


# what the hub reads


def test_the_front_matter_is_what_the_hub_reads() -> None:
    generated()
    found = front()
    assert found == {
        "pretty_name": "prompts by fake",
        "license": "cc0-1.0",
        "task_categories": ["text-to-image"],
        "tags": ["synthetic", "image", "imagemill"],
        "annotations_creators": ["machine-generated"],
        "size_categories": ["n<1K"],
    }
    hub = pytest.importorskip("huggingface_hub", reason="the package `huggingface_hub` is not installed")
    assert hub.DatasetCard(card()).data.license == "cc0-1.0"


@pytest.mark.parametrize(
    ("images", "category"),
    [
        *((999, "n<1K"), (1_000, "1K<n<10K"), (10**7 - 1, "1M<n<10M"), (14 * 10**6, "10M<n<100M")),
        *((10**8, "100M<n<1B"), (10**11, "100B<n<1T"), (10**12, "n>1T")),
    ],
)
def test_sizes_are_those_of_the_hub(images: int, category: str) -> None:
    assert size_category(images) == category


@pytest.mark.parametrize(
    ("model", "license_name", "expected"),
    [
        ("fake", "apache-2.0", {"license": "apache-2.0"}),
        (
            "org/model",
            "flux-1-dev-non-commercial-license",
            {
                "license": "other",
                "license_name": "flux-1-dev-non-commercial-license",
                "license_link": "https://huggingface.co/org/model",
            },
        ),
        ("fake", "my: license # 1", {"license": "other", "license_name": "my: license # 1"}),
        ("fake", "unknown", {"license": "unknown"}),
        ("fake", "other", {"license": "other", "license_name": "that of fake"}),
    ],
)
def test_a_license_that_the_hub_has_no_id_for_has_a_name(
    model: str, license_name: str, expected: dict[str, str]
) -> None:
    dataset = generated()
    relicensed("out", model=model, license=license_name)
    Path("out/README.md").write_text(render_card(dataset))
    assert {name: value for name, value in front().items() if name.startswith("license")} == expected


def test_names_of_tables_cannot_break_the_front_matter() -> None:
    for number, name in enumerate(('a: "b" # c', "--- d", "e\x85\u2028f", "é 🎨")):
        shutil.copy(generated(f"plain-{number}").folder.parent / "prompts.jsonl", f"{name}.jsonl")
        package.generate(f"{name}.jsonl", f"out-{number}", model="fake", seed=1, width=8, height=8)
        assert front(f"out-{number}")["pretty_name"] == f"{name} by fake"


@pytest.mark.parametrize("name", ["cc-by-nc-4.0", "CC-BY-NC-SA-3.0", "flux-1-dev-non-commercial-license"])
def test_non_commercial_licenses_are_known(name: str) -> None:
    assert is_non_commercial(name)
    assert not is_limited(name)


def test_other_licenses_are_not_called_non_commercial() -> None:
    assert not any(map(is_non_commercial, ("cc-by-4.0", "mit", "openrail++", "unknown", "other", "ncsa")))
    assert is_limited("stabilityai-ai-community")


# what people read


def test_every_section_is_there_and_says_something() -> None:
    generated()
    found = re.split(r"^## ", card(), flags=re.MULTILINE)[1:]
    titles = [section.partition("\n")[0] for section in found]
    assert titles == list(SECTIONS)
    assert all(len(section.partition("\n")[2].split()) >= 4 for section in found)


def test_every_model_is_told_with_its_license_and_what_it_forbids() -> None:
    dataset = generated()
    relicensed("out", license="cc-by-nc-4.0")
    scored(dataset)
    text = card()
    revision = dataset.job["steps"][0]["model_revision"]
    assert f"| `fake` | the images | `{revision}` | `cc-by-nc-4.0` |" in text
    assert "| `org/judge` | the column `image_nsfw` | `abc` | `cc-by-nc-4.0` |" in text
    assert "**Not for commercial use:** `fake`, which made the images" in text
    assert "**Not for commercial use:** `org/judge`" in text
    assert front()["license"] == "cc-by-nc-4.0"
    assert "- `image_nsfw`, by the scorer `image_nsfw` with `org/judge`: how unsafe; higher is worse" in text
    assert "`image_nsfw` tell how likely something is not safe for work" in text


def test_the_source_is_told_by_name_and_hash_and_never_by_place() -> None:
    Path("deep").mkdir()
    path = Path("deep/table.csv").resolve()
    path.write_text("prompt,width\na,\nb,\n")
    dataset = package.generate(path, "out", model="fake", seed=1)
    assert f"`table.csv` (SHA-256 of its rows `{dataset.job['input']['sha256']}`): 2 rows" in card()
    assert str(path.parent) not in card()


def test_what_filters_have_left_out_is_counted() -> None:
    dataset = generated(count=6, accept="brightness > 0.5", score="quality", max_tries=5)
    refused = len(Path("out/.imagemill/tries.jsonl").read_text().splitlines())
    assert refused > 0
    assert "only where `brightness > 0.5` is true, and drawn again where it is not, at most 5 times" in card()
    assert f"{len(dataset) + refused:,} images were drawn, and {refused:,} of them not accepted" in card()
    package.select(dataset, "good", where="topic = 't0'")
    assert "| out | 3 | `topic != 't0'` |" in card("good")


def test_nothing_is_told_of_who_wrote_the_prompts() -> None:
    """DiffusionDB knows users only by a hash."""
    rows = [{"prompt": f"picture {n}", "user_name": f"ada-{n % 2}"} for n in range(4)]
    dataset = package.generate(rows, "out", model="fake", seed=1, width=8, height=8)
    package.select(dataset, "good", where="user_name = 'ada-1'")
    package.export("good", "diffusiondb", "export", user_column="user_name")
    for path in Path("export").rglob("*"):
        assert path.is_dir() or b"ada-1" not in path.read_bytes(), path
    assert "| out | 2 | what is not told here |" in card("export")


def test_removed_images_are_counted() -> None:
    dataset = generated()
    counts = dataset.counts()
    if not hasattr(counts, "removed") or not hasattr(package, "remove"):
        pytest.skip("images cannot be removed yet")
    package.remove(dataset, ["prompt_1_image_0"], reason="asked for")
    assert "| removed | 1 |" in card()
    assert "1 image was removed since" in card()


def test_the_card_is_the_same_wherever_and_however_often_it_is_written() -> None:
    dataset = generated()
    text = card()
    assert render_card(dataset) == text
    shutil.move("out", "elsewhere")
    assert render_card(Dataset("elsewhere")) == text
    assert "elsewhere" not in text


def test_a_card_of_many_parts_is_written_without_reading_them(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = generated()
    line = Path("out/images/part-000001/metadata.jsonl").read_bytes()
    seal = json.loads(Path("out/.imagemill/seals.jsonl").read_text().splitlines()[-1])
    for number in range(2, 200):
        Path(f"out/images/part-{number:06d}").mkdir()
        Path(f"out/images/part-{number:06d}/metadata.jsonl").write_bytes(line)
    seals = [{**seal, "part": f"part-{number:06d}"} for number in range(1, 200)]
    Path("out/.imagemill/seals.jsonl").write_bytes(encode_lines(seals))
    read: list[Path] = []
    before = Path.read_bytes

    def counted(path: Path) -> bytes:
        read.append(path)
        return before(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    assert f"{199 * 4:,} images made by an AI model" in render_card(Dataset(dataset.folder))
    assert len([path for path in read if path.name == "metadata.jsonl"]) <= 1


# made again


def again(folder: str | Path) -> dict[str, Any]:
    found = re.search(r"```toml\n(.*?)```", card(folder), re.DOTALL)
    assert found
    return tomllib.loads(found[1])


@pytest.mark.parametrize("exported", [False, True])
def test_the_job_in_the_card_makes_the_same_images(exported: bool, imagemill: Command) -> None:
    dataset = generated(per_row=True, prompt_postfix=", red", images_per_prompt=2, negative_prompt='a "b"')
    package.score(dataset, "quality")
    package.select(dataset, "best", where="flat >= 0", top=1, per="prompt", by="sharpness")
    source = package.export("best", "imagefolder", "export") if exported else Path("best")
    found = re.search(r"```toml\n(.*?)```", card(source), re.DOTALL)
    assert found
    Path("job.toml").write_text(found[1])
    ran = imagemill("run", "job.toml")
    assert ran.code == 0, ran.err
    assert [*Dataset("again/select")] == [*Dataset("best")]


def test_the_job_of_an_edit_makes_the_same_images(imagemill: Command) -> None:
    picture("a.png"), picture("b.png", (24, 16), 1)
    lines = [{"image": name, "instruction": "paint it red"} for name in ("a.png", "b.png")]
    Path("edits.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    package.edit("edits.jsonl", "out", model="fake", seed=3, strength=0.25)
    found = re.search(r"```toml\n(.*?)```", card(), re.DOTALL)
    assert found
    Path("job.toml").write_text(found[1])
    assert imagemill("run", "job.toml").code == 0
    assert [*Dataset("again/edit")] == [*Dataset("out")]
    assert front()["task_categories"] == ["image-to-image"]


def test_pictures_that_were_taken_in_are_not_called_synthetic() -> None:
    picture("a.png")
    package.caption(table([{"image": "a.png"}]), "out", model="fake")
    assert front()["tags"] == ["image", "imagemill"]
    assert front()["task_categories"] == ["image-to-text"]
    assert "synthetic" not in card().partition("## Uses")[2].partition("## Bias")[0]
    assert "- `caption`, a description with `fake`" in card()


# what it was made from


def licensed(name: str, told: str = "") -> str:
    """A folder of pictures whose card names their license."""
    picture(f"{name}/a.png"), picture(f"{name}/b.png", seed=1)
    for file in ("a", "b"):
        Path(name, f"{file}.txt").write_text(f"picture {file}")
    if told:
        Path(name, "README.md").write_text(f"---\nlicense: {told}\n---\n")
    return name


@pytest.mark.parametrize("imported", [False, True])
@pytest.mark.parametrize(("told", "expected"), [("cc-by-nc-4.0", "cc-by-nc-4.0"), ("", "unknown"), ("mit", "mit")])
def test_what_is_made_of_pictures_keeps_their_license(told: str, expected: str, imported: bool) -> None:
    source: Any = licensed("pictures", told)
    if imported:
        source = package.import_dataset(source, "taken")
    made_of = package.augment(source, "out", model="fake", seed=1, captioner="fake")
    assert front()["license"] == expected
    assert made_of.job["steps"][0]["license"] == "cc0-1.0"
    assert ("**Not for commercial use:** the pictures that images were made from" in card()) == ("nc" in told)
    assert "of what `fake` makes" in card()
    assert "source_license" not in again("out")["steps"][0]
    # The license of the sources is asked for once.
    Path("pictures/README.md").write_text("---\nlicense: apache-2.0\n---\n")
    package.augment(source, "out", model="fake", seed=1, captioner="fake")
    assert front()["license"] == expected


def test_licenses_that_ask_for_different_things_are_both_told() -> None:
    package.augment(licensed("pictures", "cc-by-nc-4.0"), "out", model="fake", seed=1, captioner="fake")
    relicensed("out", license="openrail++")
    Path("out/README.md").write_text(render_card(Dataset("out")))
    assert front()["license"] == "other"
    assert front()["license_name"] == "openrail++ and cc-by-nc-4.0"
    assert "License: `openrail++`, of what `fake` makes; `cc-by-nc-4.0`, of the pictures" in card()
    package.export("out", "parquet", "export", license="other", license_link="https://example.org/terms")
    assert front("export").get("license_name") is None
    assert "[`other`](https://example.org/terms), for the dataset" in card("export")


def test_merged_datasets_keep_every_license_and_every_reason() -> None:
    generated("one", 6)
    package.select("one", "some", where="topic = 't0'")
    generated("two", 3, seed=2)
    relicensed("two", license="cc-by-nc-4.0")
    package.merge(["some", "two"], "out")
    assert front()["license"] == "cc-by-nc-4.0"
    assert "| `some` | 3 | `cc0-1.0` |" in card()
    assert "| `two` | 3 | `cc-by-nc-4.0` |" in card()
    assert "**Not for commercial use:**" in card()
    assert "| one | 3 | `topic != 't0'` |" in card()
    assert "None: all images" not in card()


def test_an_original_does_not_speak_for_the_images_made_of_it() -> None:
    package.augment(licensed("pictures"), "out", model="fake", seed=1, captioner="fake")
    assert next(iter(Dataset("out")))["seed"] == -1
    assert "takes no seed" not in card()
    assert "pictures as they came, and what an AI model, `fake`, made of them" in card()


def test_what_an_export_leaves_out_is_counted() -> None:
    generated(count=6)
    package.export("out", "parquet", "export", where="topic = 't0'")
    assert "| the dataset, for this export | 3 | not `topic = 't0'` |" in card("export")
    assert "None: all images" not in card("export")


def test_counts_of_a_selection_add_up() -> None:
    package.select(generated(count=6, images_per_prompt=2), "good", sample=5)
    assert "| images before any was left out | 12 |" in card("good")
    assert "| left out by selections | 7 |" in card("good")
    assert "asked for" not in card("good").partition("## Creation")[2].partition("**Made again")[0]
    assert "chosen by figures" not in card("good")


@pytest.mark.parametrize(
    ("layout", "expected", "absent"),
    [
        ("parquet", ["image", "text", "prompt"], ["file_name"]),
        ("imagefolder", ["image", "text", "prompt"], ["file_name"]),
        ("webdataset", ["json", "txt", "png, jpg or webp", "file_name"], ["text"]),
        ("diffusiondb", ["image_name", "part_id", "cfg", "file_name"], ["image"]),
    ],
)
def test_columns_are_told_as_readers_of_the_layout_see_them(
    layout: str, expected: list[str], absent: list[str]
) -> None:
    generated()
    captions = {"caption_column": "prompt"} if layout != "diffusiondb" else {}
    package.export("out", layout, "export", **captions)
    told = set(re.findall(r"^\| `(.*?)` \|", card("export").partition("## Structure")[2].partition("##")[0], re.M))
    assert told >= set(expected)
    assert told.isdisjoint(absent)


def test_an_export_that_is_taken_in_says_what_made_its_images(imagemill: Command) -> None:
    package.score(generated(), "quality")
    package.export("out", "parquet", "export")
    assert imagemill("import", "export", "-o", "back").code == 0
    assert front("back")["task_categories"] == ["text-to-image"]
    assert front("back")["tags"] == ["synthetic", "image", "imagemill"]
    assert "| `fake` | the images |" in card("back")
    assert "Every file that was made says so" in card("back")
    assert "nobody has told" not in card("back")
    assert [*Dataset("back")] == [*Dataset("out")]
    package.export("back", "parquet", "export-2")
    assert imagemill("import", "export-2", "-o", "back-2").code == 0
    assert "| `fake` | the images |" in card("back-2")


def test_bare_pictures_are_called_nothing_that_they_are_not(imagemill: Command) -> None:
    picture("pictures/a.png", seed=1)
    assert imagemill("import", "pictures", "-o", "out").code == 0
    assert "task_categories" not in front()
    assert "annotations_creators" not in front()
    assert "prompt table" not in card().partition("## Citation")[0]


# exports


def test_an_export_is_called_and_licensed_as_told(imagemill: Command) -> None:
    generated()
    flags = ("--license", "cc-by-4.0", "--pretty-name", "Red: things", "--language", "en,pt-BR")
    cited = "@misc{red, title={Red things}, year={2026}}"
    assert imagemill("export", "out", "parquet", "-o", "export", *flags, "--citation", cited).code == 0
    found = front("export")
    assert (found["license"], found["pretty_name"], found["language"]) == ("cc-by-4.0", "Red: things", ["en", "pt-BR"])
    text = card("export")
    assert "# Red: things\n" in text
    assert "License: `cc-by-4.0`, for the dataset" in text
    assert f"```bibtex\n{cited}\n\n@misc{{imagemill," in text
    assert "@misc{fake," in text
    assert text.count("Image dataset, made with imagemill") == 0
    assert "| `fake` | the images |" in text


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"license": "apache2.0"}, "knows no license `apache2.0`"),
        ({"license": "unknown"}, "says nothing"),
        ({"license": "mit", "license_link": "https://example.org"}, "without an id of its own"),
        ({"license_link": "https://example.org"}, "without an id of its own"),
        ({"license": "mine", "license_link": "LICENSE"}, "no address"),
        ({"language": "English!"}, "no code of a language: `English!`"),
        ({"citation": "foo"}, "no BibTeX entry, got: `foo`"),
    ],
)
def test_what_the_hub_would_not_take_is_refused(parameters: dict[str, str], message: str) -> None:
    generated()
    with pytest.raises(UsageError, match=message) as raised:
        package.export("out", "parquet", "export", **parameters)
    assert parameters.get("license") != "apache2.0" or "did you mean `apache-2.0`?" in raised.value.hint
    assert not Path("export").exists()


def test_a_license_of_ones_own_needs_a_link() -> None:
    check_license("my-license", "https://example.org/license")
    generated()
    package.export("out", "parquet", "export", license="my-license", license_link="https://example.org/license")
    assert (front("export")["license"], front("export")["license_name"]) == ("other", "my-license")
    assert front("export")["license_link"] == "https://example.org/license"


def test_splits_say_once_what_holds_for_all() -> None:
    generated("all/train", 6)
    generated("all/test", 3, seed=2)
    package.export("all", "parquet", "export")
    text = card("export")
    assert text.count("| `prompt` | what was asked for") == 1
    assert text.count("### train") == text.count("### test") > 0
    assert "| seed | 1 |" not in text
    assert "| `seed` | 1 |" in text.partition("### train")[2].partition("### test")[0]


@pytest.mark.parametrize("layout", ["imagefolder", "parquet", "webdataset", "diffusiondb"])
def test_sizes_are_told_and_change_nothing_that_is_read(layout: str) -> None:
    datasets = pytest.importorskip("datasets", reason="the package `datasets` is not installed")
    datasets.disable_progress_bars()
    generated()
    package.export("out", layout, "export")
    info = front("export").get("dataset_info")
    if info:
        (split,) = info[0]["splits"]
        pictures = sum(path.stat().st_size for path in Path("out/images/part-000001").glob("*.png"))
        assert split == {"name": "train", "num_bytes": pictures, "num_examples": 4}
        assert info[0]["dataset_size"] == pictures
        own = ("README.md", ".imagemill-export.json", ".imagemill-manifest.jsonl")
        files = [path for path in Path("export").rglob("*") if path.is_file() and path.name not in own]
        assert info[0]["download_size"] == sum(path.stat().st_size for path in files)
    told = datasets.load_dataset("export", cache_dir="told")["train"]
    path = Path("export/README.md")
    path.write_text(re.sub(r"^dataset_info: .*\n", "", path.read_text(), flags=re.MULTILINE))
    alone = datasets.load_dataset("export", cache_dir="alone")["train"]
    assert len(told) == len(alone) == 4
    assert layout == "webdataset" or told.features == alone.features
    assert told[0].keys() == alone[0].keys()
