"""What is not safe for work: classifiers of images and prompts, and pictures that are hidden already."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

import imagemill
from imagemill.classifiers import classes_of
from imagemill.errors import ModelError, UsageError
from imagemill.scorers.base import Scored, Scorer, Seen, find_scorer
from imagemill.scorers.image_nsfw import is_unrecognizable

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `local` is not installed")

SIZE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "initializer_range": 1.0,
}
PLACES = 40
FIVE = ("drawings", "hentai", "neutral", "porn", "sexy")
TOXIC = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
UNBIASED = ("toxicity", "obscene", "insult", "sexual_explicit")


def named(*labels: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}


def image_classifier(folder: Path, *labels: str, **more: Any) -> Path:
    torch.manual_seed(3)
    config = transformers.ViTConfig(image_size=16, patch_size=8, **SIZE, **named(*labels), **more)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def text_classifier(folder: Path, *labels: str, **more: Any) -> Path:
    torch.manual_seed(3)
    letters = [chr(number) for number in range(97, 123)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    config = transformers.BertConfig(
        vocab_size=len(tokens), max_position_embeddings=PLACES, **{**SIZE, **named(*labels), **more}
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    transformers.BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}).save_pretrained(folder)
    return folder


def picture(number: int, width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def seen(number: int, image: Image.Image | None = None, prompt: str = "") -> Seen:
    record = {"file_name": f"prompt_{number}_image_0.png", "prompt": prompt}
    return Seen(Path(record["file_name"]), record, b"", image or picture(number))


def opened(name: str, folder: Path, **parameters: Any) -> Scorer:
    return find_scorer(name, {"model": str(folder), **parameters}).resolve({}, 1)


def figures(scored: Iterable[Scored], column: str) -> dict[int, float]:
    found = list(scored)
    assert [one for one in found if one.reason] == []
    return {int(one.seen.record["file_name"].split("_")[1]): one.columns[column] for one in found}


def directly(folder: Path, image: Image.Image, several: bool = False) -> dict[str, float]:
    """What transformers says itself."""
    processor = transformers.ViTImageProcessor.from_pretrained(folder)
    model = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**processor(image, return_tensors="pt")).logits[0]
    return dict(
        zip(model.config.id2label.values(), (logits.sigmoid() if several else logits.softmax(-1)).tolist(), strict=True)
    )


def text_directly(folder: Path, text: str, several: bool = True) -> dict[str, float]:
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    inputs = tokenizer(text, truncation=True, max_length=PLACES, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    return dict(
        zip(model.config.id2label.values(), (logits.sigmoid() if several else logits.softmax(-1)).tolist(), strict=True)
    )


# images


def test_an_image_is_as_likely_as_the_classifier_says(tmp_path: Path) -> None:
    folder = image_classifier(tmp_path / "vit", "normal", "nsfw")
    images = [seen(number) for number in range(7)]
    found = figures(opened("image_nsfw", folder, score_batch_size=4).score(iter(images)), "image_nsfw")
    expected = {number: directly(folder, images[number].image)["nsfw"] for number in range(7)}
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(set(found.values())) == 7
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in found.values())


def test_a_score_does_not_depend_on_its_neighbors(tmp_path: Path) -> None:
    scorer = opened("image_nsfw", image_classifier(tmp_path / "vit", "normal", "nsfw"), score_batch_size=4)
    images = [seen(number) for number in range(9)]
    together = figures(scorer.score(iter(images)), "image_nsfw")
    assert figures(scorer.score(iter(images[::-1])), "image_nsfw") == together
    for image in images:
        assert figures(scorer.score([image]), "image_nsfw").items() <= together.items()


@pytest.mark.parametrize("several", [False, True])
def test_several_classes_count_as_the_likeliest_or_together(tmp_path: Path, several: bool) -> None:
    kind = {"problem_type": "multi_label_classification"} if several else {}
    folder = image_classifier(tmp_path / "vit", *FIVE, **kind)
    images = [seen(number) for number in range(3)]
    likely = {number: directly(folder, images[number].image, several) for number in range(3)}

    def found(**parameters: Any) -> dict[int, float]:
        return figures(opened("image_nsfw", folder, **parameters).score(iter(images)), "image_nsfw")

    def expected(how: Any, *labels: str) -> Any:
        return pytest.approx({n: min(1.0, how(row[label] for label in labels)) for n, row in likely.items()}, abs=1e-5)

    assert found() == expected(max, "hentai", "porn", "sexy")
    assert found(combine="sum") == expected(sum, "hentai", "porn", "sexy")
    assert found(labels=["porn, hentai"], combine="sum") == expected(sum, "porn", "hentai")
    assert found(labels=["drawings"]) == expected(max, "drawings")


@pytest.mark.parametrize(
    ("labels", "parameters", "message", "hint"),
    [
        (FIVE, {"labels": "hentay"}, "has no class `hentay`", "did you mean `hentai`?"),
        (FIVE, {"labels": ["xyz"]}, "has no class `xyz`", "drawings, hentai"),
        (("cat", "dog"), {}, "none of the usual classes", "cat, dog"),
        (("nsfw",), {"combine": "mean"}, "`combine`", ""),
    ],
)
def test_classes_must_be_the_models(
    tmp_path: Path, labels: tuple[str, ...], parameters: dict[str, Any], message: str, hint: str
) -> None:
    folder = image_classifier(tmp_path / "vit", *labels)
    with pytest.raises(UsageError) as caught:
        opened("image_nsfw", folder, **parameters)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_what_decides_the_figures_is_written_down(tmp_path: Path) -> None:
    folder = image_classifier(tmp_path / "vit", *FIVE)
    scorer = opened("image_nsfw", folder, score_batch_size=3)
    written = json.loads(json.dumps(scorer.to_table()))
    assert written["labels"] == ["hentai", "porn", "sexy"]
    assert (written["device"], written["combine"]) == ("cpu", "max")
    assert "score_batch_size" not in written
    assert find_scorer("image_nsfw", written).to_table() == written
    assert find_scorer("image_nsfw", {"model": str(folder)}).resolve(written, 1).to_table() == written
    assert scorer.info().model == str(folder)
    assert len(scorer.info().revision) == 16


def test_a_folder_that_is_no_such_classifier_is_refused(tmp_path: Path) -> None:
    images = image_classifier(tmp_path / "vit", "normal", "nsfw")
    texts = text_classifier(tmp_path / "bert", *TOXIC)
    with pytest.raises(UsageError, match="`BertForSequenceClassification`, and no model for ImageClassification"):
        opened("image_nsfw", texts)
    with pytest.raises(UsageError, match="no model for SequenceClassification"):
        opened("prompt_nsfw", images)
    numbers = text_classifier(tmp_path / "numbers", "toxic", problem_type="regression")
    with pytest.raises(UsageError, match="says numbers"):
        opened("prompt_nsfw", numbers)
    with pytest.raises(UsageError, match=r"no config\.json"):
        opened("image_nsfw", tmp_path)
    (images / "model.safetensors").rename(images / "pytorch_model.bin")
    with pytest.raises(UsageError, match="no weights in the format safetensors"):
        list(opened("image_nsfw", images).score([seen(0)]))


def test_a_classifier_without_its_head_is_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = image_classifier(tmp_path / "vit", "normal", "nsfw")
    weights = {
        name: value for name, value in load_file(folder / "model.safetensors").items() if "classifier" not in name
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="its weights lack classifier"):
        list(opened("image_nsfw", folder).score([seen(0)]))


def test_what_is_no_number_is_a_failure_and_no_score(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = image_classifier(tmp_path / "vit", "normal", "nsfw")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    found = list(opened("image_nsfw", folder).score(seen(number) for number in range(3)))
    assert [(one.reason, one.columns) for one in found] == [("model_error", {})] * 3


# hidden pictures


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    """Pictures of the built-in model: few lines on plain grounds."""
    wishes = [
        f"a {size} {color} {shape} on a {ground} background"
        for size, color, ground in (("small", "red", "white"), ("large", "gray", "black"), ("small", "yellow", "white"))
        for shape in ("circle", "square", "heart", "star")
    ]
    dataset = imagemill.generate(wishes, tmp_path_factory.mktemp("shapes") / "out", seed=5)
    return [dataset.image(record["file_name"]).convert("RGB") for record in dataset]


def sides(image: Image.Image) -> Iterator[Image.Image]:
    yield image
    yield image.resize((512, 512), Image.Resampling.NEAREST)


def test_drawings_are_not_hidden_and_blurred_ones_are(drawings: list[Image.Image]) -> None:
    for drawing in drawings:
        for image in sides(drawing):
            assert not is_unrecognizable(image)
            assert not is_unrecognizable(image.filter(ImageFilter.GaussianBlur(0.01 * image.width)))
            for share in (0.05, 0.08, 0.15, 0.4):
                assert is_unrecognizable(image.filter(ImageFilter.GaussianBlur(share * image.width)))


@pytest.mark.parametrize("color", ["black", "white", "gray", "#123456"])
def test_flat_pictures_are_hidden(color: str) -> None:
    image = Image.new("RGB", (300, 200), color)
    assert is_unrecognizable(image)
    noise = np.random.default_rng(1).integers(0, 3, (200, 300, 3), np.uint8)
    assert is_unrecognizable(
        Image.fromarray(np.minimum(np.asarray(image).astype(np.uint16) + noise, 255).astype(np.uint8))
    )
    ImageDraw.Draw(image).line((20, 30, 250, 150), "red", 4)
    assert not is_unrecognizable(image)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (16, 16), (2000, 10)])
def test_pictures_of_any_size_are_looked_at(size: tuple[int, int]) -> None:
    assert is_unrecognizable(Image.new("RGB", size, "blue"))
    if size != (1, 1):
        image = Image.new("RGB", size, "blue")
        ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2 - 1, size[1]), "white")
        assert not is_unrecognizable(image)


def test_a_hidden_picture_is_2_and_the_others_keep_their_figures(tmp_path: Path) -> None:
    folder = image_classifier(tmp_path / "vit", "normal", "nsfw")
    images = [seen(number) for number in range(6)]
    images[2] = seen(2, Image.new("RGB", (40, 30), "black"))
    images[4] = seen(4, picture(4, 300, 300).filter(ImageFilter.GaussianBlur(60)))
    found = figures(opened("image_nsfw", folder, score_batch_size=4).score(iter(images)), "image_nsfw")
    assert (found[2], found[4]) == (2.0, 2.0)
    shown = {number: directly(folder, images[number].image)["nsfw"] for number in (0, 1, 3, 5)}
    assert {number: found[number] for number in shown} == pytest.approx(shown, abs=1e-5)


# prompts


@pytest.mark.parametrize(
    ("labels", "worst"), [(TOXIC, ("toxic", "obscene")), (UNBIASED, ("toxicity", "sexual_explicit"))]
)
def test_a_prompt_is_as_bad_as_its_worst_class(tmp_path: Path, labels: tuple[str, ...], worst: tuple[str, ...]) -> None:
    folder = text_classifier(tmp_path / "bert", *labels, problem_type="multi_label_classification")
    prompts = ["a cat", "a dog on a hill", "", "ünknown 漢字", "a very long prompt " * 50, "words " * 6]
    images = [seen(number, prompt=prompt) for number, prompt in enumerate(prompts)]
    scorer = opened("prompt_nsfw", folder)
    assert scorer.to_table()["labels"] == list(worst)
    likely = [text_directly(folder, prompt) for prompt in prompts]
    expected = {number: max(row[label] for label in worst) for number, row in enumerate(likely)}
    assert figures(scorer.score(iter(images)), "prompt_nsfw") == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 6) for value in expected.values()}) == 6


def test_a_classifier_with_one_answer_shares_out_what_is_likely(tmp_path: Path) -> None:
    folder = text_classifier(tmp_path / "bert", "SFW", "NSFW")
    found = figures(opened("prompt_nsfw", folder).score([seen(0, prompt="a cat")]), "prompt_nsfw")
    assert found[0] == pytest.approx(text_directly(folder, "a cat", several=False)["NSFW"], abs=1e-5)


def test_each_prompt_is_classified_once_and_by_itself(tmp_path: Path) -> None:
    folder = text_classifier(tmp_path / "bert", *TOXIC, problem_type="multi_label_classification")
    scorer: Any = opened("prompt_nsfw", folder, score_batch_size=4)
    prompts = [f"{'a picture of ' * (number % 3)}{chr(97 + number)}" for number in range(10)]
    images = [seen(number, prompt=prompts[number // 8]) for number in range(80)]
    passes: list[tuple[int, int]] = []
    hook = classes_of(scorer)._model.register_forward_pre_hook(
        lambda _, __, inputs: passes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    together = figures(scorer.score(iter(images)), "prompt_nsfw")
    hook.remove()
    assert len(passes) == 10
    assert {shape[0] for shape in passes} == {4}
    assert {shape[1] for shape in passes} <= {16, 32, PLACES}
    mixed = figures(scorer.score(iter(images[::-7])), "prompt_nsfw")
    assert mixed.items() <= together.items()
    assert len(set(together.values())) == 10


def test_another_column_can_be_classified(tmp_path: Path) -> None:
    folder = text_classifier(tmp_path / "bert", *TOXIC, problem_type="multi_label_classification")
    scorer = opened("prompt_nsfw", folder, text_column="caption")
    image = seen(0, prompt="one")
    image.record["caption"] = "two"
    assert figures(scorer.score([image]), "prompt_nsfw") == figures(
        opened("prompt_nsfw", folder).score([seen(0, prompt="two")]), "prompt_nsfw"
    )
    scorer.check(image.record)
    with pytest.raises(UsageError, match="there is no column `caption`"):
        scorer.check({"prompt": "a", "captions": "b"})


def test_places_of_roberta_begin_behind_the_padding(tmp_path: Path) -> None:
    folder = tmp_path / "roberta"
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(chr(number) for number in range(97, 123)), "Ġ"]
    torch.manual_seed(3)
    config = transformers.RobertaConfig(
        vocab_size=len(tokens),
        max_position_embeddings=PLACES,
        problem_type="multi_label_classification",
        **{**SIZE, **named(*UNBIASED)},
    )
    transformers.RobertaForSequenceClassification(config).save_pretrained(folder)
    vocab = {token: number for number, token in enumerate(tokens)}
    transformers.RobertaTokenizer(vocab=vocab, merges=[]).save_pretrained(folder)
    found = figures(opened("prompt_nsfw", folder).score([seen(0, prompt="word " * 100)]), "prompt_nsfw")
    assert 0 < found[0] < 1
