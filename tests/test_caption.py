"""Captions: what models say of pictures, which of it stays, and that nothing is lost or asked twice."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagemill as package
from imagemill.captions import kept, similarity
from imagemill.dataset import Dataset
from imagemill.dataset.files import read_lines
from imagemill.dataset.journal import ColumnJournal
from imagemill.dataset.verify import verify
from imagemill.environment import package_version
from imagemill.errors import LockedError, MissingExtra, ModelError, SomeFailed, UsageError
from imagemill.images import encode
from imagemill.models.base import DESCRIBE, Question, Reply, TextModel, find_text_model
from imagemill.models.fake import Fake
from imagemill.operators.caption import caption

from . import text_models
from .conftest import Command, contents
from .faults.server import Faults, serving
from .shapes_verifier import read_scene

pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("transformers", reason="the extra `local` is not installed")

ROOT = Path(__file__).parents[1]
NO_VIDEO = not package_version("torchvision")
every_text_model = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(name == "qwen2_vl" and NO_VIDEO, reason="needs torchvision"))
        for name in text_models.TEXT_MODELS
    ],
)


def dataset_of(folder: Path, count: int) -> Dataset:
    """A finished dataset; each image is another one."""
    return package.generate([f"picture {number}" for number in range(count)], folder, model="fake", seed=1)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Six images."""
    return dataset_of(tmp_path / "out", 6)


@pytest.fixture(scope="module")
def two_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two parts, to be copied."""
    return dataset_of(tmp_path_factory.mktemp("datasets") / "two-parts", 1250).folder


def problems(dataset: Dataset, reader: bool = True) -> list[str]:
    """What is wrong with a dataset as it is on disk."""
    return verify(Dataset(dataset.folder), reader)


def texts_of(folder: str | Path, column: str = "caption") -> dict[str, Any]:
    return {record["file_name"]: record[column] for record in Dataset(folder)}


def picture(number: int, width: int = 40, height: int = 30) -> bytes:
    return encode(np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8), "png", None, False)


def questions(count: int, prompt: str = "", **more: Any) -> list[Question]:
    return [Question(f"q{number}", prompt, (picture(number),), **more) for number in range(count)]


def answers(model: TextModel, asked: Iterable[Question]) -> dict[str, tuple[str, ...]]:
    replies = list(model.answer(asked))
    assert [reply for reply in replies if reply.reason] == []
    return {reply.question.name: reply.texts for reply in replies}


def opened(folder: Path, **parameters: Any) -> TextModel:
    return find_text_model(str(folder), {"max_new_tokens": 8, **parameters}).resolve({}, 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind of model that makes text, tiny."""
    return {name: text_models.save(name, tmp_path_factory.mktemp(name)) for name in text_models.TEXT_MODELS}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a key for tests")


# what is said


def test_the_built_in_captioner_names_shape_and_color(tmp_path: Path) -> None:
    wishes = [
        f"a {size} {color} {shape} on a {ground} background"
        for shape, size in (("circle", "small"), ("square", "large"), ("heart", "medium"), ("triangle", "large"))
        for color, ground in (("red", "white"), ("blue", "pink"), ("green", "yellow"))
    ]
    dataset = caption(package.generate(wishes, tmp_path / "out", images_per_prompt=2, seed=5))
    shapes = colors = seen = 0
    for record in dataset:
        found = read_scene(np.asarray(dataset.image(record["file_name"]))).objects
        if len(found) == 1:
            seen += 1
            shapes += found[0].shape in record["caption"]
            colors += found[0].color in record["caption"]
    assert seen >= 20
    assert colors >= 0.9 * seen
    assert shapes >= 0.75 * seen
    assert problems(dataset) == []


def test_the_built_in_captioner_is_small_free_and_in_the_true_format() -> None:
    model: Any = find_text_model("shapes_captioner", {})
    files = [path for path in model.folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2 * 10**6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    assert model.info().license == "cc0-1.0"
    assert json.loads((model.folder() / "config.json").read_text())["model_type"] == "blip"


@every_text_model
@pytest.mark.parametrize("prompt", ["", "what is this"])
def test_what_a_model_says_does_not_depend_on_the_batch(folders: dict[str, Path], name: str, prompt: str) -> None:
    asked = questions(5, prompt)
    together = answers(opened(folders[name], caption_batch_size=4), asked)
    assert together == answers(opened(folders[name], caption_batch_size=1), asked[::-1])
    assert len(set(together.values())) > 1, "the picture decides"
    assert all(len(texts) == 1 for texts in together.values())
    if name in {"blip", "git"}:
        assert all(texts[0].startswith(prompt) for texts in together.values())
    else:
        assert not any("what" in texts[0] for texts in together.values())


@every_text_model
def test_several_replies_depend_on_their_question_alone(folders: dict[str, Path], name: str) -> None:
    model = opened(folders[name])
    asked = [replace(question, count=3, seed=number) for number, question in enumerate(questions(3, "tell me"))]
    found = answers(model, asked)
    assert all(len(texts) == 3 for texts in found.values())
    assert all(len(set(texts)) > 1 for texts in found.values())
    assert answers(model, [*questions(2), *asked[::-1]]).items() >= found.items()
    assert answers(model, [replace(asked[0], seed=9)])["q0"] != found["q0"]


def test_a_model_that_holds_conversations_is_asked_to_describe_where_nobody_asks(folders: dict[str, Path]) -> None:
    model = opened(folders["llava"])
    assert answers(model, questions(3)) == answers(model, questions(3, DESCRIBE))
    pair = Question("pair", "which is larger?", (picture(1), picture(2)))
    assert len(answers(model, [pair])["pair"]) == 1
    (reply,) = opened(folders["blip"]).answer([pair])
    assert (reply.reason, "one image at a time, not 2" in reply.message) == ("model_error", True)


def test_a_picture_that_cannot_be_opened_fails_alone(folders: dict[str, Path]) -> None:
    asked = questions(4)
    asked[1] = replace(asked[1], images=(b"no picture",))
    replies = {reply.question.name: reply for reply in opened(folders["blip"]).answer(asked)}
    assert (replies["q1"].reason, replies["q1"].texts) == ("bad_image", ())
    assert {name for name, reply in replies.items() if reply.reason is None} == {"q0", "q2", "q3"}


def test_what_does_not_fit_into_memory_is_tried_in_halves_and_what_fails_one_by_one(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BlipForConditionalGeneration

    generate, sizes = BlipForConditionalGeneration.generate, []
    whole = answers(opened(folders["blip"]), questions(8))
    error: Exception = MemoryError("out of memory")

    def limited(self: Any, pixel_values: Any, **options: Any) -> Any:
        sizes.append(len(pixel_values))
        if len(pixel_values) > 2:
            raise error
        return generate(self, pixel_values, **options)

    monkeypatch.setattr(BlipForConditionalGeneration, "generate", limited)
    model = opened(folders["blip"], caption_batch_size=7)
    assert answers(model, questions(8)) == whole
    assert sizes == [7, 4, 2, 2, 3, 2, 1, 1]
    sizes.clear()
    assert answers(model, questions(2)) == {name: whole[name] for name in ("q0", "q1")}
    assert sizes == [2], "once it did not fit, it is not tried again"
    error = ValueError("no")
    assert answers(opened(folders["blip"], caption_batch_size=3), questions(3)).items() <= whole.items()
    monkeypatch.setattr(BlipForConditionalGeneration, "generate", lambda *_, **__: 1 / 0)
    (reply,) = model.answer(questions(1))
    assert (reply.reason, reply.message) == ("model_error", "ZeroDivisionError: division by zero")


def test_a_reply_ends_where_the_model_can_read_no_further(folders: dict[str, Path]) -> None:
    long = opened(folders["blip"], max_new_tokens=500)
    assert answers(long, questions(2)).keys() == {"q0", "q1"}
    (reply,) = long.answer(questions(1, "x " * 40))
    assert "fills the 32 tokens" in reply.message


# where models come from


def test_a_pickle_is_refused(folders: dict[str, Path], tmp_path: Path, dataset: Dataset, imagemill: Command) -> None:
    import torch
    from safetensors.torch import load_file

    folder = shutil.copytree(folders["blip"], tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    assert opened(folder).info().name == str(folder), "beside sound weights it is not read"
    (folder / "model.safetensors").unlink()
    before = contents(dataset.folder)
    ran = imagemill("caption", dataset.folder, "--model", folder)
    assert (ran.code, "is a pickle" in ran.err) == (2, True)
    (folder / "pytorch_model.bin").unlink()
    ran = imagemill("caption", dataset.folder, "--model", folder, "--quiet")
    assert (ran.code, "has no weights in the format safetensors" in ran.err) == (2, True)
    assert before.keys() == contents(dataset.folder).keys()


def test_code_in_a_model_is_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["blip"], tmp_path / "code")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "own.Own")}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("open('ran', 'w')\nclass Own: pass\n")
    with pytest.raises(UsageError, match="brings code of its own, which is not run"):
        list(opened(folder).answer(questions(1)))
    assert not Path("ran").exists()


@pytest.mark.skipif(not NO_VIDEO, reason="torchvision is installed")
def test_a_package_that_only_some_models_need_is_named(folders: dict[str, Path]) -> None:
    with pytest.raises(MissingExtra, match="the package `torchvision` is not installed"):
        list(opened(folders["qwen2_vl"]).answer(questions(1)))


def test_what_is_no_model_is_explained(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(UsageError, match="there is no folder"):
        opened(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no config\.json"):
        opened(tmp_path / "empty").info()
    with pytest.raises(UsageError, match="`diffusers:x` makes no text"):
        find_text_model("diffusers:x", {})
    folder = shutil.copytree(folders["blip"], tmp_path / "half")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="cannot be loaded: its tokenizer has 5 words and the model 57"):
        list(opened(folder).answer(questions(1)))
    folder = shutil.copytree(folders["blip"], tmp_path / "less")
    weights = load_file(folder / "model.safetensors")
    weights.pop("vision_model.post_layernorm.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"cannot be loaded: its weights lack vision_model\.post_layernorm\.weight"):
        list(opened(folder).answer(questions(1)))
    pinned = opened(folders["blip"], revision="another")
    with pytest.raises(UsageError, match=r"is now `[0-9a-f]+`, not `another`"):
        pinned.info()


def test_a_hub_id_is_resolved_to_its_commit(folders: dict[str, Path], tmp_path: Path, dataset: Dataset) -> None:
    repository = tmp_path / "cache" / "models--someone--tiny"
    commits = {"main": "a" * 40, "next": "b" * 40}
    for branch, commit in commits.items():
        shutil.copytree(folders["blip"], repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    how: dict[str, Any] = {"model": "someone/tiny", "hf_cache_dir": str(tmp_path / "cache"), "offline": True}
    caption(dataset, **how)
    (_, step) = dataset.job["steps"]
    assert (step["model_revision"], step["model_parameters"]["revision"]) == ("a" * 40, "a" * 40)
    assert not {"offline", "hf_cache_dir", "caption_batch_size"} & step["model_parameters"].keys()
    (repository / "refs" / "main").write_text("b" * 40)
    caption(dataset, **how)
    with pytest.raises(UsageError, match=r"`revision` was `a+`, now `b+`"):
        caption(dataset, **how, revision="next")


# which texts stay


def test_the_nearest_text_has_the_same_words() -> None:
    assert similarity("A red circle.", "a RED circle") == pytest.approx(1)
    assert similarity("a red circle", "blue squares") == 0
    assert similarity("", "") == 0
    assert 0 < similarity("a red circle", "a blue circle") < similarity("a red circle", "the red circle, a red one")
    texts = ("a blue heart", "a red heart", "a red circle")
    assert kept(texts, "similar", 0, "one red circle") == ("a red circle",)
    assert kept(texts, "similar", 0, "") == ("a blue heart",)
    assert kept(texts, "all", 1, "x") == texts
    assert {kept(texts, "random", seed, "x") for seed in range(9)} == {(text,) for text in texts}


def test_of_several_texts_one_or_all_stay(dataset: Dataset) -> None:
    caption(dataset, model="fake", captions_per_image=4, keep_candidates="all", column="every", seed=3)
    caption(dataset, model="fake", captions_per_image=4, keep_candidates="random", column="some", seed=3)
    caption(dataset, model="fake", captions_per_image=4, keep_candidates="similar", column="near", seed=3)
    caption(dataset, model="fake", column="one")
    caption(dataset, model="fake", captions_per_image=4, column="other", seed=4)
    for record in dataset:
        assert len(record["every_candidates"]) == 4
        assert record["every"] == record["every_candidates"][0] == record["near"] == record["one"]
        assert record["some"] in record["every_candidates"]
    assert texts_of(dataset.folder, "some") != texts_of(dataset.folder, "other")
    assert len({record["every_candidates"].index(record["some"]) for record in dataset}) > 1
    assert problems(dataset) == []
    card = (dataset.folder / "README.md").read_text()
    assert "| `every` | what `fake` sees in the image; empty when it failed |" in card
    assert "| `every_candidates` | all that `fake` said of the image; `every` is the first |" in card


def test_lists_can_be_loaded_whatever_part_is_blank(
    two_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    dataset = Dataset(shutil.copytree(two_parts, tmp_path / "out"))
    answer = Fake.answer

    def partly(self: Fake, asked: Iterable[Question]) -> Iterator[Reply]:
        for reply in answer(self, asked):
            small = int(reply.question.name.split("_")[1]) < 1000
            yield Reply(reply.question, reason="timeout", message="late") if small else reply

    monkeypatch.setattr(Fake, "answer", partly)
    caption(dataset, model="fake", captions_per_image=2, keep_candidates="all")
    assert problems(dataset) == []
    loaded = datasets.load_dataset(str(dataset.folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["caption_candidates"] == datasets.List(datasets.Value("string"))
    assert sorted({len(texts) for texts in loaded["caption_candidates"]}) == [1, 2]


# the column


def test_captions_are_a_column_and_the_step_is_written_down(dataset: Dataset, imagemill: Command) -> None:
    ran = imagemill("caption", dataset.folder, "--model", "fake", "--seed", 7, "--json")
    assert (ran.code, ran.json["done"], ran.json["pending"], ran.json["failed"]) == (0, 6, 0, {})
    assert "6 images to describe · fake · column `caption`" in ran.err
    records = list(dataset)
    assert all(len(record["caption"].split()) == 3 for record in records)
    assert list(records[0])[-1] == "caption"
    _, step = dataset.job["steps"]
    assert step == {
        "operator": "caption",
        "columns": {"caption": ""},
        "model": "fake",
        "column": "caption",
        "prompt": "",
        "captions_per_image": 1,
        "keep_candidates": "random",
        "seed": 7,
        "model_revision": "1",
        "license": "cc0-1.0",
        "model_parameters": Fake().to_table(),
    }
    assert imagemill("verify", dataset.folder).code == 0
    assert dataset.part(1).sealed
    assert list((dataset.folder / ".imagemill" / "columns").iterdir()) == []


def test_a_second_run_asks_nothing(dataset: Dataset, imagemill: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    caption(dataset, model="fake")
    before = contents(dataset.folder)
    monkeypatch.setattr(Fake, "answer", None)
    ran = imagemill("caption", dataset.folder, "--model", "fake")
    assert (ran.code, "0 images to describe · fake · column `caption` · 6 done before" in ran.err) == (0, True)
    assert caption(dataset.folder, model="fake").counts().done == 6
    assert contents(dataset.folder) == before


def test_images_made_later_are_described_later(prompts: Path, imagemill: Command) -> None:
    make = ("generate", prompts, "-o", "out", "--model", "fake", "--seed", 1, "--quiet")
    assert imagemill(*make, "--max-images", 5).code == 4
    describe = ("caption", "out", "--model", "fake", "--captions-per-image", 2, "--keep-candidates", "all", "--json")
    assert imagemill(*describe).json["done"] == 5
    assert verify(Dataset("out")) == []
    before = texts_of("out")
    assert imagemill(*make).code == 0
    assert list(texts_of("out").values()).count("") == 7
    assert verify(Dataset("out")) == []
    assert imagemill(*describe).json["done"] == 12
    assert texts_of("out").items() >= before.items()
    assert verify(Dataset("out")) == []


def test_a_dry_run_changes_nothing(dataset: Dataset, imagemill: Command) -> None:
    before = contents(dataset.folder)
    ran = imagemill("caption", dataset.folder, "--dry-run", "--captions-per-image", 3, "--json")
    assert (ran.code, ran.json["pending"]) == (0, 6)
    assert "6 images to describe × 3 · shapes_captioner · column `caption`" in ran.err
    assert contents(dataset.folder) == before


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("prompt", "`prompt` says how an image was made"),
        ("file_name", "`file_name` says how an image was made"),
        ("image", "`image` means something else to `load_dataset`"),
        ("label", "`label` means something else to `load_dataset`"),
        ("mask_file_name", "means something else to `load_dataset`"),
        ("topic", "`topic` is a column of the dataset already"),
        ("a/b", "string should match pattern"),
        ("../x", "string should match pattern"),
        ("a-b", "string should match pattern"),
        ("", "string should match pattern"),
    ],
)
def test_a_column_that_means_something_else_is_refused(
    tmp_path: Path, prompts: Path, imagemill: Command, column: str, said: str
) -> None:
    dataset = package.generate(prompts, tmp_path / "out", model="fake", seed=1)
    before = contents(dataset.folder)
    ran = imagemill("caption", dataset.folder, "--model", "fake", "--column", column)
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert contents(dataset.folder) == before


def test_a_column_is_filled_in_one_way(dataset: Dataset) -> None:
    caption(dataset, model="fake", prompt="a", keep_candidates="all", seed=1)
    with pytest.raises(UsageError) as caught:
        caption(dataset, model="fake", prompt="b", seed=1, latency=0.01)
    assert caught.value.message == (
        "the column `caption` was filled in another way: `latency` was `0.0`, now `0.01`; `prompt` was `a`, now `b`; "
        "`keep_candidates` was `all`, now `random`"
    )
    assert caught.value.hint == "choose another `--column`"
    with pytest.raises(UsageError, match="`caption_candidates` is filled by another step already"):
        caption(dataset, model="fake", column="caption_candidates")
    caption(dataset, model="fake", prompt="b", column="second")
    assert [step["column"] for step in dataset.job["steps"][1:]] == ["caption", "second"]
    assert list(next(iter(dataset)))[-3:] == ["caption", "caption_candidates", "second"]


def test_parameters_that_cannot_be_right_are_refused(dataset: Dataset, tmp_path: Path, imagemill: Command) -> None:
    for parameters, said in (
        ({"model": "fake", "fail_txt": "x"}, r"neither `caption` nor the model `fake` has such a parameter"),
        ({"model": "fke"}, "there is no `fke` in models"),
        ({"model": "openai:mock", "max_cost": 1.0, "price": ["0.1"]}, "nobody knows what a question costs"),
        ({"captions_per_image": 0}, "greater than or equal to 1"),
        ({"keep_candidates": "best"}, "'random', 'similar' or 'all'"),
        ({"model": "fake", "workers": 0}, "greater than or equal to 1"),
    ):
        with pytest.raises(UsageError, match=said):
            caption(dataset, **parameters)  # type: ignore[arg-type]
    (tmp_path / "pictures").mkdir()
    ran = imagemill("caption", tmp_path / "pictures")
    assert (ran.code, "holds no picture" in ran.err) == (2, True)
    ran = imagemill("caption", dataset.folder, "--colum", "x")
    assert (ran.code, "did you mean `--column`?" in ran.err) == (2, True)


def test_a_dataset_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SomeFailed):
        package.generate(["x"], tmp_path / "out", model="fake", fail_rate=1.0, seed=1)
    with pytest.raises(UsageError, match="has no image yet"):
        caption(tmp_path / "out", model="fake")


# what fails


def test_images_that_fail_have_a_blank_caption_and_are_tried_again(dataset: Dataset, imagemill: Command) -> None:
    hidden = [(path, path.with_suffix(".away")) for path in sorted(dataset.part(1).folder.glob("*.png"))[1:3]]
    for path, away in hidden:
        path.rename(away)
    ran = imagemill("caption", dataset.folder, "--model", "fake", "--json")
    assert (ran.code, ran.json["done"], ran.json["failed"]) == (3, 4, {"bad_image": 2})
    assert "2 images not described (bad_image 2)" in ran.err
    assert "hint: the same command tries them again" in ran.err
    texts = texts_of(dataset.folder)
    assert [name for name, text in texts.items() if not text] == [path.name for path, _ in hidden]
    failures = ColumnJournal(dataset, {"caption": ""}).failures()
    assert [failure["name"] for failure in failures] == [path.stem for path, _ in hidden]
    assert "cannot be read" in failures[0]["message"]
    hidden[0][1].rename(hidden[0][0])
    assert imagemill("caption", dataset.folder, "--model", "fake", "--json").json["failed"] == {"bad_image": 1}
    hidden[1][1].rename(hidden[1][0])
    ran = imagemill("caption", dataset.folder, "--model", "fake")
    assert (ran.code, "1 image in" in ran.err) == (0, True)
    assert all(texts_of(dataset.folder).values())
    assert problems(dataset) == []
    assert list((dataset.folder / ".imagemill" / "columns").iterdir()) == []


def test_when_nothing_can_be_described_the_first_reason_is_told(dataset: Dataset, imagemill: Command) -> None:
    ran = imagemill("caption", dataset.folder, "--model", "fake", "--fail-text", " ", "--fail-reason", "auth", "--json")
    assert (ran.code, ran.json["failed"]) == (3, {"auth": 6})
    assert "no image could be described, the first with auth: asked to fail" in ran.err
    with pytest.raises(SomeFailed):
        caption(dataset, model="fake", fail_text=" ", fail_reason="auth")
    assert problems(dataset) == []


def test_nothing_and_half_a_character_are_no_captions(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(_: Fake, asked: Iterable[Question]) -> Iterator[Reply]:
        said = [("",), ("", "  a word\n"), ("\ud83d half",), ("two\nlines",), ("\x00",), ("   ",)]
        yield from (Reply(question, texts) for question, texts in zip(asked, said, strict=True))

    monkeypatch.setattr(Fake, "answer", odd)
    caption(dataset, model="fake")
    assert list(texts_of(dataset.folder).values()) == ["", "a word", "? half", "two\nlines", "\x00", ""]
    failures = ColumnJournal(dataset, {"caption": ""}).failures()
    assert {failure["message"] for failure in failures} == {"the model said nothing"}
    assert problems(dataset) == []


def test_a_model_that_leaves_out_images_is_an_error(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Fake.answer
    monkeypatch.setattr(Fake, "answer", lambda self, asked: answer(self, list(asked)[:2]))
    with pytest.raises(ModelError, match="left 4 of 6 images without a result"):
        caption(dataset, model="fake")
    assert sum(map(bool, texts_of(dataset.folder).values())) == 2
    assert problems(dataset) == []


def test_a_locked_dataset_exits_with_5(dataset: Dataset, imagemill: Command) -> None:
    with dataset.lock():
        assert imagemill("caption", dataset.folder, "--model", "fake").code == 5
        with pytest.raises(LockedError):
            caption(dataset.folder, model="fake")
    assert "caption" not in next(iter(dataset))


# servers


def options_of(url: str) -> dict[str, Any]:
    return {"model": "openai:mock", "base_url": url, "own_size": "64x64", "takes": ("seed",), "concurrency": 4}


def test_a_server_is_asked_to_describe_or_what_the_user_asks(dataset: Dataset) -> None:
    with serving(Faults(rate=0.15, kinds=("500", "429_ms", "bad_json"))) as server:
        caption(dataset, **options_of(server.url), max_retries=20)
        caption(dataset, **options_of(server.url), max_retries=20, column="colors", prompt="Which colors?")
        caption(dataset, **options_of(server.url), max_retries=20, column="three", captions_per_image=3)
    assert set(texts_of(dataset.folder).values()) == {f"1 images: {DESCRIBE}"}
    assert set(texts_of(dataset.folder, "colors").values()) == {"1 images: Which colors?"}
    assert sum(call.prompt == "Which colors?" and call.fault == "ok" for call in server.calls) == 6
    assert sum(call.prompt == DESCRIBE and call.fault == "ok" for call in server.calls) == 6 + 3 * 6
    assert "base_url" in dataset.job["steps"][1]["model_parameters"]
    assert problems(dataset) == []


def test_a_server_that_has_moved_and_one_without_a_key(
    dataset: Dataset, imagemill: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        serving(Faults(rate=1, kinds=("moderation",))) as server,
        pytest.raises(SomeFailed, match="moderation_blocked"),
    ):
        caption(dataset, **options_of(server.url))
    with serving(Faults(rate=0)) as server:
        caption(dataset, **options_of(server.url))
        assert len(server.calls) == 6
    with pytest.raises(UsageError, match="needs one process"):
        caption(dataset, **options_of(server.url), workers=2)
    monkeypatch.delenv("OPENAI_API_KEY")
    ran = imagemill("caption", dataset.folder, "--model", "openai:gpt-5", "--column", "x", "--takes", "seed")
    assert (ran.code, "`OPENAI_API_KEY` is not set" in ran.err) == (2, True)
    assert len(dataset.job["steps"]) == 2


# nothing is lost


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "imagemill", "caption", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def described(folder: Path) -> set[str]:
    """The images whose caption is on disk, wherever."""
    journal = folder / ".imagemill" / "columns" / "caption.jsonl"
    lines = read_lines(journal) + [record for record in Dataset(folder) if record.get("caption")]
    return {line.get("name") or Path(line["file_name"]).stem for line in lines}


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "out", 40)
    with serving(Faults(rate=0, latency=0.05)) as server:
        options = [word for name, value in options_of(server.url).items() for word in (f"--{name.replace('_', '-')}",
                   ",".join(value) if isinstance(value, tuple) else value)]  # fmt: skip
        known: set[str] = set()
        for count in (3, 8, 15):
            process = start(dataset.folder, *options)
            wait_until(process, lambda count=count: len(described(dataset.folder)) >= count)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert described(dataset.folder) >= known, "a committed caption was lost"
            known = described(dataset.folder)
            assert len({frozenset(record) for record in dataset}) == 1
        process = start(dataset.folder, *options)
        error = process.communicate()[1]
        assert process.returncode == 0, error
        assert "done before" in error
        assert 40 <= len(server.calls) <= 40 + 3 * 4, "only what was in flight is asked again"
    assert all(texts_of(dataset.folder).values())
    assert list((dataset.folder / ".imagemill" / "columns").iterdir()) == []
    assert problems(dataset) == []


def test_a_part_is_written_when_it_is_complete(two_parts: Path, tmp_path: Path) -> None:
    dataset = Dataset(shutil.copytree(two_parts, tmp_path / "out"))
    journal = dataset.folder / ".imagemill" / "columns" / "caption.jsonl"
    process = start(dataset.folder, "--model", "fake", "--latency", 0.01, "--workers", 2)
    wait_until(process, lambda: any(line["part"] == 2 for line in read_lines(journal)))
    wait_until(process, lambda: not any(line["part"] == 1 for line in read_lines(journal)))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    texts = list(texts_of(dataset.folder).values())
    assert all(texts[:1000]), "what has left the journal stands in the records"
    assert len(texts) == 1250
    process = start(dataset.folder, "--model", "fake", "--latency", 0.01)
    error = process.communicate()[1]
    assert process.returncode == 0, error
    assert all(texts_of(dataset.folder).values())
    assert problems(dataset, reader=False) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path, workers: int) -> None:
    dataset = dataset_of(tmp_path / "out", 100)
    arguments = (dataset.folder, "--model", "fake", "--latency", 0.05, "--workers", workers)
    process = start(*arguments)
    wait_until(process, lambda: len(described(dataset.folder)) >= 3)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert "nothing is lost. Continue: imagemill caption" in error
    assert "Traceback" not in error
    first = {name: text for name, text in texts_of(dataset.folder).items() if text}
    assert 3 <= len(first) < 100
    assert problems(dataset, reader=False) == []
    caption(dataset, model="fake", latency=0.05, workers=2)
    texts = texts_of(dataset.folder)
    assert texts.items() >= first.items()
    assert all(texts.values())
    assert problems(dataset, reader=False) == []


def test_two_workers_say_what_one_says(tmp_path: Path, folders: dict[str, Path]) -> None:
    how: dict[str, Any] = {"model": str(folders["blip"]), "max_new_tokens": 6, "seed": 1, "captions_per_image": 2}
    one = caption(dataset_of(tmp_path / "one", 40), **how)
    two = caption(dataset_of(tmp_path / "two", 40), **how, threads=1, workers=2)
    assert texts_of(one.folder) == texts_of(two.folder)


SWEEP = """
import signal, sys
from pathlib import Path
from shutil import copytree
from imagemill.cli import run
from tests.conftest import contents
from tests.faults.sweep import EXPECTED, check, fork, stop_at, undisturbed

fault, source, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
options = ["--model", "fake", "--seed", "1", "--captions-per-image", "2", "--keep-candidates", "all", "--quiet"]
describe = lambda path: run(["caption", str(path), *options])
copytree(source, folder / "reference")
undisturbed(lambda: describe(folder / "reference"), lambda: check(folder / "reference"))
expected = contents(folder / "reference")
for place in range(1, 500):
    disturbed = folder / str(place)
    copytree(source, disturbed)
    def action():
        stop_at(place, fault)
        return describe(disturbed)
    status = fork(action)
    if status == 0:
        break
    assert status == EXPECTED.get(fault, -signal.SIGKILL), (place, status)
    assert fork(lambda: describe(disturbed)) == 0, place
    assert contents(disturbed) == expected, place
    assert not list(disturbed.rglob(".*.tmp")), place
    assert fork(lambda: check(disturbed)) == 0, place
print(place - 1)
"""


@pytest.mark.parametrize(("fault", "least"), [("kill", 20), ("ENOSPC", 8), ("EIO", 8)])
def test_a_run_stopped_at_any_call_continues_to_the_same_bytes(
    tmp_path: Path, dataset: Dataset, fault: str, least: int
) -> None:
    (tmp_path / "sweep").mkdir()
    command = [sys.executable, "-c", SWEEP, fault, str(dataset.folder), str(tmp_path / "sweep")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= least
