"""How much people like the look of an image, guessed from its vector."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from imagemill.encoders import DualEncoder, encoder_of
from imagemill.errors import UsageError
from imagemill.hub import WEIGHTS, Hub, import_package, is_folder, is_pickle, refused
from imagemill.pretrained import Failure
from imagemill.scorers.base import Column, Scored, Scorer, ScorerInfo, Seen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Layer = tuple[NDArray[np.float64], NDArray[np.float64]]
    """Weight, (outputs, inputs), and bias, (outputs,)."""

_WEIGHT = re.compile(r"(?:layers\.(\d+)\.)?weight")


class Aesthetic(DualEncoder, Scorer):
    """Rates the look of each image by a small head on CLIP: LAION's aesthetic predictors."""

    model: str = "openai/clip-vit-large-patch14"
    """The CLIP that the head was trained on, a folder or a hub id."""
    head: str = "ttj/sac-logos-ava1-l14-linearMSE"
    """The head in the format safetensors: a file, a folder with one, or a hub id; linear layers one after another, as
    in LAION's improved predictor or its first, a single one."""
    head_revision: str | None = None
    """Which version of the head: a commit on the hub, or the beginning of the file's SHA-256; written down."""

    def columns(self) -> Mapping[str, Column]:
        """One number."""
        return {"aesthetic": Column(None, "how much people would like its look, about 1 to 10; higher is more")}

    def info(self) -> ScorerInfo:
        """Read what the folder says of itself."""
        model, revision, license_ = self.described()
        head = self.head_revision or _hash(self._head_file())
        return ScorerInfo(f"{model} with {self.head}", f"{revision} with {head}", license_)

    def resolve(self, known: Mapping[str, Any], workers: int) -> Self:
        """Also pin the version of the head."""
        resolved = super().resolve(known, workers)
        revision = self.head_revision or known.get("head_revision")
        if self._is_here():
            found = _hash(self._head_file())
            if revision not in (None, found):
                raise UsageError(f"`{self.head}` is now `{found}`, not `{revision}`", "bring that one back")
            revision = found
        else:
            revision = Hub(self.hf_cache_dir, self.offline).commit(self.head, revision)
        return resolved.model_copy(update={"head_revision": revision})

    def score(self, images: Iterable[Seen]) -> Iterator[Scored]:
        """Encode each image and rate its vector."""
        import numpy as np

        encoder, images = encoder_of(self), iter(images)
        layers = _layers(self._head_file(), encoder.dimensions)
        while chunk := list(islice(images, self.score_batch_size)):
            for seen, vector in zip(chunk, encoder.images([seen.image for seen in chunk]), strict=True):
                if isinstance(vector, Failure):
                    yield Scored(seen, reason=vector.reason, message=vector.message)
                    continue
                values = vector.astype(np.float64)
                for weight, bias in layers:
                    values = weight @ values + bias
                yield Scored(seen, {"aesthetic": float(values[0])})

    def _is_here(self) -> bool:
        return Path(self.head).is_file() or is_folder(self.head)

    def _head_file(self) -> Path:
        """The file of the head; raises UsageError when there is none, or when it could run code."""
        path = Path(self.head)
        if not path.is_file():
            folder = path
            if not is_folder(self.head):
                folder = Hub(self.hf_cache_dir, self.offline).files(self.head, self.head_revision, ["*.safetensors"])
            files = sorted(found for found in folder.iterdir() if found.suffix in WEIGHTS)
            safe = [found for found in files if found.suffix == ".safetensors"]
            if files and not safe:
                raise refused(files[0])
            if len(safe) != 1:
                raise UsageError(
                    f"`{self.head}` holds {len(safe)} files of weights, not one", "name the file: `--head`"
                )
            path = safe[0]
        if is_pickle(path):
            raise refused(path)
        return path


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _layers(path: Path, dimensions: int) -> list[Layer]:
    """The layers of a head that makes one number of a vector; raises UsageError for anything else."""
    import_package("torch")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = {name: value.double().numpy() for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise UsageError(f"`{path}` cannot be read: {error}", "is it complete?") from error
    # Between them, numbers are those of layers that do nothing here, such as dropout.
    found = sorted((int(number[1] or 0), name) for name in weights if (number := _WEIGHT.fullmatch(name)))
    layers = [(weights[name], weights.get(name.removesuffix("weight") + "bias")) for _, name in found]
    width = dimensions
    for weight, bias in layers:
        if bias is None or weight.shape != (len(bias), width):
            break
        width = len(bias)
    else:
        if layers and width == 1 and len(weights) == 2 * len(layers):
            return [(weight, bias) for weight, bias in layers if bias is not None]
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in weights.items())
    raise UsageError(
        f"`{path}` is no head of linear layers from {dimensions} numbers to one: {shapes:.300}",
        "take the CLIP that it was trained on: `--model`",
    )
