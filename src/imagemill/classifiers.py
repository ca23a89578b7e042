"""Classifiers of transformers: how likely each class is for an image or a text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from imagemill.component import separated
from imagemill.errors import UsageError, did_you_mean
from imagemill.hub import read_config, stamp_of
from imagemill.pretrained import Batches, Failure, Kept, Pretrained, load

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

_SHORTEST = 16
"""Tokens that every text has room for; longer ones get twice as much until it is enough."""
_PLACES = 512
"""Tokens that a model can read when it does not say how many."""
_LOADED: Kept[Classes] = Kept(2)
"""Classifiers that stay loaded, since several scorers may take turns."""


class Classifier(Pretrained):
    """A component that asks a model which classes an image or a text belongs to."""

    head: ClassVar[Literal["ImageClassification", "SequenceClassification"]]
    """What transformers calls such models."""
    usual_labels: ClassVar[Sequence[Sequence[str]]]
    """Classes that count when none are named: the first of these that the model has."""

    labels: tuple[str, ...] = ()
    """Classes that count, as the model calls them, such as `porn,hentai`; may be repeated."""
    score_batch_size: int = Field(16, ge=1, exclude=True)
    """How many are classified in one pass, fewer where memory demands it; not written down."""

    _separated = field_validator("labels", mode="before")(separated)

    def folder(self, weights: bool = True) -> Path:
        """As of any model; raises UsageError too when it holds no such classifier."""
        folder = super().folder(weights)
        config = read_config(folder / "config.json")
        if not any(self.head in str(name) for name in config.get("architectures") or [self.head]):
            raise UsageError(
                f"`{self.model}` is a `{config['architectures'][0]}`, and no model for {self.head}",
                f"take one such as `{type(self).model_fields['model'].default}`",
            )
        if config.get("problem_type") == "regression":
            raise UsageError(f"`{self.model}` says numbers and not how likely classes are", "take another model")
        return folder

    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Also choose the classes that count; raises UsageError when the model lacks one."""
        resolved = super().resolve(known, workers)
        config = read_config(resolved.folder(weights=False) / "config.json")
        names = [str(name) for name in dict(config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}).values()]
        labels: Sequence[str] = resolved.labels or known.get("labels") or ()
        if not labels:
            labels = next((usual for usual in self.usual_labels if set(usual) <= set(names)), ())
            if not labels:
                raise UsageError(
                    f"`labels`: `{self.model}` has none of the usual classes", f"name some of {', '.join(names)}"
                )
        for label in labels:
            if label not in names:
                raise UsageError(
                    f"`labels`: `{self.model}` has no class `{label}`",
                    did_you_mean(label, names) or f"it has: {', '.join(names)}",
                )
        return resolved.model_copy(update={"labels": tuple(labels)})


def classes_of(options: Classifier) -> Classes:
    """The loaded model; raises UsageError and ModelError."""
    folder = options.folder()
    key = (options.head, options.device, options.dtype, options.threads, options.score_batch_size, stamp_of(folder))
    is_image = options.head == "ImageClassification"
    reader: Literal["AutoImageProcessor", "AutoTokenizer"] = "AutoImageProcessor" if is_image else "AutoTokenizer"
    return _LOADED.get(key, lambda: Classes(*load(options, folder, f"AutoModelFor{options.head}", reader), options))


class Classes:
    """A loaded classifier."""

    def __init__(self, processor: Any, model: Any, options: Classifier) -> None:
        self._processor, self._model, self._device = processor, model, options.device
        self._size = options.score_batch_size
        self._images = Batches(self._classify_images, self._size, options.device)
        self._texts: dict[int, Batches[str, dict[str, float]]] = {}
        """By the room that a text has."""

    def images(self, images: Sequence[Image.Image]) -> list[dict[str, float] | Failure]:
        """How likely each class is for each image (RGB)."""
        return self._images.run(images)

    def texts(self, texts: Sequence[str]) -> list[dict[str, float] | Failure]:
        """How likely each class is for each text; what the model has no place for, at its end, is left out."""
        most = self._places()
        rooms: defaultdict[int, list[str]] = defaultdict(list)
        for text in dict.fromkeys(texts):
            length, room = len(self._processor(text, truncation=True, max_length=most)["input_ids"]), _SHORTEST
            while room < length:
                room *= 2
            rooms[min(room, most)].append(text)
        found: dict[str, dict[str, float] | Failure] = {}
        for room, same in rooms.items():
            if room not in self._texts:
                classify = partial(self._classify_texts, room=room)
                self._texts[room] = Batches(classify, self._size, self._device)
            found.update(zip(same, self._texts[room].run(same), strict=True))
        return [found[text] for text in texts]

    def _places(self) -> int:
        config = self._model.config
        places = int(getattr(config, "max_position_embeddings", None) or _PLACES)
        if "roberta" in config.model_type or config.model_type == "camembert":
            # These count their places from behind that of the padding.
            places -= int(config.pad_token_id) + 1
        return int(min(places, self._processor.model_max_length))

    def _classify_images(self, images: Sequence[Image.Image]) -> list[dict[str, float]]:
        return self._likelihoods(self._processor(images=list(images), return_tensors="pt"))

    def _classify_texts(self, texts: Sequence[str], room: int) -> list[dict[str, float]]:
        options = {"padding": "max_length", "truncation": True, "max_length": room, "return_tensors": "pt"}
        return self._likelihoods(self._processor(list(texts), **options))

    def _likelihoods(self, inputs: Mapping[str, Tensor]) -> list[dict[str, float]]:
        """What the model makes of a batch; raises ValueError where that is no number."""
        import torch

        config = self._model.config
        placed = {
            name: value.to(self._device, self._model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        with torch.inference_mode():
            logits = self._model(**placed).logits.float()
            several = config.problem_type == "multi_label_classification" or config.num_labels == 1
            likely = logits.sigmoid() if several else logits.softmax(-1)
        if not bool(likely.isfinite().all()):
            raise ValueError("the model gives no numbers for it")
        names = [config.id2label[number] for number in range(config.num_labels)]
        return [dict(zip(names, row, strict=True)) for row in likely.cpu().tolist()]


def combined(likely: Mapping[str, float], labels: Iterable[str], how: Literal["max", "sum"]) -> float:
    """One figure of the classes that count, from 0 to 1."""
    figures = [likely[label] for label in labels]
    return max(figures) if how == "max" else min(1.0, sum(figures))
