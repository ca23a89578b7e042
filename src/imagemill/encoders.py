"""Dual encoders (CLIP, SigLIP and their kin): images and texts as vectors of one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from imagemill.environment import cores
from imagemill.errors import UsageError
from imagemill.hub import read_config, stamp_of
from imagemill.pretrained import Batches, Failure, Kept, Pretrained, load

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    Vector = NDArray[np.float32]
    """Of length 1, (dimensions,)."""

_KINDS = {"clip": "CLIP", "siglip": "SigLIP", "siglip2": "SigLIP 2"}
_TEXTS = 8
"""Texts in one pass: images of a batch often share theirs."""
_REMEMBERED = 4096
"""Texts whose vectors are kept."""
_LOADED: Kept[Encoder] = Kept(4)
"""Encoders that stay loaded, since several scorers may take turns."""


class DualEncoder(Pretrained):
    """A component that compares images with texts, or with each other, by a model of both."""

    built_in: ClassVar[Mapping[str, str]] = {"shapes": "shapes_judge"}

    model: str = "shapes"
    """A CLIP or SigLIP: `shapes` (built in, for its own world), a folder, or a hub id such as
    `openai/clip-vit-large-patch14` or `google/siglip2-base-patch16-224`."""
    score_batch_size: int = Field(16, ge=1, exclude=True)
    """Images scored in one pass, fewer where memory demands it; not written down."""

    def folder(self, weights: bool = True) -> Path:
        """As of any model; raises UsageError too when it holds no dual encoder."""
        folder = super().folder(weights)
        kind = str(read_config(folder / "config.json").get("model_type"))
        if kind not in _KINDS:
            raise UsageError(
                f"`{self.model}` is a model of the kind `{kind}`, not one of {', '.join(_KINDS.values())}",
                "take one such as `openai/clip-vit-large-patch14`",
            )
        return folder


def encoder_of(options: DualEncoder) -> Encoder:
    """The loaded model; raises UsageError and ModelError."""
    folder = options.folder()
    key = (options.device, options.dtype, options.threads, options.score_batch_size, stamp_of(folder))
    return _LOADED.get(key, lambda: Encoder(*load(options, folder, "AutoModel"), options))


class Encoder:
    """A loaded dual encoder."""

    def __init__(self, processor: Any, model: Any, options: DualEncoder) -> None:
        self._processor, self._model = processor, model
        self._device = options.device
        self._is_clip = model.config.model_type == "clip"
        words = model.config.text_config
        self._places = min(int(words.max_position_embeddings), processor.tokenizer.model_max_length)
        self._images = Batches(self._encode_images, options.score_batch_size, options.device)
        self._texts = Batches(self._encode_texts, _TEXTS, options.device)
        self._known: dict[str, Vector] = {}

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines with."""
        return float(self._model.logit_scale.detach().float().exp())

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""
        config = self._model.config
        return int(config.projection_dim if self._is_clip else config.vision_config.hidden_size)

    def images(self, images: Sequence[Image.Image]) -> list[Vector | Failure]:
        """The vector of each image (RGB)."""
        return self._images.run(images)

    def texts(self, texts: Sequence[str]) -> list[Vector | Failure]:
        """The vector of each text; what the model has no place for, at its end, is left out."""
        # Taken out and put back, so that those of long ago come first.
        found: dict[str, Vector | Failure] = {text: self._known.pop(text) for text in set(texts) & set(self._known)}
        new = [text for text in dict.fromkeys(texts) if text not in found]
        found.update(zip(new, self._texts.run(new), strict=True))
        self._known.update({text: vector for text, vector in found.items() if not isinstance(vector, Failure)})
        while len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return [found[text] for text in texts]

    def _encode_images(self, images: Sequence[Image.Image]) -> list[Vector]:
        import torch

        def prepared(image: Image.Image) -> Mapping[str, Tensor]:
            inputs: Mapping[str, Tensor] = self._processor.image_processor(images=[image], return_tensors="pt")
            return inputs

        with ThreadPoolExecutor(min(8, cores())) as pool:
            each = list(pool.map(prepared, images))
        inputs = {name: torch.cat([one[name] for one in each]) for name in each[0]}
        return self._vectors(self._model.get_image_features, inputs)

    def _encode_texts(self, texts: Sequence[str]) -> list[Vector]:
        # SigLIP learned from texts in lower case with nothing masked; not each of its tokenizers says so.
        inputs = self._processor.tokenizer(
            list(texts) if self._is_clip else [text.lower() for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self._places,
            return_tensors="pt",
        )
        names = ("input_ids", "attention_mask") if self._is_clip else ("input_ids",)
        return self._vectors(self._model.get_text_features, {name: inputs[name] for name in names})

    def _vectors(self, features: Any, inputs: Mapping[str, Tensor]) -> list[Vector]:
        """What the model makes of a batch, each of length 1; raises ValueError where that is no vector."""
        import torch

        placed = {
            name: value.to(self._device, self._model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        with torch.inference_mode():
            found = features(**placed).pooler_output.float()
            found = found / found.norm(dim=-1, keepdim=True)
        if not bool(found.isfinite().all()):
            raise ValueError("the model gives no numbers for it")
        return list(found.cpu().numpy())


def cosine(one: Vector, other: Vector) -> float:
    """The cosine of the angle between two vectors of length 1."""
    import numpy as np

    return float(np.dot(one.astype(np.float64), other.astype(np.float64)))
