"""Scores of dual encoders: what they are, that neighbors do not change them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imagemill as package
from imagemill.encoders import Encoder, encoder_of
from imagemill.errors import ModelError, UsageError
from imagemill.scorers.alignment import Alignment
from imagemill.scorers.base import Scored, Scorer, Seen, find_scorer
from imagemill.scorers.embedding import Embedding

from . import scorers_clip

pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("transformers", reason="the extra `local` is not installed")

JUDGE = Path(package.__file__).parent / "weights" / "shapes_judge"
every_encoder = pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])


def picture(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Coarse enough to survive being made small."""
    coarse = np.random.default_rng(number).integers(0, 255, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)


def seen(images: Sequence[Image.Image], **columns: Any) -> list[Seen]:
    records = ({"prompt": f"picture {number}", **columns} for number in range(len(images)))
    return [
        Seen(Path(f"{number}.png"), record, b"", image)
        for number, (image, record) in enumerate(zip(images, records, strict=True))
    ]


def opened(scorer: str, folder: Path | str, **parameters: Any) -> Any:
    return find_scorer(scorer, {"model": str(folder), **parameters}).resolve({}, 1)


def scores(scorer: Scorer, images: Sequence[Seen]) -> dict[str, Any]:
    """The first column of each image."""
    found = list(scorer.score(images))
    assert [one.message for one in found if one.reason] == []
    assert all(one.columns.keys() == scorer.columns().keys() for one in found)
    return {one.seen.path.name: next(iter(one.columns.values())) for one in found}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind of encoder, tiny."""
    return {name: scorers_clip.save(name, tmp_path_factory.mktemp(name)) for name in scorers_clip.MAKERS}


# vectors


@every_encoder
def test_vectors_are_those_of_transformers(folders: dict[str, Path], name: str) -> None:
    import torch
    from transformers import AutoModel, AutoProcessor

    images = [picture(number, (20 + 8 * number, 30)) for number in range(5)]
    texts = ["a cat", "two dogs", "a cat on a very long mat that goes on and on"]
    encoder = encoder_of(opened("embedding", folders[name], score_batch_size=3))
    seeing, reading = np.stack(encoder.images(images)), np.stack(encoder.texts(texts))
    processor, model = AutoProcessor.from_pretrained(folders[name]), AutoModel.from_pretrained(folders[name])
    inputs = processor.tokenizer(texts, padding="max_length", max_length=24, truncation=True, return_tensors="pt")
    if name != "clip":
        inputs = {"input_ids": inputs["input_ids"]}
    inputs = {**inputs, **processor.image_processor(images=images, return_tensors="pt")}
    with torch.no_grad():
        logits = model(**inputs).logits_per_image.numpy()
    bias = 0.0 if name == "clip" else model.logit_bias.item()
    np.testing.assert_allclose(encoder.logit_scale * seeing @ reading.T + bias, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(seeing, axis=1), 1, rtol=1e-6)
    assert seeing.shape == (5, encoder.dimensions)
    assert np.abs(seeing @ seeing.T - np.eye(5)).max() < 0.999, "each image has a vector of its own"


def test_folders_of_older_transformers_are_read_alike(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "vocab.json", "merges.txt"):
        shutil.copy(folders["clip"] / name, tmp_path)
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "model_max_length": 24}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    processor = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 16, "crop_size": 16, "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    old, new = (encoder_of(opened("embedding", folder)) for folder in (tmp_path, folders["clip"]))
    assert np.array_equal(old.images([picture(1)]), new.images([picture(1)]))
    assert np.array_equal(old.texts(["A cat"]), new.texts(["A cat"]))


@every_encoder
def test_neither_place_nor_neighbors_change_a_bit(folders: dict[str, Path], name: str) -> None:
    encoder = encoder_of(opened("embedding", folders[name], score_batch_size=4))
    images, texts = [picture(number) for number in range(9)], [f"text {number}" * (number + 1) for number in range(9)]
    for encode, given in ((encoder.images, images), (Encoder.texts.__get__(encoder), texts)):
        encoder._known.clear()
        whole = [vector.tobytes() for vector in encode(given)]
        for number in (0, 4, 8):
            encoder._known.clear()
            assert encode([given[number]])[0].tobytes() == whole[number]
        encoder._known.clear()
        assert [vector.tobytes() for vector in encode(given[::-1])] == whole[::-1]


def test_a_text_is_read_in_lower_case_and_as_far_as_there_is_room(folders: dict[str, Path]) -> None:
    for name in ("siglip", "siglip2"):
        one, other = encoder_of(opened("embedding", folders[name])).texts(["A Red CAT", "a red cat"])
        assert np.array_equal(one, other)
    encoder = encoder_of(opened("embedding", folders["clip"]))
    one, other, short = encoder.texts(["x" * 22 + "y", "x" * 22 + "zzzz", "x" * 21])
    assert np.array_equal(one, other)
    assert not np.array_equal(one, short)


def test_each_text_is_encoded_once(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPModel

    encoder = encoder_of(opened("embedding", folders["clip"], score_batch_size=5))
    passes, features = [], CLIPModel.get_text_features

    def counted(self: Any, **inputs: Any) -> Any:
        passes.append(inputs)
        return features(self, **inputs)

    monkeypatch.setattr(CLIPModel, "get_text_features", counted)
    first = encoder.texts(["one", "two"] * 50)
    again = encoder.texts(["two", "one"])
    assert len(passes) == 1
    assert np.array_equal(first[0], again[1])


def test_what_does_not_fit_into_memory_is_tried_in_halves_and_what_fails_one_by_one(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import CLIPModel

    features, sizes = CLIPModel.get_image_features, []
    error: Exception = MemoryError("out of memory")
    most = 2

    def limited(self: Any, pixel_values: Any) -> Any:
        sizes.append(len(pixel_values))
        if len(pixel_values) > most:
            raise error
        return features(self, pixel_values=pixel_values)

    monkeypatch.setattr(CLIPModel, "get_image_features", limited)
    images = seen([picture(number) for number in range(7)])
    scorer = opened("embedding", folders["clip"], score_batch_size=7)
    assert len(scores(scorer, images)) == 7
    assert sizes == [7, 4, 2, 2, 2, 2]
    most = 0
    assert {(one.reason, one.message) for one in scorer.score(images)} == {("oom", "MemoryError: out of memory")}
    error = ValueError("no")
    scorer = opened("embedding", folders["clip"], score_batch_size=6)
    assert {(one.reason, one.message) for one in scorer.score(images)} == {("model_error", "ValueError: no")}


def test_an_image_that_a_model_fails_on_fails_alone(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPModel

    features = CLIPModel.get_image_features
    white = Image.new("RGB", (16, 16), "white")

    def numbers(self: Any, pixel_values: Any) -> Any:
        found = features(self, pixel_values=pixel_values)
        found.pooler_output[pixel_values.amin((1, 2, 3)) > 1.9] = float("nan")
        return found

    monkeypatch.setattr(CLIPModel, "get_image_features", numbers)
    found = list(opened("alignment", folders["clip"]).score(seen([picture(1), white, picture(2)])))
    assert [one.reason for one in found] == [None, "model_error", None]
    assert "gives no numbers" in found[1].message


def test_embeddings_are_vectors_of_half_precision(folders: dict[str, Path]) -> None:
    scorer = opened("embedding", folders["clip"], column="clip_embedding")
    found = list(scorer.score(seen([picture(1), picture(2)])))
    vectors = [one.columns["clip_embedding"] for one in found]
    assert [(vector.dtype, vector.shape) for vector in vectors] == [(np.float16, (12,))] * 2
    assert scorer.columns()["clip_embedding"].blank is False
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)


# alignment


def test_pickscore_is_the_cosine_on_the_models_scale(folders: dict[str, Path]) -> None:
    import torch
    from transformers import CLIPModel, CLIPProcessor

    images = seen([picture(number) for number in range(3)])
    cosines, picks = (
        scores(opened("alignment", folders["clip"], method=method), images) for method in ("cosine", "pick")
    )
    model, processor = CLIPModel.from_pretrained(folders["clip"]), CLIPProcessor.from_pretrained(folders["clip"])
    for one in images:
        inputs = processor(images=[one.image], text=[one.record["prompt"]], return_tensors="pt")
        with torch.no_grad():
            expected = float(model(**inputs).logits_per_image)
        assert picks[one.path.name] == pytest.approx(expected, rel=1e-4)
        assert picks[one.path.name] == pytest.approx(cosines[one.path.name] * model.logit_scale.exp().item())


def test_the_answer_yes_has_the_probability_that_the_model_gives_it(folders: dict[str, Path]) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    images = seen([picture(number) for number in range(3)])
    found = scores(opened("alignment", folders["llava"], method="yes"), images)
    processor = AutoProcessor.from_pretrained(folders["llava"])
    model = AutoModelForImageTextToText.from_pretrained(folders["llava"])
    for one in images:
        asked = f'user: <image>Does this figure show "{one.record["prompt"]}"? Please answer yes or no.assistant: '
        inputs = processor(text=[asked], images=[one.image], return_tensors="pt")
        with torch.no_grad():
            likely = model(**inputs).logits[0, -1].softmax(-1)
        words = processor.tokenizer.convert_tokens_to_ids(["Yes", "yes"])
        assert found[one.path.name] == pytest.approx(float(likely[words].sum()), rel=1e-4)
    assert len(set(found.values())) == 3
    assert scores(opened("alignment", folders["llava"], method="yes"), images[2:]).items() <= found.items()


def test_any_column_of_texts_is_compared_and_fills_a_column_of_its_own(folders: dict[str, Path]) -> None:
    images = [picture(1), picture(1)]
    by_prompt = opened("alignment", folders["clip"])
    by_caption = opened("alignment", folders["clip"], text_column="caption", column="caption_alignment")
    assert list(by_caption.columns()) == ["caption_alignment"]
    ones = seen(images, caption="picture 0")
    assert scores(by_caption, ones)["1.png"] == scores(by_prompt, ones)["0.png"] != scores(by_prompt, ones)["1.png"]
    with pytest.raises(UsageError, match="no column of texts `captain`") as raised:
        opened("alignment", folders["clip"], text_column="captain").check(ones[0].record)
    assert raised.value.hint == "did you mean `caption`?"
    with pytest.raises(UsageError, match="no column of texts `seed`"):
        opened("alignment", folders["clip"], text_column="seed").check({"prompt": "", "seed": 3})
    with pytest.raises(UsageError, match="column"):
        opened("alignment", folders["clip"], column="two words")


@pytest.mark.parametrize(("name", "method"), [("clip", "cosine"), ("llava", "yes")])
def test_without_a_text_there_is_no_score(folders: dict[str, Path], name: str, method: str) -> None:
    scorer = opened("alignment", folders[name], method=method)
    images = seen([picture(1), picture(2)])
    blank = Seen(Path("blank.png"), {"prompt": " "}, b"", picture(3))
    assert scores(scorer, [images[0], blank, images[1]]) == {**scores(scorer, images), "blank.png": None}
    assert scores(scorer, [blank]) == {"blank.png": None}


def test_a_model_that_cannot_be_asked_says_so(folders: dict[str, Path], tmp_path: Path) -> None:
    from .text_models import save

    with pytest.raises(UsageError, match="`yes` needs a model that answers questions"):
        find_scorer("alignment", {"method": "yes"})
    for name, lack in (("blip", "no template of a conversation"), ("llava", "no word for yes")):
        with pytest.raises(ModelError, match=lack):
            list(opened("alignment", save(name, tmp_path / name), method="yes").score(seen([picture(1)])))


@pytest.mark.skipif(not JUDGE.is_dir(), reason="the built-in judge has no weights here")
def test_the_built_in_judge_prefers_the_right_prompt() -> None:
    from .shapes_verifier import read_scene

    prompts = [
        f"a {size} {color} {shape} on a {ground} background"
        for shape, size in (("circle", "small"), ("square", "large"), ("heart", "medium"), ("triangle", "large"))
        for color, ground in (("red", "white"), ("blue", "pink"), ("green", "yellow"))
    ]
    dataset = package.generate(prompts, "out", seed=5)
    right = wrong = 0
    pictures, wanted = [], []
    for number, record in enumerate(dataset):
        image = dataset.image(record["file_name"]).convert("RGB")
        objects = read_scene(np.asarray(image)).objects
        if len(objects) == 1 and f"{objects[0].color} {objects[0].shape}" in record["prompt"]:
            pictures.append(image)
            wanted.append(number)
    scorer = find_scorer("alignment", {}).resolve({}, 1)
    for turned in range(len(prompts)):
        ones = [
            Seen(Path(str(number)), {"prompt": prompts[(number + turned) % len(prompts)]}, b"", image)
            for number, image in zip(wanted, pictures, strict=True)
        ]
        found = scores(scorer, ones)
        if not turned:
            own = found
        else:
            right += sum(own[name] > score for name, score in found.items())
            wrong += sum(own[name] <= score for name, score in found.items())
    assert len(wanted) >= 8
    assert right >= 0.95 * (right + wrong)
    assert scorer.info().model == "shapes_judge"


# aesthetics


def improved_head(folder: Path, width: int = 12) -> Any:
    """The layers of LAION's improved predictor, and the file with their weights."""
    import torch
    from safetensors.torch import save_file
    from torch import nn

    torch.manual_seed(1)
    head = nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    ).eval()
    folder.mkdir(exist_ok=True)
    save_file({f"layers.{name}": value for name, value in head.state_dict().items()}, folder / "model.safetensors")
    return head


def test_looks_are_rated_by_laions_heads(folders: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    images = seen([picture(number) for number in range(3)])
    vectors = torch.tensor(np.stack(encoder_of(opened("embedding", folders["clip"])).images([s.image for s in images])))
    head = improved_head(tmp_path / "head")
    linear = torch.nn.Linear(12, 1)
    save_file(linear.state_dict(), tmp_path / "linear.safetensors")
    for layers, place in ((head, tmp_path / "head"), (linear, tmp_path / "linear.safetensors")):
        with torch.no_grad():
            expected = layers(vectors)[:, 0].tolist()
        found = scores(opened("aesthetic", folders["clip"], head=str(place)), images)
        assert list(found.values()) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_head_is_pinned(folders: dict[str, Path], tmp_path: Path) -> None:
    improved_head(tmp_path / "head")
    scorer = opened("aesthetic", folders["clip"], head=str(tmp_path / "head"))
    assert len(scorer.head_revision) == 16
    assert scorer.head_revision in scorer.info().revision
    assert scorer.info().license == "mit"
    (tmp_path / "other").mkdir()
    improved_head(tmp_path / "other", 13)
    with pytest.raises(UsageError, match="bring that one back"):
        opened("aesthetic", folders["clip"], head=str(tmp_path / "other"), head_revision=scorer.head_revision)
    with pytest.raises(UsageError, match="no head of linear layers from 12 numbers to one"):
        list(opened("aesthetic", folders["clip"], head=str(tmp_path / "other")).score(seen([picture(1)])))


def test_a_head_on_the_hub_is_pinned_to_a_commit(folders: dict[str, Path], tmp_path: Path) -> None:
    commits = "1" * 40, "2" * 40
    repository = tmp_path / "models--someone--head"
    (repository / "refs").mkdir(parents=True)
    for commit in commits:
        (repository / "snapshots" / commit).mkdir(parents=True)
        improved_head(repository / "snapshots" / commit)
        (repository / "refs" / "main").write_text(commit)
    how = {"head": "someone/head", "hf_cache_dir": str(tmp_path), "offline": True}
    scorer = opened("aesthetic", folders["clip"], **how)
    assert scorer.head_revision == commits[1]
    assert scorer.info().model == f"{folders['clip']} with someone/head"
    assert scores(scorer, seen([picture(1)])).keys() == {"0.png"}
    again = find_scorer("aesthetic", {"model": str(folders["clip"]), **how})
    assert again.resolve({"head_revision": commits[0]}, 1).head_revision == commits[0], "what was pinned stays"


def test_a_head_that_could_run_code_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(1, 12)}, tmp_path / "head.pth")
    shutil.copy(tmp_path / "head.pth", tmp_path / "renamed.safetensors")
    for place in ("head.pth", "renamed.safetensors"):
        with pytest.raises(UsageError, match="is a pickle") as raised:
            opened("aesthetic", folders["clip"], head=str(tmp_path / place))
        assert "safetensors.torch.save_file" in raised.value.hint
    (tmp_path / "renamed.safetensors").unlink()
    with pytest.raises(UsageError, match="is a pickle"):
        opened("aesthetic", folders["clip"], head=str(tmp_path))
    with pytest.raises(UsageError, match="there is no folder"):
        opened("aesthetic", folders["clip"], head="./absent.safetensors")
    with pytest.raises(UsageError, match="neither here nor in the cache"):
        opened("aesthetic", folders["clip"])


# edits


def edit(folder: Path, before: Image.Image, after: Image.Image, **columns: Any) -> Seen:
    before.save(folder / "before.png")
    record = {"edit_prompt": "make it blue", "input_image_file_name": "before.png", **columns}
    return Seen(folder / "after.png", record, b"", after)


def compared(scorer: Scorer, *edits: Seen) -> list[Scored]:
    return list(scorer.score(edits))


def test_an_edit_is_compared_with_its_text_and_its_picture(folders: dict[str, Path], tmp_path: Path) -> None:
    scorer = opened("difference", folders["clip"])
    encoder = encoder_of(scorer)
    pictures = [picture(1, (32, 32)), picture(2, (32, 32))]
    (found,) = compared(scorer, edit(tmp_path, *pictures))
    before, after = encoder.images(pictures)
    empty, asked = encoder.texts(["", "make it blue"])
    change, wish = after - before, asked - empty
    expected = float(change @ wish / np.linalg.norm(change) / np.linalg.norm(wish))
    assert found.columns["direction_similarity"] == pytest.approx(expected, rel=1e-5)
    assert found.columns["image_similarity"] == pytest.approx(float(before @ after), rel=1e-5)
    pixels = [np.asarray(one, float) for one in pictures]
    assert found.columns["unchanged_similarity"] == pytest.approx(1 - np.abs(pixels[0] - pixels[1]).mean() / 255)

    named = opened("difference", folders["clip"], before_column="old", after_column="new")
    (found,) = compared(named, edit(tmp_path, *pictures, old="a red hat", new="a blue hat"))
    old, new = encoder.texts(["a red hat", "a blue hat"])
    expected = float(change @ (new - old) / np.linalg.norm(change) / np.linalg.norm(new - old))
    assert found.columns["direction_similarity"] == pytest.approx(expected, rel=1e-5)


def test_what_lies_inside_the_mask_does_not_count_as_kept(folders: dict[str, Path], tmp_path: Path) -> None:
    scorer = opened("difference", folders["clip"])
    before = picture(1, (32, 32))
    after = before.copy()
    after.paste("white", (0, 0, 16, 32))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save(tmp_path / "mask.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "all.png")
    (tmp_path / "torn.png").write_bytes(b"")
    kept, everywhere, nowhere, torn = compared(
        scorer,
        edit(tmp_path, before, after, mask_file_name="mask.png"),
        edit(tmp_path, before, after),
        edit(tmp_path, before, after, mask_file_name="all.png"),
        edit(tmp_path, before, after, mask_file_name="torn.png"),
    )
    assert kept.columns["unchanged_similarity"] == 1.0
    assert 0 < everywhere.columns["unchanged_similarity"] < 1
    assert nowhere.columns["unchanged_similarity"] is None
    assert (torn.reason, torn.message.startswith("the mask: ")) == ("bad_image", True)


def test_what_has_not_changed_has_no_direction(folders: dict[str, Path], tmp_path: Path) -> None:
    scorer = opened("difference", folders["clip"])
    same = picture(1, (32, 32))
    lost = edit(tmp_path, same, same, input_image_file_name="absent.png")
    first = Seen(tmp_path / "first.png", {"edit_prompt": "", "input_image_file_name": ""}, b"", same)
    found = {one.seen.path.name + str(one.reason): one for one in compared(scorer, lost, first)}
    assert found["after.pngbad_image"].message.startswith("the image before the edit: ")
    assert set(found["first.pngNone"].columns.values()) == {None}
    (kept,) = compared(scorer, edit(tmp_path, same, same))
    assert kept.columns["direction_similarity"] is None
    assert kept.columns["image_similarity"] == pytest.approx(1)
    assert kept.columns["unchanged_similarity"] == 1.0
    (speechless,) = compared(scorer, edit(tmp_path, same, picture(2, (32, 32)), edit_prompt=""))
    assert speechless.columns["direction_similarity"] is None


def test_images_that_are_no_edits_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="no edits of others"):
        opened("difference", folders["clip"]).check({"prompt": "a cat"})
    record = {"edit_prompt": "", "input_image_file_name": "x.png", "input_text": "", "new_text": ""}
    named = opened("difference", folders["clip"], before_column="inputtext", after_column="new_text")
    with pytest.raises(UsageError, match="`before_column`: there is no column of texts") as raised:
        named.check(record)
    assert raised.value.hint == "did you mean `input_text`?"
    with pytest.raises(UsageError, match="go together"):
        find_scorer("difference", {"after_column": "new_text"})


# where models come from


def test_a_model_says_what_it_is_and_stays_that(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["clip"], tmp_path / "clip")
    scorer = opened("alignment", folder)
    info = scorer.info()
    assert (info.model, info.license, len(info.revision)) == (str(folder), "mit", 16)
    assert scorer.to_table().keys() == {"device", "dtype", "threads", "model", "method", "text_column", "column"}
    first = encoder_of(scorer)
    assert encoder_of(opened("embedding", folder)) is first, "scorers of one model share it"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "note": 1}))
    assert scorer.info().revision != info.revision
    assert encoder_of(scorer) is not first


def test_what_is_no_dual_encoder_is_explained(folders: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    with pytest.raises(UsageError, match="a model of the kind `llava`, not one of CLIP, SigLIP, SigLIP 2"):
        Embedding(model=str(folders["llava"])).info()
    with pytest.raises(UsageError, match="there is no folder"):
        opened("alignment", "./absent")
    with pytest.raises(UsageError, match="neither here nor in the cache"):
        Alignment(model="some/clip").resolve({}, 1)
    folder = shutil.copytree(folders["clip"], tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "visual_projection" not in name}, folder / "new")
    (folder / "new").replace(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"its weights lack visual_projection\.weight"):
        list(opened("embedding", folder).score(seen([picture(1)])))
    torch.save(weights, folder / "model.safetensors")
    with pytest.raises(UsageError, match="is a pickle"):
        opened("embedding", folder).info()
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="has no weights in the format safetensors"):
        list(opened("embedding", folder).score(seen([picture(1)])))
