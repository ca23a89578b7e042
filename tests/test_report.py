"""A report: every figure on the page is right, nothing of a dataset is taken for markup, and odd datasets have one."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imagemill as package
from imagemill.dataset import Dataset
from imagemill.dataset.files import append_lines
from imagemill.dataset.vectors import Vectors
from imagemill.errors import UsageError
from imagemill.hashing import perceptual_hash
from imagemill.images import encode
from imagemill.reporting.figures import collect
from imagemill.reporting.likeness import Hashed, diversity, hashed, nearest
from imagemill.reporting.page import Report, report
from imagemill.reporting.plots import histogram

from .conftest import Command

VOID = {"meta", "img"}


class Page(HTMLParser):
    """A page as a browser takes it: elements that are well nested, and the text that is read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes(self, tag: str, name: str) -> list[str]:
        return [str(found[name]) for kind, found in self.elements if kind == tag and name in found]


def dataset_of(folder: Path, prompts: Path | Sequence[str | Mapping[str, Any]], **options: Any) -> Dataset:
    """A finished dataset of the model without weights."""
    try:
        return package.generate(prompts, folder, **{"model": "fake", "seed": 1, **options})
    except package.SomeFailed:
        return Dataset(folder)


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def with_scores(dataset: Dataset, values: Mapping[str, Sequence[Any]], scorer: str = "test") -> None:
    """Give each image, in order, a score of each column, as a scorer would."""
    names = [record["file_name"] for record in dataset]
    rows = {name: {key: value[place] for key, value in values.items()} for place, name in enumerate(names)}
    with dataset.lock():
        dataset.update(lambda record: rows[record["file_name"]])
        numbers = {key for key, value in values.items() if all(isinstance(one, float | None) for one in value)}
        step = {
            "operator": "score",
            "scorer": scorer,
            "scores": {name: f"the meaning of {name}" for name in sorted(numbers)},
            "columns": {name: "" for name in values if name not in numbers},
            "meanings": {name: f"the meaning of {name}" for name in values if name not in numbers},
            "model": "some/model",
            "model_revision": "0123abc",
            "license": "mit",
            "model_parameters": {},
        }
        dataset.write_job(dataset.folder, {**dataset.job, "steps": [*dataset.job["steps"], step]})


def paged(dataset: Dataset, tmp_path: Path, **options: Any) -> tuple[Page, Report]:
    written = report(dataset, tmp_path / "report.html", **options)
    return Page(written.path), written


def section(page: Page, title: str) -> str:
    """The text of one section."""
    found = re.search(rf'<section><h2 id="[^"]*">{re.escape(title)}</h2>(.*?)</section>', page.source, re.DOTALL)
    assert found, title
    return " ".join(re.sub(r"<title>.*?</title>|<[^>]*>", " ", found[1]).split())


def test_one_file_needs_nothing_else_and_says_what_a_dataset_is(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "out", [f"picture {number}" for number in range(4)], images_per_prompt=2)
    with_scores(dataset, {"alignment": [0.1, 0.2, None, 0.4, 0.5, 0.6, 0.7, 0.8], "note": ["x"] * 8})
    page, written = paged(dataset, tmp_path)
    assert not {"script", "link", "iframe"} & {kind for kind, _ in page.elements}
    assert all(source.startswith("data:image/webp;base64,") for source in page.attributes("img", "src"))
    assert all(target.startswith("#") for target in page.attributes("a", "href"))
    targets = set(page.attributes("h2", "id")) | set(page.attributes("h3", "id"))
    assert {f"#{target}" for target in targets} == set(page.attributes("a", "href"))
    assert "url(" not in page.source
    assert "prefers-color-scheme: dark" in page.source
    assert "the meaning of alignment test · some/model · 0123abc" in section(page, "Scores")
    for wanted in ("the meaning of note", "model fake", "seed 1", "num_inference_steps 1", "some/model"):
        assert wanted in section(page, "How it was made")
    assert written.figures["medians"] == {"alignment": 0.5}
    assert written.figures["prompts"] == {"rows": 4, "different": 4}


def test_the_same_dataset_gives_the_same_bytes(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "out", ["a", "b", "c"])
    with_scores(dataset, {"alignment": [0.3, 0.1, 0.2]})
    first = report(dataset, tmp_path / "one.html", by="prompt").path.read_bytes()
    dataset.folder.rename(tmp_path / "moved")
    assert report(tmp_path / "moved", tmp_path / "two.html", by="prompt").path.read_bytes() == first


def test_prompts_and_values_are_never_markup(tmp_path: Path) -> None:
    wicked = "<script>alert(1)</script><img src=http://example.com/x onerror='a'>\"&amp;"
    dataset = dataset_of(
        tmp_path / "out", [{"prompt": wicked, "kind": wicked}, {"prompt": f"{wicked} {wicked}", "kind": "\x01"}]
    )
    with_scores(dataset, {"alignment": [0.3, 0.1], "kind_agrees": [1.0, 0.0]}, "attributes")
    page, _ = paged(dataset, tmp_path, by="kind")
    assert "script" not in {kind for kind, _ in page.elements}
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert all(source.startswith("data:") for source in page.attributes("img", "src"))
    assert "<script>alert(1)</script><img src=http://example.com/x" in page.text
    assert "\x01" not in page.source


def test_everything_that_was_asked_for_is_counted(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("id,prompt\n" + "".join(f"r{number},picture {number}\n" for number in range(8)) + "r9,\n")
    dataset = dataset_of(tmp_path / "out", table, fail_text="3", fail_reason="timeout", limit=6)
    state = dataset.folder / ".imagemill"
    append_lines(state / "left_out.jsonl", [{"file_name": "a", "reason": "alignment < 0.28"}] * 3)
    tries = [{"file_name": f"prompt_{row}_image_0.png", "reason": f"alignment 0.1{row} < 0.28"} for row in (1, 1, 2)]
    append_lines(state / "tries.jsonl", tries)
    (state / "columns").mkdir()
    append_lines(state / "columns" / "judge_score-failures.jsonl", [{"name": "prompt_1_image_0", "reason": "timeout"}])
    page, _ = paged(dataset, tmp_path)
    counts = dataset.counts()
    said = section(page, "Counts")
    assert f"done {counts.done}" in said
    assert "failed: timeout 1 ·" in said
    assert f"{counts.rows_read:,} rows in the table" in said
    assert "rejected:" in said
    assert "3 images left out by the selection alignment &lt; 0.28 3 · 100.0 %" in said
    assert "3 images drawn and not accepted alignment &lt; 0.28 3 · 100.0 %" in said
    assert "judge_score: timeout 1 ·" in said


def test_rows_that_never_pass_are_listed(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "out", ["a red circle", "a blue square"], fail_text="blue")
    (failure,) = dataset.failures().values()
    append_lines(dataset.failures_file, [{**failure, "reason": "not_accepted", "message": "2 tries, the last in vain"}])
    tries = [{"file_name": f"{failure['name']}.png", "reason": "alignment 0.1 < 0.28"}] * 2
    append_lines(dataset.folder / ".imagemill" / "tries.jsonl", tries)
    page, _ = paged(dataset, tmp_path)
    assert "1 image that never passed" in section(page, "Counts")
    assert f"{failure['id']} a blue square 2 tries, the last in vain 2" in section(page, "Counts")


def test_samples_lie_at_their_quantiles(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "out", [f"picture {number}" for number in range(21)])
    values = np.random.default_rng(0).permutation(21) / 20
    with_scores(dataset, {"alignment": [float(value) for value in values]})
    page, _ = paged(dataset, tmp_path, samples=1)
    heading = r'<h4>(lowest|25 %|median|75 %|highest)</h4><figure>.*?alt="([^"]*)"'
    shown = re.findall(heading, page.source)
    place = {record["file_name"]: value for record, value in zip(dataset, values, strict=True)}
    assert [(name, place[file]) for name, file in shown] == [
        ("lowest", 0.0),
        ("25 %", 0.25),
        ("median", 0.5),
        ("75 %", 0.75),
        ("highest", 1.0),
    ]
    none, _ = paged(dataset, tmp_path, samples=0)
    assert none.attributes("img", "src") == []


def test_a_thumbnail_is_the_image(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "out", ["one"], width=640, height=320)
    with_scores(dataset, {"alignment": [0.5]})
    page, _ = paged(dataset, tmp_path)
    (source,) = page.attributes("img", "src")
    small = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert small.size == (144, 72)
    assert distance(perceptual_hash(small), perceptual_hash(dataset.image("prompt_0_image_0"))) <= 4


@pytest.mark.parametrize(
    "values",
    [
        [None, None, None],
        [0.5, 0.5, 0.5],
        [0.0, 0.0, None],
        [-1e-30, 1e-30, 0.0],
        [1e12, -1e12, 3.0],
        [7.0, None, None],
    ],
)
def test_any_scores_have_a_sensible_page(tmp_path: Path, values: list[float | None]) -> None:
    dataset = dataset_of(tmp_path / "out", ["a", "b", "c"])
    with_scores(dataset, {"alignment": values})
    page, written = paged(dataset, tmp_path, by="prompt")
    assert "nan" not in page.source.casefold().replace("finance", "")
    known = [value for value in values if value is not None]
    assert written.figures["medians"]["alignment"] == (float(np.median(known)) if known else None)
    if not known:
        assert "None of 3 images has this score." in section(page, "Scores")


def test_a_dataset_without_images_or_scores_has_a_page(tmp_path: Path) -> None:
    empty = dataset_of(tmp_path / "empty", ["a", "b"], fail_rate=1.0)
    assert len(empty) == 0
    page, written = paged(empty, tmp_path)
    assert "failed: model_error 2" in section(page, "Counts")
    assert written.figures["images"] == 0
    page, _ = paged(dataset_of(tmp_path / "one", ["a"]), tmp_path)
    assert "No score has been given yet" in section(page, "Scores")
    assert "No prompt has several images." in section(page, "Near-duplicates and diversity")


def test_an_image_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "out", ["a", "b"])
    with_scores(dataset, {"alignment": [0.1, 0.9]})
    (dataset.part(1).folder / "prompt_0_image_0.png").write_bytes(b"no picture")
    page, written = paged(dataset, tmp_path)
    assert "cannot be read" in page.text
    assert written.figures["likeness"]["compared"] == 1


def test_planned_is_set_against_achieved(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{weather} {number}", "weather": weather}
        for number, weather in enumerate(["rain"] * 4 + ["snow"] * 2)
    ]
    dataset = dataset_of(tmp_path / "out", rows)
    answers = [1.0, 1.0, 0.0, None, 0.0, 0.0]
    with_scores(dataset, {"attributes_agree": [0.5] * 6, "weather_agrees": answers}, "attributes")
    page, written = paged(dataset, tmp_path)
    said = section(page, "Planned against achieved")
    assert "2 of 3 · 67 %" in said
    assert "0 of 2 · 0 %" in said
    assert "rain 4 3 2 66.7 % snow 2 2 0 0.0 % all 6 5 2 40.0 %" in said
    assert list(written.figures["medians"]) == ["attributes_agree"]


def test_scores_are_compared_by_a_column(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "out", [{"prompt": f"p{number}", "kind": f"k{number % 2}"} for number in range(6)])
    with_scores(dataset, {"alignment": [0.0, 10.0, 1.0, 20.0, 2.0, 30.0]})
    page, _ = paged(dataset, tmp_path, by="kind")
    assert "k0 1 · 3 images" in section(page, "By kind")
    assert "k1 20 · 3 images" in section(page, "By kind")


def test_prompts_are_counted_once_for_each_row(tmp_path: Path) -> None:
    prompts = ["a red fox", "a red fox", "the green fox in the snow", "a blue bird"]
    dataset = dataset_of(tmp_path / "out", prompts, images_per_prompt=3)
    page, written = paged(dataset, tmp_path)
    assert written.figures["prompts"] == {"rows": 4, "different": 3}
    said = section(page, "Prompts")
    assert "4 3 75.0 % 12 4 3" in said
    assert "fox 2 · 66.7 %" in said
    assert "1 prompt of several rows prompt rows a red fox 2" in said


def test_near_duplicates_and_diversity_are_those_of_all_pairs(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "out", [f"p{number}" for number in range(5)], images_per_prompt=4)
    generator = np.random.default_rng(5)
    base = generator.integers(0, 2**64, 6, np.uint64)
    hashes = [int(base[number % 6]) ^ (1 << int(generator.integers(64))) * (number > 9) for number in range(20)]
    texts = [f"{number:016x}" for number in hashes]
    with_scores(dataset, {"perceptual_hash": texts, "pixels_sha256": [text * 4 for text in texts]})
    page, written = paged(dataset, tmp_path)
    near = {
        place
        for one, other in combinations(range(20), 2)
        if distance(texts[one], texts[other]) <= 4
        for place in (one, other)
    }
    assert written.figures["likeness"]["near_duplicates"] == len(near)
    collected = collect(dataset)
    found = hashed(collected)
    assert all(distance(texts[one], texts[other]) <= 4 and one != other for one, other in nearest(found).items())
    apart = diversity(collected, found)
    wanted = []
    for prompt in range(5):
        own = texts[4 * prompt : 4 * prompt + 4]
        wanted.append(np.mean([distance(one, other) for one, other in combinations(own, 2)]))
    assert apart.means == pytest.approx(wanted)
    extra = 20 - len(set(texts))
    assert f"{extra} images with exactly the pixels of one before" in section(page, "Near-duplicates and diversity")


def test_without_hashes_the_images_themselves_are_looked_at(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "out", ["a", "b", "c"])
    folder = dataset.part(1).folder
    (folder / "prompt_2_image_0.png").write_bytes((folder / "prompt_0_image_0.png").read_bytes())
    _, written = paged(dataset, tmp_path)
    assert written.figures["likeness"] == {
        "compared": 3,
        "near_duplicates": 2,
        "diversity": None,
        "diversity_measure": "",
    }


def test_many_images_are_sampled_by_whole_prompts_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagemill.reporting.likeness.SAMPLE", 6)
    dataset = dataset_of(tmp_path / "out", [f"p{number}" for number in range(5)], images_per_prompt=3)
    page, written = paged(dataset, tmp_path)
    assert "of 6 images, drawn by whole prompts out of 15," in section(page, "Near-duplicates and diversity")
    collected = collect(dataset)
    counts = np.bincount(collected.prompts.places[hashed(collected).images])
    assert sorted(counts[counts > 0].tolist()) == [3, 3]
    assert written.figures["likeness"]["compared"] == 6


def test_diversity_is_that_of_embeddings_where_there_are_some(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "out", ["a", "b", "c"], images_per_prompt=3)
    vectors = np.random.default_rng(2).normal(size=(9, 8)).astype(np.float16)
    names = [Path(record["file_name"]).stem for record in dataset]
    # The last prompt has one vector: nothing to compare. A second one is left of another image of that name.
    Vectors(dataset.folder, "embedding").write("part-000001", dict(zip(names[:8], vectors, strict=False)))
    with_scores(dataset, {"embedding": [number < 7 for number in range(9)]})
    collected = collect(dataset)
    apart = diversity(collected, hashed(collected))
    unit = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    wanted = [
        np.mean([1 - unit[one] @ unit[other] for one, other in combinations(range(start, start + 3), 2)])
        for start in (0, 3)
    ]
    assert apart.means == pytest.approx(wanted, abs=1e-4)
    assert apart.prompts.tolist() == [0, 1]


def test_edits_show_what_was_there_before(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(encode(np.full((64, 64, 3), (200, 30, 30), np.uint8), "png", None, False))
    table = tmp_path / "edits.jsonl"
    table.write_text(json.dumps({"input_image": str(picture), "prompt": "make it blue"}) + "\n")
    dataset = package.edit(table, tmp_path / "out", model="fake", seed=1)
    page, written = paged(dataset, tmp_path)
    assert list(written.figures["medians"]) == ["difference", "changed_area"]
    assert len(page.attributes("img", "src")) == 4
    assert "before prompt_0_image_0.png" in page.attributes("img", "alt")


def test_no_value_is_missing_from_a_histogram() -> None:
    generator = np.random.default_rng(0)
    for values in (generator.normal(size=999), generator.integers(0, 90, 500) / 10, np.arange(50.0), np.array([3.0])):
        drawn = str(histogram(values, "score"))
        counts = [
            int(found.replace(",", "")) for found in re.findall(r"<title>[^<]* to [^<:]*: ([\d,]+)</title>", drawn)
        ]
        assert sum(counts) == len(values)
        places = [float(found) for found in re.findall(r' x="([-\d.]+)"', drawn)]
        assert min(places) >= 0
        assert max(places) <= 680


def test_whole_numbers_have_an_axis_of_whole_numbers() -> None:
    drawn = str(histogram(np.array([2.0, 3.0, 7.0, 16.0]), "words"))
    assert re.findall(r">([\d.,]+)</text>", drawn)[-3:] == ["5", "10", "15"]


def test_no_hashes_have_no_duplicates() -> None:
    none = np.zeros(0, np.intp)
    assert nearest(Hashed(none, none.astype(np.uint64), sampled=False)) == {}


def test_the_command_writes_the_page(tmp_path: Path, imagemill: Command) -> None:
    dataset = dataset_of(tmp_path / "out", ["a", "b"])
    done = imagemill("report", dataset.folder)
    assert (done.code, done.out) == (0, "report.html\n")
    done = imagemill("report", dataset.folder, "-o", "new/page.html", "--by", "prompt", "--samples", 1, "--json")
    assert done.json["images"] == 2
    assert Path("new/page.html").read_bytes().startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "page.pdf"], "a report is an HTML file"),
        (["--samples", "51"], "`samples`: 0 to 50, got: `51`"),
        (["--by", "promt"], "did you mean `prompt`?"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, imagemill: Command, options: list[str], message: str) -> None:
    dataset = dataset_of(tmp_path / "out", ["a", "b"])
    refused = imagemill("report", dataset.folder, *options)
    assert refused.code == 2
    assert message in refused.err
    assert not list(tmp_path.glob("*.html"))


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no dataset"):
        report(tmp_path, tmp_path / "page.html")
