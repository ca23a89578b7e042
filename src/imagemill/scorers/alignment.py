"""How well an image shows what a text says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from imagemill.encoders import DualEncoder, cosine, encoder_of
from imagemill.errors import ModelError, UsageError, did_you_mean
from imagemill.hub import stamp_of
from imagemill.pretrained import Batches, Failure, Kept, Pretrained, conversation, load
from imagemill.records import Record
from imagemill.scorers.base import Column, Scored, Scorer, ScorerInfo, Seen

if TYPE_CHECKING:
    from PIL import Image

Method = Literal["cosine", "pick", "yes"]

_QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
_YES = ("Yes", " Yes", "yes", " yes")
_MEANINGS: Mapping[Method, str] = {
    "cosine": "cosine between image and {text}, from -1 to 1; higher is more like it, within one model",
    "pick": "PickScore: cosine between image and {text} times the model's scale; higher is what people would pick",
    "yes": "probability that the model says yes when asked whether the image shows the {text}; higher is more like it",
}


class Alignment(DualEncoder, Scorer):
    """Compares each image with its text."""

    model: str = "shapes"
    """What compares: `shapes` (built in, for its own world), or a folder or hub id of a CLIP or SigLIP, of PickScore
    with `pick`, of a model that answers questions about images with `yes`."""
    method: Method = "cosine"
    """`cosine` of two vectors; `pick`: the same times the model's own scale, as PickScore does; `yes`: the probability
    of that answer, as VQAScore does."""
    text_column: str = "prompt"
    """Which column of the records the images are compared with."""
    column: str = Field("alignment", pattern=r"^[^\W\d]\w*$", max_length=50)
    """The column to fill, so that scores of several models can stand side by side."""

    @field_validator("method")
    @classmethod
    def _has_model(cls, method: Method, values: ValidationInfo) -> Method:
        if method == "yes" and values.data.get("model") in cls.built_in:
            raise ValueError("`yes` needs a model that answers questions about images: name it with `model`")
        return method

    def columns(self) -> Mapping[str, Column]:
        """One number."""
        return {self.column: Column(None, _MEANINGS[self.method].format(text=self.text_column))}

    def folder(self, weights: bool = True) -> Path:
        """As of a dual encoder, or of whatever answers questions."""
        return Pretrained.folder(self, weights) if self.method == "yes" else super().folder(weights)

    def info(self) -> ScorerInfo:
        """Read what the folder says of itself."""
        return ScorerInfo(*self.described())

    def check(self, record: Record) -> None:
        """Refuse records without the column of texts."""
        if not isinstance(record.get(self.text_column), str):
            known = [name for name, value in record.items() if isinstance(value, str)]
            raise UsageError(
                f"alignment: `text_column`: there is no column of texts `{self.text_column}`",
                did_you_mean(self.text_column, known) or "take one such as `prompt` or `caption`",
            )

    def score(self, images: Iterable[Seen]) -> Iterator[Scored]:
        """Compare each image with its text; without a text there is no score."""
        compared = _answers(self) if self.method == "yes" else _cosines(self)
        images = iter(images)
        while chunk := list(islice(images, self.score_batch_size)):
            pairs = [(seen.image, str(seen.record[self.text_column])) for seen in chunk]
            asked = [pair for pair in pairs if pair[1].strip()]
            found = iter(compared(asked) if asked else ())
            for seen, (_, text) in zip(chunk, pairs, strict=True):
                score = next(found) if text.strip() else None
                if isinstance(score, Failure):
                    yield Scored(seen, reason=score.reason, message=score.message)
                else:
                    yield Scored(seen, {self.column: score})


Pair = tuple["Image.Image", str]
Compared = Callable[[Sequence[Pair]], Sequence[float | Failure]]


def _cosines(options: Alignment) -> Compared:
    """Compare by vectors.

    Radford et al., "Learning transferable visual models from natural language supervision", 2021; Kirstain et al.,
    "Pick-a-Pic", 2023, for the scale.
    """
    encoder = encoder_of(options)
    scale = encoder.logit_scale if options.method == "pick" else 1.0

    def compared(pairs: Sequence[Pair]) -> list[float | Failure]:
        found: list[float | Failure] = []
        images, texts = encoder.images([image for image, _ in pairs]), encoder.texts([text for _, text in pairs])
        for image, text in zip(images, texts, strict=True):
            if isinstance(image, Failure):
                found.append(image)
            elif isinstance(text, Failure):
                found.append(text)
            else:
                found.append(scale * cosine(image, text))
        return found

    return compared


_LOADED: Kept[Compared] = Kept(1)
"""What answers questions in this process."""


def _answers(options: Alignment) -> Compared:
    """Compare by asking; raises ModelError for a model that cannot be asked.

    Lin et al., "Evaluating text-to-visual generation with image-to-text generation", 2024: the probability of `yes`
    among all that the model might say next.
    """
    folder = options.folder()
    key = (options.device, options.dtype, options.threads, stamp_of(folder))
    return _LOADED.get(
        key, lambda: _asking(options.model_name(), *load(options, folder, "AutoModelForImageTextToText"))
    )


def _asking(name: str, processor: Any, model: Any) -> Compared:
    import torch

    spelled = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in _YES]
    yes = sorted({ids[0] for ids in spelled if len(ids) == 1})
    if not getattr(processor, "chat_template", None) or not yes:
        lacks = "word for yes" if getattr(processor, "chat_template", None) else "template of a conversation"
        raise ModelError(f"`{name}` cannot be asked: it has no {lacks}", "take a model for conversations about images")

    def probabilities(pairs: Sequence[Pair]) -> list[float]:
        ((image, text),) = pairs
        asked, reading = conversation(processor, _QUESTION.format(text), 1)
        inputs = processor(text=[asked], images=[[image]], return_tensors="pt", **reading)
        with torch.inference_mode():
            logits = model(**inputs.to(model.device, model.dtype)).logits[0, -1].double()
        probability = float(logits.softmax(-1)[yes].sum())
        if not math.isfinite(probability):
            raise ValueError("the model gives no number for it")
        return [probability]

    # One by one: questions differ in length, and padding changes the last bits.
    return Batches(probabilities, 1, str(model.device)).run
